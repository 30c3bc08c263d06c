import type { Logger } from "pino";
import { type ExternalCache, ROWS_AHEAD } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { HybridClock } from "../../flow/clock.js";
import { type Expectation, expectationKey } from "../../flow/expectation.js";
import { RECORD_WORDS, W_CREATED, W_UPDATED } from "../../flow/record.js";
import { FLOW_ID_MAX } from "../../flow/slot-map.js";
import { isNewerClaim } from "../../ownership/claim.js";
import { BatchDecoder, readNewRow, readUpdateRow } from "../../stream/format/batch.js";
import { type DestroySection, hasFlowId, type NewSection } from "../../stream/format/columns.js";
import {
  createPackr,
  type Envelope,
  foreignMessage,
  implausible,
  isAfter,
  type Position,
} from "../../stream/format/envelope.js";
import type { StreamExpectation } from "../../stream/format/expectation.js";
import { type DecodedMark, epochBegin, type Mark, MarkCodec, tableGoesOn } from "../../stream/format/mark.js";
import type { MessageKind } from "../../stream/format/subjects.js";
import { FORMATS, type Formats } from "../../stream/format/versions.js";
import { Losses, type Repair } from "./losses.js";

/** Limit of the rows that a daemon that starts may have to answer. */
const UNANSWERED_MAX = 1 << 16;

/** A message of a stream, from whichever broker it was read. */
export interface StreamPayload {
  readonly kind: MessageKind;
  readonly payload: Uint8Array;
  /** When the broker stored it, milliseconds since the Unix epoch; absent where that is unknown. */
  readonly timeMs?: number;
}

/** The counters of an applier. */
export interface ApplierCounters {
  rows: number;
  malformed: number;
  /** Messages that were applied before, or that belong to an earlier epoch. */
  outdated: number;
  /** Places in the stream where batch numbers are missing. */
  holes: number;
  epochs: number;
  snapshots: number;
  gapMarks: number;
  /** Messages that cannot be from this node: another name, or an epoch or stamp in the future. */
  refused: number;
  /** Impossible rows: claims newer than their message, or flow ids above every possible table. */
  rowsRefused: number;
  /** Rows for which the external cache had no room. */
  rowsWithoutRoom: number;
}

/** What was refused or found no room since the last complete snapshot of a stream. */
export interface Refusals {
  /** Messages and rows that were malformed or refused, and the reason for the last one. */
  readonly refused: number;
  readonly reason: string;
  /** Rows that found no room. */
  readonly noRoom: number;
}

/** A daemon of the node whose stream is applied, as the first mark of its epoch describes it. */
export interface BegunEpoch {
  readonly epoch: number;
  /** The format versions that it reads; null: the mark names none. */
  readonly reads: readonly number[] | null;
}

/** This node's own flows, as an applier needs them for rows of flows that this kernel has too. */
export interface LocalFlows {
  /** This node's name. */
  readonly node: string;
  readonly internal: InternalCache;
  /** This daemon's first stamp. */
  readonly sinceStamp: number;
}

/**
 * Applies one node's stream to an external cache, message by message in order. The cache holds that node's exact table
 * (`exact`) once a complete snapshot has been read, and until a batch number is missing. Malformed messages are counted
 * and skipped.
 */
export class Applier {
  readonly node: string;
  readonly counters: ApplierCounters = {
    rows: 0,
    malformed: 0,
    outdated: 0,
    holes: 0,
    epochs: 0,
    snapshots: 0,
    gapMarks: 0,
    refused: 0,
    rowsRefused: 0,
    rowsWithoutRoom: 0,
  };
  readonly #external: ExternalCache;
  readonly #local: LocalFlows | null;
  readonly #hybridClock: HybridClock;
  readonly #log: Logger;
  readonly #onRepair: (repair: Repair) => void;
  readonly #origin: number;
  readonly #formats: Formats;
  readonly #decoder: BatchDecoder;
  readonly #marks: MarkCodec;
  readonly #packr = createPackr();
  readonly #records = Array.from({ length: ROWS_AHEAD }, () => new Uint32Array(RECORD_WORDS));
  readonly #hashes = new Int32Array(ROWS_AHEAD);
  #epoch = 0;
  #number = 0;
  /** The furthest position ever applied. A message before it is a repetition. */
  #seen: Position = { epoch: 0, number: 0 };
  #fresh = true;
  #goesOn = false;
  #exact = false;
  readonly #losses = new Losses();
  #snapshotId = 0;
  /** Flow ids of rows that were older than this node's, with the slots of those. A daemon before may not have answered. */
  readonly #unanswered = new Map<number, number>();
  #wallMs = 0;
  #lastSnapshotSequence = 0;
  #begun: BegunEpoch = { epoch: 0, reads: null };
  /**
   * Messages and rows refused in all, and how many of them came before the last complete snapshot or the one being
   * read.
   */
  #refused = 0;
  #refusedBefore = 0;
  #refusedAtBegin = 0;
  #noRoom = 0;
  #noRoomBefore = 0;
  #noRoomAtBegin = 0;
  #refusal = "";
  #offences = 0;

  constructor(options: {
    node: string;
    external: ExternalCache;
    /** Null on a node without a kernel: rows of flows that this node owns then do not matter. */
    local: LocalFlows | null;
    /** The versions that are read; those of this build unless the caller has others. */
    formats?: Formats;
    hybridClock: HybridClock;
    /** Called when a complete snapshot has made something good that concerns other streams, too. */
    onRepair?: (repair: Repair) => void;
    log: Logger;
  }) {
    const { formats = FORMATS, onRepair = () => undefined } = options;
    this.#onRepair = onRepair;
    this.#formats = formats;
    this.#decoder = new BatchDecoder(formats);
    this.#marks = new MarkCodec(formats);
    this.node = options.node;
    this.#external = options.external;
    this.#local = options.local;
    this.#hybridClock = options.hybridClock;
    this.#log = options.log;
    this.#origin = options.external.origin(options.node);
  }

  /** True while the cache holds this node's exact table as of `position`. */
  get exact(): boolean {
    return this.#exact;
  }

  /** True between the begin and the end mark of a snapshot that may make it exact. */
  get inSnapshot(): boolean {
    return this.#snapshotId !== 0;
  }

  /** The stream sequence of the begin mark of the last complete snapshot, as a mark names it; 0 when it names none. */
  snapshotSequenceOf(mark: Uint8Array): number {
    return this.#marks.decode(mark)?.snapshotSequence ?? 0;
  }

  get position(): Position {
    return { epoch: this.#epoch, number: this.#number };
  }

  /** Wall clock of the last message's writer, milliseconds since the Unix epoch. */
  get wallMs(): number {
    return this.#wallMs;
  }

  /** What the last mark named: the stream sequence of the begin mark of the writer's last complete snapshot. */
  get lastSnapshotSequence(): number {
    return this.#lastSnapshotSequence;
  }

  /** The last epoch whose first mark was read; epoch 0 before there is one. */
  get begun(): BegunEpoch {
    return this.#begun;
  }

  /** Number of flows in the cache that the node owns. */
  get flows(): number {
    return this.#external.flowsOf(this.#origin);
  }

  /** True while the cache takes another flow and another expectation of this peer. */
  get hasRoom(): boolean {
    const nowSeconds = Math.floor(this.#hybridClock.wallMs() / 1000);
    return this.#external.hasRoomFor(this.#origin) && this.#external.expectations.hasRoom(this.node, nowSeconds);
  }

  /** What was refused or found no room since the last complete snapshot. */
  get refusals(): Refusals {
    const refused = this.#refused - this.#refusedBefore;
    return { refused, reason: refused === 0 ? "" : this.#refusal, noRoom: this.#noRoom - this.#noRoomBefore };
  }

  /**
   * Grows with each message in which there is something that no sound peer writes. A version that is not read is nothing of
   * that kind.
   */
  get offences(): number {
    return this.#offences;
  }

  /** The next message may come from any place, even before the last one. Everything is applied again. */
  restart(): void {
    if (this.#epoch !== 0) this.#external.forgetFlowIds(this.#origin);
    this.#epoch = 0;
    this.#number = 0;
    this.#snapshotId = 0;
    this.#exact = false;
  }

  /** The stream is another one, or has lost its end: nothing of what comes next was ever applied. */
  forget(): void {
    this.#losses.retract();
    this.#seen = { epoch: 0, number: 0 };
    this.#begun = { epoch: 0, reads: null };
  }

  /**
   * Applies a message. `localMs` is when it was written, by the best estimate of this node's clock. False when the
   * message was malformed.
   */
  apply(message: StreamPayload, localMs: number): boolean {
    const nowMs = Math.max(this.#hybridClock.wallMs(), message.timeMs ?? 0);
    const sound = message.kind === "mark" ? this.#mark(message.payload, nowMs) : this.#batch(message, localMs, nowMs);
    if (!sound) this.#unread(message.payload, nowMs);
    this.#local?.internal.peerApplied();
    return sound;
  }

  /**
   * A message that is malformed, or of a version that is not read. The latter has its place in the order, so that no
   * number is missing after it. But what it says is unknown, so the table is no longer exact.
   */
  #unread(payload: Uint8Array, nowMs: number): void {
    this.counters.malformed++;
    const foreign = foreignMessage(this.#packr, payload, this.#formats);
    if (foreign === null) this.#offences++;
    this.#refuse(foreign === null ? "a message is malformed" : `a message is of format ${foreign.version}`);
    if (foreign === null || !this.#accept(foreign.envelope, null, nowMs)) return;
    this.#exact = false;
    this.#snapshotId = 0;
  }

  /** Only the first refusal of each kind is logged. */
  #refuse(reason: string): void {
    this.#refused++;
    if (reason !== this.#refusal) this.#log.warn({ peer: this.node, reason }, "a message of the peer was refused");
    this.#refusal = reason;
  }

  #refuseRow(reason: string): void {
    this.counters.rowsRefused++;
    this.#offences++;
    this.#refuse(reason);
  }

  /** Messages are skipped from here on: reading begins at a later snapshot. */
  skip(): void {
    this.#losses.skip();
  }

  /** No daemon of this node has read the messages from here on before. */
  goOn(): void {
    this.#goesOn = true;
  }

  /**
   * What was kept of the stream has been read. This node claims again what the peer still takes for its own by older
   * claims, because the last daemon may have ended before it could.
   */
  answer(): void {
    const { internal } = this.#local ?? {};
    for (const slot of this.#unanswered.values()) if (internal?.isFlow(slot) === true) internal.claimAgain(slot);
    this.#unanswered.clear();
  }

  /** True when this node has yet to answer a row that is older than its own. `stamp` is that of the row's claim. */
  #isNews(local: LocalFlows, stamp: number): boolean {
    return this.#fresh && (this.#goesOn || stamp > local.sinceStamp);
  }

  /**
   * Follows epoch and batch number. False when the message must not be applied, because it is old or from another node.
   */
  #accept(envelope: Envelope, mark: Mark | null, nowMs: number): boolean {
    const { epoch, number } = envelope;
    const reason = implausible(envelope, this.node, nowMs);
    if (reason !== null) {
      this.counters.refused++;
      this.#offences++;
      this.#refuse(reason);
      return false;
    }
    if (epoch < this.#epoch || (epoch === this.#epoch && number <= this.#number)) {
      this.counters.outdated++;
      return false;
    }
    if (epoch > this.#epoch) this.#beginEpoch(envelope, mark);
    else if (number !== this.#number + 1) this.#hole(envelope);
    this.#epoch = epoch;
    this.#number = number;
    this.#fresh = isAfter(envelope, this.#seen);
    if (this.#fresh) this.#seen = { epoch, number };
    this.#hybridClock.observe(envelope.stamp);
    this.#wallMs = envelope.wallMs;
    return true;
  }

  /**
   * A restarted daemon that restored its table resumes where it was, so its flow ids stay valid. Otherwise they are
   * discarded.
   */
  #beginEpoch(envelope: Envelope, mark: Mark | null): void {
    if (this.#epoch === 0) return;
    this.counters.epochs++;
    // A snapshot that was being written then never ends.
    this.#snapshotId = 0;
    const begin = epochBegin(envelope.number, mark);
    if (tableGoesOn(begin, this.position)) return;
    this.#losses.noteEpoch(begin, this.position);
    this.#exact = false;
    this.#external.forgetFlowIds(this.#origin);
  }

  #hole(envelope: Envelope): void {
    this.counters.holes++;
    this.#losses.skip();
    this.#exact = false;
    this.#snapshotId = 0;
    this.#log.warn({ peer: this.node, after: this.#number, next: envelope.number }, "messages of the peer are missing");
  }

  #mark(payload: Uint8Array, nowMs: number): boolean {
    const decoded = this.#marks.decode(payload);
    if (decoded === null) return false;
    if (this.#accept(decoded.envelope, decoded.mark, nowMs)) this.#applyMark(decoded);
    return true;
  }

  #applyMark({ envelope, mark, snapshotSequence }: DecodedMark): void {
    this.#lastSnapshotSequence = snapshotSequence;
    this.#external.heard(this.#origin, envelope.stamp);
    switch (mark.type) {
      case "snapshot-begin":
        this.#snapshotId = mark.id;
        this.#refusedAtBegin = this.#refused;
        this.#noRoomAtBegin = this.#noRoom;
        this.#external.expectations.beginSnapshot(this.node);
        break;
      case "snapshot-end":
        if (mark.id !== this.#snapshotId) break;
        this.#snapshotId = 0;
        this.counters.snapshots++;
        this.#external.sweepOrphans(this.#origin);
        this.#external.expectations.endSnapshot(this.node);
        this.#refusedBefore = this.#refusedAtBegin;
        this.#noRoomBefore = this.#noRoomAtBegin;
        if (!this.#exact) this.#log.info({ peer: this.node, flows: this.flows }, "in sync with the peer");
        this.#exact = true;
        this.#losses.repair(this.#onRepair);
        break;
      case "gap":
        this.counters.gapMarks++;
        if (this.#fresh) this.#log.warn({ peer: this.node, reason: mark.reason }, "the peer may have missed events");
        break;
      case "epoch":
        this.#begun = { epoch: envelope.epoch, reads: mark.reads ?? null };
        if (this.#fresh) this.#log.info({ peer: this.node, mark }, "peer");
        break;
      case "role":
      case "commit":
      case "stop":
      case "unknown":
        if (this.#fresh) this.#log.info({ peer: this.node, mark }, "peer");
        break;
    }
  }

  #batch({ payload }: StreamPayload, localMs: number, nowMs: number): boolean {
    const envelope = this.#decoder.decode(payload);
    if (envelope === null) return false;
    if (!this.#accept(envelope, null, nowMs)) return true;
    const { new4, new6, updates, destroys, range } = this.#decoder;
    const localSeconds = Math.floor(localMs / 1000);
    this.#applyNew(new4, 0, envelope, localSeconds);
    this.#applyNew(new6, 1, envelope, localSeconds);
    this.#applyUpdates(envelope, localSeconds);
    this.#applyDestroys(destroys);
    this.#applyMoved(envelope);
    for (const stated of this.#decoder.expectations) this.#applyExpectation(stated, envelope, localSeconds);
    this.#external.heard(this.#origin, envelope.stamp);
    if (range !== null) this.#external.sweepRange(this.#origin, range.from, range.to, hasFlowId(new4, new6));
    this.counters.rows += new4.rows + new6.rows + updates.rows + destroys.rows;
    this.counters.rows += this.#decoder.expectations.length;
    return true;
  }

  #applyNew(section: NewSection, index: 0 | 1, envelope: Envelope, localSeconds: number): void {
    const { table } = this.#external;
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    const ownStamp = envelope.stamp;
    const rare = this.#decoder.rare[index];
    for (let row = 0; row < section.rows; row++) {
      if (row % ROWS_AHEAD === 0) {
        const end = Math.min(row + ROWS_AHEAD, section.rows);
        for (let next = row; next < end; next++) {
          const words = this.#records[next - row]!;
          readNewRow(section, next, words);
          this.#hashes[next - row] = table.hash(words, 0);
        }
        table.readAhead(this.#hashes, end - row);
      }
      const flowId = section.flowId[row]!;
      if (flowId > FLOW_ID_MAX) {
        this.#refuseRow("a flow id lies beyond all tables");
        continue;
      }
      const words = this.#records[row % ROWS_AHEAD]!;
      words[W_UPDATED] = localSeconds;
      // The age is kept instead of the time, because the peer's clock may differ from ours.
      words[W_CREATED] = words[W_CREATED] === 0 ? localSeconds : localSeconds - (wallSeconds - words[W_CREATED]!);
      const stamp = section.stamp[row] === 0 ? ownStamp : section.stamp[row]!;
      const birth = section.birth[row] === 0 ? stamp : section.birth[row]!;
      if (!isStampUpTo(stamp, ownStamp) || !isStampUpTo(birth, ownStamp)) {
        this.#external.disclaim(this.#origin, flowId);
        this.#refuseRow("a claim is newer than its message");
        continue;
      }
      if (this.#local !== null && this.#localIsNewer(this.#local, words, flowId, stamp, birth)) {
        this.#external.disclaim(this.#origin, flowId);
        continue;
      }
      const known = rare.get(row) ?? null;
      const outcome = this.#external.upsert(this.#origin, flowId, words, known, stamp, birth, this.#isOver);
      if (this.#unanswered.size > 0) this.#unanswered.delete(flowId);
      if (outcome === "full") this.#countNoRoom();
    }
  }

  #countNoRoom(): void {
    this.#noRoom++;
    this.counters.rowsWithoutRoom++;
  }

  /** True for a flow id that also ends in this message. The search is long, and only two claims to one tuple need it. */
  readonly #isOver = (flowId: number): boolean => {
    const { destroys } = this.#decoder;
    return destroys.flowId.subarray(0, destroys.rows).includes(flowId);
  };

  /** True when this node's own kernel has newer news of the flow. Otherwise the local row is marked superseded. */
  #localIsNewer(local: LocalFlows, words: Uint32Array, flowId: number, stamp: number, birth: number): boolean {
    const { internal } = local;
    const slot = internal.table.size === 0 ? -1 : internal.table.find(words, 0);
    if (slot < 0) return false;
    const isNewer = isNewerClaim(stamp, this.node, internal.stamp(slot), local.node);
    if (isNewer && (internal.isSuperseded(slot) || birth === internal.table.birth(slot) || !this.#isOver(flowId))) {
      internal.supersede(slot, { node: this.node, stamp });
      return false;
    }
    this.#external.counters.stale++;
    // A message that was published before this daemon started was answered then, unless that daemon died.
    if (this.#isNews(local, stamp)) internal.claimAgain(slot);
    else if (this.#fresh && this.#unanswered.size < UNANSWERED_MAX) this.#unanswered.set(flowId, slot);
    return true;
  }

  #applyUpdates(envelope: Envelope, localSeconds: number): void {
    const { updates } = this.#decoder;
    const { table } = this.#external;
    const rare = this.#decoder.rare[2];
    for (let row = 0; row < updates.rows; row++) {
      const slot = this.#external.slotOf(this.#origin, updates.flowId[row]!);
      if (slot < 0) {
        this.#external.counters.unknown++;
        continue;
      }
      const slab = table.slab(slot);
      const base = table.base(slot);
      readUpdateRow(updates, row, slab, base);
      slab[base + W_UPDATED] = localSeconds;
      this.#external.changed(slot, rare.get(row) ?? null, envelope.stamp);
    }
  }

  #applyMoved(envelope: Envelope): void {
    const { moved, movedTo } = this.#decoder;
    for (let row = 0; row < moved.rows; row++) {
      // The decoder has checked that each has a name.
      const owner = movedTo[moved.owner[row]!] ?? "";
      if (!isStampUpTo(moved.stamp[row]!, envelope.stamp)) {
        this.#refuseRow("a claim is newer than its message");
        continue;
      }
      this.#unanswered.delete(moved.flowId[row]!);
      const elsewhere = owner === this.#local?.node ? null : owner;
      this.#external.moved(this.#origin, moved.flowId[row]!, elsewhere, moved.stamp[row]!);
    }
  }

  #applyExpectation(stated: StreamExpectation, envelope: Envelope, localSeconds: number): void {
    const { expectation, ended, createdSeconds } = stated;
    const external = this.#external.expectations;
    if (ended) {
      this.#local?.internal.expectations.endElsewhere(expectationKey(expectation));
      external.destroy(this.node, expectation);
      return;
    }
    const stamp = stated.stamp === 0 ? envelope.stamp : stated.stamp;
    if (!isStampUpTo(stamp, envelope.stamp)) {
      this.#refuseRow("a claim is newer than its message");
      return;
    }
    if (this.#local !== null && this.#localExpectationIsNewer(this.#local, expectation, stamp)) return;
    const age = Math.max(0, Math.floor(envelope.wallMs / 1000) - createdSeconds);
    const row = { expectation, createdSeconds: localSeconds - age, updatedSeconds: localSeconds };
    if (external.upsert(this.node, row, stamp) === "full") this.#countNoRoom();
  }

  /** As `#localIsNewer`, for an expectation. */
  #localExpectationIsNewer(local: LocalFlows, expectation: Expectation, stamp: number): boolean {
    const internal = local.internal.expectations;
    if (internal.size === 0) return false;
    const key = expectationKey(expectation);
    const ownStamp = internal.stamp(key);
    if (ownStamp === null) return false;
    if (isNewerClaim(stamp, this.node, ownStamp, local.node)) {
      internal.supersede(key);
      return false;
    }
    this.#external.expectations.counters.stale++;
    if (this.#isNews(local, stamp)) internal.claimAgain(key);
    return true;
  }

  #applyDestroys({ flowId, rows }: DestroySection): void {
    for (let row = 0; row < rows; row++) {
      if (row % ROWS_AHEAD === 0) this.#external.readAhead(this.#origin, flowId, row, Math.min(row + ROWS_AHEAD, rows));
      this.#applyDestroy(flowId[row]!);
    }
  }

  #applyDestroy(flowId: number): void {
    if (this.#unanswered.size > 0) this.#unanswered.delete(flowId);
    const { table } = this.#external;
    const slot = this.#external.slotOf(this.#origin, flowId);
    const internal = this.#local?.internal;
    if (slot >= 0 && internal !== undefined && internal.table.size > 0) {
      const local = internal.table.find(table.slab(slot), table.base(slot));
      if (local >= 0) internal.endElsewhere(local);
    }
    this.#external.destroy(this.#origin, flowId);
  }
}

/**
 * True for a stamp that the writer can have known when it wrote the message: a whole number, not after the message's
 * own.
 */
function isStampUpTo(stamp: number, newest: number): boolean {
  return stamp >= 0 && stamp <= newest && Math.floor(stamp) === stamp;
}
