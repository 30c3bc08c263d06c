/** The waits between attempts, milliseconds. `minMs` is above 0 and at most `maxMs`. */
export interface BackoffOptions {
  readonly minMs: number;
  readonly maxMs: number;
  /** The wait before the first repetition, where it is shorter than `minMs`. */
  readonly firstMs?: number;
}

/** Growing waits between attempts that fail: each is twice the one before it, and none is longer than `maxMs`. */
export class Backoff {
  readonly #options: BackoffOptions;
  #nextMs: number;

  constructor(options: BackoffOptions) {
    this.#options = options;
    this.#nextMs = options.firstMs ?? options.minMs;
  }

  /** An attempt failed: how long to wait before the next one, milliseconds. */
  nextMs(): number {
    const waitMs = this.#nextMs;
    const { minMs, maxMs } = this.#options;
    this.#nextMs = Math.min(Math.max(2 * waitMs, minMs), maxMs);
    return waitMs;
  }

  /** An attempt succeeded: the next wait is the shortest again. */
  reset(): void {
    this.#nextMs = this.#options.firstMs ?? this.#options.minMs;
  }
}
