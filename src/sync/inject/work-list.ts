/** Holds the injector's pending work within limits. Work that finds no room is counted. */
import { FlowTable } from "../../flow/flow-table.js";
import { RECORD_WORDS, W_PROTOINFO, W_TABLE_A, W_TABLE_B } from "../../flow/record.js";
import { isAnotherConnection } from "../../flow/record-fields.js";
import type { InjectorCounters } from "./injector-counters.js";

/** Limit of ended flows that are remembered between two writes, or until the first. */
const ENDED_MAX = 1 << 20;
/** Limit of flows that wait to be looked up. */
const DOUBTFUL_MAX = 1 << 16;

/** A copy of a flow that its owner ended. */
export interface EndedFlow {
  /** Its slot in the list of flows that are being removed. */
  readonly at: number;
  readonly words: Uint32Array;
  /** When its entry expires if no packet comes, seconds of the monotonic clock; 0: unknown. */
  readonly expiresSeconds: number;
  /** How much later it may expire, seconds. */
  readonly withinSeconds: number;
}

/** A copy of a flow that is to be looked up. */
export interface DoubtfulFlow {
  readonly words: Uint32Array;
  /**
   * False where packets may carry the flow here and this node had no room to record it. Its entry is then never
   * removed.
   */
  readonly mayGo: boolean;
}

/** Rows that changed or were missed, and flows that ended or are in doubt. Slots are those of the external cache. */
export class WorkList {
  readonly #counters: InjectorCounters;
  /** Bounded by the rows of the external cache, like the next field. */
  readonly #changed = new Set<number>();
  readonly #missed = new Set<number>();
  /**
   * Rows that were never written and are not due yet, with the second at which they are, in that order. They are in no
   * other list.
   */
  readonly #young = new Map<number, number>();
  #ended = new FlowTable(ENDED_MAX);
  /** The other of the two tables; empty while nothing is being written. */
  #ending = new FlowTable(ENDED_MAX);
  readonly #doubtful: DoubtfulFlow[] = [];

  constructor(counters: InjectorCounters) {
    this.#counters = counters;
  }

  /**
   * True when there is nothing to write. Missed rows do not count, because they wait for their owner, nor do rows that
   * are not due.
   */
  get isEmpty(): boolean {
    return this.#changed.size + this.#ended.size + this.#doubtful.length === 0;
  }

  /** Adds a row to be written. */
  addChanged(slot: number): void {
    if (this.#young.size > 0) this.#young.delete(slot);
    this.#changed.add(slot);
  }

  /** Adds a row to be written once it is due, unless it waits already. Call it with times that do not go back. */
  addYoung(slot: number, dueSeconds: number): void {
    if (!this.isChanged(slot)) this.#young.set(slot, dueSeconds);
  }

  /** Rows that are not due yet. */
  get young(): number {
    return this.#young.size;
  }

  /** The rows that are due by now are to be written. */
  takeDue(nowSeconds: number): void {
    for (const [slot, dueSeconds] of this.#young) {
      if (dueSeconds > nowSeconds) return;
      this.#young.delete(slot);
      this.#changed.add(slot);
    }
  }

  /** All rows are due. The youngest, which were active last, are written first, and before all that waits already. */
  hasten(): void {
    const rows = [...[...this.#young.keys()].reverse(), ...this.#changed];
    this.#young.clear();
    this.#changed.clear();
    for (const slot of rows) this.#changed.add(slot);
  }

  /** Removes a row that need not be written any more. */
  dropChanged(slot: number): void {
    this.#changed.delete(slot);
    if (this.#young.size > 0) this.#young.delete(slot);
  }

  /** True while the row waits to be written, be it due or not. */
  isChanged(slot: number): boolean {
    return this.#changed.has(slot) || this.isYoung(slot);
  }

  /** True while the row waits until it is due. */
  isYoung(slot: number): boolean {
    return this.#young.size > 0 && this.#young.has(slot);
  }

  /** Yields the rows to write. Each leaves the list when it is yielded. */
  *takeChanged(): Generator<number, void> {
    for (const slot of this.#changed) {
      this.#changed.delete(slot);
      yield slot;
    }
  }

  /** Adds a row whose entry expired in this kernel while its owner could not be followed. */
  addMissed(slot: number): void {
    this.#missed.add(slot);
  }

  /** Removes and returns all missed rows. */
  takeMissed(): readonly number[] {
    if (this.#missed.size === 0) return [];
    const missed = [...this.#missed];
    this.#missed.clear();
    return missed;
  }

  /** The row is removed, so it is neither written nor missed. */
  dropRow(slot: number): void {
    this.dropChanged(slot);
    this.#missed.delete(slot);
  }

  /** Adds the flow of a record that has ended. `expiresSeconds` and `withinSeconds` are as in EndedFlow. */
  addEnded(slab: Uint32Array, base: number, birth: number, expiresSeconds: number, withinSeconds: number): void {
    let at = this.#ended.find(slab, base);
    if (at < 0) at = this.#ended.insert(slab, base);
    if (at < 0) {
      this.#counters.endingsDropped++;
      return;
    }
    this.#ended.setBirth(at, birth);
    const words = this.#ended.slab(at);
    const to = this.#ended.base(at);
    words[to + W_PROTOINFO] = slab[base + W_PROTOINFO]!;
    words[to + W_TABLE_A] = Math.round(expiresSeconds);
    words[to + W_TABLE_B] = Math.ceil(withinSeconds);
  }

  /** True while an ended flow waits for its removal. Flows that are being removed do not count. */
  get hasEnded(): boolean {
    return this.#ended.size > 0;
  }

  /** Yields copies of the ended flows, one by one. Each counts as being removed until `dropEnded`. */
  *takeEnded(): Generator<EndedFlow, void> {
    const table = this.#ended;
    this.#ended = this.#ending;
    this.#ending = table;
    for (let at = 0; at < table.slotsUsed; at++) {
      if (!table.isLive(at)) continue;
      const base = table.base(at);
      const words = table.slab(at).slice(base, base + RECORD_WORDS);
      yield { at, words, expiresSeconds: words[W_TABLE_A]!, withinSeconds: words[W_TABLE_B]! };
    }
  }

  /** Flows from `takeEnded` are done. */
  dropEnded(flows: readonly EndedFlow[]): void {
    for (const { at } of flows) {
      this.#ending.unlink(at);
      this.#ending.free(at);
    }
  }

  /** True for an ended flow that waits for its removal or is being removed. `words` is a record at base 0. */
  waitsForEnd(words: Uint32Array): boolean {
    return holds(this.#ended, words) || holds(this.#ending, words);
  }

  /**
   * The birth of an ended flow that waits for its removal or is being removed; 0 if the record at base 0 belongs to
   * another connection of that tuple, -1 if no flow with that tuple waits.
   */
  endedBirth(words: Uint32Array): number {
    const birth = birthIn(this.#ended, words);
    return birth >= 0 ? birth : birthIn(this.#ending, words);
  }

  /** Adds the flow of a record at base 0, which is to be looked up. `mayGo` is as in DoubtfulFlow. */
  addDoubtful(words: Uint32Array, mayGo: boolean): void {
    if (this.#doubtful.length < DOUBTFUL_MAX) this.#doubtful.push({ words: words.slice(), mayGo });
    else this.#counters.unverified++;
  }

  /** Removes and returns at most `max` flows to look up. */
  takeDoubtful(max: number): readonly DoubtfulFlow[] {
    return this.#doubtful.splice(0, max);
  }
}

function holds(table: FlowTable, words: Uint32Array): boolean {
  return table.size > 0 && table.find(words, 0) >= 0;
}

function birthIn(table: FlowTable, words: Uint32Array): number {
  const at = table.size === 0 ? -1 : table.find(words, 0);
  if (at < 0) return -1;
  return isAnotherConnection(table.slab(at), table.base(at), words, 0) ? 0 : table.birth(at);
}
