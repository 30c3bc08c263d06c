/** In W_HAS of an internal row: as the last dump has it, when the row was touched since that began. */
const ROW_SEEN = 0x40_0000;
/** As ROW_SEEN, of the state of TCP, SCTP or DCCP: an event that does not name it leaves it to the dump. */
const ROW_STATE_SEEN = 0x80_0000;

/**
 * What the last dump of a kernel table has and has not seen. Events go on while a dump runs, and are newer than what it
 * lists: a row that an event has touched since it began is left alone, and what has ended since is not taken in again.
 * After a whole dump, a row that neither it nor an event has touched is one that the kernel no longer has.
 */
export class DumpGeneration {
  /** CTA_IDs that ended while a dump runs: the dump may still list them. Null while none runs. */
  #endedIds: Set<number> | null = null;
  #number = 0;
  #seen = 0;
  #stateSeen = 0;

  /** Of the last dump, 0 before the first: for rows that keep a number. Rows of flows have the bits below. */
  get number(): number {
    return this.#number;
  }

  /** True between `begin` and `end`. */
  get running(): boolean {
    return this.#endedIds !== null;
  }

  /** A dump begins: no row was touched since. */
  begin(): void {
    this.#number++;
    this.#seen ^= ROW_SEEN;
    this.#stateSeen ^= ROW_STATE_SEEN;
    this.#endedIds = new Set();
  }

  /** The dump is over, whole or not. */
  end(): void {
    this.#endedIds = null;
  }

  /** What has this id of the kernel ended. */
  ended(id: number): void {
    this.#endedIds?.add(id);
  }

  /** True when the dump that runs lists what has ended since. */
  hasEnded(id: number): boolean {
    return this.#endedIds?.has(id) === true;
  }

  /** True when the row with these bits was touched since the last dump began. */
  isTouched(bits: number): boolean {
    return (bits & ROW_SEEN) === this.#seen;
  }

  /** True when the state of its protocol was told since. */
  isStateTouched(bits: number): boolean {
    return (bits & ROW_STATE_SEEN) === this.#stateSeen;
  }

  /** The bits of a row that was touched just now. */
  touch(bits: number): number {
    return (bits & ~ROW_SEEN) | this.#seen;
  }

  /** The bits of a row whose protocol's state was told just now. */
  touchState(bits: number): number {
    return (bits & ~ROW_STATE_SEEN) | this.#stateSeen;
  }
}
