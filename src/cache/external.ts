import { FlowTable } from "../flow/flow-table.js";
import { type RareAttributes, RECORD_WORDS, W_HAS, W_ID } from "../flow/record.js";
import { isAnotherConnection, sameReply } from "../flow/record-fields.js";
import { SlotMap } from "../flow/slot-map.js";
import { readStamp, writeStamp } from "../flow/stamp.js";
import { type Claim, type ClaimOutcome, isClaimRead, outcomeOfClaim } from "../ownership/claim.js";
import { ExternalExpectations } from "./external-expectations.js";
import { recordDiffers } from "./row-changes.js";

/** In W_HAS of an external row: which origin owns it. */
const OWNER_SHIFT = 24;

/** Limit of a node's peers: the owner has 8 bits in a row. */
export const ORIGINS_MAX = 255;

/** Rows that are read ahead at once, because the processor's caches are cold when a message comes. */
export const ROWS_AHEAD = 16;

/** What happened to a row. */
export type Outcome = ClaimOutcome | "created" | "unknown" | "destroyed" | "full";

/** The counters of an external cache; the group `external` of `stats`. */
export interface ExternalCounters {
  created: number;
  updated: number;
  destroyed: number;
  /** Rows that changed their owner, because the new owner's stamp was newer. */
  taken: number;
  /** Rows dropped because the existing row is newer. */
  stale: number;
  /** Updates and destroys of flow ids that are unknown here, or whose flow another node owns now. */
  unknown: number;
  createFailedFull: number;
  /** Rows whose flow id came again with another tuple, although their end was never reported. */
  replaced: number;
  /** Rows that ended here because a local event was newer. */
  retired: number;
  /** Rows that their owner gave up because another node carries the flow. */
  moved: number;
  /** Rows that their owner's complete snapshot no longer held. */
  sweptBySnapshot: number;
}

/**
 * Called when something happens to a row, while the row can still be read. Not when its owner only repeats it, as in a
 * snapshot.
 */
export interface ExternalListener {
  /** A row is new, or its owner changed it. */
  changed(slot: number): void;
  /** The flow has ended, as its owner reports. */
  ended(slot: number): void;
  /** A local event was newer: the row is about to be removed. */
  retired(slot: number): void;
  /** The row is removed without news of the flow: it is this node's own now, or another row replaces this one. */
  forgotten(slot: number): void;
}

/** A row that its owner gave up in favour of another node, whose claim has not been read yet. */
interface Departure {
  readonly to: Origin;
  readonly stamp: number;
}

interface Origin {
  readonly node: string;
  /** Stamp of the last message applied. */
  heard: number;
  /** From the origin's flow id to the slot. */
  readonly slots: SlotMap;
  flows: number;
  /** Rows that it has given up, and that wait for another node's claim. They count for its share. */
  departed: number;
}

/**
 * The flows of all peers in one table by tuple, each row with its owner and the owner's stamp. A newer claim takes a
 * row over, an older one is dropped and counted, and only the owner ends a row. Pure state.
 */
export class ExternalCache {
  /** The expectations of the peers' flows. */
  readonly expectations = new ExternalExpectations();
  readonly counters: ExternalCounters = {
    created: 0,
    updated: 0,
    destroyed: 0,
    taken: 0,
    stale: 0,
    unknown: 0,
    createFailedFull: 0,
    replaced: 0,
    retired: 0,
    moved: 0,
    sweptBySnapshot: 0,
  };
  #table: FlowTable;
  #ownerFlowsMax: number;
  readonly #origins: Origin[] = [];
  readonly #slotsAhead = new Int32Array(ROWS_AHEAD);
  readonly #hashesAhead = new Int32Array(ROWS_AHEAD);
  readonly #departures = new Map<number, Departure>();
  #listener: ExternalListener | null = null;

  /** `ownerFlowsMax`: the share of one peer, so that none can take the room of the others. */
  constructor(flowsMax: number, ownerFlowsMax = flowsMax) {
    this.#table = new FlowTable(flowsMax);
    this.#ownerFlowsMax = ownerFlowsMax;
  }

  /** Reports every later change of a row to `listener`; null: to nobody. There is only one listener at a time. */
  listen(listener: ExternalListener | null): void {
    this.#listener = listener;
  }

  /** Sets another limit of flows, for all peers together. Those that are there stay. */
  setLimit(flowsMax: number): void {
    this.#table.flowsMax = flowsMax;
    this.#ownerFlowsMax = flowsMax;
  }

  /** A flush of all rows replaces it by another table. */
  get table(): FlowTable {
    return this.#table;
  }

  /** The index of a peer, created if it is new. */
  origin(node: string): number {
    const known = this.#origins.findIndex((origin) => origin.node === node);
    if (known >= 0) return known;
    if (this.#origins.length >= ORIGINS_MAX) throw new RangeError(`more than ${ORIGINS_MAX} peers`);
    const none = { heard: 0, slots: new SlotMap(), flows: 0, departed: 0 };
    return this.#origins.push({ node, ...none }) - 1;
  }

  #origin(index: number): Origin {
    const origin = this.#origins[index];
    if (origin === undefined) throw new RangeError(`no peer ${index}`);
    return origin;
  }

  /** Number of flows that a peer owns, without those that it has given up to another peer. */
  flowsOf(origin: number): number {
    return this.#origin(origin).flows;
  }

  /** True when a peer's next flow finds room, within the table and within the share of a peer. */
  hasRoomFor(origin: number): boolean {
    return this.table.hasRoom && this.#hasShareLeft(this.#origin(origin));
  }

  #hasShareLeft({ flows, departed }: Origin): boolean {
    return flows + departed < this.#ownerFlowsMax;
  }

  /** Name of the node that owns a row. */
  ownerName(slot: number): string {
    return this.#origin(this.#ownerOf(slot)).node;
  }

  /** The slot that a peer's flow id refers to; -1 when the peer owns no row with that id. */
  slotOf(origin: number, flowId: number): number {
    return this.#origin(origin).slots.get(flowId);
  }

  /**
   * Applies a flow with its tuples, as its owner knows it. `words` is a record at base 0, with W_UPDATED and W_CREATED
   * set. `birth` is the stamp of the first claim that any node made to the connection. `isOver`: true for a flow id that
   * also ends in the same message. Such a flow takes no other connection of its tuple over.
   */
  upsert(
    origin: number,
    flowId: number,
    words: Uint32Array,
    rare: RareAttributes | null,
    stamp: number,
    birth = stamp,
    isOver: (flowId: number) => boolean = neverOver,
  ): Outcome {
    const owner = this.#origin(origin);
    const hash = this.table.hash(words, 0);
    let slot = this.table.find(words, 0, hash);
    const before = owner.slots.get(flowId);
    if (before >= 0 && before !== slot) {
      this.#end(before);
      this.counters.replaced++;
    }
    if (slot < 0) {
      slot = this.#hasShareLeft(owner) ? this.table.insert(words, 0, hash) : -1;
      if (slot < 0) {
        this.counters.createFailedFull++;
        return "full";
      }
      this.counters.created++;
      this.table.setBirth(slot, birth);
      this.#own(slot, origin, flowId, rare, stamp);
      return "created";
    }
    const outcome = outcomeOfClaim(stamp, owner.node, this.stamp(slot), this.ownerName(slot));
    if (outcome === "stale" || (outcome === "taken" && birth !== this.table.birth(slot) && isOver(flowId))) {
      this.counters.stale++;
      return "stale";
    }
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    const isRepeated = outcome === "updated" && rare === null && this.#isAsBefore(slot, words, birth);
    this.#disown(slot);
    const tableBits = slab[base + W_HAS]! & 0xff_0000;
    for (let i = 0; i < RECORD_WORDS; i++) slab[base + i] = words[i]!;
    slab[base + W_HAS] = (words[W_HAS]! & 0xffff) | tableBits;
    this.table.setBirth(slot, birth);
    this.#own(slot, origin, flowId, rare, stamp, isRepeated);
    if (outcome === "updated") this.counters.updated++;
    else this.counters.taken++;
    return outcome;
  }

  /** The owner has changed a row in place (through `slab`), under `stamp`. */
  changed(slot: number, rare: RareAttributes | null, stamp: number): void {
    writeStamp(this.table.slab(slot), this.table.base(slot), stamp);
    if (rare !== null) this.table.rare.set(slot, { ...this.table.rare.get(slot), ...rare });
    this.counters.updated++;
    this.#listener?.changed(slot);
  }

  /** Reads ahead what `destroy` needs of a peer's flows, ids [from, to) of `flowIds`: at most ROWS_AHEAD of them. */
  readAhead(origin: number, flowIds: Uint32Array, from: number, to: number): void {
    const { table } = this;
    const { slots } = this.#origin(origin);
    const count = to - from;
    for (let i = 0; i < count; i++) this.#slotsAhead[i] = slots.get(flowIds[from + i]!);
    table.readRowsAhead(this.#slotsAhead, count);
    for (let i = 0; i < count; i++) {
      const slot = this.#slotsAhead[i]!;
      this.#hashesAhead[i] = slot < 0 ? 0 : table.hash(table.slab(slot), table.base(slot));
    }
    table.readAhead(this.#hashesAhead, count);
  }

  /** A peer publishes that its flow has ended. */
  destroy(origin: number, flowId: number): Outcome {
    const slot = this.slotOf(origin, flowId);
    if (slot < 0) {
      this.counters.unknown++;
      return "unknown";
    }
    this.#end(slot);
    this.counters.destroyed++;
    return "destroyed";
  }

  /**
   * A local event is newer than what peers published about this tuple, so the row is removed. Returns its birth; 0 when
   * the row was another connection, -1 when there was no row. `isWritten`: this node wrote the kernel's entry, perhaps
   * as the row was before its last change.
   */
  retire(words: Uint32Array, base: number, isWritten = false): number {
    if (this.table.size === 0) return -1;
    const slot = this.table.find(words, base);
    if (slot < 0) return -1;
    const { table } = this;
    const [slab, at] = [table.slab(slot), table.base(slot)];
    const isAnother = isWritten ? !sameReply(slab, at, words, base) : isAnotherConnection(slab, at, words, base);
    const birth = isAnother ? 0 : table.birth(slot);
    this.#listener?.retired(slot);
    this.#remove(slot);
    this.counters.retired++;
    return birth;
  }

  /**
   * A peer's flow id now refers to a flow that this node does not accept. The flow that it referred to before is gone.
   */
  disclaim(origin: number, flowId: number): void {
    const slot = this.slotOf(origin, flowId);
    if (slot < 0) return;
    this.#end(slot);
    this.counters.replaced++;
  }

  /** The messages of a peer up to this stamp were applied. */
  heard(origin: number, stamp: number): void {
    this.#origin(origin).heard = stamp;
  }

  /**
   * A peer gives a flow up because `owner` carries it, by a claim with that stamp. If that claim was already read, or
   * if `owner` is this node (null), the row has no owner any more and is removed. Otherwise it stays until the claim
   * comes, or until a complete snapshot of `owner` shows that the flow has ended meanwhile.
   */
  moved(origin: number, flowId: number, owner: string | null, stamp: number): void {
    const slot = this.slotOf(origin, flowId);
    if (slot < 0) return;
    const to = this.#origins.find(({ node }) => node === owner);
    if (owner === null || (to !== undefined && isClaimRead(stamp, to.heard))) {
      this.#end(slot);
      this.counters.moved++;
      return;
    }
    const from = this.#origin(origin);
    from.slots.delete(flowId);
    if (to === undefined) return;
    this.#departures.set(slot, { to, stamp });
    from.flows--;
    from.departed++;
  }

  /** The owner of the flow with this original tuple, and the stamp of its claim; null when no peer carries it. */
  claim(words: Uint32Array, base: number): Claim | null {
    const slot = this.table.size === 0 ? -1 : this.table.find(words, base);
    return slot < 0 ? null : { node: this.ownerName(slot), stamp: this.stamp(slot) };
  }

  /** The stamp of a row. */
  stamp(slot: number): number {
    return readStamp(this.table.slab(slot), this.table.base(slot));
  }

  /** The peer's flow ids are invalid (its next epoch). Its rows stay until `sweepOrphans`. */
  forgetFlowIds(origin: number): void {
    this.#origin(origin).slots.clear();
  }

  /** After a complete snapshot of a peer: ends its rows that no flow id refers to. */
  sweepOrphans(origin: number): void {
    const owner = this.#origin(origin);
    const { slots } = owner;
    // Each flow id refers to one row of its origin. Usually every row has one, and a million rows need not be searched.
    for (let slot = 0; slot < this.table.slotsUsed && owner.flows > slots.size; slot++) {
      if (!this.table.isLive(slot) || this.#ownerOf(slot) !== origin) continue;
      if (slots.get(this.#flowId(slot)) === slot || this.#departures.has(slot)) continue;
      this.#end(slot);
      this.counters.sweptBySnapshot++;
    }
    for (const [slot, { to, stamp }] of this.#departures) {
      if (to !== owner || !isClaimRead(stamp, to.heard)) continue;
      this.#end(slot);
      this.counters.moved++;
    }
  }

  /** A snapshot chunk lists the flow ids [from, to) completely. Those for which `isStated` is false have ended. */
  sweepRange(origin: number, from: number, to: number, isStated: (flowId: number) => boolean): void {
    this.#origin(origin).slots.visitRange(from, to, (flowId, slot) => {
      if (isStated(flowId)) return;
      this.#end(slot);
      this.counters.sweptBySnapshot++;
    });
  }

  /** Discards all rows, of one peer or of all. */
  flush(origin?: number): void {
    this.expectations.flush(origin === undefined ? undefined : this.#origin(origin).node);
    if (origin === undefined && this.#listener === null) {
      this.#begin();
      return;
    }
    for (let slot = 0; slot < this.table.slotsUsed; slot++) {
      if (this.table.isLive(slot) && (origin === undefined || this.#ownerOf(slot) === origin)) this.#remove(slot);
    }
  }

  /** Begins with an empty table. Removing a million rows from the old one would block the event loop for 250 ms. */
  #begin(): void {
    this.#table = new FlowTable(this.#table.flowsMax);
    this.#departures.clear();
    for (const origin of this.#origins) {
      origin.slots.clear();
      origin.flows = 0;
      origin.departed = 0;
    }
  }

  /** True when a row repeats what its owner has published already, as in a snapshot. The timeout aside. */
  #isAsBefore(slot: number, words: Uint32Array, birth: number): boolean {
    const { table } = this;
    if (table.birth(slot) !== birth || this.#departures.has(slot) || table.rare.has(slot)) return false;
    return !recordDiffers(table.slab(slot), table.base(slot), words);
  }

  #own(
    slot: number,
    origin: number,
    flowId: number,
    rare: RareAttributes | null,
    stamp: number,
    isRepeated = false,
  ): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    slab[base + W_HAS] = (slab[base + W_HAS]! & 0xff_ffff) | (origin << OWNER_SHIFT);
    slab[base + W_ID] = flowId;
    writeStamp(slab, base, stamp);
    if (rare !== null) this.table.rare.set(slot, rare);
    else if (this.table.rare.size > 0) this.table.rare.delete(slot);
    const owner = this.#origin(origin);
    owner.slots.set(flowId, slot);
    owner.flows++;
    if (!isRepeated) this.#listener?.changed(slot);
  }

  #disown(slot: number): void {
    const owner = this.#origin(this.#ownerOf(slot));
    const flowId = this.#flowId(slot);
    // After forgetFlowIds, the id may already refer to another row.
    if (owner.slots.get(flowId) === slot) owner.slots.delete(flowId);
    // A departure was counted when it was published.
    if (this.#departures.size === 0 || !this.#departures.delete(slot)) owner.flows--;
    else owner.departed--;
  }

  #end(slot: number): void {
    this.#listener?.ended(slot);
    this.#remove(slot);
  }

  #remove(slot: number): void {
    this.#listener?.forgotten(slot);
    this.#disown(slot);
    this.table.unlink(slot);
    this.table.free(slot);
  }

  #ownerOf(slot: number): number {
    return this.table.slab(slot)[this.table.base(slot) + W_HAS]! >>> OWNER_SHIFT;
  }

  #flowId(slot: number): number {
    return this.table.slab(slot)[this.table.base(slot) + W_ID]!;
  }
}

function neverOver(): boolean {
  return false;
}
