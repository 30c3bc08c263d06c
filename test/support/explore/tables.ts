/** Copies of the state of a node's two caches. */
import type { ExternalCache } from "../../../src/cache/external.js";
import type { InternalCache } from "../../../src/cache/internal.js";
import type { FlowTable } from "../../../src/flow/flow-table.js";
import {
  RECORD_WORDS,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_PROTOINFO,
  W_REPLY_L4,
  W_STATUS,
} from "../../../src/flow/record.js";
import { readStamp } from "../../../src/flow/stamp.js";
import type { Claim } from "../../../src/ownership/claim.js";
import type { DigestWriter } from "./hash.js";
import { type ExternalState, type InternalState, privatesOf, type TableState } from "./privates.js";

/** Slots of each table. */
export const SLOTS = 8;

/** The rows of a table. Which free slot comes next is not kept: it is always the lowest. */
export interface TableImage {
  /** The rows up to the last that is used. */
  readonly words: Uint32Array;
  readonly births: Float64Array;
}

/** The state of an internal cache. */
export interface InternalImage extends TableImage {
  readonly pending: readonly number[];
  readonly newerOwners: readonly (readonly [number, Claim])[];
  readonly reported: number;
  readonly endedIds: readonly number[] | null;
  readonly inStream: number;
}

/** The state of an external cache, its peers in the order in which it knows them. */
export interface ExternalImage extends TableImage {
  readonly origins: readonly {
    readonly heard: number;
    readonly flows: number;
    readonly departed: number;
    readonly slots: readonly number[];
  }[];
  readonly departures: readonly { readonly slot: number; readonly to: number; readonly stamp: number }[];
}

/** A table without rows. */
export const EMPTY_TABLE: TableImage = { words: new Uint32Array(0), births: new Float64Array(0) };

/** The bits of dump-generation.ts in a row. */
const DUMP_BITS = 0x2c0_0000;

/** A copy of the rows of a table. */
export function saveTable(table: FlowTable): TableImage {
  let used = Math.min(SLOTS, table.slotsUsed);
  while (used > 0 && !table.isLive(used - 1)) used--;
  if (used === 0) return EMPTY_TABLE;
  const { _births } = privatesOf<TableState>(table, "_births");
  return { words: table.slab(0).slice(0, used * RECORD_WORDS), births: _births[0]!.slice(0, used) };
}

/** Replaces the rows of a table. `isLinked`: true for those that can be found. */
export function loadTable(table: FlowTable, image: TableImage, isLinked: (slot: number) => boolean): void {
  const state = privatesOf<TableState>(table, "_births");
  if (state._slabs.length === 0) {
    state._slabs.push(new Uint32Array(RECORD_WORDS * SLOTS));
    state._births.push(new Float64Array(SLOTS));
  }
  const slab = table.slab(0);
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (!table.isLive(slot)) continue;
    table.unlink(slot);
    slab[slot * RECORD_WORDS + W_HAS] = 0;
  }
  slab.set(image.words);
  state._births[0]!.set(image.births);
  state._slotsUsed = SLOTS;
  state._freeCount = 0;
  for (let slot = SLOTS - 1; slot >= 0; slot--) {
    if (!table.isLive(slot)) state._freeSlots[state._freeCount++] = slot;
    else if (isLinked(slot)) table.relink(slot);
  }
}

/** A copy of an internal cache. */
export function saveInternal(internal: InternalCache): InternalImage {
  const { _pending, _newerOwners, _dump, _inStream } = privatesOf<InternalState>(internal, "_newerOwners");
  const { words, births } = saveTable(internal.table);
  return {
    words,
    births,
    pending: _pending._count === 0 ? NONE : Array.from(_pending._slots.subarray(0, _pending._count)),
    newerOwners: _newerOwners.size === 0 ? NONE : [..._newerOwners],
    reported: _dump._reported,
    endedIds: _dump._endedIds === null ? null : [..._dump._endedIds],
    inStream: _inStream,
  };
}

const NONE: readonly never[] = [];

/** Puts a copy back. */
export function loadInternal(internal: InternalCache, image: InternalImage): void {
  const state = privatesOf<InternalState>(internal, "_newerOwners");
  loadTable(internal.table, image, (slot) => internal.isFlow(slot));
  state._pending._count = 0;
  for (const slot of image.pending) state._pending._slots[state._pending._count++] = slot;
  state._newerOwners.clear();
  for (const [slot, claim] of image.newerOwners) state._newerOwners.set(slot, claim);
  state._dump._reported = image.reported;
  state._dump._endedIds = image.endedIds === null ? null : new Set(image.endedIds);
  state._inStream = image.inStream;
  // A sweep is over within its step.
  state._sweepAt = 0;
}

/** A copy of an external cache. */
export function saveExternal(external: ExternalCache): ExternalImage {
  const { _origins, _departures } = privatesOf<ExternalState>(external, "_departures");
  const departures =
    _departures.size === 0
      ? NONE
      : [..._departures].map(([slot, { to, stamp }]) => ({ slot, to: _origins.indexOf(to), stamp }));
  const origins = _origins.map(({ heard, flows, departed, slots }) => {
    const page = slots._pages[0];
    return {
      heard,
      flows,
      departed,
      slots: page === undefined || slots._size === 0 ? NONE : Array.from(page.subarray(0, SLOTS)),
    };
  });
  const { words, births } = saveTable(external.table);
  return { words, births, origins, departures };
}

/** Puts a copy back. */
export function loadExternal(external: ExternalCache, image: ExternalImage): void {
  const { _origins, _departures } = privatesOf<ExternalState>(external, "_departures");
  const { table } = external;
  loadTable(table, image, () => true);
  for (const [index, origin] of _origins.entries()) {
    const saved = image.origins[index];
    origin.heard = saved?.heard ?? 0;
    origin.flows = saved?.flows ?? 0;
    origin.departed = saved?.departed ?? 0;
    const { slots } = origin;
    slots._pages[0]?.fill(0, 0, SLOTS);
    slots._size = 0;
    for (const [flowId, entry] of (saved?.slots ?? NONE).entries()) {
      if (entry > 0) (slots as unknown as { set(flowId: number, slot: number): void }).set(flowId, entry - 1);
    }
  }
  _departures.clear();
  for (const { slot, to, stamp } of image.departures) _departures.set(slot, { to: _origins[to]!, stamp });
}

/** What of a record the nodes care about. `idOf` numbers CTA_IDs in the order in which they are met. */
export function digestRecord(out: DigestWriter, words: Uint32Array, base: number, idOf: (id: number) => number): void {
  out.word(words[base + W_ORIG_L4]!);
  out.word(words[base + W_REPLY_L4]!);
  out.word(words[base + W_STATUS]!);
  out.word(words[base + W_PROTOINFO]!);
  out.word(words[base + W_HAS]! & 0xffff);
  out.word(idOf(words[base + W_ID]!));
  out.variable(words[base + W_MARK]!);
}

/** Digests an internal cache. */
export function digestInternal(out: DigestWriter, image: InternalImage, idOf: (id: number) => number): void {
  const { words, births, reported } = image;
  for (let slot = 0; slot < births.length; slot++) {
    const base = slot * RECORD_WORDS;
    const bits = words[base + W_HAS]!;
    out.word(bits === 0 ? 0 : ((bits ^ reported) & DUMP_BITS) | (bits & ~DUMP_BITS & ~0xffff));
    if (bits === 0) continue;
    digestRecord(out, words, base, idOf);
    out.variable(readStamp(words, base));
    out.variable(births[slot]!);
  }
  out.word(-1);
  for (const slot of image.pending) out.word(slot);
  out.word(-1);
  for (const [slot, { node, stamp }] of image.newerOwners) {
    out.word(slot);
    out.word(node.charCodeAt(node.length - 1));
    out.variable(stamp);
  }
  out.word(-1);
  out.word(image.endedIds === null ? -1 : image.endedIds.length);
  for (const id of image.endedIds ?? NONE) out.word(idOf(id));
}

/** Digests an external cache. */
export function digestExternal(out: DigestWriter, image: ExternalImage): void {
  const { words, births } = image;
  for (let slot = 0; slot < births.length; slot++) {
    const base = slot * RECORD_WORDS;
    const bits = words[base + W_HAS]!;
    out.word(bits);
    if (bits === 0) continue;
    digestRecord(out, words, base, same);
    out.variable(readStamp(words, base));
    out.variable(births[slot]!);
  }
  out.word(-1);
  for (const { heard, slots } of image.origins) {
    out.variable(heard);
    for (const entry of slots) out.word(entry);
    out.word(-1);
  }
  for (const { slot, to, stamp } of image.departures) {
    out.word(slot);
    out.word(to);
    out.variable(stamp);
  }
  out.word(-1);
}

function same(id: number): number {
  return id;
}
