import type { StreamSource } from "./source.js";

/**
 * Several streams as one, by the stamps of their messages; of equal ones that of the lesser name comes first. Read ahead is what the
 * sources hold, and no more. A source that is idle is not waited for: what it brings later comes late.
 */
export class Merge {
  #sources: readonly StreamSource[];
  readonly #signal: AbortSignal;
  #woken = false;
  #wake: (() => void) | null = null;

  /** `sources` in the order of their names; the signal ends them all. */
  constructor(sources: readonly StreamSource[], signal: AbortSignal) {
    this.#sources = sources;
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
    if (signal.aborted) this.close();
  }

  /**
   * The source whose head is next; its head is to be used before `advance`. Null: `wait`, unless all have ended.
   * @throws what ended a source before its time
   */
  next(): StreamSource | null {
    let least: StreamSource | null = null;
    for (const source of this.#sources) {
      if (source.head === null) {
        source.check();
        if (source.ended) continue;
        source.fill(this.#onWake);
        if (source.idle) continue;
        return null;
      }
      if (least === null || source.head.envelope.stamp < (least.head?.envelope.stamp ?? 0)) least = source;
    }
    return least;
  }

  /** Whether it reads the stream of a node. */
  reads(name: string): boolean {
    return this.#sources.some(({ node }) => node.name === name);
  }

  /** Reads more streams from now on. */
  add(sources: readonly StreamSource[]): void {
    this.#sources = [...this.#sources, ...sources].sort((a, b) => (a.node.name < b.node.name ? -1 : 1));
    if (this.#signal.aborted) this.close();
  }

  /** True when every source has ended. */
  get ended(): boolean {
    return this.#sources.every((source) => source.ended);
  }

  /** True when all that the streams hold now was read. */
  get idle(): boolean {
    return this.#sources.every((source) => source.ended || (source.head === null && source.idle));
  }

  /** Resolves when a source has something, or after `ms`; null: only then. */
  async wait(ms: number | null = null): Promise<void> {
    const timer = ms === null ? undefined : setTimeout(this.#onWake, ms);
    while (!this.#woken) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    clearTimeout(timer);
    this.#woken = false;
  }

  /** Ends all sources. */
  close(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
    for (const source of this.#sources) source.close();
    this.#onWake();
  }

  readonly #onAbort = (): void => this.close();

  readonly #onWake = (): void => {
    this.#woken = true;
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };
}
