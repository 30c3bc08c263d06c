import { FlowTable } from "../flow/flow-table.js";
import {
  type DecodedFlow,
  type FlowEnd,
  HAS_COUNTERS,
  HAS_ID,
  HAS_PROTOINFO,
  HAS_TIMEOUT,
  HAS_TIMES,
  type RareAttributes,
  W_CREATED,
  W_HAS,
  W_ID,
  W_PROTOINFO,
  W_PROTOINFO_C,
  W_UPDATED,
} from "../flow/record.js";
import { readStamp, writeStamp } from "../flow/stamp.js";
import { rareDiffers, recordDiffers, replyDiffers } from "./difference.js";
import { InternalExpectations } from "./expectations.js";
import { newInternalCounters } from "./internal-counters.js";
import {
  publicationOf,
  ROW_DEAD,
  ROW_ENDED_ELSEWHERE,
  ROW_GENERATION,
  ROW_HIDDEN,
  ROW_NEW,
  ROW_QUEUED,
  ROW_RESTATED,
  ROW_STATE_GENERATION,
  ROW_SUPERSEDED,
  ROW_TOLD,
} from "./internal-row.js";
import { createdSeconds, mergeRecord } from "./merge.js";
import { PendingRows } from "./pending-rows.js";

/** Which node carries a flow now, and the stamp of its claim. */
export interface NewerOwner {
  readonly node: string;
  readonly stamp: number;
}

/**
 * This node's view of its kernel's table, kept by events and dumps, and the list of what the peers have yet to be told.
 * Pure state: no I/O, no timers; the caller says what time it is. Changes of one flow between two publications are one row.
 */
export class InternalCache {
  readonly table: FlowTable;
  /** What the helpers of this kernel's flows expect. */
  readonly expectations = new InternalExpectations();
  readonly counters = newInternalCounters();
  readonly #pending = new PendingRows();
  readonly #endings = new Map<number, FlowEnd>();
  /** Rows of which peers have yet to be told that they moved. */
  readonly #moved = new Map<number, NewerOwner>();
  #generation = 0;
  #sweepAt = -1;
  /** CTA_IDs that ended while a dump runs: the dump may still list them. */
  #endedDuringDump: Set<number> | null = null;
  /** Living flows that a flush hides. */
  #hidden = 0;
  readonly limit: number;

  /** `limit`: living flows at the most; `flowsMax` counts those too that have ended and wait to be published. */
  constructor(flowsMax: number, limit = flowsMax) {
    this.table = new FlowTable(flowsMax);
    this.limit = limit;
  }

  /** Flows that live here and are shown. */
  get size(): number {
    return this.table.size - this.#hidden;
  }

  /** A flow was created or changed. Returns its slot; -1 when the table is full. */
  upsert(flow: DecodedFlow, nowSeconds: number): number {
    let slot = this.table.find(flow.words, 0);
    if (slot >= 0 && this.#isOtherFlow(slot, flow)) slot = this.#replace(slot);
    if (slot < 0) return this.#insert(flow, nowSeconds);
    this.counters.updated++;
    this.#merge(slot, flow, nowSeconds);
    return slot;
  }

  /**
   * A flow as a lookup shows it, taken only where it is the very flow that is here and this node's; true when that is news. Its
   * timeout is not: it is that of the packet on its way, and what the flow has without packets was told by an event.
   */
  refresh(flow: DecodedFlow, nowSeconds: number): boolean {
    const slot = this.table.find(flow.words, 0);
    if (slot < 0 || this.#isOtherFlow(slot, flow) || this.isSuperseded(slot)) return false;
    if (!this.#differs(slot, flow) && !this.#rareDiffers(slot, flow)) return false;
    this.counters.updated++;
    flow.words[W_HAS]! &= ~HAS_TIMEOUT;
    this.#merge(slot, flow, nowSeconds);
    return true;
  }

  /** A flow ended. Returns its slot, which stays readable until settled; -1 when it is not in the table. */
  destroy(flow: DecodedFlow, nowSeconds: number): number {
    const { words } = flow;
    if ((words[W_HAS]! & HAS_ID) !== 0) this.#endedDuringDump?.add(words[W_ID]!);
    const slot = this.table.find(words, 0);
    if (slot < 0) {
      this.counters.destroyUnknown++;
      return -1;
    }
    if (this.#isOtherFlow(slot, flow)) {
      this.counters.destroyStale++;
      return -1;
    }
    this.#copyChanges(slot, flow, nowSeconds);
    const has = words[W_HAS]! & (HAS_COUNTERS | HAS_TIMES);
    const ending =
      has === 0
        ? undefined
        : { has, counters: Float64Array.from(flow.counters), timesMicros: Float64Array.from(flow.timesMicros) };
    this.counters.destroyed++;
    this.#end(slot, ending);
    return slot;
  }

  /**
   * Shows none of its flows and expectations any more, until an event or a dump tells of them again. They are in the kernel
   * still, so the peers are told nothing, and an end is told of as ever.
   */
  flush(): void {
    this.expectations.flush();
    for (let slot = 0; slot < this.table.slotsUsed; slot++) {
      if (!this.isShown(slot)) continue;
      this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= ROW_HIDDEN;
      this.#hidden++;
    }
  }

  /** A dump begins; one that was not swept to its end is abandoned. Between here and `sweep`, events may go on. */
  beginDump(): void {
    if (this.#sweepAt >= 0) this.abandonDump();
    this.#generation ^= ROW_GENERATION;
    this.#sweepAt = 0;
    this.#endedDuringDump = new Set();
  }

  /**
   * A flow as the dump lists it. What an event told since the dump began is newer and stays. A dump does not say since when
   * a flow is as it is. So one that was not known here and that a peer carries (`claimed`) is taken in as superseded,
   * and one that is superseded stays so, unless this node is the one that carries traffic now (`carries`).
   */
  dumped(flow: DecodedFlow, nowSeconds: number, claimed: NewerOwner | null, carries: boolean): number {
    const { words } = flow;
    let slot = this.table.find(words, 0);
    if (slot >= 0 && this.#touched(slot)) {
      this.#complete(slot, flow);
      if (carries && this.isSuperseded(slot)) this.announce(slot);
      return slot;
    }
    // Also where its tuple has a row: that of an older flow, whose end was missed and which the sweep will find.
    if (this.hasEnded(flow)) return -1;
    if (slot >= 0 && this.#isOtherFlow(slot, flow)) slot = this.#replace(slot);
    if (slot < 0 && claimed !== null && !carries) {
      const taken = this.#insert(flow, nowSeconds);
      if (taken >= 0) this.supersede(taken, claimed);
      return taken;
    }
    if (slot < 0) return this.upsert(flow, nowSeconds);
    if (this.isSuperseded(slot)) {
      this.#copyChanges(slot, flow, nowSeconds);
      if (carries) this.announce(slot);
      return slot;
    }
    if (this.#rareDiffers(slot, flow)) {
      // A dump lists a flow whole: what it does not name is gone, and an update row could not say so.
      this.table.rare.delete(slot);
      this.announce(slot);
      return this.upsert(flow, nowSeconds);
    }
    if (this.#differs(slot, flow)) return this.upsert(flow, nowSeconds);
    this.#copyChanges(slot, flow, nowSeconds);
    return slot;
  }

  /** True when the dump that runs lists a flow that has ended since. */
  hasEnded({ words }: DecodedFlow): boolean {
    return (words[W_HAS]! & HAS_ID) !== 0 && this.#endedDuringDump?.has(words[W_ID]!) === true;
  }

  /** After a dump: ends the rows that neither dump nor events have seen, at most `slotsMax` slots a call. True when done. */
  sweep(slotsMax: number): boolean {
    if (this.#sweepAt < 0) return true;
    const end = Math.min(this.#sweepAt + slotsMax, this.table.slotsUsed);
    for (let slot = this.#sweepAt; slot < end; slot++) {
      if (!this.#isIndexed(slot)) continue;
      if (this.#touched(slot)) {
        this.#setStateGeneration(slot);
        continue;
      }
      this.counters.sweptByDump++;
      this.#end(slot, undefined);
    }
    this.#sweepAt = end;
    if (end < this.table.slotsUsed) return false;
    this.#sweepAt = -1;
    this.#endedDuringDump = null;
    return true;
  }

  /** A dump failed half way: what it did not reach stays. */
  abandonDump(): void {
    this.#sweepAt = -1;
    this.#endedDuringDump = null;
    for (let slot = 0; slot < this.table.slotsUsed; slot++) {
      if (!this.#isIndexed(slot)) continue;
      this.#setGeneration(slot);
      this.#setStateGeneration(slot);
    }
  }

  /** Rows that peers have yet to be told of. */
  get pendingCount(): number {
    return this.#pending.count;
  }

  /** Slot of the pending row `index`, oldest first. */
  pendingSlot(index: number): number {
    return this.#pending.at(index);
  }

  /** What the pending row at `slot` says to the peers: PUBLISH_* bits. */
  publication(slot: number): number {
    return publicationOf(this.#bits(slot));
  }

  /** Who carries the flow of a row that is to be published as moved. */
  newerOwner(slot: number): NewerOwner | undefined {
    return this.#moved.get(slot);
  }

  #bits(slot: number): number {
    return this.table.slab(slot)[this.table.base(slot) + W_HAS]!;
  }

  /** What the kernel reported of the end of an ended row, when it did. */
  ending(slot: number): FlowEnd | undefined {
    return this.#endings.get(slot);
  }

  /** The first `count` pending rows are published under `stamp`: ended ones give their slots back. */
  settle(count: number, stamp: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.#pending.at(i);
      const slab = this.table.slab(slot);
      const base = this.table.base(slot);
      if ((slab[base + W_HAS]! & ROW_DEAD) !== 0) {
        this.#endings.delete(slot);
        this.#moved.delete(slot);
        this.table.free(slot);
        continue;
      }
      const superseded = (slab[base + W_HAS]! & ROW_SUPERSEDED) !== 0;
      const restated = (slab[base + W_HAS]! & ROW_RESTATED) !== 0;
      slab[base + W_HAS]! &= ~(ROW_NEW | ROW_QUEUED | ROW_TOLD | ROW_RESTATED);
      this.#moved.delete(slot);
      if (superseded) continue;
      slab[base + W_HAS]! |= ROW_TOLD;
      if (this.table.birth(slot) === 0) this.table.setBirth(slot, stamp);
      if (!restated) writeStamp(slab, base, stamp);
    }
    this.#pending.drop(count);
  }

  /** Stamp of this node's last claim to the flow; Infinity while a newer one waits to be published. */
  stamp(slot: number): number {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    const waits = (slab[base + W_HAS]! & (ROW_QUEUED | ROW_SUPERSEDED | ROW_RESTATED)) === ROW_QUEUED;
    return waits ? Number.POSITIVE_INFINITY : readStamp(slab, base);
  }

  /**
   * A newer owner holds this flow: this node's stream gives it up, and the next local change of it goes out whole again.
   * The kernel keeps it until it is purged.
   */
  supersede(slot: number, owner: NewerOwner): void {
    // Peers' streams come in any order: an older claim says nothing that the newer one has not.
    const known = this.#moved.get(slot);
    if (known !== undefined && known.stamp > owner.stamp) return;
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = (slab[at]! & ~(ROW_ENDED_ELSEWHERE | ROW_NEW | ROW_RESTATED)) | ROW_SUPERSEDED;
    if ((slab[at]! & ROW_TOLD) === 0) return;
    this.#moved.set(slot, owner);
    this.#queue(slot);
  }

  /**
   * The newer owner of this flow has seen it end: what this kernel has of it must not come back to life. If its tuple does, that is
   * another connection, with a birth of its own.
   */
  endElsewhere(slot: number): void {
    this.table.setBirth(slot, 0);
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= ROW_ENDED_ELSEWHERE;
  }

  hasEndedElsewhere(slot: number): boolean {
    return (this.#bits(slot) & ROW_ENDED_ELSEWHERE) !== 0;
  }

  isSuperseded(slot: number): boolean {
    return (this.#bits(slot) & ROW_SUPERSEDED) !== 0;
  }

  /** This node claims the flow: it goes out as a `new` row, by the stamp of the message. */
  announce(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = (slab[at]! & ~(ROW_SUPERSEDED | ROW_ENDED_ELSEWHERE | ROW_RESTATED)) | ROW_NEW;
    this.#moved.delete(slot);
    this.#queue(slot);
  }

  /** Tells the peers once more what was claimed before, as a `new` row by the stamp of that claim. */
  restate(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    // A flow that moved is no claim of ours any more.
    if ((slab[at]! & (ROW_SUPERSEDED | ROW_DEAD)) !== 0) return;
    // What waits already is newer than the claim, but may be a change of what the peer has given up.
    slab[at]! |= (slab[at]! & ROW_QUEUED) === 0 ? ROW_NEW | ROW_RESTATED : ROW_NEW;
    this.#queue(slot);
  }

  /** Whether a pending row is a claim told once more. */
  isRestated(slot: number): boolean {
    return (this.#bits(slot) & ROW_RESTATED) !== 0;
  }

  /**
   * Takes a flow over that this node's own stream says was here, with its handle. For a daemon that starts, before anything
   * else; ends with `sealAdopted`. Nothing of it is pending. False when the slot is out of bounds.
   */
  adopt(
    slot: number,
    words: Uint32Array,
    base: number,
    rare: RareAttributes | null,
    stamp: number,
    birth = stamp,
  ): boolean {
    if (!this.table.adopt(slot, words, base)) return false;
    this.table.setBirth(slot, birth);
    const slab = this.table.slab(slot);
    const at = this.table.base(slot);
    slab[at + W_HAS] = (slab[at + W_HAS]! & ~HAS_ID) | ROW_TOLD;
    writeStamp(slab, at, stamp);
    if (rare !== null) this.table.rare.set(slot, rare);
    this.#touch(slot, HAS_PROTOINFO);
    return true;
  }

  /** The flows that were here are taken over. */
  sealAdopted(): void {
    this.table.sealAdopted();
  }

  /** True while the flow lives: not freed, not ended. */
  #isIndexed(slot: number): boolean {
    return this.table.isLive(slot) && (this.#bits(slot) & ROW_DEAD) === 0;
  }

  /** True for slots of living flows. */
  isFlow(slot: number): boolean {
    return this.#isIndexed(slot);
  }

  /** True for slots of living flows that no flush hides. */
  isShown(slot: number): boolean {
    return this.#isIndexed(slot) && (this.#bits(slot) & ROW_HIDDEN) === 0;
  }

  /** Another flow has taken this one's tuple, so it has ended. Returns -1, the slot of the other one so far. */
  #replace(slot: number): number {
    this.counters.replaced++;
    this.#end(slot, undefined);
    return -1;
  }

  #insert(flow: DecodedFlow, nowSeconds: number): number {
    const { words } = flow;
    words[W_UPDATED] = nowSeconds;
    words[W_CREATED] = createdSeconds(flow, nowSeconds);
    const slot = this.table.size >= this.limit ? -1 : this.table.insert(words, 0);
    if (slot < 0) {
      this.counters.createFailedFull++;
      return -1;
    }
    if (flow.rare !== null) this.table.rare.set(slot, flow.rare);
    this.counters.created++;
    this.#touch(slot, words[W_HAS]!);
    this.announce(slot);
    return slot;
  }

  #merge(slot: number, flow: DecodedFlow, nowSeconds: number): void {
    const retold = replyDiffers(this.table.slab(slot), this.table.base(slot), flow.words) || this.isSuperseded(slot);
    this.#copyChanges(slot, flow, nowSeconds);
    if (retold) this.announce(slot);
    else this.#changed(slot);
  }

  /** An event names what changed. What it told nothing of, it does not make newer than the dump: the protocol's state. */
  #complete(slot: number, flow: DecodedFlow): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    if ((flow.words[W_HAS]! & HAS_PROTOINFO) === 0 || this.#isOtherFlow(slot, flow)) return;
    if (((slab[base + W_HAS]! & ROW_STATE_GENERATION) !== 0) === (this.#generation !== 0)) return;
    const isNews = slab[base + W_PROTOINFO] !== flow.words[W_PROTOINFO];
    slab.set(flow.words.subarray(W_PROTOINFO, W_PROTOINFO_C + 1), base + W_PROTOINFO);
    slab[base + W_HAS]! |= HAS_PROTOINFO;
    this.#setStateGeneration(slot);
    if (isNews) this.#changed(slot);
  }

  /** Copies what the message carries; an event names only what changed. */
  #copyChanges(slot: number, flow: DecodedFlow, nowSeconds: number): void {
    mergeRecord(this.table.slab(slot), this.table.base(slot), flow.words, nowSeconds);
    if (flow.rare !== null) this.table.rare.set(slot, { ...this.table.rare.get(slot), ...flow.rare });
    this.#touch(slot, flow.words[W_HAS]!);
  }

  #differs(slot: number, flow: DecodedFlow): boolean {
    return recordDiffers(this.table.slab(slot), this.table.base(slot), flow.words);
  }

  #rareDiffers(slot: number, flow: DecodedFlow): boolean {
    return rareDiffers(this.table.rare.get(slot), flow.rare);
  }

  /** True when the row's CTA_ID is known to be another than the message's. */
  #isOtherFlow(slot: number, flow: DecodedFlow): boolean {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    if ((slab[base + W_HAS]! & flow.words[W_HAS]! & HAS_ID) === 0) return false;
    return slab[base + W_ID] !== flow.words[W_ID];
  }

  #end(slot: number, ending: FlowEnd | undefined): void {
    this.table.unlink(slot);
    this.#show(slot);
    this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= ROW_DEAD;
    if (ending !== undefined) this.#endings.set(slot, ending);
    this.#queue(slot);
  }

  /** Something happened to the flow: the peers hear of it by a stamp of its own. */
  #changed(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at]! &= ~ROW_RESTATED;
    this.#queue(slot);
  }

  #queue(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    if ((slab[at]! & ROW_QUEUED) !== 0) return;
    slab[at]! |= ROW_QUEUED;
    this.#pending.push(slot);
  }

  #touch(slot: number, has: number): void {
    this.#setGeneration(slot);
    if ((has & HAS_PROTOINFO) !== 0) this.#setStateGeneration(slot);
    if (this.#hidden > 0) this.#show(slot);
  }

  #show(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    if ((slab[at]! & ROW_HIDDEN) === 0) return;
    slab[at]! &= ~ROW_HIDDEN;
    this.#hidden--;
  }

  #setGeneration(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = (slab[at]! & ~ROW_GENERATION) | this.#generation;
  }

  #setStateGeneration(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = (slab[at]! & ~ROW_STATE_GENERATION) | (this.#generation === 0 ? 0 : ROW_STATE_GENERATION);
  }

  #touched(slot: number): boolean {
    return (this.#bits(slot) & ROW_GENERATION) === this.#generation;
  }
}
