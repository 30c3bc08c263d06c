/** Where time comes from. Injected, so that a simulator can have its own. */
export interface Clock {
  /** Wall clock, milliseconds since the Unix epoch. */
  wallMs(): number;
}

/** Stamps count from here (2020-01-01), so that they stay exact integers until 2089. */
const STAMP_EPOCH_MS = 1_577_836_800_000;
/** Stamps of one millisecond of the wall clock. */
export const STAMPS_PER_MS = 4096;

/** The time of a stamp, whole milliseconds since the Unix epoch. */
export function stampMs(stamp: number): number {
  return STAMP_EPOCH_MS + Math.floor(stamp / STAMPS_PER_MS);
}

/** The first stamp of a millisecond; 0 for times before stamps began. */
export function stampOfMs(ms: number): number {
  return Math.max(0, (Math.floor(ms) - STAMP_EPOCH_MS) * STAMPS_PER_MS);
}

/**
 * A hybrid logical clock. A stamp is an integer: milliseconds since 2020 times 4096 plus a counter that carries over.
 * Stamps of one node only grow, and each is greater than every stamp the node had seen from others before it,
 * so causes sort before effects however far the wall clocks of the nodes are apart.
 */
export class HybridClock {
  readonly #clock: Clock;
  #lastStamp = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A stamp greater than all before it. */
  next(): number {
    const wallStamp = (this.#clock.wallMs() - STAMP_EPOCH_MS) * STAMPS_PER_MS;
    this.#lastStamp = Math.max(wallStamp, this.#lastStamp + 1);
    return this.#lastStamp;
  }

  /** The wall clock that it is based on, milliseconds since the Unix epoch. */
  wallMs(): number {
    return this.#clock.wallMs();
  }

  /** Makes every later stamp greater than this one of another node. */
  observe(stamp: number): void {
    if (stamp > this.#lastStamp) this.#lastStamp = stamp;
  }
}
