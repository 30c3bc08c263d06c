/** The order in which a commit writes flows. What was active last is likely to be active again first. */
import type { FlowTable } from "../../flow/flow-table.js";
import { W_UPDATED } from "../../flow/record.js";

/** Flows that have been quiet for longer count as equally old. */
const AGE_SECONDS_MAX = 4095;
/** Slots that are read before the event loop has its turn, whether or not they hold flows. */
const SLOTS_PER_TURN = 16_384;

/** The slots of a table, the most recently active flow first, as they were when the order was made. */
export class CommitOrder {
  readonly #table: FlowTable;
  readonly #slots: Uint32Array;
  /** By slot: 1 for those in `#slots`. */
  readonly #isListed: Uint8Array;

  private constructor(table: FlowTable, slots: Uint32Array, isListed: Uint8Array) {
    this.#table = table;
    this.#slots = slots;
    this.#isListed = isListed;
  }

  /** Sorts by the second of the last news, in two passes over the table. */
  static async of(table: FlowTable, nowSeconds: number): Promise<CommitOrder> {
    const { slotsUsed } = table;
    const starts = new Uint32Array(AGE_SECONDS_MAX + 2);
    const ages = new Uint16Array(slotsUsed);
    const isListed = new Uint8Array(slotsUsed);
    for (let slot = 0; slot < slotsUsed; slot++) {
      if (slot % SLOTS_PER_TURN === SLOTS_PER_TURN - 1) await new Promise(setImmediate);
      if (!table.isLive(slot)) continue;
      const quiet = nowSeconds - table.slab(slot)[table.base(slot) + W_UPDATED]!;
      const age = Math.max(0, Math.min(AGE_SECONDS_MAX, quiet));
      isListed[slot] = 1;
      ages[slot] = age;
      starts[age + 1]!++;
    }
    for (let age = 0; age < AGE_SECONDS_MAX; age++) starts[age + 1]! += starts[age]!;
    const slots = new Uint32Array(starts[AGE_SECONDS_MAX]! + starts[AGE_SECONDS_MAX + 1]!);
    for (let slot = 0; slot < slotsUsed; slot++) {
      if (isListed[slot] === 1) slots[starts[ages[slot]!]!++] = slot;
    }
    return new CommitOrder(table, slots, isListed);
  }

  /**
   * The slots in pieces, with a turn of the event loop after each: first in this order, then those that have come into
   * use since. A slot may be free, or belong to another flow by now.
   */
  async *runs(): AsyncGenerator<Iterable<number>> {
    for (let at = 0; at < this.#slots.length; at += SLOTS_PER_TURN) {
      yield this.#slots.subarray(at, at + SLOTS_PER_TURN);
      await new Promise(setImmediate);
    }
    yield this.#later();
  }

  *#later(): Generator<number> {
    for (let slot = 0; slot < this.#table.slotsUsed; slot++) {
      if (this.#isListed[slot] !== 1) yield slot;
    }
  }
}
