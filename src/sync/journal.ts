import type { Logger } from "pino";
import type { InternalCache } from "../cache/internal.js";
import { ROW_DEAD, ROW_NEW } from "../cache/internal.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { BatchEncoder } from "../stream/batch.js";
import type { Envelope } from "../stream/envelope.js";
import { type Mark, MarkCodec } from "../stream/mark.js";
import type { MessageKind } from "../stream/subjects.js";

/** What the journal writes to: the publisher of this node's stream. */
export interface JournalSink {
  /** Hands a message over; never blocks. */
  publish(kind: MessageKind, number: number, payload: Uint8Array): unknown;
  /** Publishes and resolves with the message's stream sequence once confirmed; null when it was dropped. */
  publishAcked(kind: MessageKind, number: number, payload: Uint8Array): Promise<number | null>;
  /** What waits for its confirmation. */
  readonly backlog: { readonly bytes: number };
}

/** What a journal counts; the group `journal` of `stats`. */
export interface JournalCounters {
  batches: number;
  rows: number;
  bytes: number;
  marks: number;
  snapshots: number;
  snapshotsAbandoned: number;
  snapshotChunks: number;
}

/** Rows of a snapshot chunk at the most, and slots looked at for one: what bounds a step of a snapshot. */
const CHUNK_ROWS_MAX = 1024;
const CHUNK_SLOTS_MAX = 16_384;
/** A snapshot waits while so much is unconfirmed, so that it never pushes events out of the publisher's ring. */
const SNAPSHOT_BACKLOG_BYTES_MAX = 8 * 1024 * 1024;
const SNAPSHOT_WAIT_MS = 5;

/**
 * Writes this node's stream: numbers and stamps every message of the epoch, turns pending rows of the internal cache into
 * batches, and writes snapshots slot range by slot range between them. Before each chunk all pending rows go out, so the
 * chunk is exact at its place in the order.
 */
export class Journal {
  readonly epoch: number;
  readonly counters: JournalCounters = {
    batches: 0,
    rows: 0,
    bytes: 0,
    marks: 0,
    snapshots: 0,
    snapshotsAbandoned: 0,
    snapshotChunks: 0,
  };
  readonly #node: string;
  readonly #internal: InternalCache;
  readonly #sink: JournalSink;
  readonly #clock: Clock;
  readonly #hybridClock: HybridClock;
  readonly #log: Logger;
  readonly #encoder = new BatchEncoder();
  readonly #marks = new MarkCodec();
  #number = 0;
  #snapshotSequence = 0;
  #snapshotRunning: Promise<boolean> | null = null;

  constructor(options: {
    node: string;
    epoch: number;
    internal: InternalCache;
    sink: JournalSink;
    clock: Clock;
    hybridClock: HybridClock;
    log: Logger;
  }) {
    this.#node = options.node;
    this.epoch = options.epoch;
    this.#internal = options.internal;
    this.#sink = options.sink;
    this.#clock = options.clock;
    this.#hybridClock = options.hybridClock;
    this.#log = options.log;
  }

  /** Number of the last message written. */
  get number(): number {
    return this.#number;
  }

  /** Publishes everything that waits in the internal cache; returns how many rows went out. */
  writePending(): number {
    let rows = 0;
    while (this.#internal.pendingCount > 0) rows += this.#writeBatch();
    return rows;
  }

  #writeBatch(): number {
    const internal = this.#internal;
    const encoder = this.#encoder;
    let taken = 0;
    while (taken < internal.pendingCount && !encoder.full) {
      const slot = internal.pendingSlot(taken++);
      const slab = internal.table.slab(slot);
      const base = internal.table.base(slot);
      const bits = internal.rowBits(slot);
      const dead = (bits & ROW_DEAD) !== 0;
      if ((bits & ROW_NEW) !== 0) encoder.addNew(slot, slab, base, internal.table.rare.get(slot) ?? null, false);
      else if (!dead) encoder.addUpdate(slot, slab, base, internal.table.rare.get(slot) ?? null);
      if (dead) encoder.addDestroy(slot, slab, base, internal.ending(slot));
    }
    const envelope = this.#nextEnvelope();
    const rows = encoder.rows;
    const payload = encoder.encode(envelope, null);
    internal.settle(taken, envelope.stamp);
    this.counters.batches++;
    this.counters.rows += rows;
    this.counters.bytes += payload.length;
    this.#sink.publish("ev", envelope.number, payload);
    return rows;
  }

  /** Publishes a mark, after the rows that wait. */
  writeMark(mark: Mark): void {
    this.writePending();
    const envelope = this.#nextEnvelope();
    this.counters.marks++;
    this.#sink.publish("mark", envelope.number, this.#marks.encode(envelope, mark, this.#snapshotSequence));
  }

  /**
   * Writes a snapshot into the stream; one at a time, a second call joins the running one. Resolves with false when it was
   * cut short (the broker away, `signal`): readers then ignore it.
   */
  writeSnapshot(signal: AbortSignal): Promise<boolean> {
    this.#snapshotRunning ??= this.#snapshot(signal).finally(() => {
      this.#snapshotRunning = null;
    });
    return this.#snapshotRunning;
  }

  async #snapshot(signal: AbortSignal): Promise<boolean> {
    const startedMs = this.#clock.wallMs();
    const id = startedMs;
    const beginSequence = await this.#markAcked({ type: "snapshot-begin", id, flows: this.#internal.table.size });
    if (beginSequence === null || !(await this.#writeChunks(signal))) return this.#abandoned();
    const end: Mark = { type: "snapshot-end", id, flows: this.#internal.table.size };
    if ((await this.#markAcked(end, beginSequence)) === null) return this.#abandoned();
    this.#snapshotSequence = beginSequence;
    this.counters.snapshots++;
    const durationMs = this.#clock.wallMs() - startedMs;
    this.#log.info({ flows: this.#internal.table.size, beginSequence, durationMs }, "snapshot written");
    return true;
  }

  #abandoned(): false {
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

  /** Writes the chunk that begins at slot `from`; returns where the next begins, null after the last. */
  #writeChunk(from: number): number | null {
    this.writePending();
    const { table } = this.#internal;
    const end = Math.min(from + CHUNK_SLOTS_MAX, table.slotsUsed);
    let slot = from;
    for (; slot < end && this.#encoder.rows < CHUNK_ROWS_MAX; slot++) {
      if (!this.#internal.isFlow(slot)) continue;
      this.#encoder.addNew(slot, table.slab(slot), table.base(slot), table.rare.get(slot) ?? null, true);
    }
    const last = slot >= table.slotsUsed;
    const envelope = this.#nextEnvelope();
    const payload = this.#encoder.encode(envelope, { from, to: last ? 0xffffffff : slot });
    this.counters.snapshotChunks++;
    this.counters.bytes += payload.length;
    this.#sink.publish("snap", envelope.number, payload);
    return last ? null : slot;
  }

  async #markAcked(mark: Mark, snapshotSequence = this.#snapshotSequence): Promise<number | null> {
    this.writePending();
    const envelope = this.#nextEnvelope();
    this.counters.marks++;
    return this.#sink.publishAcked("mark", envelope.number, this.#marks.encode(envelope, mark, snapshotSequence));
  }

  #nextEnvelope(): Envelope {
    this.#number++;
    return {
      node: this.#node,
      epoch: this.epoch,
      number: this.#number,
      stamp: this.#hybridClock.next(),
      wallMs: this.#clock.wallMs(),
    };
  }
}
