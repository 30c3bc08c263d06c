/**
 * What the rows of a message do to connections: open, update, move and end them. The rules are those of ExternalCache: a newer
 * claim moves a connection to its node, only the owner ends it, and what the owner's snapshot does not list is lost.
 */
import { stampMs, stampOfMs } from "../../flow/clock.js";
import { type RareAttributes, RECORD_WORDS, W_CREATED, W_UPDATED } from "../../flow/record.js";
import { isAnotherConnection } from "../../flow/record-fields.js";
import type { RowCopy } from "./connection-record.js";
import { type Ending, lostEnding } from "./ending.js";
import { HeldEnds, HOLD_STAMPS } from "./held-ends.js";
import { LiveTable } from "./live-table.js";
import { isNewer, type NodeState } from "./node-state.js";
import type { Reports } from "./reports.js";

/** In place of a slot: a claim that is older than what is known. */
const STALE = -2;

/** The connections of all nodes. `beginMessage` says of which message the rows are that are applied next. */
export class Lifecycle {
  readonly live: LiveTable;
  readonly held: HeldEnds;
  /** The new row that `claim` and `passOver` work on: the caller decodes it into this record. */
  readonly record = new Uint32Array(RECORD_WORDS);
  readonly #nodes: readonly NodeState[];
  readonly #reports: Reports;
  readonly #counters: { full: number };
  /**
   * Connections whose tuple their own node has reused in this message, by flow id: their ends come later in the message, or were
   * missed.
   */
  readonly #replaced = new Map<number, RowCopy>();
  /** Node and stamp of the message. */
  #publisher = "";
  #publishedStamp = 0;
  /** How far the stamp is ahead of its writer's clock. */
  #aheadMs = 0;
  /** The message comes so late that its ends need not be held. */
  #isLate = false;

  /** `counters.full` counts the connections that found no room in a table of `flowsMax`. */
  constructor(nodes: readonly NodeState[], flowsMax: number, reports: Reports, counters: { full: number }) {
    this.#nodes = nodes;
    this.#reports = reports;
    this.#counters = counters;
    this.live = new LiveTable(nodes, flowsMax);
    this.held = new HeldEnds(this.live, reports);
  }

  /** The rows that follow are those of a message with that stamp. `latestStamp` is the greatest of all messages before. */
  beginMessage(node: NodeState, stamp: number, latestStamp: number): void {
    this.#publisher = node.name;
    this.#publishedStamp = stamp;
    this.#aheadMs = node.aheadMs;
    this.#isLate = stamp + HOLD_STAMPS < latestStamp;
  }

  /** Applies the new row in `record`: it opens a connection, updates it, or moves it here from another node. */
  claim(node: NodeState, flowId: number, rare: RareAttributes | null, stamp: number, birth: number): void {
    const live = this.live;
    const words = this.record;
    const before = node.slots.get(flowId);
    if (before >= 0 && before !== live.table.find(words, 0)) this.lose(before, this.#publishedStamp);
    const displaced = live.displaced(words, birth);
    if (displaced >= 0 && isNewer(stamp, node, live.stamp(displaced), live.owner(displaced))) {
      this.#reinstate(displaced, node);
    }
    const slot = this.#resumed(live.table.find(words, 0), node, stamp, birth);
    if (slot === STALE) return;
    const published = this.#publishedStamp;
    const since = stamp === published ? stamp : sinceOf(words, birth, stamp, this.#aheadMs);
    // The owner gave its connection up for this claim, which was read later, and is to another one.
    if (slot >= 0 && live.isDeparted(slot) && this.#isAnother(slot, birth)) live.comeBack(slot);
    if (slot < 0) this.#open(node, flowId, rare, stamp, birth, since);
    else if (live.owner(slot) !== node) this.#move(slot, node, flowId, rare, stamp, birth, since);
    else if (live.isMapped(slot) && live.flowId(slot) !== flowId) {
      // The kernel has reused the tuple. The end that belongs between is read later, because new rows are read first.
      this.#replace(slot, node);
      this.#open(node, flowId, rare, stamp, birth, since);
    } else if (!live.isMapped(slot) && !node.bridges && birth > live.stamp(slot)) {
      // The row was read before a part of the stream that was skipped, and this connection began in or behind that.
      this.lose(slot, published);
      if (live.isHeld(slot)) this.held.release(slot);
      this.#open(node, flowId, rare, stamp, birth, since);
    } else {
      live.restate(slot, words, rare);
      live.own(slot, node, flowId, stamp);
      this.#reports.changed("updated", slot);
    }
  }

  /** The new row in `record` does not pass the filter, but it ends the connections whose flow id or tuple it takes. */
  passOver(node: NodeState, flowId: number, stamp: number): void {
    const slot = node.slots.get(flowId);
    if (slot >= 0) this.lose(slot, this.#publishedStamp);
    const other = this.live.size === 0 ? -1 : this.live.table.find(this.record, 0);
    if (other >= 0) this.#loseTuple(other, node, stamp);
  }

  /** An update row was decoded into a row of the table; `rare` are the rare attributes that it changed. */
  updated(slot: number, rare: RareAttributes | null, wallSeconds: number): void {
    const { table } = this.live;
    table.slab(slot)[table.base(slot) + W_UPDATED] = wallSeconds;
    this.live.touch(slot, this.#publishedStamp);
    if (rare !== null) table.rare.set(slot, { ...table.rare.get(slot), ...rare });
    this.#reports.changed("updated", slot);
  }

  /** The owner gives a connection up for another node, whose claim has that stamp. */
  giveUp(slot: number, to: NodeState, stamp: number): void {
    if (to.heard < stamp) {
      this.live.depart(slot, to, stamp, this.#aheadMs);
      this.#reports.changed("moved", slot);
      return;
    }
    // The other node's stream has been read beyond that claim, and it does not carry the connection: it has ended there.
    const published = this.#publishedStamp;
    this.lose(slot, to.snapshotStamp >= stamp ? Math.min(to.snapshotStamp, published) : published);
  }

  /** The owner gives a connection up for a node that nobody knows. */
  loseTrack(slot: number): void {
    this.live.markMayMiss(slot);
    this.lose(slot, this.#publishedStamp);
  }

  /** A connection was gone by that stamp, at the latest. */
  lose(slot: number, stamp: number): void {
    this.end(slot, this.#lost(stamp));
  }

  /** True where the message has replaced connections, whose ends it may hold. */
  get hasReplaced(): boolean {
    return this.#replaced.size > 0;
  }

  /** The replaced connection of a flow id; undefined where there is none. */
  replaced(flowId: number): RowCopy | undefined {
    return this.#replaced.size === 0 ? undefined : this.#replaced.get(flowId);
  }

  /** Ends a replaced connection. */
  endReplaced(flowId: number, copy: RowCopy, ending: Ending): void {
    this.#replaced.delete(flowId);
    this.#finish(copy, ending, true);
  }

  /** The message holds no more ends: those of the connections that it has replaced were missed. */
  loseReplaced(): void {
    for (const copy of this.#replaced.values()) this.#finish(copy, this.#lost(this.#publishedStamp), true);
    this.#replaced.clear();
  }

  /** Ends a connection: held, where another node may take it up again, else for good. */
  end(slot: number, ending: Ending): void {
    const live = this.live;
    if (this.#reports.isBeforeRange(ending)) {
      live.remove(slot);
      return;
    }
    // No other node can take it up, or each would have by now.
    if (this.#nodes.length < 2 || this.#isLate) {
      const copy = live.copy(slot, ending.stamp);
      const whole = live.isWhole(slot);
      live.remove(slot);
      this.#finish(copy, ending, whole);
      return;
    }
    if (this.#reports.wantsOver) this.#reports.over(live.copy(slot, ending.stamp), ending);
    this.held.hold(slot, ending, this.#publishedStamp);
  }

  /** Ends the rows of a node that no flow id refers to: its complete snapshot, which ended at that stamp, has not listed them. */
  loseUnmapped(node: NodeState, stamp: number): void {
    const live = this.live;
    node.hasUnmapped = false;
    for (let slot = 0; slot < live.table.slotsUsed; slot++) {
      if (!live.table.isLive(slot) || live.owner(slot) !== node) continue;
      if (live.isHeld(slot) || live.isMapped(slot)) continue;
      if (live.stamp(slot) > stamp) node.hasUnmapped = true;
      else this.lose(slot, stamp);
    }
  }

  #open(
    node: NodeState,
    flowId: number,
    rare: RareAttributes | null,
    stamp: number,
    birth: number,
    since: number,
  ): void {
    const slot = this.live.open(this.record, rare, birth, this.#aheadMs);
    if (slot < 0) {
      this.#counters.full++;
      if (this.#counters.full === 1) {
        node.miss(stamp, Number.POSITIVE_INFINITY, "more connections at a time than the memory is for");
      }
      return;
    }
    this.live.own(slot, node, flowId, stamp);
    this.live.setSince(slot, since, this.#aheadMs);
    if (birth === this.#publishedStamp && !node.bridges) this.live.markBorn(slot);
    this.#reports.changed("new", slot);
  }

  /** Moves another node's row to this one, if the claim in `record` is newer. */
  #move(
    slot: number,
    node: NodeState,
    flowId: number,
    rare: RareAttributes | null,
    stamp: number,
    birth: number,
    since: number,
  ): void {
    const live = this.live;
    if (!isNewer(stamp, node, live.stamp(slot), live.owner(slot))) return;
    if (this.#isAnother(slot, birth)) {
      this.#loseTuple(slot, node, stamp);
      this.#open(node, flowId, rare, stamp, birth, since);
      return;
    }
    live.leave(slot);
    live.restate(slot, this.record, rare);
    live.inheritBirth(slot, birth, this.#aheadMs);
    live.own(slot, node, flowId, stamp);
    live.setSince(slot, Math.max(since, birth), this.#aheadMs);
    this.#reports.changed("moved", slot);
  }

  /** True when the new row in `record`, with that birth, is another connection than the row of its tuple. */
  #isAnother(slot: number, birth: number): boolean {
    const { table } = this.live;
    if (birth === table.birth(slot)) return false;
    return isAnotherConnection(table.slab(slot), table.base(slot), this.record, 0);
  }

  /**
   * A node has begun a connection with the tuple of another node's, which it had not seen. That one is over, but it is reinstated if
   * this node's commit replaces what it has begun.
   */
  #loseTuple(slot: number, node: NodeState, stamp: number): void {
    const live = this.live;
    const owner = live.owner(slot);
    if (owner === node || live.isHeld(slot) || !isNewer(stamp, node, live.stamp(slot), owner)) return;
    this.lose(slot, stamp);
    if (live.isHeld(slot)) live.displace(slot);
  }

  /** A node has claimed a displaced connection, so the one that it had begun with that tuple is over. */
  #reinstate(slot: number, node: NodeState): void {
    const live = this.live;
    const { table } = live;
    const other = table.find(table.slab(slot), table.base(slot));
    if (other >= 0 && live.isHeld(other)) this.held.release(other);
    else if (other >= 0) this.#replace(other, node);
    live.reinstate(slot);
  }

  /** Removes a row whose tuple its node has reused, and keeps a copy until the message has ended. */
  #replace(slot: number, node: NodeState): void {
    const live = this.live;
    const copy = live.copy(slot, this.#publishedStamp);
    // No flow id is negative: without one of this node, nothing in the message can end it.
    const flowId = live.owner(slot) === node && live.isMapped(slot) ? live.flowId(slot) : -1 - slot;
    this.#replaced.set(flowId, copy);
    live.remove(slot);
  }

  /**
   * The row that a claim is to, resumed where its end was held. `slot` is the row of the claim's tuple. Returns -1 when there is no
   * such row or it is that of another connection, and STALE when the claim is older than the end.
   */
  #resumed(slot: number, node: NodeState, stamp: number, birth: number): number {
    const live = this.live;
    if (slot < 0 || !live.isHeld(slot)) return slot;
    const owner = live.owner(slot);
    if (!live.isClaimOf(slot, this.record, birth)) {
      if (owner === node) this.held.release(slot);
      else live.displace(slot);
      return -1;
    }
    if (owner !== node && !isNewer(stamp, node, live.stamp(slot), owner)) return STALE;
    this.held.cancel(slot);
    return slot;
  }

  #lost(stamp: number): Ending {
    return lostEnding(stamp, this.#aheadMs);
  }

  #finish(copy: RowCopy, ending: Ending, whole: boolean): void {
    this.#reports.overAndEnded(copy, ending, { node: this.#publisher, stamp: this.#publishedStamp, whole });
  }
}

/**
 * Since when a node has carried a row that it states by an older claim, as a stamp. `words` have the time at which the node first saw
 * the flow, by its clock and in whole seconds. Within a second of the birth, and before it, that is the birth.
 */
function sinceOf(words: Uint32Array, birth: number, stamp: number, aheadMs: number): number {
  const { [W_CREATED]: createdSeconds = 0 } = words;
  const createdMs = createdSeconds * 1000 + aheadMs;
  const atBirth = createdSeconds === 0 || createdMs - stampMs(birth) < 1000;
  return atBirth ? birth : Math.min(stamp, stampOfMs(createdMs));
}
