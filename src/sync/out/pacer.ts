/** Longest interval between flushes at a high rate. Wake-ups cost more than bytes. */
const INTERVAL_MAX_MS = 20;
/** A flush of more rows than this makes the interval longer. One of fewer than a quarter makes it shorter. */
const ROWS_AIMED = 200;

/**
 * Decides when to publish: at once after a quiet time, and under load at intervals that grow from `intervalMs` to 20
 * ms. With `intervalMs` 0, every turn's rows are published at once.
 */
export class Pacer {
  readonly #intervalMsMin: number;
  readonly #flush: () => number;
  readonly #nowMs: () => number;
  #intervalMs: number;
  #lastFlushMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | null = null;

  /** `flush` publishes what is pending and returns how many rows that were. `nowMs` is monotonic. */
  constructor(options: { intervalMs: number; flush: () => number; nowMs: () => number }) {
    this.#intervalMsMin = options.intervalMs;
    this.#intervalMs = options.intervalMs;
    this.#flush = options.flush;
    this.#nowMs = options.nowMs;
  }

  /** Something is pending. `full`: it is enough for a whole message. */
  poke(full: boolean): void {
    const waitMs = full ? 0 : this.#lastFlushMs + this.#intervalMs - this.#nowMs();
    if (waitMs <= 0 || this.#intervalMsMin === 0) this.flushNow();
    else this.#timer ??= setTimeout(() => this.flushNow(), waitMs);
  }

  /** Publishes now, whatever the pace. */
  flushNow(): void {
    this.stop();
    const rows = this.#flush();
    this.#lastFlushMs = this.#nowMs();
    if (rows > ROWS_AIMED) this.#intervalMs = Math.min(INTERVAL_MAX_MS, this.#intervalMs * 1.5);
    else if (rows < ROWS_AIMED / 4) this.#intervalMs = Math.max(this.#intervalMsMin, this.#intervalMs / 1.5);
  }

  /** Cancels a flush that is due. */
  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
