/** Copies of the state of an injector. */
import { FlowTable } from "../../../src/flow/flow-table.js";
import { RECORD_WORDS, W_ORIG_L4 } from "../../../src/flow/record.js";
import type { Injector } from "../../../src/sync/inject/injector.js";
import type { DoubtfulFlow } from "../../../src/sync/inject/work-list.js";
import type { Carrier } from "../../../src/sync/ports/kernel.js";
import type { DigestWriter } from "./hash.js";
import { privatesOf } from "./privates.js";
import { loadTable, SLOTS, saveTable, type TableImage } from "./tables.js";

interface WorkState {
  readonly isEmpty: boolean;
  readonly _changed: Set<number>;
  readonly _missed: Set<number>;
  readonly _young: Map<number, number>;
  takeDue(nowSeconds: number): void;
  readonly _ended: FlowTable;
  readonly _ending: FlowTable;
  readonly _doubtful: DoubtfulFlow[];
}

interface EntriesState {
  readonly _expiresSeconds: Float64Array;
  readonly _withinSeconds: Float32Array;
  readonly _replies: Uint32Array;
  readonly _births: Float64Array;
  readonly _seen: Uint8Array;
  _dumping: boolean;
  _removed: FlowTable | null;
}

interface LoopState {
  _carrier: Carrier | null;
  poke(): void;
  _write(carrier: Carrier): Promise<void>;
}

interface InjectorState {
  _waits: boolean;
  readonly _work: WorkState;
  readonly _entries: EntriesState;
  readonly _loop: LoopState;
}

/** The state of an injector between two writes. */
export interface InjectorImage {
  readonly isStarted: boolean;
  readonly changed: readonly number[];
  readonly missed: readonly number[];
  readonly young: readonly number[];
  readonly waits: boolean;
  readonly ended: TableImage;
  readonly doubtful: readonly DoubtfulFlow[];
  readonly expiresSeconds: readonly number[];
  readonly withinSeconds: readonly number[];
  readonly replies: readonly number[];
  readonly births: readonly number[];
  readonly seen: readonly number[];
  readonly dumping: boolean;
  readonly removed: readonly Uint32Array[] | null;
}

const ZEROS: readonly number[] = Array.from({ length: SLOTS }, () => 0);

/** The injector of a daemon that has just started. */
export const FRESH_INJECTOR: InjectorImage = {
  isStarted: false,
  changed: [],
  missed: [],
  young: [],
  waits: true,
  ended: { words: new Uint32Array(0), births: new Float64Array(0) },
  doubtful: [],
  expiresSeconds: ZEROS,
  withinSeconds: ZEROS,
  replies: ZEROS,
  births: ZEROS,
  seen: ZEROS,
  dumping: false,
  removed: null,
};

/** An injector whose writes the explorer begins. */
export class Injections {
  readonly #state: InjectorState;
  readonly #carrier: Carrier;

  constructor(injector: Injector, carrier: Carrier) {
    this.#state = privatesOf<InjectorState>(injector, "_entries");
    this.#carrier = carrier;
    this.#state._loop.poke = () => undefined;
  }

  /** The kernel has been listed: from here on there are writes. */
  start(): void {
    this.#state._loop._carrier = this.#carrier;
  }

  get isDue(): boolean {
    return this.#state._loop._carrier !== null && !this.#state._work.isEmpty;
  }

  get hasYoung(): boolean {
    return this.#state._loop._carrier !== null && this.#state._work._young.size > 0;
  }

  /** What is too young to be written is old enough. */
  due(): void {
    this.#state._work.takeDue(Number.POSITIVE_INFINITY);
  }

  /** Writes until nothing is left to be written. */
  write(): Promise<void> {
    return this.#state._loop._write(this.#carrier);
  }

  save(): InjectorImage {
    const { _work, _entries, _loop } = this.#state;
    if (_work._ending.size > 0) throw new Error("a write is not over");
    const { _removed } = _entries;
    return {
      isStarted: _loop._carrier !== null,
      changed: [..._work._changed],
      missed: [..._work._missed],
      young: [..._work._young.keys()],
      waits: this.#state._waits,
      ended: saveTable(_work._ended),
      doubtful: _work._doubtful.slice(),
      expiresSeconds: Array.from(_entries._expiresSeconds.subarray(0, SLOTS)),
      withinSeconds: Array.from(_entries._withinSeconds.subarray(0, SLOTS)),
      replies: Array.from(_entries._replies.subarray(0, SLOTS)),
      births: Array.from(_entries._births.subarray(0, SLOTS)),
      seen: Array.from(_entries._seen.subarray(0, SLOTS)),
      dumping: _entries._dumping,
      removed: _removed === null ? null : flowsOf(_removed),
    };
  }

  load(image: InjectorImage): void {
    const { _work, _entries, _loop } = this.#state;
    _loop._carrier = image.isStarted ? this.#carrier : null;
    _work._changed.clear();
    for (const slot of image.changed) _work._changed.add(slot);
    _work._missed.clear();
    for (const slot of image.missed) _work._missed.add(slot);
    _work._young.clear();
    for (const slot of image.young) _work._young.set(slot, 0);
    this.#state._waits = image.waits;
    loadTable(_work._ended, image.ended, () => true);
    loadTable(_work._ending, FRESH_INJECTOR.ended, () => true);
    _work._doubtful.splice(0, _work._doubtful.length, ...image.doubtful);
    _entries._expiresSeconds.set(image.expiresSeconds);
    _entries._withinSeconds.set(image.withinSeconds);
    _entries._replies.set(image.replies);
    _entries._births.set(image.births);
    _entries._seen.set(image.seen);
    _entries._dumping = image.dumping;
    _entries._removed = image.removed === null ? null : tableOf(image.removed);
  }
}

/** Digests the state of an injector. Of the times only counts whether there is one: no time passes. */
export function digestInjector(out: DigestWriter, image: InjectorImage): void {
  out.word((image.isStarted ? 1 : 0) | (image.dumping ? 2 : 0) | (image.waits ? 4 : 0));
  for (const slot of image.young) out.word(slot);
  out.word(-1);
  for (const slot of image.changed) out.word(slot);
  out.word(-1);
  for (const slot of image.missed) out.word(slot);
  out.word(-1);
  for (let base = 0; base < image.ended.words.length; base += RECORD_WORDS) {
    out.word(image.ended.words[base + W_ORIG_L4]!);
    out.word(image.ended.words[base + RECORD_WORDS - 2]! > 0 ? 1 : 0);
  }
  out.word(-1);
  for (const { words, mayGo } of image.doubtful) out.word(words[W_ORIG_L4]! ^ (mayGo ? 1 : 0));
  out.word(-1);
  for (let slot = 0; slot < SLOTS; slot++) {
    out.word(Math.sign(image.expiresSeconds[slot]!));
    if (image.expiresSeconds[slot] === 0) continue;
    out.word(image.replies[slot]!);
    out.word(image.dumping ? image.seen[slot]! : 0);
    out.variable(image.births[slot]!);
  }
  for (const words of image.removed ?? []) out.word(words[W_ORIG_L4]!);
}

/** The flows of a table. */
export function flowsOf(table: FlowTable): Uint32Array[] {
  const flows: Uint32Array[] = [];
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (table.isLive(slot)) flows.push(table.slab(slot).slice(table.base(slot), table.base(slot) + RECORD_WORDS));
  }
  return flows;
}

/** A table of flows. */
export function tableOf(flows: readonly Uint32Array[]): FlowTable {
  const table = new FlowTable(SLOTS);
  for (const words of flows) table.insert(words, 0);
  return table;
}
