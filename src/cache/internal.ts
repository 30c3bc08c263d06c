import { FlowTable } from "../flow/flow-table.js";
import {
  type DecodedFlow,
  type FlowEnd,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_TIMEOUT,
  HAS_TIMES,
  type RareAttributes,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
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
import { DumpGeneration, PART_ANY, PART_MARK, PART_STATE } from "./dump-generation.js";
import type { InternalCounters } from "./internal-counters.js";
import { InternalExpectations } from "./internal-expectations.js";
import { PendingSlots } from "./pending-slots.js";
import { Roomless } from "./roomless.js";
import {
  completeRecord,
  createdSeconds,
  isOlderEvent,
  isOtherFlow,
  mergeRecord,
  rareDiffers,
  recordDiffers,
  replyDiffers,
} from "./row-changes.js";

/** In a row's W_HAS, beside ROW_LIVE of the table and the bits of dump-generation.ts: who carries the flow. */
const STATE_SHIFT = 17;
const STATE_MASK = ((1 << STATE_BITS) - 1) << STATE_SHIFT;
/** The row is in the list of pending rows. */
const ROW_QUEUED = 0x20_0000;
/** The cache was flushed: the row is hidden until an event or a dump reports the flow again. */
const ROW_HIDDEN = 0x100_0000;

/**
 * This node's view of its kernel's table, kept by events and dumps, and the list of pending rows. All changes of one
 * flow between two publications are one row. Pure state: no I/O, no timers, and the caller supplies the time.
 */
export class InternalCache {
  readonly table: FlowTable;
  /** The expectations of this kernel's flows. */
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
  /** Times that a peer's row was older than the claim to a flow here and was answered (`claimAgain`). */
  reasserted = 0;
  limit: number;
  readonly #pending = new PendingSlots();
  readonly #endings = new Map<number, FlowEnd>();
  /** The newest claim to each row that is to be published as moved. */
  readonly #newerOwners = new Map<number, Claim>();
  readonly #dump = new DumpGeneration();
  #inStream = 0;
  /** Flows of the kernel that found no room, by their hash. */
  readonly #roomless = new Roomless<number>();
  /** Slot at which the sweep after the running dump continues. */
  #sweepAt = 0;
  /** Number of living flows that a flush hides. */
  #hidden = 0;
  #onPending: (() => void) | null = null;
  /** Called with the slot of each flow whose end no event reported, before the row ends. */
  onMissed: ((slot: number) => void) | null = null;

  /** `limit`: limit of living flows. `flowsMax` also counts those that have ended and are still pending. */
  constructor(flowsMax: number, limit = flowsMax) {
    this.table = new FlowTable(flowsMax);
    this.limit = limit;
  }

  /** Number of living flows that are shown. */
  get size(): number {
    return this.table.size - this.#hidden;
  }

  /** True when a flow that packets begin here can become this node's own. Otherwise only the kernel knows of it. */
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

  /** A copy of this node's own flow with this original tuple; null when there is none, or another node carries it. */
  ownFlow(words: Uint32Array, base: number): Uint32Array | null {
    const { table } = this;
    const slot = table.size === 0 ? -1 : table.find(words, base);
    if (slot < 0 || this.isSuperseded(slot)) return null;
    const at = table.base(slot);
    return table.slab(slot).slice(at, at + RECORD_WORDS);
  }

  /** True for a TCP row whose state nobody has reported. */
  lacksState(slot: number): boolean {
    return isTcp(this.table.slab(slot), this.table.base(slot)) && (this.#bits(slot) & HAS_PROTOINFO) === 0;
  }

  /** True when this kernel has reported the state of the flow's protocol since the last dump began. */
  isStateReported(words: Uint32Array, base: number): boolean {
    const slot = this.table.size === 0 ? -1 : this.table.find(words, base);
    return slot >= 0 && (this.#bits(slot) & HAS_PROTOINFO) !== 0 && this.#dump.isReported(this.#bits(slot), PART_STATE);
  }

  /** The state of the row's protocol is not this kernel's own report: the one that a running dump lists is newer. */
  doubtState(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = this.#dump.unreport(slab[at]!, PART_STATE);
  }

  /** Number of flows that this node's stream reports as alive, when nothing is pending. */
  get inStream(): number {
    return this.#inStream;
  }

  /** Number of the kernel's flows and expectations that found no room, and so are not published. */
  get unpublished(): number {
    return this.#roomless.count + this.expectations.unpublished;
  }

  /** True when a dump would find room for some of those. */
  get hasRoomForUnpublished(): boolean {
    return (this.#roomless.count > 0 && this.hasRoom) || this.expectations.hasRoomForUnpublished;
  }

  /** A flow was created or changed. Returns its slot; -1 when the table is full. */
  upsert(flow: DecodedFlow, nowSeconds: number): number {
    let slot = this.table.find(flow.words, 0);
    if (slot >= 0 && this.#isOtherFlow(slot, flow)) slot = this.#replace(slot);
    if (slot < 0) return this.#insert(flow, nowSeconds);
    if (isOlderEvent(this.table.slab(slot), this.table.base(slot), flow.words) && !this.isSuperseded(slot)) {
      this.#touch(slot, 0);
      return slot;
    }
    this.counters.updated++;
    this.#merge(slot, flow, nowSeconds);
    return slot;
  }

  /**
   * Applies a flow as a lookup shows it, if the row is exactly this flow and this node's own. True when that is news.
   * The timeout is left out: a lookup shows that of the packet on its way, and events have reported the flow's own.
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

  /** A flow ended. Returns its slot, which stays readable until settled; -1 when the flow is not in the table. */
  destroy(flow: DecodedFlow, nowSeconds: number): number {
    const { words } = flow;
    if ((words[W_HAS]! & HAS_ID) !== 0) this.#dump.ended(words[W_ID]!);
    const slot = this.table.find(words, 0);
    if (slot < 0) {
      this.counters.destroyUnknown++;
      if (this.#roomless.count > 0) this.#roomless.delete(this.table.hash(words, 0));
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
   * Hides all flows and expectations until an event or a dump reports them again. They are still in the kernel, so
   * nothing is published, and their ends are published as usual.
   */
  flush(): void {
    this.expectations.flush();
    for (let slot = 0; slot < this.table.slotsUsed; slot++) {
      if (!this.isShown(slot)) continue;
      this.table.slab(slot)[this.table.base(slot) + W_HAS]! |= ROW_HIDDEN;
      this.#hidden++;
    }
  }

  /** A dump begins. An earlier one that was not swept to its end is abandoned. Events may continue until `sweep`. */
  beginDump(): void {
    if (this.#dump.running) this.abandonDump();
    this.#dump.begin();
    this.#roomless.beginDump();
    this.#sweepAt = 0;
  }

  /**
   * Applies a flow that the dump lists. What an event has reported since the dump began is newer and stays. A dump does
   * not show since when a flow has its state. So a flow that was unknown here and that a peer carries (`claimed`) is
   * taken in as superseded. A flow that is superseded stays so, unless this node carries traffic now (`carries`).
   */
  dumped(flow: DecodedFlow, nowSeconds: number, claimed: Claim | null, carries: boolean): number {
    const { words } = flow;
    let slot = this.table.find(words, 0);
    if (slot >= 0 && this.#dump.isReported(this.#bits(slot), PART_ANY)) {
      this.#complete(slot, flow);
      if (carries && this.isSuperseded(slot)) this.announce(slot);
      return slot;
    }
    // Also when its tuple has a row. That belongs to an older flow whose end was missed, and the sweep will find it.
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
      // A dump lists a flow completely: attributes that it omits are gone, which an update row could not express.
      this.table.rare.delete(slot);
      this.announce(slot);
      return this.upsert(flow, nowSeconds);
    }
    if (this.#differs(slot, flow)) return this.upsert(flow, nowSeconds);
    this.#copyChanges(slot, flow, nowSeconds);
    return slot;
  }

  /** True when the running dump lists a flow that has ended since it began. */
  hasEnded({ words }: DecodedFlow): boolean {
    return (words[W_HAS]! & HAS_ID) !== 0 && this.#dump.hasEnded(words[W_ID]!);
  }

  /** After a dump: ends the rows that neither it nor events have seen, `slotsMax` slots a call. True when done. */
  sweep(slotsMax: number): boolean {
    if (!this.#dump.running) return true;
    const end = Math.min(this.#sweepAt + slotsMax, this.table.slotsUsed);
    for (let slot = this.#sweepAt; slot < end; slot++) {
      if (!this.isFlow(slot)) continue;
      if (this.#dump.isReported(this.#bits(slot), PART_ANY)) {
        this.#keep(slot);
        continue;
      }
      this.counters.sweptByDump++;
      this.onMissed?.(slot);
      this.#end(slot, undefined);
    }
    this.#sweepAt = end;
    if (end < this.table.slotsUsed) return false;
    this.#dump.end();
    this.#roomless.endDump();
    return true;
  }

  /** A dump failed half way: rows that it did not reach stay. */
  abandonDump(): void {
    this.#dump.end();
    this.#roomless.abandonDump();
    for (let slot = 0; slot < this.table.slotsUsed; slot++) if (this.isFlow(slot)) this.#keep(slot);
  }

  /** Calls `onPending` whenever a peer's message was applied and rows are pending. */
  listen(onPending: () => void): void {
    this.#onPending = onPending;
  }

  /** A peer's message was applied, which may have made this node give flows up or claim them again. */
  peerApplied(): void {
    if (this.pendingCount + this.expectations.pendingCount > 0) this.#onPending?.();
  }

  /** Number of pending rows. */
  get pendingCount(): number {
    return this.#pending.count;
  }

  /** The slot of the pending row `index`, oldest first. */
  pendingSlot(index: number): number {
    return this.#pending.at(index);
  }

  /** The content that the pending row at `slot` is published with: PUBLISH_* bits. */
  publication(slot: number): number {
    return publicationOf(this.#state(slot));
  }

  /** True when a pending row repeats a claim with its original stamp. */
  isClaimedAgain(slot: number): boolean {
    return isRepeated(this.#state(slot));
  }

  /** The newer claim to the flow of a row that is to be published as moved. */
  newerOwner(slot: number): Claim | undefined {
    return this.#newerOwners.get(slot);
  }

  /** What the kernel reported about the end of an ended row; undefined if it reported nothing. */
  ending(slot: number): FlowEnd | undefined {
    return this.#endings.get(slot);
  }

  /** The first `count` pending rows are published under `stamp`. The slots of ended ones are freed. */
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

  /** The stamp of this node's last claim to the flow; Infinity while a newer one is pending. */
  stamp(slot: number): number {
    const slab = this.table.slab(slot);
    const base = this.table.base(slot);
    return awaitsStamp(stateIn(slab[base + W_HAS]!)) ? Number.POSITIVE_INFINITY : readStamp(slab, base);
  }

  /** True when a peer has a newer claim to this flow of this kernel. */
  isSuperseded(slot: number): boolean {
    return isSuperseded(this.#state(slot));
  }

  /** True when that peer has seen the flow end. */
  hasEndedElsewhere(slot: number): boolean {
    return hasEndedElsewhere(this.#state(slot));
  }

  /** This node claims the flow. The row is published whole, with the stamp of its message. */
  announce(slot: number): void {
    if (this.#newerOwners.size > 0) this.#newerOwners.delete(slot);
    this.#enter(slot, CLAIM);
  }

  /** A peer's claim was older than this node's, which is published again, whole, with its original stamp. */
  claimAgain(slot: number): void {
    this.reasserted++;
    this.#enter(slot, CLAIM_AGAIN);
  }

  /**
   * A peer has a newer claim to this flow. This node's stream gives it up, and its next local change is published whole
   * again. The kernel keeps the flow until it is purged.
   */
  supersede(slot: number, owner: Claim): void {
    // Peers' streams arrive in any order: an older claim adds nothing to a newer one.
    const known = this.#newerOwners.get(slot);
    if (known !== undefined && isNewerClaim(known.stamp, known.node, owner.stamp, owner.node)) return;
    this.#enter(slot, SUPERSEDE);
    if (this.publication(slot) === PUBLISH_MOVED) this.#newerOwners.set(slot, owner);
  }

  /**
   * The owner with the newer claim, if there is one, has seen the flow end. This kernel's entry must not be revived. If
   * its tuple comes again, that is another connection, with its own birth.
   */
  endElsewhere(slot: number): void {
    if (!this.isSuperseded(slot)) return;
    this.table.setBirth(slot, 0);
    this.#enter(slot, END_ELSEWHERE);
  }

  /**
   * This node takes a flow over from the peer that claimed it last, with the birth of that claim; 0 or less is none. An
   * own row from before that claim may be of an earlier connection of the tuple, so its birth does not count.
   */
  takeBirth(slot: number, birth: number): void {
    if (slot >= 0 && birth > 0) this.table.setBirth(slot, birth);
  }

  /**
   * Restores a flow from this node's own stream, with its flow id. For a daemon that starts, before anything else;
   * `sealAdopted` ends this. No row becomes pending. False when the slot is out of bounds.
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
    this.#keep(slot);
    return true;
  }

  /** All flows of the stream are restored. */
  sealAdopted(): void {
    this.table.sealAdopted();
  }

  #bits(slot: number): number {
    return this.table.slab(slot)[this.table.base(slot) + W_HAS]!;
  }

  #state(slot: number): number {
    return stateIn(this.#bits(slot));
  }

  /** Moves the row to its next state on an input. A row that is then pending is added to the list once. */
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
      this.#roomless.add(this.table.hash(words, 0));
      return -1;
    }
    if (this.#roomless.count > 0) this.#roomless.delete(this.table.hash(words, 0));
    if (flow.rare !== null) this.table.rare.set(slot, flow.rare);
    this.counters.created++;
    this.#touch(slot, words[W_HAS]!);
    if ((words[W_HAS]! & HAS_PROTOINFO) === 0) this.doubtState(slot);
    this.announce(slot);
    return slot;
  }

  #merge(slot: number, flow: DecodedFlow, nowSeconds: number): void {
    const retold = replyDiffers(this.table.slab(slot), this.table.base(slot), flow.words) || this.isSuperseded(slot);
    this.#copyChanges(slot, flow, nowSeconds);
    if (retold) this.announce(slot);
    else this.#enter(slot, CHANGE);
  }

  /** An event names only what changed. What none has named since the dump began is as the dump lists it. */
  #complete(slot: number, flow: DecodedFlow): void {
    if (this.#isOtherFlow(slot, flow)) return;
    const [slab, base] = [this.table.slab(slot), this.table.base(slot)];
    const bits = slab[base + W_HAS]!;
    const parts = this.#dump.unreported(bits, PART_STATE | PART_MARK);
    const isNews = completeRecord(slab, base, flow.words, (parts & PART_STATE) !== 0, (parts & PART_MARK) !== 0);
    slab[base + W_HAS] = this.#dump.report(slab[base + W_HAS]!, parts);
    if (isNews) this.#enter(slot, CHANGE);
  }

  /** Copies what the message carries; an event names only what changed. */
  #copyChanges(slot: number, flow: DecodedFlow, nowSeconds: number): void {
    mergeRecord(this.table.slab(slot), this.table.base(slot), flow.words, nowSeconds);
    if (flow.rare !== null) this.table.rare.set(slot, { ...this.table.rare.get(slot), ...flow.rare });
    this.#touch(slot, flow.words[W_HAS]!);
  }

  /** Another flow has taken this flow's tuple, so this one has ended. Returns -1, the new flow's slot so far. */
  #replace(slot: number): number {
    this.counters.replaced++;
    this.onMissed?.(slot);
    this.#end(slot, undefined);
    return -1;
  }

  #end(slot: number, ending: FlowEnd | undefined): void {
    this.table.unlink(slot);
    if (this.#hidden > 0) this.#show(slot);
    if (ending !== undefined) this.#endings.set(slot, ending);
    this.#enter(slot, END);
  }

  /** Takes all of the row for reported since the last dump began. The next dump compares it again. */
  #keep(slot: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    slab[at] = this.#dump.reportAll(slab[at]!);
  }

  /** An event or a dump has reported the flow. `has`: HAS_* bits of what it named. */
  #touch(slot: number, has: number): void {
    const slab = this.table.slab(slot);
    const at = this.table.base(slot) + W_HAS;
    let parts = PART_ANY;
    if ((has & HAS_PROTOINFO) !== 0) parts |= PART_STATE;
    if ((has & HAS_MARK) !== 0) parts |= PART_MARK;
    slab[at] = this.#dump.report(slab[at]!, parts);
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

/** The state in a row's W_HAS. */
function stateIn(bits: number): number {
  return (bits & STATE_MASK) >>> STATE_SHIFT;
}

/** A row's W_HAS with another state. */
function withState(bits: number, state: number): number {
  return (bits & ~STATE_MASK) | (state << STATE_SHIFT);
}
