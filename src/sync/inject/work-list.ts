/** What the injector has yet to do waits here within bounds; what finds no room is counted. */
import { FlowTable } from "../../flow/flow-table.js";
import { RECORD_WORDS, W_PROTOINFO, W_TABLE_A, W_TABLE_B } from "../../flow/record.js";
import type { InjectorCounters } from "./injector-counters.js";

/** Ended flows that are remembered between two writes, or until the first. */
const ENDED_MAX = 1 << 20;
/** Flows that wait to be looked up. */
const DOUBTFUL_MAX = 1 << 16;

/** A flow that its owner ended, copied. */
export interface EndedFlow {
  /** Its slot among those that are being removed. */
  readonly at: number;
  readonly words: Uint32Array;
  /** When its entry expires if no packet comes, in seconds of the monotonic clock; 0: not known. */
  readonly expiresSeconds: number;
  /** How much later it may expire. */
  readonly withinSeconds: number;
}

/** A flow that is to be looked up, copied. */
export interface DoubtfulFlow {
  readonly words: Uint32Array;
  /** False where packets may carry it here and this node has no room to know: whatever the kernel has then stays. */
  readonly mayGo: boolean;
}

/** Rows that changed or were missed, flows that ended or are in doubt. Slots are those of the external cache. */
export class WorkList {
  readonly #counters: InjectorCounters;
  /** Bounded by the rows of the external cache, as is the next. */
  readonly #changed = new Set<number>();
  readonly #missed = new Set<number>();
  #ended = new FlowTable(ENDED_MAX);
  /** The other one of the two, empty while nothing is written. */
  #ending = new FlowTable(ENDED_MAX);
  readonly #doubtful: DoubtfulFlow[] = [];

  constructor(counters: InjectorCounters) {
    this.#counters = counters;
  }

  /** True when there is nothing to write. Missed rows wait for their owner instead. */
  get isEmpty(): boolean {
    return this.#changed.size + this.#ended.size + this.#doubtful.length === 0;
  }

  /** The row is to be written. */
  addChanged(slot: number): void {
    this.#changed.add(slot);
  }

  /** The row need not be written. */
  dropChanged(slot: number): void {
    this.#changed.delete(slot);
  }

  /** True while the row waits to be written. */
  isChanged(slot: number): boolean {
    return this.#changed.has(slot);
  }

  /** The rows to write, each taken off the list when it is handed out. */
  *takeChanged(): Generator<number, void> {
    for (const slot of this.#changed) {
      this.#changed.delete(slot);
      yield slot;
    }
  }

  /** This kernel let the row's entry expire while the owner was away. */
  addMissed(slot: number): void {
    this.#missed.add(slot);
  }

  /** All missed rows, which are no longer on the list. */
  takeMissed(): readonly number[] {
    if (this.#missed.size === 0) return [];
    const missed = [...this.#missed];
    this.#missed.clear();
    return missed;
  }

  /** The row goes: it is neither written nor missed. */
  dropRow(slot: number): void {
    this.#changed.delete(slot);
    this.#missed.delete(slot);
  }

  /** The flow of a record has ended; `expiresSeconds` and `withinSeconds` as in EndedFlow. */
  addEnded(slab: Uint32Array, base: number, expiresSeconds: number, withinSeconds: number): void {
    let at = this.#ended.find(slab, base);
    if (at < 0) at = this.#ended.insert(slab, base);
    if (at < 0) {
      this.#counters.endingsDropped++;
      return;
    }
    const words = this.#ended.slab(at);
    const to = this.#ended.base(at);
    words[to + W_PROTOINFO] = slab[base + W_PROTOINFO]!;
    words[to + W_TABLE_A] = Math.round(expiresSeconds);
    words[to + W_TABLE_B] = Math.ceil(withinSeconds);
  }

  /** True while a flow that ended waits to be removed. Those that are being removed do not count. */
  get hasEnded(): boolean {
    return this.#ended.size > 0;
  }

  /** The flows that have ended, copied one by one. Each counts as one that waits until `dropEnded`. */
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

  /** Flows from `takeEnded` have been dealt with. */
  dropEnded(flows: readonly EndedFlow[]): void {
    for (const { at } of flows) {
      this.#ending.unlink(at);
      this.#ending.free(at);
    }
  }

  /** True for a flow that ended and waits to be removed, or is being removed. `words` is a record at base 0. */
  waitsForEnd(words: Uint32Array): boolean {
    return holds(this.#ended, words) || holds(this.#ending, words);
  }

  /** The flow of a record at base 0 is to be looked up; `mayGo` as in DoubtfulFlow. */
  addDoubtful(words: Uint32Array, mayGo: boolean): void {
    if (this.#doubtful.length < DOUBTFUL_MAX) this.#doubtful.push({ words: words.slice(), mayGo });
    else this.#counters.unverified++;
  }

  /** The flows to look up, `max` at the most, which are no longer on the list. */
  takeDoubtful(max: number): readonly DoubtfulFlow[] {
    return this.#doubtful.splice(0, max);
  }
}

function holds(table: FlowTable, words: Uint32Array): boolean {
  return table.size > 0 && table.find(words, 0) >= 0;
}
