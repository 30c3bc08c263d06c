/**
 * The parts of an internal row that the kernel reports, as bits in its W_HAS. Each bit equals that of the last dump if the
 * part was reported since that dump began. An event that does not name the state of TCP, SCTP or DCCP, or the mark, leaves
 * it to the dump.
 */
export const PART_ANY = 0x40_0000;
export const PART_STATE = 0x80_0000;
export const PART_MARK = 0x200_0000;
const PARTS = PART_ANY | PART_STATE | PART_MARK;

/**
 * Tracks what the last dump of a kernel table has seen. Events continue during a dump and are newer than what it lists.
 * So a row that an event has touched since the dump began is left alone, and a flow that has ended since is not taken
 * in again. After a complete dump, a row that neither the dump nor an event has touched is gone from the kernel.
 */
export class DumpGeneration {
  /** CTA_IDs that ended during a dump, which may still list them. Null while no dump runs. */
  #endedIds: Set<number> | null = null;
  #number = 0;
  /** The bits of a row all of whose parts have been reported since the last dump began: all or none. */
  #reported = 0;

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
    this.#reported ^= PARTS;
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

  /** True when a part of the row with these bits was reported since the last dump began. */
  isReported(bits: number, part: number): boolean {
    return ((bits ^ this.#reported) & part) === 0;
  }

  /** Which of these parts of the row with these bits nobody has reported since the last dump began. */
  unreported(bits: number, parts: number): number {
    return (bits ^ this.#reported) & parts;
  }

  /** The bits of a row of which these parts are reported now. */
  report(bits: number, parts: number): number {
    return (bits & ~parts) | (this.#reported & parts);
  }

  /** The bits of a row all of which is taken for reported. */
  reportAll(bits: number): number {
    return this.report(bits, PARTS);
  }

  /** The bits of a row of which nobody has reported these parts since the last dump began. */
  unreport(bits: number, parts: number): number {
    return (bits & ~parts) | (~this.#reported & parts);
  }
}
