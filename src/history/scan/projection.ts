import { type RareAttributes, RECORD_WORDS, W_UPDATED } from "../../flow/record.js";
import { isAnotherConnection } from "../../flow/record-fields.js";
import { FLOW_ID_MAX } from "../../flow/slot-map.js";
import { readNewRow, readUpdateRow } from "../../stream/format/batch.js";
import { BatchView } from "../../stream/format/batch-view.js";
import { BATCH_ROWS_MAX, type NewSection } from "../../stream/format/columns.js";
import type { Envelope, OpenedMessage } from "../../stream/format/envelope.js";
import { MarkCodec } from "../../stream/format/mark.js";
import type { Connection, Gap } from "../connection.js";
import { createUid } from "../uid.js";
import { endingOf, msOfEnding, NO_ENDING } from "./ending.js";
import { HeldEnds, HOLD_STAMPS } from "./held-ends.js";
import { ConnectionRecord, type Draft, type Ending, FLOWS_MAX, LiveTable, NODES_MAX, sinceOf } from "./live-table.js";
import { isNewer, NodeState, touchesRange } from "./node-state.js";
import type { EndTold, ProjectionCounters, ProjectionListener } from "./projection-listener.js";
import type { RowFilter } from "./row-filter.js";
import { setState, stampIn, statedIn } from "./rows.js";

/** In place of a slot: a claim that is older than what is known. */
const STALE = -2;

/**
 * Messages of several streams, in the order of their stamps, to connections. It follows the connections that a filter lets through,
 * from node to node as ExternalCache does: a newer stamp takes a connection over, only its owner ends it, and what a snapshot of
 * its owner does not list any more is lost. Memory is for those alive at a time.
 */
export class Projection {
  readonly counters: ProjectionCounters = { messages: 0, events: 0, malformed: 0, outdated: 0, full: 0 };
  readonly #nodes: NodeState[] = [];
  readonly #live: LiveTable;
  readonly #filter: RowFilter;
  readonly #listener: ProjectionListener;
  readonly #view = new BatchView();
  readonly #marks = new MarkCodec();
  readonly #uidOf = createUid();
  readonly #record = new Uint32Array(RECORD_WORDS);
  readonly #rows = new Uint16Array(BATCH_ROWS_MAX);
  readonly #isCandidate = new Uint8Array(BATCH_ROWS_MAX);
  /** Connections whose tuple the same node has again, by flow id: their end is in the same message, or was missed. */
  readonly #displaced = new Map<number, Draft>();
  readonly #held = new HeldEnds();
  /** Ends before are not told. */
  readonly #sinceMs: number;
  #stamp = 0;
  #settled = 0;
  /** The message that is applied: its node and stamp. */
  #toldBy = "";
  #toldStamp = 0;
  /** How far the message that is applied is ahead of its writer's clock, milliseconds. */
  #aheadMs = 0;

  constructor(options: { filter: RowFilter; sinceMs: number | null; listener: ProjectionListener; flowsMax?: number }) {
    this.#filter = options.filter;
    this.#sinceMs = options.sinceMs ?? Number.NEGATIVE_INFINITY;
    this.#listener = options.listener;
    this.#live = new LiveTable(this.#nodes, options.flowsMax ?? FLOWS_MAX);
  }

  /** The state of a node, made when it is new. */
  node(name: string): NodeState {
    const known = this.#nodes.find((node) => node.name === name);
    if (known !== undefined) return known;
    if (this.#nodes.length >= NODES_MAX) throw new RangeError(`more than ${NODES_MAX} nodes`);
    const node = new NodeState(name, this.#nodes.length);
    this.#nodes.push(node);
    return node;
  }

  /** The greatest stamp of all messages. */
  get stamp(): number {
    return this.#stamp;
  }

  /** No end waits that was told HOLD_STAMPS before this. */
  get settled(): number {
    return Math.min(this.#settled, this.#held.leastTold() + HOLD_STAMPS);
  }

  /** Birth of the oldest connection that is alive, or whose end waits; Infinity where there is none. */
  get oldestBirth(): number {
    return this.#live.oldestBirth;
  }

  /** Connections alive that pass the filter as far as it can be told. */
  get size(): number {
    return this.#live.size - this.#held.count;
  }

  /** Ends that wait. */
  get held(): number {
    return this.#held.count;
  }

  /**
   * Applies a node's next message. `jump`: it does not follow on the last one, because the reader has passed over what lies
   * between: flow ids begin anew.
   */
  apply(node: NodeState, message: OpenedMessage, jump: boolean): void {
    const { envelope } = message;
    this.counters.messages++;
    const mark = message.kind === "mark" ? (this.#marks.decode(message.payload)?.mark ?? null) : null;
    const unsound = message.kind === "mark" ? mark === null : !this.#view.load(message);
    if (unsound || envelope.node !== node.name) {
      this.counters.malformed++;
      return;
    }
    if (jump) node.jump();
    if (!node.accept(envelope, mark)) {
      this.counters.outdated++;
      return;
    }
    this.#aheadMs = node.aheadMs;
    this.#toldBy = node.name;
    this.#toldStamp = envelope.stamp;
    this.settle(Math.max(this.#stamp, envelope.stamp));
    if (mark === null) this.#applyBatch(node, envelope);
    else if (node.mark(mark, envelope.stamp) && node.hasOrphans) this.#sweepOrphans(node, envelope.stamp);
    node.heard = envelope.stamp;
    if (envelope.stamp > this.#stamp) this.#stamp = envelope.stamp;
  }

  /** Tells of the ends for which no node will come any more at a stamp, of so many at the most; Infinity: of all. */
  settle(stamp: number, endsMax = Number.POSITIVE_INFINITY): void {
    if (stamp > this.#settled) this.#settled = stamp;
    for (let n = 0; n < endsMax && this.#held.oldestTold + HOLD_STAMPS < stamp; n++) this.#release(this.#held.oldest());
  }

  /** The first message of the node's stream that lies behind the range. */
  beyond(node: NodeState, message: OpenedMessage): void {
    const mark = message.kind === "mark" ? (this.#marks.decode(message.payload)?.mark ?? null) : null;
    if (message.envelope.node === node.name) node.beyond(message.envelope, mark);
  }

  /** A message of the node's stream could not be read. */
  skip(): void {
    this.counters.messages++;
    this.counters.malformed++;
  }

  /** The connections that are alive here, in the order of their birth. */
  *open(): Iterable<Connection> {
    for (const slot of this.#live.alive()) {
      const connection = this.connection(slot);
      if (this.#filter.accepts(connection.words, 0)) yield connection;
    }
  }

  /** A connection that is alive, as it stands. */
  connection(slot: number): Connection {
    const owner = this.#live.owner(slot);
    const draft = this.#live.draft(slot, Math.max(this.#stamp, owner.heard));
    // Another node has committed since this one was last heard: had that node known of the flow, it would be there now.
    const silent = this.#nodes.some((node) => node !== owner && node.commitStamp > owner.heard);
    const mayMiss = draft.mayMiss || silent || owner.stopStamp > 0;
    const ending: Ending = { ...NO_ENDING, end: "open", stamp: this.#stamp, aheadMs: 0 };
    return new ConnectionRecord({ ...draft, mayMiss }, ending, this.#uidOf);
  }

  /** What may be missing between two stamps. */
  gaps(from: number, until: number): Gap[] {
    return this.#nodes.flatMap((node) => node.gapsBetween(from, until));
  }

  /** What may be missing between two times; null: from the beginning, to the end. */
  gapsBetween(sinceMs: number | null, untilMs: number | null): Gap[] {
    return this.gaps(0, Number.POSITIVE_INFINITY).filter((gap) => touchesRange(gap, sinceMs, untilMs));
  }

  #applyBatch(node: NodeState, envelope: Envelope): void {
    const view = this.#view;
    this.counters.events += view.rows;
    const new4 = view.newRows(0);
    const new6 = view.newRows(1);
    if (new4 !== null) this.#applyNew(node, new4, 0, envelope);
    if (new6 !== null) this.#applyNew(node, new6, 1, envelope);
    if (node.tracked > 0) this.#applyUpdates(node, envelope);
    if (node.tracked > 0 || this.#displaced.size > 0) this.#applyDestroys(node, envelope);
    if (node.tracked > 0) this.#applyMoved(node, envelope);
    for (const draft of this.#displaced.values())
      this.#finish(draft, { ...NO_ENDING, end: "lost", stamp: envelope.stamp, aheadMs: node.aheadMs }, true);
    this.#displaced.clear();
    if (view.range !== null && node.tracked > 0) this.#sweepRange(node, view.range, new4, new6, envelope.stamp);
    if (!view.damaged) return;
    this.counters.malformed++;
    node.miss(node.heard, envelope.stamp, "a message is damaged");
  }

  #applyNew(node: NodeState, section: NewSection, family: 0 | 1, envelope: Envelope): void {
    const rows = this.#rows;
    const count = this.#filter.candidates(section, rows);
    if (count === 0 && node.tracked === 0) return;
    if (count > 0) section.takeAll();
    else section.take("f");
    if (node.tracked > 0 && count < section.rows) this.#endReused(node, section, count, envelope.stamp);
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    for (let i = 0; i < count; i++) {
      const row = rows[i]!;
      const flowId = section.flowId[row]!;
      if (flowId > FLOW_ID_MAX) continue;
      readNewRow(section, row, this.#record);
      this.#record[W_UPDATED] = wallSeconds;
      if (!this.#filter.matches(this.#record, 0)) {
        const slot = node.slots.get(flowId);
        if (slot >= 0) this.#end(slot, "lost", envelope.stamp);
        const other = this.#live.size === 0 ? -1 : this.#live.table.find(this.#record, 0);
        if (other >= 0) this.#loseTuple(other, node, stampIn(section.stamp, row) || envelope.stamp);
        continue;
      }
      const stamp = stampIn(section.stamp, row) || envelope.stamp;
      const birth = stampIn(section.birth, row) || stamp;
      this.#upsert(node, flowId, this.#view.rare(family, row), stamp, birth, envelope.stamp);
    }
  }

  /** Flow ids that now stand for flows which the filter does not let through. */
  #endReused(node: NodeState, section: NewSection, count: number, stamp: number): void {
    const rows = this.#rows;
    for (let i = 0; i < count; i++) this.#isCandidate[rows[i]!] = 1;
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot >= 0 && this.#isCandidate[row] === 0) this.#end(slot, "lost", stamp);
    }
    for (let i = 0; i < count; i++) this.#isCandidate[rows[i]!] = 0;
  }

  /** A new row, in `#record`: opens a connection, states it anew, or moves it here from another node. */
  #upsert(
    node: NodeState,
    flowId: number,
    rare: RareAttributes | null,
    stamp: number,
    birth: number,
    toldStamp: number,
  ): void {
    const words = this.#record;
    const live = this.#live;
    const before = node.slots.get(flowId);
    if (before >= 0 && before !== live.table.find(words, 0)) this.#end(before, "lost", toldStamp);
    const aside = live.aside(words, birth);
    if (aside >= 0 && isNewer(stamp, node, live.stamp(aside), live.owner(aside))) this.#putBack(aside, node);
    const slot = this.#takeUp(live.table.find(words, 0), node, stamp, birth);
    if (slot === STALE) return;
    const since = stamp === toldStamp ? stamp : sinceOf(words, birth, stamp, this.#aheadMs);
    if (slot < 0) {
      this.#open(node, flowId, rare, stamp, birth, since);
      return;
    }
    const owner = live.owner(slot);
    if (owner !== node) {
      if (!isNewer(stamp, node, live.stamp(slot), owner)) return;
      if (
        birth !== live.table.birth(slot) &&
        isAnotherConnection(live.table.slab(slot), live.table.base(slot), words, 0)
      ) {
        this.#loseTuple(slot, node, stamp);
        this.#open(node, flowId, rare, stamp, birth, since);
        return;
      }
      live.leave(slot);
      live.restate(slot, words, rare);
      live.inheritBirth(slot, birth, this.#aheadMs);
      live.own(slot, node, flowId, stamp);
      live.setSince(slot, Math.max(since, birth), this.#aheadMs);
      this.#listener.changed?.("moved", slot);
      return;
    }
    if (live.isMapped(slot) && live.flowId(slot) !== flowId) {
      // The kernel has this tuple anew. Sections are read before the ends that belong between.
      this.#displace(slot, node);
      this.#open(node, flowId, rare, stamp, birth, since);
      return;
    }
    if (!live.isMapped(slot) && !node.bridges && birth === toldStamp && live.stamp(slot) !== stamp) {
      // Read before what was passed over, and begun behind it.
      this.#end(slot, "lost", toldStamp);
      if (live.isHeld(slot)) this.#release(slot);
      this.#open(node, flowId, rare, stamp, birth, since);
      return;
    }
    live.restate(slot, words, rare);
    live.own(slot, node, flowId, stamp);
    this.#listener.changed?.("updated", slot);
  }

  #open(
    node: NodeState,
    flowId: number,
    rare: RareAttributes | null,
    stamp: number,
    birth: number,
    since: number,
  ): void {
    const slot = this.#live.open(this.#record, rare, birth, this.#aheadMs);
    if (slot < 0) {
      this.counters.full++;
      if (this.counters.full === 1) {
        node.miss(stamp, Number.POSITIVE_INFINITY, "more connections at a time than the memory is for");
      }
      return;
    }
    this.#live.own(slot, node, flowId, stamp);
    this.#live.setSince(slot, since, this.#aheadMs);
    if (birth === this.#toldStamp && !node.bridges) this.#live.markBorn(slot);
    this.#listener.changed?.("new", slot);
  }

  /** Another node began a connection by the tuple of one before it had heard of that; its commit may yet replace it. */
  #loseTuple(slot: number, node: NodeState, stamp: number): void {
    const live = this.#live;
    const owner = live.owner(slot);
    if (owner === node || live.isHeld(slot) || !isNewer(stamp, node, live.stamp(slot), owner)) return;
    this.#end(slot, "lost", stamp);
    if (live.isHeld(slot)) live.setAside(slot);
  }

  /** A node has replaced what it had begun by a connection that had been set aside for that. */
  #putBack(slot: number, node: NodeState): void {
    const live = this.#live;
    const { table } = live;
    const other = table.find(table.slab(slot), table.base(slot));
    if (other >= 0 && live.isHeld(other)) this.#release(other);
    else if (other >= 0) this.#displace(other, node);
    live.putBack(slot);
  }

  /** Takes a row out whose tuple its node has anew: its end is in the same message, or was missed. */
  #displace(slot: number, node: NodeState): void {
    const live = this.#live;
    const draft = live.draft(slot, this.#toldStamp);
    const flowId = live.owner(slot) === node && live.isMapped(slot) ? live.flowId(slot) : -1 - slot;
    this.#displaced.set(flowId, draft);
    live.remove(slot);
  }

  /** The row of a tuple for a node that claims it, alive again where its end waits; -1: there is none, or it is another's; or STALE. */
  #takeUp(slot: number, node: NodeState, stamp: number, birth: number): number {
    const live = this.#live;
    if (slot < 0 || !live.isHeld(slot)) return slot;
    const owner = live.owner(slot);
    if (!live.isClaimOf(slot, this.#record, birth)) {
      if (owner === node) this.#release(slot);
      else live.setAside(slot);
      return -1;
    }
    if (owner !== node && !isNewer(stamp, node, live.stamp(slot), owner)) return STALE;
    this.#held.take(live.heldAt(slot));
    live.resume(slot);
    return slot;
  }

  #applyUpdates(node: NodeState, envelope: Envelope): void {
    const section = this.#view.updates();
    if (section === null) return;
    section.take("f");
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    const { table } = this.#live;
    let taken = false;
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot < 0) continue;
      if (!taken) section.takeAll();
      taken = true;
      const slab = table.slab(slot);
      const base = table.base(slot);
      readUpdateRow(section, row, slab, base);
      slab[base + W_UPDATED] = wallSeconds;
      this.#live.touch(slot, envelope.stamp);
      const rare = this.#view.rare(2, row);
      if (rare !== null) table.rare.set(slot, { ...table.rare.get(slot), ...rare });
      this.#listener.changed?.("updated", slot);
    }
  }

  #applyDestroys(node: NodeState, envelope: Envelope): void {
    const section = this.#view.destroys();
    if (section === null) return;
    section.take("f");
    const { table } = this.#live;
    let taken = false;
    for (let row = 0; row < section.rows; row++) {
      const flowId = section.flowId[row]!;
      const slot = node.slots.get(flowId);
      const draft = this.#displaced.get(flowId);
      if (slot < 0 && draft === undefined) continue;
      if (!taken) section.takeAll();
      taken = true;
      const ending = endingOf(section, row, envelope.stamp, node.aheadMs);
      if (draft !== undefined) {
        this.#displaced.delete(flowId);
        setState(draft.words, 0, section.protocolState[row]!);
        this.#finish(draft, ending, true);
        continue;
      }
      setState(table.slab(slot), table.base(slot), section.protocolState[row]!);
      this.#finishSlot(slot, ending);
    }
  }

  #applyMoved(node: NodeState, envelope: Envelope): void {
    const section = this.#view.moved();
    if (section === null) return;
    section.takeAll();
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot < 0) continue;
      const name = this.#view.movedTo(section.owner[row]!);
      const stamp = stampIn(section.stamp, row);
      // An owner that the message does not name: nobody can tell where it is.
      if (name === null || this.#nodes.length >= NODES_MAX) {
        this.#live.markMayMiss(slot);
        this.#end(slot, "lost", envelope.stamp);
        continue;
      }
      const to = this.node(name);
      if (to.heard < stamp) {
        this.#live.depart(slot, to, stamp, this.#aheadMs);
        this.#listener.changed?.("moved", slot);
        continue;
      }
      // That claim was read, or lies before what is read: the flow has ended there meanwhile.
      const endStamp = to.snapshotStamp >= stamp ? Math.min(to.snapshotStamp, envelope.stamp) : envelope.stamp;
      this.#end(slot, "lost", endStamp);
    }
  }

  /** Ends the rows of a node that its complete snapshot has not taken up. */
  #sweepOrphans(node: NodeState, stamp: number): void {
    const live = this.#live;
    node.hasOrphans = false;
    for (let slot = 0; slot < live.table.slotsUsed; slot++) {
      if (!live.table.isLive(slot) || live.owner(slot) !== node) continue;
      if (live.isHeld(slot) || live.isMapped(slot)) continue;
      if (live.stamp(slot) > stamp) node.hasOrphans = true;
      else this.#end(slot, "lost", stamp);
    }
  }

  /** A chunk states the flow ids [from, to) whole: those that it does not list have ended. */
  #sweepRange(
    node: NodeState,
    { from, to }: { readonly from: number; readonly to: number },
    new4: NewSection | null,
    new6: NewSection | null,
    stamp: number,
  ): void {
    const end = Math.min(to, node.slots.length);
    const isStated = statedIn(new4, new6);
    for (let flowId = from; flowId < end; flowId++) {
      const slot = node.slots.get(flowId);
      if (slot >= 0 && !isStated(flowId)) this.#end(slot, "lost", stamp);
    }
  }

  #end(slot: number, end: "lost" | "ended", stamp: number): void {
    this.#finishSlot(slot, { ...NO_ENDING, end, stamp, aheadMs: this.#aheadMs });
  }

  #finishSlot(slot: number, ending: Ending): void {
    const live = this.#live;
    if (msOfEnding(ending) < this.#sinceMs) {
      live.remove(slot);
      return;
    }
    // Nobody else is there to take it up, or would have by now.
    if (this.#nodes.length < 2 || this.#toldStamp + HOLD_STAMPS < this.#stamp) {
      const draft = live.draft(slot, ending.stamp);
      const whole = live.isWhole(slot);
      live.remove(slot);
      this.#finish(draft, ending, whole);
      return;
    }
    if (this.#listener.over !== undefined) {
      const connection = this.#recordOf(live.draft(slot, ending.stamp), ending);
      if (connection !== null) this.#listener.over(connection);
    }
    if (this.#held.isFull) this.#release(this.#held.oldest());
    live.hold(slot, this.#held.push(slot, this.#toldStamp, ending));
  }

  #release(slot: number): void {
    const live = this.#live;
    const { ending, told } = this.#held.take(live.heldAt(slot));
    // Without what was missed behind the end.
    const connection = this.#recordOf(live.draft(slot, ending.stamp - 1), ending);
    const end: EndTold = { node: live.owner(slot).name, stamp: told, whole: live.isWhole(slot) };
    live.remove(slot);
    if (connection !== null) this.#listener.ended(connection, end);
  }

  #finish(draft: Draft, ending: Ending, whole: boolean): void {
    const connection = this.#recordOf(draft, ending);
    if (connection === null) return;
    this.#listener.over?.(connection);
    this.#listener.ended(connection, { node: this.#toldBy, stamp: this.#toldStamp, whole });
  }

  #recordOf(draft: Draft, ending: Ending): Connection | null {
    if (msOfEnding(ending) < this.#sinceMs || !this.#filter.accepts(draft.words, 0)) return null;
    return new ConnectionRecord(draft, ending, this.#uidOf);
  }
}
