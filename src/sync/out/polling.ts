/** In place of events: dumps the kernel again and again, some time after the end of the last dump. */
export class Polling {
  readonly #poll: () => Promise<unknown>;
  readonly #intervalMs: number;
  readonly #signal: AbortSignal;
  #running: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | null = null;

  /** `poll` never rejects. The signal ends it. */
  constructor(poll: () => Promise<unknown>, intervalMs: number, signal: AbortSignal) {
    this.#poll = poll;
    this.#intervalMs = intervalMs;
    this.#signal = signal;
    signal.addEventListener("abort", () => this.#cancel(), { once: true });
  }

  /** The first dump comes after the interval. */
  start(): void {
    if (this.#signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#poll().then(() => this.start());
    }, this.#intervalMs);
  }

  #cancel(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /** Resolves when no dump of its runs any more; the signal has been given. */
  async ended(): Promise<void> {
    await this.#running;
  }
}
