import { stampMs, stampOfMs } from "../../flow/clock.js";
import { FlowTable } from "../../flow/flow-table.js";
import { type RareAttributes, RECORD_WORDS, W_CREATED, W_HAS, W_ID } from "../../flow/record.js";
import { isAnotherConnection } from "../../flow/record-fields.js";
import { readStamp, writeStamp } from "../../flow/stamp.js";
import type { Connection, ConnectionCounters, PathStep } from "../connection.js";
import type { UidOf } from "../uid.js";
import type { NodeState } from "./node-state.js";

/** In W_HAS of a row, beside ROW_LIVE: events of it may be missing, whatever the gaps say. */
const MAY_MISS = 0x2_0000;
/** Its owner gave it up for a node whose claim was not read yet. */
const DEPARTED = 0x4_0000;
/** It has ended on its owner, and waits for another node that may take it up again; W_ID is its place among those. */
const HELD = 0x8_0000;
/** It was taken up again after an end. */
const AGAIN = 0x10_0000;
/** Its first claim was read, by a node that knew its table: the birth is that of this connection and of none before. */
const BORN = 0x20_0000;
const OWNER_SHIFT = 24;
/** Records of answers that share their memory. */
const CHUNK_WORDS = 64 * RECORD_WORDS;
const PAGE_BITS = 12;
const PAGE_MASK = (1 << PAGE_BITS) - 1;
/** What no flow id of a node is. */
const NO_FLOW_ID = 0xffffffff;

/** Connections at a time. */
export const FLOWS_MAX = 4_000_000;

/** Nodes at the most: the owner has 8 bits in a row. */
export const NODES_MAX = 255;

/** A node that carried a connection, since a stamp. */
interface Step {
  readonly node: NodeState;
  readonly since: number;
  /** The same by that node's clock, milliseconds. */
  readonly sinceMs: number;
}

/** A connection that was taken out of the table, to be ended. */
export interface Draft {
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  readonly birth: number;
  /** The birth by the clock of the node that told of it. */
  readonly startMs: number;
  readonly path: readonly Step[];
  readonly mayMiss: boolean;
}

/** How a connection ended, or that it has not. */
export interface Ending {
  readonly end: Connection["end"];
  /** Of the message that says so, or where reading ended. */
  readonly stamp: number;
  /** How far that is ahead of its writer's clock, milliseconds. */
  readonly aheadMs: number;
  readonly counters: ConnectionCounters | null;
  /** The kernel's own times in milliseconds; 0 where it took none. */
  readonly startMs: number;
  readonly endMs: number;
}

/** The connections that are alive at the place that the streams are read to, each with its owner and path. */
export class LiveTable {
  readonly table: FlowTable;
  /** Stamp since when its owner has each row, by page of slots. */
  readonly #since: Float64Array[] = [];
  /** The same by the owner's clock, milliseconds; and the birth, by the clock of the node that told of it. */
  readonly #sinceMs: Float64Array[] = [];
  readonly #startMs: Float64Array[] = [];
  /** The owners before the present one, of the few rows that have moved. */
  readonly #before = new Map<number, readonly Step[]>();
  /** Held rows whose tuple another row has, by birth. */
  readonly #aside = new Map<number, readonly number[]>();
  #asideCount = 0;
  readonly #nodes: readonly NodeState[];
  #chunk = new Uint32Array(CHUNK_WORDS);
  #chunkAt = 0;

  constructor(nodes: readonly NodeState[], flowsMax: number) {
    this.#nodes = nodes;
    this.table = new FlowTable(flowsMax);
  }

  owner(slot: number): NodeState {
    return this.#nodes[this.#word(slot, W_HAS) >>> OWNER_SHIFT]!;
  }

  /** Stamp of what the owner said last of the row. */
  stamp(slot: number): number {
    return readStamp(this.table.slab(slot), this.table.base(slot));
  }

  touch(slot: number, stamp: number): void {
    writeStamp(this.table.slab(slot), this.table.base(slot), stamp);
  }

  /** Stamp since when its owner has it. */
  since(slot: number): number {
    return this.#since[slot >>> PAGE_BITS]![slot & PAGE_MASK]!;
  }

  /** True while the owner's flow id stands for the row. */
  isMapped(slot: number): boolean {
    return this.owner(slot).slots.get(this.flowId(slot)) === slot;
  }

  flowId(slot: number): number {
    return this.#word(slot, W_ID);
  }

  isHeld(slot: number): boolean {
    return (this.#word(slot, W_HAS) & HELD) !== 0;
  }

  /** Whether its first claim was read, and no end of it before. */
  isWhole(slot: number): boolean {
    return (this.#word(slot, W_HAS) & (BORN | AGAIN)) === BORN;
  }

  /** Takes a held row out of the index: another connection has its tuple now, and may lose it again. */
  setAside(slot: number): void {
    const birth = this.table.birth(slot);
    this.table.unlink(slot);
    this.#aside.set(birth, [...(this.#aside.get(birth) ?? []), slot]);
    this.#asideCount++;
  }

  /** The row set aside of a record's tuple and a birth; -1 when there is none. */
  aside(words: Uint32Array, birth: number): number {
    if (this.#asideCount === 0) return -1;
    return this.#aside.get(birth)?.find((slot) => this.table.isTupleOf(slot, words, 0)) ?? -1;
  }

  /** Puts a row that was set aside back into the index. */
  putBack(slot: number): void {
    this.#forgetAside(slot);
    this.table.relink(slot);
  }

  /** Rows alive and held, those set aside among them. */
  get size(): number {
    return this.table.size + this.#asideCount;
  }

  /** Birth of the oldest row, alive or held; Infinity where there is none. */
  get oldestBirth(): number {
    const { table } = this;
    let oldest = Number.POSITIVE_INFINITY;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (table.isLive(slot)) oldest = Math.min(oldest, table.birth(slot));
    }
    return oldest;
  }

  /** The slots of those alive, in the order of their birth. */
  alive(): Float64Array {
    const { table } = this;
    const slots = new Float64Array(table.size);
    let count = 0;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (table.isLive(slot) && !this.isHeld(slot)) slots[count++] = slot;
    }
    return slots.subarray(0, count).sort((a, b) => table.birth(a) - table.birth(b));
  }

  #forgetAside(slot: number): void {
    const birth = this.table.birth(slot);
    const slots = this.#aside.get(birth);
    if (slots === undefined || !slots.includes(slot)) return;
    this.#asideCount--;
    if (slots.length === 1) this.#aside.delete(birth);
    else
      this.#aside.set(
        birth,
        slots.filter((other) => other !== slot),
      );
  }

  /** Where its end waits. */
  heldAt(slot: number): number {
    return this.#word(slot, W_ID);
  }

  /** Its owner has ended it: no flow id stands for it any more, and its end waits at a place. */
  hold(slot: number, place: number): void {
    if (this.isMapped(slot)) this.owner(slot).unmap(this.flowId(slot));
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    slab[base + W_HAS]! |= HELD;
    slab[base + W_ID] = place;
  }

  /** It has not ended: a node has it. */
  resume(slot: number): void {
    const at = this.table.base(slot) + W_HAS;
    this.table.slab(slot)[at] = (this.table.slab(slot)[at]! & ~HELD) | AGAIN;
  }

  /** Its first claim is read now. */
  markBorn(slot: number): void {
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= BORN;
  }

  /**
   * Whether a claim, a record with that birth, is to the connection of a row, and not to one that had or has its tuple before or after. A
   * node that had forgotten it tells of a later birth; an earlier one, translated alike, is an old entry that this one goes through now.
   */
  isClaimOf(slot: number, words: Uint32Array, birth: number): boolean {
    if (birth >= this.table.birth(slot)) return birth <= this.stamp(slot);
    const { table } = this;
    return (this.#word(slot, W_HAS) & BORN) !== 0 && !isAnotherConnection(table.slab(slot), table.base(slot), words, 0);
  }

  /** Takes a connection in; -1 when the table is full. */
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

  /** Writes what a new row says over a connection that is known. */
  restate(slot: number, words: Uint32Array, rare: RareAttributes | null): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    const tableBits = slab[base + W_HAS]! & ~0xffff & ~DEPARTED;
    slab.set(words, base);
    slab[base + W_HAS] = (words[W_HAS]! & 0xffff) | tableBits;
    if (rare === null) this.table.rare.delete(slot);
    else this.table.rare.set(slot, rare);
  }

  /** Another node's claim to the connection tells of an earlier birth, or not. */
  inheritBirth(slot: number, birth: number, aheadMs: number): void {
    if (birth >= this.table.birth(slot) || (this.#word(slot, W_HAS) & BORN) !== 0) return;
    this.table.setBirth(slot, birth);
    this.#startMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stampMs(birth) - aheadMs;
  }

  /** Its owner has the row since a stamp. */
  setSince(slot: number, since: number, aheadMs: number): void {
    this.#since[slot >>> PAGE_BITS]![slot & PAGE_MASK] = since;
    this.#sinceMs[slot >>> PAGE_BITS]![slot & PAGE_MASK] = stampMs(since) - aheadMs;
  }

  /** A node has the row, by a flow id, and said so by `stamp`. Null: no flow id stands for it. */
  own(slot: number, node: NodeState, flowId: number | null, stamp: number): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    slab[base + W_HAS] = (slab[base + W_HAS]! & 0xff_ffff) | (node.index << OWNER_SHIFT);
    slab[base + W_ID] = flowId ?? NO_FLOW_ID;
    writeStamp(slab, base, stamp);
    if (flowId !== null) node.map(flowId, slot);
    else node.hasOrphans = true;
  }

  /** The row's present owner becomes one of those before. */
  leave(slot: number): void {
    const node = this.owner(slot);
    if (this.isMapped(slot)) node.unmap(this.flowId(slot));
    this.#before.set(slot, [...(this.#before.get(slot) ?? []), this.#step(slot, node)]);
  }

  /** Its owner gave it up for a node whose claim was not read yet. */
  depart(slot: number, to: NodeState, stamp: number, aheadMs: number): void {
    this.leave(slot);
    this.own(slot, to, null, stamp);
    this.setSince(slot, stamp, aheadMs);
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= DEPARTED;
  }

  markMayMiss(slot: number): void {
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= MAY_MISS;
  }

  /** A copy of a row, with what is missing up to `stamp`. */
  draft(slot: number, stamp: number): Draft {
    const { table } = this;
    const base = table.base(slot);
    const slab = table.slab(slot);
    const words = this.#takeWords();
    for (let i = 0; i < W_HAS; i++) words[i] = slab[base + i]!;
    const flags = slab[base + W_HAS]!;
    words[W_HAS] = flags & 0xffff;
    words[W_ID] = 0;
    const node = this.#nodes[flags >>> OWNER_SHIFT]!;
    const last = this.#step(slot, node);
    const before = this.#before.size === 0 ? undefined : this.#before.get(slot);
    const path = before === undefined ? [last] : [...before, last];
    const flagged = (flags & (MAY_MISS | DEPARTED)) !== 0;
    const rare = table.rare.size === 0 ? null : (table.rare.get(slot) ?? null);
    const startMs = this.#startMs[slot >>> PAGE_BITS]![slot & PAGE_MASK]!;
    return { words, rare, birth: table.birth(slot), startMs, path, mayMiss: flagged || missesOf(path, stamp) };
  }

  #step(slot: number, node: NodeState): Step {
    return { node, since: this.since(slot), sinceMs: this.#sinceMs[slot >>> PAGE_BITS]![slot & PAGE_MASK]! };
  }

  /** Records are cut from chunks: a typed array of its own would cost more than all the rest of a connection. */
  #takeWords(): Uint32Array {
    if (this.#chunkAt === CHUNK_WORDS) {
      this.#chunk = new Uint32Array(CHUNK_WORDS);
      this.#chunkAt = 0;
    }
    const words = this.#chunk.subarray(this.#chunkAt, this.#chunkAt + RECORD_WORDS);
    this.#chunkAt += RECORD_WORDS;
    return words;
  }

  /** Takes a row out. */
  remove(slot: number): void {
    if (this.#asideCount > 0) this.#forgetAside(slot);
    if (!this.isHeld(slot) && this.isMapped(slot)) this.owner(slot).unmap(this.flowId(slot));
    if (this.#before.size > 0) this.#before.delete(slot);
    this.table.unlink(slot);
    this.table.free(slot);
  }

  #word(slot: number, word: number): number {
    return this.table.slab(slot)[this.table.base(slot) + word]!;
  }
}

function missesOf(path: readonly Step[], stamp: number): boolean {
  for (let i = 0; i < path.length; i++) {
    const { node, since } = path[i]!;
    if (node.gaps.touches(since, path[i + 1]?.since ?? stamp)) return true;
  }
  return false;
}

/**
 * Since when a node has a row that it states by an older claim, as a stamp: `words` tell when the node first saw the flow, by its
 * clock and in whole seconds; within a second of the birth, and before it, that is the birth.
 */
export function sinceOf(words: Uint32Array, birth: number, stamp: number, aheadMs: number): number {
  const createdMs = words[W_CREATED]! * 1000 + aheadMs;
  const atBirth = words[W_CREATED] === 0 || createdMs - stampMs(birth) < 1000;
  return atBirth ? birth : Math.min(stamp, stampOfMs(createdMs));
}

function stepOf({ node, sinceMs }: Step): PathStep {
  return { node: node.name, sinceMs };
}

/** A finished answer; its uid is computed when it is asked for. */
export class ConnectionRecord implements Connection {
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  readonly startMs: number | null;
  readonly endMs: number | null;
  readonly timedByKernel: boolean;
  readonly end: Connection["end"];
  readonly counters: ConnectionCounters | null;
  readonly path: readonly PathStep[];
  readonly mayMiss: boolean;
  readonly birth: number;
  readonly #uidOf: UidOf;
  #uid = "";

  constructor(draft: Draft, ending: Ending, uidOf: UidOf) {
    const bornMs = draft.startMs;
    const timed = ending.endMs > 0;
    // On a node that took the connection over, the kernel's entry is younger than the connection.
    const startMs = timed && ending.startMs > 0 ? Math.min(bornMs, ending.startMs) : bornMs;
    this.words = draft.words;
    this.rare = draft.rare;
    this.end = ending.end;
    this.endMs = ending.end === "open" ? null : timed ? ending.endMs : stampMs(ending.stamp) - ending.aheadMs;
    this.startMs = this.endMs === null ? startMs : Math.min(startMs, this.endMs);
    this.timedByKernel = timed;
    this.counters = ending.counters;
    const [first] = draft.path;
    // Who tells of it first has it from its start on, however late that was told.
    const begins = { node: first!.node.name, sinceMs: first!.since === draft.birth ? this.startMs : first!.sinceMs };
    this.path = draft.path.length === 1 ? [begins] : [begins, ...draft.path.slice(1).map((step) => stepOf(step))];
    this.mayMiss = draft.mayMiss || ending.end === "lost";
    this.birth = draft.birth;
    this.#uidOf = uidOf;
  }

  get uid(): string {
    if (this.#uid === "") this.#uid = this.#uidOf(this.birth, this.words);
    return this.#uid;
  }
}
