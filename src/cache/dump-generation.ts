/** In W_HAS of an internal row: equals the bit of the last dump if the row was touched since that dump began. */
const ROW_SEEN = 0x40_0000;
/** As ROW_SEEN, for the state of TCP, SCTP or DCCP. An event that does not name the state leaves it to the dump. */
const ROW_STATE_SEEN = 0x80_0000;

/**
 * Tracks what the last dump of a kernel table has seen. Events continue during a dump and are newer than what it lists.
 * So a row that an event has touched since the dump began is left alone, and a flow that has ended since is not taken
 * in again. After a complete dump, a row that neither the dump nor an event has touched is gone from the kernel.
 */
export class DumpGeneration {
  /** CTA_IDs that ended during a dump, which may still list them. Null while no dump runs. */
  #endedIds: Set<number> | null = null;
  #number = 0;
  #seen = 0;
  #stateSeen = 0;

  /** Number of the last dump; 0 before the first. For rows that keep a number; rows of flows keep bits. */
  get number(): number {
    return this.#number;
  }

  /** True between `begin` and `end`. */
  get running(): boolean {
    return this.#endedIds !== null;
  }

  /** A dump begins: no row has been touched since. */
  begin(): void {
    this.#number++;
    this.#seen ^= ROW_SEEN;
    this.#stateSeen ^= ROW_STATE_SEEN;
    this.#endedIds = new Set();
  }

  /** The dump is over, complete or not. */
  end(): void {
    this.#endedIds = null;
  }

  /** The kernel's entry with this ID has ended. */
  ended(id: number): void {
    this.#endedIds?.add(id);
  }

  /** True when the running dump lists an entry that has ended since it began. */
  hasEnded(id: number): boolean {
    return this.#endedIds?.has(id) === true;
  }

  /** True when the row with these bits was touched since the last dump began. */
  isTouched(bits: number): boolean {
    return (bits & ROW_SEEN) === this.#seen;
  }

  /** True when the state of the row's protocol was reported since the last dump began. */
  isStateTouched(bits: number): boolean {
    return (bits & ROW_STATE_SEEN) === this.#stateSeen;
  }

  /** The bits of a row that is touched now. */
  touch(bits: number): number {
    return (bits & ~ROW_SEEN) | this.#seen;
  }

  /** The bits of a row whose protocol state is reported now. */
  touchState(bits: number): number {
    return (bits & ~ROW_STATE_SEEN) | this.#stateSeen;
  }

  /** The bits of a row whose protocol state nobody has reported since the last dump began. */
  untouchState(bits: number): number {
    return (bits & ~ROW_STATE_SEEN) | (this.#stateSeen ^ ROW_STATE_SEEN);
  }
}
