import { stampMs } from "../../flow/clock.js";
import { FlowTable } from "../../flow/flow-table.js";
import { type RareAttributes, RECORD_WORDS, W_HAS, W_ID } from "../../flow/record.js";
import { isAnotherConnection } from "../../flow/record-fields.js";
import { readStamp, writeStamp } from "../../flow/stamp.js";
import type { CarriedSince, RowCopy } from "./connection-record.js";
import type { NodeState } from "./node-state.js";

/*
 * Bits of a row in W_HAS, beside ROW_LIVE and below the index of the owner.
 */
/** Events of it may be missing, whatever the gaps say. */
const MAY_MISS = 0x2_0000;
/** Its owner has moved it to a node whose claim has not been read yet. */
const DEPARTED = 0x4_0000;
/** Its owner has published its end, which is held for a node that may take it up again. W_ID is the place of that end. */
const HELD = 0x8_0000;
/** It was taken up again after an end. */
const RESUMED = 0x10_0000;
/** Its first claim was read, and published by a node that knew its table, so its birth is that of no earlier connection. */
const BORN = 0x20_0000;
const OWNER_SHIFT = 24;
/** Copies of rows share chunks of memory of this size. */
const CHUNK_WORDS = 64 * RECORD_WORDS;
const PAGE_BITS = 12;
const PAGE_MASK = (1 << PAGE_BITS) - 1;
/** In place of a flow id, which is never so large. */
const NO_FLOW_ID = 0xffffffff;

/** How many connections a table holds at a time. */
export const FLOWS_MAX = 4_000_000;

/** How many nodes there may be: the owner has 8 bits in a row. */
export const NODES_MAX = 255;

type Path = RowCopy["path"];

/**
 * The connections that are alive at the place up to which the streams have been read, each with its owner and its path. Rows
 * whose end is held are in the table too. A tuple is in the index once.
 */
export class LiveTable {
  readonly table: FlowTable;
  /** Stamp since which the owner has carried each row, by page of slots. */
  readonly #since: Float64Array[] = [];
  /** The same by the owner's clock, milliseconds. */
  readonly #sinceMs: Float64Array[] = [];
  /** The birth by the clock of the node that published it, milliseconds. */
  readonly #startMs: Float64Array[] = [];
  /** Earlier owners, by slot, of the few rows that have moved. */
  readonly #earlier = new Map<number, Path>();
  /** Held rows that are not in the index because another row has their tuple, by birth. */
  readonly #displaced = new Map<number, readonly number[]>();
  #displacedCount = 0;
  readonly #nodes: readonly NodeState[];
  #chunk = new Uint32Array(CHUNK_WORDS);
  #chunkAt = 0;

  constructor(nodes: readonly NodeState[], flowsMax: number) {
    this.#nodes = nodes;
    this.table = new FlowTable(flowsMax);
  }

  /** The node that carries the row. */
  owner(slot: number): NodeState {
    return this.#nodes[this.#word(slot, W_HAS) >>> OWNER_SHIFT]!;
  }

  /** Stamp of the last row that the owner has published of the connection. */
  stamp(slot: number): number {
    return readStamp(this.table.slab(slot), this.table.base(slot));
  }

  /** Sets that stamp. */
  touch(slot: number, stamp: number): void {
    writeStamp(this.table.slab(slot), this.table.base(slot), stamp);
  }

  /** Stamp since which the owner has carried the row. */
  since(slot: number): number {
    return this.#since[slot >>> PAGE_BITS]![slot & PAGE_MASK]!;
  }

  /** True while a flow id of the owner refers to the row. */
  isMapped(slot: number): boolean {
    return this.owner(slot).slots.get(this.flowId(slot)) === slot;
  }

  /** The owner's flow id; only for a row that is mapped. */
  flowId(slot: number): number {
    return this.#word(slot, W_ID);
  }

  /** True while the end of the row is held. */
  isHeld(slot: number): boolean {
    return (this.#word(slot, W_HAS) & HELD) !== 0;
  }

  /** True where the row's first claim was read, and no end of it since. */
  isWhole(slot: number): boolean {
    return (this.#word(slot, W_HAS) & (BORN | RESUMED)) === BORN;
  }

  /** Takes a held row out of the index, because another connection has its tuple now. That one may lose it again. */
  displace(slot: number): void {
    const birth = this.table.birth(slot);
    this.table.unlink(slot);
    this.#displaced.set(birth, [...(this.#displaced.get(birth) ?? []), slot]);
    this.#displacedCount++;
  }

  /** The displaced row of a record's tuple and a birth; -1 when there is none. */
  displaced(words: Uint32Array, birth: number): number {
    if (this.#displacedCount === 0) return -1;
    return this.#displaced.get(birth)?.find((slot) => this.table.isTupleOf(slot, words, 0)) ?? -1;
  }

  /** Puts a displaced row back into the index, where its tuple must be free. */
  reinstate(slot: number): void {
    this.#forgetDisplaced(slot);
    this.table.relink(slot);
  }

  /** Rows alive and held, with those that are displaced. */
  get size(): number {
    return this.table.size + this.#displacedCount;
  }

  /** The earliest birth of all rows, alive or held; Infinity where there is none. */
  get oldestBirth(): number {
    const { table } = this;
    let oldest = Number.POSITIVE_INFINITY;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (table.isLive(slot)) oldest = Math.min(oldest, table.birth(slot));
    }
    return oldest;
  }

  /** The slots of the rows that are alive, in the order of their births. */
  alive(): Float64Array {
    const { table } = this;
    const slots = new Float64Array(table.size);
    let count = 0;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (table.isLive(slot) && !this.isHeld(slot)) slots[count++] = slot;
    }
    return slots.subarray(0, count).sort((a, b) => table.birth(a) - table.birth(b));
  }

  #forgetDisplaced(slot: number): void {
    const birth = this.table.birth(slot);
    const slots = this.#displaced.get(birth);
    if (slots === undefined || !slots.includes(slot)) return;
    this.#displacedCount--;
    if (slots.length === 1) this.#displaced.delete(birth);
    else
      this.#displaced.set(
        birth,
        slots.filter((other) => other !== slot),
      );
  }

  /** The place of the end of a held row. */
  heldAt(slot: number): number {
    return this.#word(slot, W_ID);
  }

  /** Marks a row as held: no flow id refers to it any more, and its end waits at that place. */
  hold(slot: number, place: number): void {
    if (this.isMapped(slot)) this.owner(slot).unmap(this.flowId(slot));
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    slab[base + W_HAS]! |= HELD;
    slab[base + W_ID] = place;
  }

  /** Marks a held row as alive: a node has taken it up again. */
  resume(slot: number): void {
    const at = this.table.base(slot) + W_HAS;
    this.table.slab(slot)[at] = (this.table.slab(slot)[at]! & ~HELD) | RESUMED;
  }

  /** Marks a row as born: this is its first claim. */
  markBorn(slot: number): void {
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= BORN;
  }

  /**
   * True when a claim, a record with that birth, is to the connection of a row, and not to an earlier or later one with the same
   * tuple. A node that has forgotten the connection publishes a later birth. An earlier birth with the same translation is an
   * old entry of that node, which this connection uses now.
   */
  isClaimOf(slot: number, words: Uint32Array, birth: number): boolean {
    if (birth >= this.table.birth(slot)) return birth <= this.stamp(slot);
    const { table } = this;
    return (this.#word(slot, W_HAS) & BORN) !== 0 && !isAnotherConnection(table.slab(slot), table.base(slot), words, 0);
  }

  /** Adds a connection. Returns its slot; -1 when the table is full. */
  open(words: Uint32Array, rare: RareAttributes | null, birth: number, aheadMs: number): number {
    const slot = this.table.insert(words, 0);
    if (slot < 0) return -1;
    this.table.setBirth(slot, birth);
    if (rare !== null) this.table.rare.set(slot, rare);
    while (this.#since.length <= slot >>> PAGE_BITS) {
      for (const pages of [this.#since, this.#sinceMs, this.#startMs]) pages.push(new Float64Array(1 << PAGE_BITS));
    }
    this.#startMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stampMs(birth) - aheadMs;
    return slot;
  }

  /** Overwrites the record of a known connection with that of a new row. */
  restate(slot: number, words: Uint32Array, rare: RareAttributes | null): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    const tableBits = slab[base + W_HAS]! & ~0xffff & ~DEPARTED;
    slab.set(words, base);
    slab[base + W_HAS] = (words[W_HAS]! & 0xffff) | tableBits;
    if (rare === null) this.table.rare.delete(slot);
    else this.table.rare.set(slot, rare);
  }

  /** Takes over the birth that another node's claim has, if it is earlier and the row's own is not certain. */
  inheritBirth(slot: number, birth: number, aheadMs: number): void {
    if (birth >= this.table.birth(slot) || (this.#word(slot, W_HAS) & BORN) !== 0) return;
    this.table.setBirth(slot, birth);
    this.#startMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stampMs(birth) - aheadMs;
  }

  /** Sets since when the owner has carried the row. */
  setSince(slot: number, since: number, aheadMs: number): void {
    this.#since[slot >>> PAGE_BITS]![slot & PAGE_MASK] = since;
    this.#sinceMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stampMs(since) - aheadMs;
  }

  /** Makes a node the owner by a claim with that stamp. `flowId` null: no flow id refers to the row yet. */
  own(slot: number, node: NodeState, flowId: number | null, stamp: number): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    slab[base + W_HAS] = (slab[base + W_HAS]! & 0xff_ffff) | (node.index << OWNER_SHIFT);
    slab[base + W_ID] = flowId ?? NO_FLOW_ID;
    writeStamp(slab, base, stamp);
    if (flowId !== null) node.map(flowId, slot);
    else node.hasUnmapped = true;
  }

  /** Adds the present owner to the earlier ones: another will own the row. */
  leave(slot: number): void {
    const node = this.owner(slot);
    if (this.isMapped(slot)) node.unmap(this.flowId(slot));
    const earlier = this.#earlier.get(slot);
    const last = this.#carriedSince(slot, node);
    this.#earlier.set(slot, earlier === undefined ? [last] : [...earlier, last]);
  }

  /** Moves a row to a node whose claim has not been read yet. */
  depart(slot: number, to: NodeState, stamp: number, aheadMs: number): void {
    this.leave(slot);
    this.own(slot, to, null, stamp);
    this.setSince(slot, stamp, aheadMs);
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= DEPARTED;
  }

  /** True while the row's owner is one that it was moved to, and whose claim has not been read. */
  isDeparted(slot: number): boolean {
    return (this.#word(slot, W_HAS) & DEPARTED) !== 0;
  }

  /** Gives a departed row back to the node that it was moved from. No flow id refers to it. */
  comeBack(slot: number): void {
    const path = this.#earlier.get(slot);
    if (path === undefined) return;
    const [first, ...later] = path;
    const last = later.pop();
    if (last === undefined) this.#earlier.delete(slot);
    else this.#earlier.set(slot, [first, ...later]);
    const { node, stamp, sinceMs } = last ?? first;
    this.own(slot, node, null, stamp);
    this.#since[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stamp;
    this.#sinceMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = sinceMs;
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! &= ~DEPARTED;
  }

  /** Notes that events of a row may be missing, whatever the gaps say. */
  markMayMiss(slot: number): void {
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= MAY_MISS;
  }

  /** A copy of a row. It may miss events if its own bits say so, or a gap that a node had while carrying it up to that stamp. */
  copy(slot: number, stamp: number): RowCopy {
    const { table } = this;
    const base = table.base(slot);
    const slab = table.slab(slot);
    const words = this.#takeWords();
    for (let i = 0; i < W_HAS; i++) words[i] = slab[base + i]!;
    const flags = slab[base + W_HAS]!;
    words[W_HAS] = flags & 0xffff;
    words[W_ID] = 0;
    const node = this.#nodes[flags >>> OWNER_SHIFT]!;
    const last = this.#carriedSince(slot, node);
    const earlier = this.#earlier.size === 0 ? undefined : this.#earlier.get(slot);
    const path: Path = earlier === undefined ? [last] : [...earlier, last];
    const mayMiss = (flags & (MAY_MISS | DEPARTED)) !== 0 || anyMissed(path, stamp);
    const rare = table.rare.size === 0 ? null : (table.rare.get(slot) ?? null);
    const startMs = this.#startMs[slot >>> PAGE_BITS]![slot & PAGE_MASK]!;
    return { words, rare, birth: table.birth(slot), startMs, path, mayMiss };
  }

  #carriedSince(slot: number, node: NodeState): CarriedSince {
    return { node, stamp: this.since(slot), sinceMs: this.#sinceMs[slot >>> PAGE_BITS]![slot & PAGE_MASK]! };
  }

  /** Cuts a record from a chunk: a typed array of its own would cost more than all the rest of a connection. */
  #takeWords(): Uint32Array {
    if (this.#chunkAt === CHUNK_WORDS) {
      this.#chunk = new Uint32Array(CHUNK_WORDS);
      this.#chunkAt = 0;
    }
    const words = this.#chunk.subarray(this.#chunkAt, this.#chunkAt + RECORD_WORDS);
    this.#chunkAt += RECORD_WORDS;
    return words;
  }

  /** Removes a row. */
  remove(slot: number): void {
    if (this.#displacedCount > 0) this.#forgetDisplaced(slot);
    if (!this.isHeld(slot) && this.isMapped(slot)) this.owner(slot).unmap(this.flowId(slot));
    if (this.#earlier.size > 0) this.#earlier.delete(slot);
    this.table.unlink(slot);
    this.table.free(slot);
  }

  #word(slot: number, word: number): number {
    return this.table.slab(slot)[this.table.base(slot) + word]!;
  }
}

/** True where one of the nodes has a gap while it carried the connection. */
function anyMissed(path: Path, stamp: number): boolean {
  for (let i = 0; i < path.length; i++) {
    const { node, stamp: since } = path[i]!;
    if (node.gaps.touches(since, path[i + 1]?.stamp ?? stamp)) return true;
  }
  return false;
}
