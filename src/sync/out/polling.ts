/** Replaces events: dumps the kernel repeatedly, with a pause after the end of each dump. */
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

  /** Starts the interval. The first dump comes at its end. */
  start(): void {
    if (this.#signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#poll().then(() => this.start());
    }, this.#intervalMs);
  }

  #cancel(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /** Resolves when none of its dumps runs any more. The signal has been aborted before. */
  async ended(): Promise<void> {
    await this.#running;
  }
}
