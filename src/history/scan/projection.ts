/**
 * Projects the messages of several streams, in the order of their stamps, to connections. Here the columns of each batch are
 * walked, and only the sections, columns and rows are unpacked that concern connections which a filter lets through; lifecycle.ts
 * says what the rows do to those. Memory grows with the connections that are alive at a time, not with the streams.
 */
import { W_PROTOINFO, W_UPDATED } from "../../flow/record.js";
import { FLOW_ID_MAX } from "../../flow/slot-map.js";
import { readNewRow, readUpdateRow } from "../../stream/format/batch.js";
import { BatchView } from "../../stream/format/batch-view.js";
import { BATCH_ROWS_MAX, hasFlowId, type NewSection } from "../../stream/format/columns.js";
import type { Envelope, OpenedMessage } from "../../stream/format/envelope.js";
import { type Mark, MarkCodec } from "../../stream/format/mark.js";
import type { Connection, Gap } from "../connection.js";
import { openEnding, readEnding } from "./ending.js";
import { Lifecycle } from "./lifecycle.js";
import { FLOWS_MAX, type LiveTable, NODES_MAX } from "./live-table.js";
import { NodeState, touchesRange } from "./node-state.js";
import { type ProjectionListener, Reports } from "./reports.js";
import type { RowFilter } from "./row-filter.js";

/** What a projection counts. */
export interface ProjectionCounters {
  messages: number;
  /** Rows of all messages, also of those that were skipped. */
  events: number;
  /** Messages that are damaged, of another version, or another node's. */
  malformed: number;
  /** Messages that were applied before. */
  outdated: number;
  /** Connections that found no room in the table. */
  full: number;
}

/** What a projection projects to. */
export interface ProjectionOptions {
  readonly filter: RowFilter;
  /** Ends before this time are not reported; null: all are. */
  readonly sinceMs: number | null;
  readonly listener: ProjectionListener;
  /** How many connections may be alive at a time. */
  readonly flowsMax?: number;
}

/** Follows the connections of all nodes through their streams, and reports their changes and ends to a listener. */
export class Projection {
  readonly counters: ProjectionCounters = { messages: 0, events: 0, malformed: 0, outdated: 0, full: 0 };
  readonly #nodes: NodeState[] = [];
  readonly #filter: RowFilter;
  readonly #reports: Reports;
  readonly #lifecycle: Lifecycle;
  readonly #live: LiveTable;
  readonly #view = new BatchView();
  readonly #marks = new MarkCodec();
  readonly #rows = new Uint16Array(BATCH_ROWS_MAX);
  readonly #isCandidate = new Uint8Array(BATCH_ROWS_MAX);
  #stamp = 0;

  constructor({ filter, sinceMs, listener, flowsMax = FLOWS_MAX }: ProjectionOptions) {
    this.#filter = filter;
    this.#reports = new Reports(filter, sinceMs, listener);
    this.#lifecycle = new Lifecycle(this.#nodes, flowsMax, this.#reports, this.counters);
    this.#live = this.#lifecycle.live;
  }

  /** The state of a node, made when the node is new. */
  node(name: string): NodeState {
    const known = this.#nodes.find((node) => node.name === name);
    if (known !== undefined) return known;
    if (this.#nodes.length >= NODES_MAX) throw new RangeError(`more than ${NODES_MAX} nodes`);
    const node = new NodeState(name, this.#nodes.length);
    this.#nodes.push(node);
    return node;
  }

  /** The greatest stamp of all messages that were applied. */
  get stamp(): number {
    return this.#stamp;
  }

  /** No end is held that was published HOLD_STAMPS before this stamp. */
  get settled(): number {
    return this.#lifecycle.held.settled;
  }

  /** Birth of the oldest connection that is alive, or whose end is held; Infinity where there is none. */
  get oldestBirth(): number {
    return this.#live.oldestBirth;
  }

  /** Connections that are alive, as far as the part of the filter that never changes can tell. */
  get size(): number {
    return this.#live.size - this.held;
  }

  /** Ends that are held. */
  get held(): number {
    return this.#lifecycle.held.count;
  }

  /**
   * Applies a node's next message. `jump`: the reader has skipped a part of the stream before it, so the flow ids known until then
   * mean nothing any more.
   */
  apply(node: NodeState, message: OpenedMessage, jump: boolean): void {
    const { envelope } = message;
    this.counters.messages++;
    const mark = this.#markOf(message);
    const isMalformed = message.kind === "mark" ? mark === null : !this.#view.load(message);
    if (isMalformed || envelope.node !== node.name) {
      this.counters.malformed++;
      return;
    }
    if (jump) node.jump();
    if (!node.accept(envelope, mark)) {
      this.counters.outdated++;
      return;
    }
    this.#lifecycle.beginMessage(node, envelope.stamp, this.#stamp);
    this.settle(Math.max(this.#stamp, envelope.stamp));
    if (mark === null) this.#applyBatch(node, envelope);
    else if (node.mark(mark, envelope.stamp) && node.hasUnmapped) this.#lifecycle.loseUnmapped(node, envelope.stamp);
    node.heard = envelope.stamp;
    if (envelope.stamp > this.#stamp) this.#stamp = envelope.stamp;
  }

  /**
   * Reports the held ends of connections that no node can take up any more at a stamp, `endsMax` of them at the most. Infinity as
   * stamp: reports all.
   */
  settle(stamp: number, endsMax = Number.POSITIVE_INFINITY): void {
    this.#lifecycle.held.settle(stamp, endsMax);
  }

  /** Takes note of a node's first message behind the range: it shows whether events are missing at the end of the range. */
  beyond(node: NodeState, message: OpenedMessage): void {
    if (message.envelope.node === node.name) node.beyond(message.envelope, this.#markOf(message));
  }

  /** A message of the node's stream could not be read. */
  skip(): void {
    this.counters.messages++;
    this.counters.malformed++;
  }

  /** The connections that are alive and pass the filter, in the order of their births. */
  *open(): Iterable<Connection> {
    for (const slot of this.#live.alive()) {
      const connection = this.connection(slot);
      if (this.#filter.accepts(connection.words, 0)) yield connection;
    }
  }

  /** A connection that is alive, in its present state. */
  connection(slot: number): Connection {
    const owner = this.#live.owner(slot);
    const copy = this.#live.copy(slot, Math.max(this.#stamp, owner.heard));
    // Another node has committed after this one's last message: had that node known the flow, it would carry it now.
    const isSilent = this.#nodes.some((node) => node !== owner && node.commitStamp > owner.heard);
    const mayMiss = copy.mayMiss || isSilent || owner.stopStamp > 0;
    return this.#reports.record({ ...copy, mayMiss }, openEnding(this.#stamp));
  }

  /** Where events may be missing between two stamps. */
  gaps(from: number, until: number): Gap[] {
    return this.#nodes.flatMap((node) => node.gapsBetween(from, until));
  }

  /** Where events may be missing between two times; null: from the beginning, to the end. */
  gapsBetween(sinceMs: number | null, untilMs: number | null): Gap[] {
    return this.gaps(0, Number.POSITIVE_INFINITY).filter((gap) => touchesRange(gap, sinceMs, untilMs));
  }

  #markOf(message: OpenedMessage): Mark | null {
    return message.kind === "mark" ? (this.#marks.decode(message.payload)?.mark ?? null) : null;
  }

  /** Applies the new rows before the ends. Sections in which nobody is interested are not opened. */
  #applyBatch(node: NodeState, envelope: Envelope): void {
    const view = this.#view;
    this.counters.events += view.rows;
    const new4 = view.newRows(0);
    const new6 = view.newRows(1);
    if (new4 !== null) this.#applyNew(node, new4, 0, envelope);
    if (new6 !== null) this.#applyNew(node, new6, 1, envelope);
    const lifecycle = this.#lifecycle;
    if (node.tracked > 0) this.#applyUpdates(node, envelope);
    if (node.tracked > 0 || lifecycle.hasReplaced) this.#applyDestroys(node, envelope);
    if (node.tracked > 0) this.#applyMoved(node);
    if (lifecycle.hasReplaced) lifecycle.loseReplaced();
    if (view.range !== null && node.tracked > 0) this.#applyRange(node, view.range, new4, new6, envelope.stamp);
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
    if (node.tracked > 0 && count < section.rows) this.#loseReused(node, section, count, envelope.stamp);
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    const lifecycle = this.#lifecycle;
    const { record } = lifecycle;
    for (let i = 0; i < count; i++) {
      const row = rows[i]!;
      const flowId = section.flowId[row]!;
      if (flowId > FLOW_ID_MAX) continue;
      readNewRow(section, row, record);
      record[W_UPDATED] = wallSeconds;
      const stamp = stampIn(section.stamp, row) || envelope.stamp;
      if (!this.#filter.matches(record, 0)) {
        lifecycle.passOver(node, flowId, stamp);
        continue;
      }
      const birth = stampIn(section.birth, row) || stamp;
      lifecycle.claim(node, flowId, this.#view.rare(family, row), stamp, birth);
    }
  }

  /** Ends the connections whose flow ids belong to rows now that are no candidates. */
  #loseReused(node: NodeState, section: NewSection, count: number, stamp: number): void {
    const rows = this.#rows;
    for (let i = 0; i < count; i++) this.#isCandidate[rows[i]!] = 1;
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot >= 0 && this.#isCandidate[row] === 0) this.#lifecycle.lose(slot, stamp);
    }
    for (let i = 0; i < count; i++) this.#isCandidate[rows[i]!] = 0;
  }

  #applyUpdates(node: NodeState, envelope: Envelope): void {
    const section = this.#view.updates();
    if (section === null) return;
    section.take("f");
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    const { table } = this.#live;
    let isTaken = false;
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot < 0) continue;
      if (!isTaken) section.takeAll();
      isTaken = true;
      readUpdateRow(section, row, table.slab(slot), table.base(slot));
      this.#lifecycle.updated(slot, this.#view.rare(2, row), wallSeconds);
    }
  }

  #applyDestroys(node: NodeState, envelope: Envelope): void {
    const section = this.#view.destroys();
    if (section === null) return;
    section.take("f");
    const { table } = this.#live;
    const lifecycle = this.#lifecycle;
    let isTaken = false;
    for (let row = 0; row < section.rows; row++) {
      const flowId = section.flowId[row]!;
      const slot = node.slots.get(flowId);
      const replaced = lifecycle.replaced(flowId);
      if (slot < 0 && replaced === undefined) continue;
      if (!isTaken) section.takeAll();
      isTaken = true;
      const ending = readEnding(section, row, envelope.stamp, node.aheadMs);
      const state = section.protocolState[row]!;
      if (replaced !== undefined) {
        setProtocolState(replaced.words, 0, state);
        lifecycle.endReplaced(flowId, replaced, ending);
        continue;
      }
      setProtocolState(table.slab(slot), table.base(slot), state);
      lifecycle.end(slot, ending);
    }
  }

  #applyMoved(node: NodeState): void {
    const section = this.#view.moved();
    if (section === null) return;
    section.takeAll();
    for (let row = 0; row < section.rows; row++) {
      const slot = node.slots.get(section.flowId[row]!);
      if (slot < 0) continue;
      const name = this.#view.movedTo(section.owner[row]!);
      if (name === null || this.#nodes.length >= NODES_MAX) this.#lifecycle.loseTrack(slot);
      else this.#lifecycle.giveUp(slot, this.node(name), stampIn(section.stamp, row));
    }
  }

  /** Ends the connections that a snapshot chunk does not list: it states all flow ids of its range. */
  #applyRange(
    node: NodeState,
    { from, to }: { readonly from: number; readonly to: number },
    new4: NewSection | null,
    new6: NewSection | null,
    stamp: number,
  ): void {
    new4?.take("f");
    new6?.take("f");
    const isStated = hasFlowId(new4, new6);
    node.slots.visitRange(from, to, (flowId, slot) => {
      if (!isStated(flowId)) this.#lifecycle.lose(slot, stamp);
    });
  }
}

/** The stamp of a row; 0 for none, and for a value that no clock has made. */
function stampIn(column: Float64Array, row: number): number {
  const value = column[row]!;
  return value > 0 && value <= Number.MAX_SAFE_INTEGER && Number.isInteger(value) ? value : 0;
}

/** Writes the last protocol state into a record. */
function setProtocolState(words: Uint32Array, base: number, state: number): void {
  const at = base + W_PROTOINFO;
  words[at] = (words[at]! & ~0xff) | state;
}
