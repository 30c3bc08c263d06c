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
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
  W_PROTOINFO,
  W_PROTOINFO_C,
  W_UPDATED,
} from "../flow/record.js";
import { isTcp } from "../flow/record-fields.js";
import { readStamp, writeStamp } from "../flow/stamp.js";
import { type Claim, isNewerClaim } from "../ownership/claim.js";
import {
  after,
  awaitsStamp,
  CHANGE,
  CLAIM,
  CLAIM_AGAIN,
  END,
  END_ELSEWHERE,
  hasEndedElsewhere,
  isEnded,
  isInStream,
  isPending,
  isRepeated,
  isSuperseded,
  PUBLISH,
  PUBLISH_MOVED,
  PUBLISHED,
  publicationOf,
  STATE_BITS,
  SUPERSEDE,
} from "../ownership/state.js";
import { DumpGeneration } from "./dump-generation.js";
import { InternalExpectations } from "./internal-expectations.js";
import { createdSeconds, isOtherFlow, mergeRecord, rareDiffers, recordDiffers, replyDiffers } from "./row-changes.js";

/** In a row's W_HAS, beside ROW_LIVE of the table and the bits of dump-generation.ts: who carries the flow. */
const STATE_SHIFT = 17;
const STATE_MASK = ((1 << STATE_BITS) - 1) << STATE_SHIFT;
/** In the list of pending rows. */
const ROW_QUEUED = 0x20_0000;
/** The cache was flushed: not shown until an event or a dump tells of the flow again. */
const ROW_HIDDEN = 0x100_0000;

/** What an internal cache counts; the group `internal` of `stats`. */
export interface InternalCounters {
  created: number;
  createFailedFull: number;
  updated: number;
  destroyed: number;
  destroyUnknown: number;
  /** A destroy that came after its tuple had been taken by a newer flow. */
  destroyStale: number;
  /** A new flow met the record of one whose end was never reported. */
  replaced: number;
  /** Rows that a dump no longer found. */
  sweptByDump: number;
}

/**
 * This node's view of its kernel's table, kept by events and dumps, and the list of what has yet to be published.
 * Changes of one flow between two publications are one row. Pure state: no I/O, no timers, and the caller gives the time.
 */
export class InternalCache {
  readonly table: FlowTable;
  /** What the helpers of this kernel's flows expect. */
  readonly expectations = new InternalExpectations();
  readonly counters: InternalCounters = {
    created: 0,
    createFailedFull: 0,
    updated: 0,
    destroyed: 0,
    destroyUnknown: 0,
    destroyStale: 0,
    replaced: 0,
    sweptByDump: 0,
  };
  /** Times that a peer's message was older than the claim to a flow here, which was answered: `claimAgain`. */
  reasserted = 0;
  readonly limit: number;
  readonly #pending = new PendingSlots();
  readonly #endings = new Map<number, FlowEnd>();
  /** Of rows that are to be published as moved: the newest claim. */
  readonly #newerOwners = new Map<number, Claim>();
  readonly #dump = new DumpGeneration();
  #inStream = 0;
  #unpublished = 0;
  /** As much of that as there was when the running dump began. */
  #unpublishedBefore = 0;
  /** Where the sweep after the running dump goes on. */
  #sweepAt = 0;
  /** Living flows that a flush hides. */
  #hidden = 0;
  #onPending: (() => void) | null = null;

  /** `limit`: living flows at the most; `flowsMax` counts those too that have ended and wait to be published. */
  constructor(flowsMax: number, limit = flowsMax) {
    this.table = new FlowTable(flowsMax);
    this.limit = limit;
  }

  /** Flows that live here and are shown. */
  get size(): number {
    return this.table.size - this.#hidden;
  }

  /** True when a flow that packets begin here can become the node's own: else nobody knows of it but the kernel. */
  get hasRoom(): boolean {
    return this.table.size < this.limit && this.table.hasRoom;
  }

  /** True for slots of living flows. */
  isFlow(slot: number): boolean {
    return this.table.isLive(slot) && !isEnded(this.#state(slot));
  }

  /** True for slots of living flows that no flush hides. */
  isShown(slot: number): boolean {
    return this.isFlow(slot) && (this.#bits(slot) & ROW_HIDDEN) === 0;
  }

  /** A copy of the own flow with this original tuple; null when there is none, or another node carries it. */
  ownFlow(words: Uint32Array, base: number): Uint32Array | null {
    const { table } = this;
    const slot = table.size === 0 ? -1 : table.find(words, base);
    if (slot < 0 || this.isSuperseded(slot)) return null;
    const at = table.base(slot);
    return table.slab(slot).slice(at, at + RECORD_WORDS);
  }

  /** True for a row of TCP of which nobody has told how far it is. */
  lacksState(slot: number): boolean {
    return isTcp(this.table.slab(slot), this.table.base(slot)) && (this.#bits(slot) & HAS_PROTOINFO) === 0;
  }

  /** Flows that this node's stream reports as alive, when nothing is pending. */
  get inStream(): number {
    return this.#inStream;
  }

  /** Flows of the kernel that found no room since the last dump, and so are not published. */
  get unpublished(): number {
    return this.#unpublished;
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
   * A flow as a lookup shows it, taken only where it is the very flow that is here and this node's; true when that is
   * news. Its timeout is left out: it is that of the packet on its way, and events told the one that the flow has.
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
    if ((words[W_HAS]! & HAS_ID) !== 0) this.#dump.ended(words[W_ID]!);
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
   * Shows none of its flows and expectations any more, until an event or a dump tells of them again. They are still in
   * the kernel, so nothing is published, and an end is published as ever.
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
    if (this.#dump.running) this.abandonDump();
    this.#dump.begin();
    this.#unpublishedBefore = this.#unpublished;
    this.#sweepAt = 0;
  }

  /**
   * A flow as the dump lists it. What an event told since the dump began is newer and stays. A dump does not say since
   * when a flow is as it is. So one that was not known here and that a peer carries (`claimed`) is taken in as
   * superseded, and one that is superseded stays so, unless this node carries traffic now (`carries`).
   */
  dumped(flow: DecodedFlow, nowSeconds: number, claimed: Claim | null, carries: boolean): number {
    const { words } = flow;
    let slot = this.table.find(words, 0);
    if (slot >= 0 && this.#dump.isTouched(this.#bits(slot))) {
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
    return (words[W_HAS]! & HAS_ID) !== 0 && this.#dump.hasEnded(words[W_ID]!);
  }

  /** After a dump: ends the rows that neither it nor events have seen, `slotsMax` slots a call. True when done. */
  sweep(slotsMax: number): boolean {
    if (!this.#dump.running) return true;
    const end = Math.min(this.#sweepAt + slotsMax, this.table.slotsUsed);
    for (let slot = this.#sweepAt; slot < end; slot++) {
      if (!this.isFlow(slot)) continue;
      if (this.#dump.isTouched(this.#bits(slot))) {
        this.#keep(slot);
        continue;
      }
      this.counters.sweptByDump++;
      this.#end(slot, undefined);
    }
    this.#sweepAt = end;
    if (end < this.table.slotsUsed) return false;
    this.#dump.end();
    // What found no room before the dump it has listed once more, or it is gone.
    this.#unpublished -= this.#unpublishedBefore;
    return true;
  }

  /** A dump failed half way: what it did not reach stays. */
  abandonDump(): void {
    this.#dump.end();
    for (let slot = 0; slot < this.table.slotsUsed; slot++) if (this.isFlow(slot)) this.#keep(slot);
  }

  /** From now on `onPending` is called when a message of a peer was applied and something waits to be published. */
  listen(onPending: () => void): void {
    this.#onPending = onPending;
  }

  /** A message of a peer was applied, after which flows may have been given up or claimed again. */
  peerApplied(): void {
    if (this.pendingCount + this.expectations.pendingCount > 0) this.#onPending?.();
  }

  /** Rows that have yet to be published. */
  get pendingCount(): number {
    return this.#pending.count;
  }

  /** Slot of the pending row `index`, oldest first. */
  pendingSlot(index: number): number {
    return this.#pending.at(index);
  }

  /** What the pending row at `slot` is published as: PUBLISH_* bits. */
  publication(slot: number): number {
    return publicationOf(this.#state(slot));
  }

  /** Whether a pending row is a claim once more, by the stamp that it had. */
  isClaimedAgain(slot: number): boolean {
    return isRepeated(this.#state(slot));
  }

  /** Who carries the flow of a row that is to be published as moved. */
  newerOwner(slot: number): Claim | undefined {
    return this.#newerOwners.get(slot);
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
      const bits = slab[base + W_HAS]!;
      const state = stateIn(bits);
      if (this.#newerOwners.size > 0) this.#newerOwners.delete(slot);
      if (isEnded(state)) {
        this.#endings.delete(slot);
        this.table.free(slot);
        continue;
      }
      const next = after(state, PUBLISH);
      this.#noteInStream(state, next);
      slab[base + W_HAS] = withState(bits & ~ROW_QUEUED, next);
      if (isSuperseded(state)) continue;
      if (this.table.birth(slot) === 0) this.table.setBirth(slot, stamp);
      if (awaitsStamp(state)) writeStamp(slab, base, stamp);
    }
    this.#pending.drop(count);
  }

  /** Stamp of this node's last claim to the flow; Infinity while a newer one waits to be published. */
  stamp(slot: number): number {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    return awaitsStamp(stateIn(slab[base + W_HAS]!)) ? Number.POSITIVE_INFINITY : readStamp(slab, base);
  }

  /** True when a peer holds a newer claim to this flow of this kernel. */
  isSuperseded(slot: number): boolean {
    return isSuperseded(this.#state(slot));
  }

  /** True when that peer has seen it end. */
  hasEndedElsewhere(slot: number): boolean {
    return hasEndedElsewhere(this.#state(slot));
  }

  /** This node claims the flow: it is published whole, by the stamp of the message. */
  announce(slot: number): void {
    if (this.#newerOwners.size > 0) this.#newerOwners.delete(slot);
    this.#enter(slot, CLAIM);
  }

  /** A peer's claim was older than this node's: that is published once more, whole, by the stamp that it had. */
  claimAgain(slot: number): void {
    this.reasserted++;
    this.#enter(slot, CLAIM_AGAIN);
  }

  /**
   * A newer owner holds this flow: this node's stream gives it up, and its next local change goes out whole again. The
   * kernel keeps it until it is purged.
   */
  supersede(slot: number, owner: Claim): void {
    // Peers' streams come in any order: an older claim says nothing that the newer one has not.
    const known = this.#newerOwners.get(slot);
    if (known !== undefined && isNewerClaim(known.stamp, known.node, owner.stamp, owner.node)) return;
    this.#enter(slot, SUPERSEDE);
    if (this.publication(slot) === PUBLISH_MOVED) this.#newerOwners.set(slot, owner);
  }

  /**
   * The newer owner of this flow, if there is one, has seen it end: what this kernel has of it must not come back to
   * life. If its tuple does, that is another connection, with a birth of its own.
   */
  endElsewhere(slot: number): void {
    if (!this.isSuperseded(slot)) return;
    this.table.setBirth(slot, 0);
    this.#enter(slot, END_ELSEWHERE);
  }

  /**
   * Takes a flow over that this node's own stream says was here, with its handle. For a daemon that starts, before
   * anything else; ends with `sealAdopted`. Nothing of it is pending. False when the slot is out of bounds.
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
    this.#inStream++;
    slab[at + W_HAS] = withState(slab[at + W_HAS]! & ~HAS_ID, PUBLISHED);
    writeStamp(slab, at, stamp);
    if (rare !== null) this.table.rare.set(slot, rare);
    this.#touch(slot, HAS_PROTOINFO);
    return true;
  }

  /** The flows that were here are taken over. */
  sealAdopted(): void {
    this.table.sealAdopted();
  }

  #bits(slot: number): number {
    return this.table.slab(slot)[this.table.base(slot) + W_HAS]!;
  }

  #state(slot: number): number {
    return stateIn(this.#bits(slot));
  }

  /** The row's next state on an input; one that waits to be published then goes into the list, if it is not there. */
  #enter(slot: number, input: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    const bits = slab[at]!;
    const state = after(stateIn(bits), input);
    const joins = (bits & ROW_QUEUED) === 0 && isPending(state);
    this.#noteInStream(stateIn(bits), state);
    slab[at] = withState(bits, state) | (joins ? ROW_QUEUED : 0);
    if (joins) this.#pending.push(slot);
  }

  #noteInStream(before: number, now: number): void {
    if (isInStream(before) !== isInStream(now)) this.#inStream += isInStream(now) ? 1 : -1;
  }

  #insert(flow: DecodedFlow, nowSeconds: number): number {
    const { words } = flow;
    words[W_UPDATED] = nowSeconds;
    words[W_CREATED] = createdSeconds(flow, nowSeconds);
    const slot = this.table.size >= this.limit ? -1 : this.table.insert(words, 0);
    if (slot < 0) {
      this.counters.createFailedFull++;
      this.#unpublished++;
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
    else this.#enter(slot, CHANGE);
  }

  /** An event names what changed: where that was not the protocol's state, the dump's is news still. */
  #complete(slot: number, flow: DecodedFlow): void {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    if ((flow.words[W_HAS]! & HAS_PROTOINFO) === 0 || this.#isOtherFlow(slot, flow)) return;
    const bits = slab[base + W_HAS]!;
    if (this.#dump.isStateTouched(bits)) return;
    const isNews = slab[base + W_PROTOINFO] !== flow.words[W_PROTOINFO];
    slab.set(flow.words.subarray(W_PROTOINFO, W_PROTOINFO_C + 1), base + W_PROTOINFO);
    slab[base + W_HAS] = this.#dump.touchState(bits | HAS_PROTOINFO);
    if (isNews) this.#enter(slot, CHANGE);
  }

  /** Copies what the message carries; an event names only what changed. */
  #copyChanges(slot: number, flow: DecodedFlow, nowSeconds: number): void {
    mergeRecord(this.table.slab(slot), this.table.base(slot), flow.words, nowSeconds);
    if (flow.rare !== null) this.table.rare.set(slot, { ...this.table.rare.get(slot), ...flow.rare });
    this.#touch(slot, flow.words[W_HAS]!);
  }

  /** Another flow has taken this one's tuple, so it has ended. Returns -1, the slot of the other one so far. */
  #replace(slot: number): number {
    this.counters.replaced++;
    this.#end(slot, undefined);
    return -1;
  }

  #end(slot: number, ending: FlowEnd | undefined): void {
    this.table.unlink(slot);
    if (this.#hidden > 0) this.#show(slot);
    if (ending !== undefined) this.#endings.set(slot, ending);
    this.#enter(slot, END);
  }

  /** As touched since the last dump began in all that there is of it: the next dump compares it anew. */
  #keep(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = this.#dump.touchState(this.#dump.touch(slab[at]!));
  }

  /** An event or a dump has told of the flow; `has`: HAS_* bits of what. */
  #touch(slot: number, has: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    const bits = this.#dump.touch(slab[at]!);
    slab[at] = (has & HAS_PROTOINFO) === 0 ? bits : this.#dump.touchState(bits);
    if (this.#hidden > 0) this.#show(slot);
  }

  #show(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    if ((slab[at]! & ROW_HIDDEN) === 0) return;
    slab[at]! &= ~ROW_HIDDEN;
    this.#hidden--;
  }

  #differs(slot: number, flow: DecodedFlow): boolean {
    return recordDiffers(this.table.slab(slot), this.table.base(slot), flow.words);
  }

  #rareDiffers(slot: number, flow: DecodedFlow): boolean {
    return rareDiffers(this.table.rare.get(slot), flow.rare);
  }

  #isOtherFlow(slot: number, flow: DecodedFlow): boolean {
    return isOtherFlow(this.table.slab(slot), this.table.base(slot), flow.words);
  }
}

/** Slots of rows that have yet to be published, oldest first. Bounded by the slots of the table: a row is in it once. */
class PendingSlots {
  #slots = new Uint32Array(1024);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** The slot at `index`. */
  at(index: number): number {
    return this.#slots[index]!;
  }

  push(slot: number): void {
    if (this.#count === this.#slots.length) {
      const larger = new Uint32Array(this.#slots.length * 2);
      larger.set(this.#slots);
      this.#slots = larger;
    }
    this.#slots[this.#count++] = slot;
  }

  /** The first `count` go. */
  drop(count: number): void {
    this.#slots.copyWithin(0, count, this.#count);
    this.#count -= count;
  }
}

/** The state in a row's W_HAS. */
function stateIn(bits: number): number {
  return (bits & STATE_MASK) >>> STATE_SHIFT;
}

/** A row's W_HAS with another state. */
function withState(bits: number, state: number): number {
  return (bits & ~STATE_MASK) | (state << STATE_SHIFT);
}
