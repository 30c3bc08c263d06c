import assert from "node:assert/strict";
import type { Logger } from "pino";
import { secondsLeft } from "../../cache/expectation-row.js";
import type { InternalCache } from "../../cache/internal.js";
import type { ClaimedExpectation } from "../../cache/internal-expectations.js";
import type { Clock, HybridClock } from "../../flow/clock.js";
import { PUBLISH_DESTROY, PUBLISH_MOVED, PUBLISH_NEW, PUBLISH_UPDATE } from "../../ownership/state.js";
import { BatchEncoder } from "../../stream/format/batch.js";
import type { Envelope } from "../../stream/format/envelope.js";
import { BATCH_EXPECTATIONS_MAX } from "../../stream/format/expectation.js";
import { type Mark, MarkCodec, type Role } from "../../stream/format/mark.js";
import { FORMAT_1, type FormatVersion } from "../../stream/format/versions.js";
import type { JournalSink } from "../ports/own-stream.js";

/** Limit of rows in a snapshot chunk, and of slots read for one. It bounds each step of a snapshot. */
const CHUNK_ROWS_MAX = 1024;
const CHUNK_SLOTS_MAX = 16_384;
/** Beyond the last slot. */
const SLOTS_END = 0xffffffff;
/**
 * A snapshot waits while this many bytes are unconfirmed, so that it never pushes events out of the publisher's ring.
 */
const SNAPSHOT_BACKLOG_BYTES_MAX = 8 * 1024 * 1024;
const SNAPSHOT_WAIT_MS = 5;
/**
 * A snapshot is due when the events since the last one have this many times its bytes, and at least the bytes below.
 */
const SNAPSHOT_DUE_FACTOR = 2;
const SNAPSHOT_DUE_BYTES_MIN = 4 * 1024 * 1024;

/** The sink of a node that publishes nothing. */
const NOWHERE: JournalSink = { publish: () => undefined, publishAcked: async () => null, backlog: { bytes: 0 } };

/**
 * What a restarted daemon restored from its own stream: the position where that ended, and its last complete snapshot.
 */
export interface Continuation {
  readonly epoch: number;
  readonly number: number;
  readonly snapshotSequence: number;
}

/**
 * Writes this node's stream. It numbers and stamps every message of the epoch, turns pending rows of the internal cache
 * into batches, and writes snapshots between them, one range of slots after the other. All pending rows are published
 * before each chunk, so a chunk is exact at its place in the order.
 */
export class Journal {
  readonly epoch: number;
  /** This node's role, which every mark carries. */
  role: Role = "unknown";
  /** The format version of the messages from now on. Each message can be read by itself, so it may change at any time. */
  format: FormatVersion = FORMAT_1;
  /** The group `journal` of `stats`. */
  readonly counters = {
    batches: 0,
    rows: 0,
    bytes: 0,
    marks: 0,
    snapshots: 0,
    snapshotsAbandoned: 0,
    /** Requests of peers for a snapshot, and how many of them had to wait. */
    snapshotsAsked: 0,
    snapshotsPostponed: 0,
    snapshotChunks: 0,
    snapshotBytes: 0,
  };
  readonly #node: string;
  readonly #internal: InternalCache;
  readonly #sink: JournalSink;
  readonly #isSilent: boolean;
  readonly #clock: Clock;
  readonly #hybridClock: HybridClock;
  readonly #log: Logger;
  readonly #encoder = new BatchEncoder();
  readonly #marks = new MarkCodec();
  #number = 0;
  #tally = { flows: 0, flowsAt: 0 };
  #snapshotSequence: number;
  /** Bytes of the last snapshot, and of the events since it began. */
  #snapshotBytes = 0;
  #eventBytes = 0;
  #snapshotRunning: Promise<boolean> | null = null;
  #spoiled = false;

  constructor(options: {
    node: string;
    epoch: number;
    /** Null: this epoch resumes nothing and begins with a snapshot. */
    continues: Continuation | null;
    internal: InternalCache;
    /** Null: nothing is published, and pending rows only leave the list. */
    sink: JournalSink | null;
    clock: Clock;
    hybridClock: HybridClock;
    log: Logger;
  }) {
    this.#node = options.node;
    this.#snapshotSequence = options.continues?.snapshotSequence ?? 0;
    this.epoch = options.epoch;
    this.#internal = options.internal;
    this.#sink = options.sink ?? NOWHERE;
    this.#isSilent = options.sink === null;
    this.#clock = options.clock;
    this.#hybridClock = options.hybridClock;
    this.#log = options.log;
  }

  /** Batch number of the last message. */
  get number(): number {
    return this.#number;
  }

  /**
   * How many flows are alive by what the stream holds, and the batch number behind which they were counted. Nothing was
   * pending then.
   */
  get tally(): { readonly flows: number; readonly flowsAt: number } {
    return this.#tally;
  }

  /** Publishes all pending rows of the internal cache; returns how many were published. */
  writePending(): number {
    if (this.#isSilent) return this.#settlePending();
    let rows = 0;
    const { expectations } = this.#internal;
    while (this.#internal.pendingCount > 0 || expectations.pendingCount > 0) rows += this.#writeBatch();
    this.#count();
    return rows;
  }

  /** Nothing is published: the pending rows only leave the list. */
  #settlePending(): number {
    const internal = this.#internal;
    const rows = internal.pendingCount;
    if (rows > 0) internal.settle(rows, this.#hybridClock.next());
    return rows;
  }

  /**
   * Counts the flows while nothing is pending. Marks and chunks count as positions as well: at the end of a snapshot, a
   * reader has removed what the snapshot did not list.
   */
  #count(): void {
    this.#tally = { flows: this.#internal.inStream, flowsAt: this.#number };
  }

  #writeBatch(): number {
    const internal = this.#internal;
    const encoder = this.#encoder;
    let taken = 0;
    while (taken < internal.pendingCount && !encoder.full) {
      const slot = internal.pendingSlot(taken++);
      this.#addRow(slot, internal.publication(slot));
    }
    const expectations = internal.expectations.pending(BATCH_EXPECTATIONS_MAX);
    this.#addExpectations(expectations.rows);
    for (const expectation of expectations.ended) encoder.addExpectationEnd(expectation);
    const rows = encoder.rows + encoder.expectations;
    if (rows === 0) {
      internal.settle(taken, this.#hybridClock.next());
      return 0;
    }
    const envelope = this.#nextEnvelope();
    const payload = encoder.encode(envelope, null, this.format);
    internal.settle(taken, envelope.stamp);
    internal.expectations.settle(expectations, envelope.stamp);
    this.counters.batches++;
    this.counters.rows += rows;
    this.counters.bytes += payload.length;
    this.#eventBytes += payload.length;
    this.#sink.publish("ev", envelope.number, payload);
    return rows;
  }

  #addRow(slot: number, publication: number): void {
    const { table } = this.#internal;
    const slab = table.slab(slot);
    const base = table.base(slot);
    const rare = table.rare.get(slot) ?? null;
    if ((publication & PUBLISH_NEW) !== 0) {
      const stated = this.#internal.isClaimedAgain(slot) ? { stamp: this.#internal.stamp(slot) } : null;
      // If the flow is over already, its tuple may appear again in the same message. Two births keep the two flows
      // apart.
      const isOver = (publication & PUBLISH_DESTROY) !== 0;
      const birth = table.birth(slot) || (isOver ? this.#hybridClock.next() : 0);
      this.#encoder.addNew(slot, slab, base, rare, stated, birth);
    }
    if ((publication & PUBLISH_UPDATE) !== 0) this.#encoder.addUpdate(slot, slab, base, rare);
    if ((publication & PUBLISH_DESTROY) !== 0) this.#encoder.addDestroy(slot, slab, base, this.#internal.ending(slot));
    if ((publication & PUBLISH_MOVED) !== 0) {
      const owner = this.#internal.newerOwner(slot);
      assert(owner !== undefined, "a moved row has a newer owner");
      this.#encoder.addMoved(slot, owner.node, owner.stamp);
    }
  }

  #addExpectations(rows: Iterable<ClaimedExpectation>): void {
    const nowSeconds = Math.floor(this.#clock.wallMs() / 1000);
    for (const row of rows) {
      this.#encoder.addExpectation(row.expectation, secondsLeft(row, nowSeconds), row.createdSeconds, row.stamp);
    }
  }

  /** True when a snapshot would save readers more than it costs. */
  get snapshotDue(): boolean {
    return !this.#isSilent && this.#eventBytes > snapshotDueBytes(this.#snapshotBytes);
  }

  /**
   * Publishes a mark after the pending rows. The first mark of an epoch is its first message, so the rows follow it.
   */
  writeMark(mark: Mark): void {
    if (this.#isSilent) return;
    if (mark.type !== "epoch") this.writePending();
    const envelope = this.#nextEnvelope();
    this.counters.marks++;
    this.#sink.publish("mark", envelope.number, this.#packMark(envelope, mark, this.#snapshotSequence));
    if (mark.type !== "epoch") this.#count();
  }

  /**
   * Writes a snapshot into the stream. Only one runs at a time: a second call joins it. Resolves with false when it was
   * cut short (no broker, or `signal`); readers then ignore it.
   */
  writeSnapshot(signal: AbortSignal): Promise<boolean> {
    if (this.#isSilent) return Promise.resolve(true);
    this.#snapshotRunning ??= this.#snapshot(signal).finally(() => {
      this.#spoiled = false;
      this.#snapshotRunning = null;
    });
    return this.#snapshotRunning;
  }

  /**
   * Messages did not reach the stream. Publishes a gap mark with the reason and then a snapshot, even while another one
   * is being written, because that one is now incomplete.
   */
  async lost(reason: string, signal: AbortSignal): Promise<void> {
    this.writeMark({ type: "gap", reason });
    this.#spoiled = this.#snapshotRunning !== null;
    await this.#snapshotRunning;
    if (!signal.aborted) await this.writeSnapshot(signal);
  }

  async #snapshot(signal: AbortSignal): Promise<boolean> {
    const startedMs = this.#clock.wallMs();
    const id = startedMs;
    const bytesBefore = this.counters.snapshotBytes;
    const eventBytes = this.#eventBytes;
    this.#eventBytes = 0;
    const beginSequence = await this.#markAcked({ type: "snapshot-begin", id, flows: this.#internal.table.size });
    if (beginSequence === null || !(await this.#writeChunks(signal))) return this.#abandoned(eventBytes);
    const end: Mark = { type: "snapshot-end", id, flows: this.#internal.table.size };
    if (this.#spoiled || (await this.#markAcked(end, beginSequence)) === null) return this.#abandoned(eventBytes);
    this.#snapshotSequence = beginSequence;
    this.#snapshotBytes = this.counters.snapshotBytes - bytesBefore;
    this.counters.snapshots++;
    const durationMs = this.#clock.wallMs() - startedMs;
    this.#log.info({ flows: this.#internal.table.size, beginSequence, durationMs }, "snapshot written");
    return true;
  }

  #abandoned(eventBytes: number): false {
    this.#eventBytes += eventBytes;
    this.counters.snapshotsAbandoned++;
    this.#log.warn("snapshot abandoned: the broker did not take all of it");
    return false;
  }

  async #writeChunks(signal: AbortSignal): Promise<boolean> {
    for (let from: number | null = 0; from !== null; ) {
      if (signal.aborted) return false;
      if (this.#sink.backlog.bytes > SNAPSHOT_BACKLOG_BYTES_MAX) {
        await new Promise((resolve) => setTimeout(resolve, SNAPSHOT_WAIT_MS));
        continue;
      }
      from = this.#writeChunk(from);
      await new Promise(setImmediate);
    }
    return true;
  }

  /** Writes the chunk that begins at slot `from`. Returns where the next one begins; null after the last. */
  #writeChunk(from: number): number | null {
    this.writePending();
    const { table } = this.#internal;
    const end = Math.min(from + CHUNK_SLOTS_MAX, table.slotsUsed);
    let slot = from;
    for (; slot < end && this.#encoder.rows < CHUNK_ROWS_MAX && !this.#encoder.full; slot++) {
      if (!this.#internal.isFlow(slot) || this.#internal.isSuperseded(slot)) continue;
      const stated = { stamp: this.#internal.stamp(slot) };
      const rare = table.rare.get(slot) ?? null;
      this.#encoder.addNew(slot, table.slab(slot), table.base(slot), rare, stated, table.birth(slot));
    }
    if (slot < table.slotsUsed) {
      this.#publishChunk(from, slot);
      return slot;
    }
    this.#writeLastChunk(from);
    return null;
  }

  /**
   * Writes the last chunk, which holds the expectations. If they are many, more chunks follow, all at one place in the
   * order.
   */
  #writeLastChunk(from: number): void {
    const rows = [...this.#internal.expectations.claimed()];
    this.#addExpectations(rows.splice(0, BATCH_EXPECTATIONS_MAX));
    this.#publishChunk(from, SLOTS_END);
    while (rows.length > 0) {
      this.#addExpectations(rows.splice(0, BATCH_EXPECTATIONS_MAX));
      this.#publishChunk(SLOTS_END, SLOTS_END);
    }
  }

  #publishChunk(from: number, to: number): void {
    const envelope = this.#nextEnvelope();
    const payload = this.#encoder.encode(envelope, { from, to }, this.format);
    this.counters.snapshotChunks++;
    this.counters.snapshotBytes += payload.length;
    this.#sink.publish("snap", envelope.number, payload);
    this.#count();
  }

  async #markAcked(mark: Mark, snapshotSequence = this.#snapshotSequence): Promise<number | null> {
    this.writePending();
    const envelope = this.#nextEnvelope();
    this.counters.marks++;
    this.#count();
    return this.#sink.publishAcked("mark", envelope.number, this.#packMark(envelope, mark, snapshotSequence));
  }

  #packMark(envelope: Envelope, mark: Mark, snapshotSequence: number): Uint8Array {
    return this.#marks.encode(envelope, mark, snapshotSequence, this.role, this.format);
  }

  /** The envelope of a message that does not go into the stream: at the place of the last one. */
  get envelope(): Envelope {
    return this.#envelope();
  }

  #nextEnvelope(): Envelope {
    this.#number++;
    return this.#envelope();
  }

  #envelope(): Envelope {
    return {
      node: this.#node,
      epoch: this.epoch,
      number: this.#number,
      stamp: this.#hybridClock.next(),
      wallMs: this.#clock.wallMs(),
    };
  }
}

/** Bytes of events after which a snapshot is due, given the bytes of the last one. */
export function snapshotDueBytes(snapshotBytes: number): number {
  return Math.max(SNAPSHOT_DUE_BYTES_MIN, SNAPSHOT_DUE_FACTOR * snapshotBytes);
}
