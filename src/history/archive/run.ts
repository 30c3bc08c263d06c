/** Reads the streams and archives the connections that have ended, each once, however often it is stopped and started. */
import { STAMPS_PER_MS, stampMs, stampOfMs } from "../../flow/clock.js";
import { type Envelope, isAfter } from "../../stream/format/envelope.js";
import type { Connection } from "../connection.js";
import { HOLD_STAMPS } from "../scan/held-ends.js";
import type { Merge } from "../scan/merge.js";
import { mergeStreams, NEW_STREAMS_EVERY_MS } from "../scan/merged-streams.js";
import { Projection } from "../scan/projection.js";
import type { EndSource } from "../scan/reports.js";
import { compileRowFilter } from "../scan/row-filter.js";
import type { StreamSource } from "../scan/source.js";
import { StreamTips } from "../scan/stream-tips.js";
import type { HistoryStreams } from "../scan/streams.js";
import { FLUSH_MS, FLUSH_ROWS } from "./limits.js";
import type { ArchivePlace, ArchiveState } from "./state.js";
import type { ArchiveWriter, ArchiveWriterCounters } from "./writer.js";

/** What a run reads and writes, and who listens. */
export interface ArchiveRunOptions {
  readonly streams: HistoryStreams;
  readonly nodes: readonly string[];
  readonly writer: ArchiveWriter;
  /** True: follows the streams until the signal. False: ends where the streams end. */
  readonly live: boolean;
  /** Whole days that are older than this are removed. */
  readonly maxAgeMs: number;
  /** The wall clock, milliseconds since the Unix epoch. */
  readonly now: () => number;
  readonly signal: AbortSignal;
  /** Called about once a second, and at the end. */
  readonly onProgress: (report: ArchiveReport) => void;
  /** Called with each failure that is tried again. */
  readonly onFailure: (error: unknown) => void;
  readonly flushRows?: number;
  readonly flushMs?: number;
  readonly settleMs?: number;
}

/** How far an archiver has come. */
export interface ArchiveReport extends ArchiveWriterCounters {
  /** All ends up to this time are in files, milliseconds since the Unix epoch; null: there is no file. */
  readonly archivedUntilMs: number | null;
  /** Connections that have ended but are not in a file yet. */
  readonly waiting: number;
  /** Connections that are alive at the place up to which the streams have been read. */
  readonly open: number;
  readonly failures: number;
}

/** A connection that was open for longer than this when the archiver was restarted may lack the first nodes of its path. */
const LOOK_BACK_MS = 24 * 3_600_000;
/** How many rows of messages are read in a turn of the event loop. Between two turns DuckDB's thread gets its next page. */
const TURN_EVENTS = 1000;
const TURN_MESSAGES = 256;
/** How long a live archiver leaves a message alone, because the copies of other nodes' streams may bring older messages. */
const SETTLE_MS = 10_000;
/** So long after a late message, ends since its stamp are still looked up in the archive after a restart. */
const LATE_STAMPS = 600_000 * STAMPS_PER_MS;
const REST_MS = 100;
const TICK_MS = 1000;
const REPORT_EVERY_MS = 1000;
const RETRY_MS = 10_000;
const RETENTION_EVERY_MS = 3_600_000;

/**
 * Archives the connections that have ended since the archive was last written, each once. It reads again from the birth of the oldest
 * connection that was open then, and leaves out the ends in messages that the archiver had read before.
 */
export class ArchiveRun {
  readonly #options: ArchiveRunOptions;
  readonly #projection: Projection;
  /** Where the archive ended when this run began, and the stamp up to which no end was held then. */
  readonly #before: Readonly<Record<string, ArchivePlace>>;
  readonly #beforeSettled: number;
  readonly #places: Record<string, ArchivePlace>;
  /** The message that is being applied; null: ends are released because time has passed. */
  #message: Envelope | null = null;
  #gapsFrom: number;
  /** The least stamp of the messages that came late, and the stamp up to which the streams had been read by then. */
  #lateFrom = Number.POSITIVE_INFINITY;
  #lateUntil = 0;
  #waitingSinceMs: number | null = null;
  #flushing: Promise<void> | null = null;
  #failures = 0;
  #retryAtMs = 0;
  #retentionAtMs = 0;
  #reportAtMs = 0;

  constructor(options: ArchiveRunOptions) {
    this.#options = options;
    const state = options.writer.state;
    this.#before = state?.places ?? {};
    this.#beforeSettled = state?.settled ?? state?.stamp ?? 0;
    this.#places = { ...this.#before };
    this.#gapsFrom = state?.stamp ?? 0;
    this.#projection = new Projection({
      filter: compileRowFilter({}),
      sinceMs: null,
      listener: { ended: (connection, source) => this.#ended(connection, source), changed: null },
    });
  }

  /**
   * Runs until the streams end or the signal comes.
   * @throws the error that ended the reading early; ConntrailError STORE when the last file cannot be written
   */
  async run(): Promise<void> {
    const { streams, nodes, live, writer, signal, now, settleMs = SETTLE_MS } = this.#options;
    const range = { sinceMs: startMs(writer.state), live };
    const { merge } = await mergeStreams(streams, nodes, this.#projection, range, signal);
    const tips = new StreamTips(streams, merge, this.#projection, { range, now });
    let waiting: Promise<void> | null = null;
    try {
      let turnEnd = TURN_EVENTS;
      for (let turn = 1; !signal.aborted; turn++) {
        const { events } = this.#projection.counters;
        if (events >= turnEnd || turn % TURN_MESSAGES === 0) {
          turnEnd = events + TURN_EVENTS;
          await new Promise(setImmediate);
        }
        const source = merge.next();
        if (live) tips.ask(this.#mustAsk(source, tips, merge) ? TICK_MS : NEW_STREAMS_EVERY_MS);
        if (source !== null && live && source.headTimeMs > tips.knownMs - settleMs) {
          await tick(REST_MS);
        } else if (source === null) {
          if (merge.ended) break;
          waiting ??= merge.wait().finally(() => {
            waiting = null;
          });
          await Promise.race([waiting, tick(TICK_MS)]);
          if (merge.idle) this.#settle(tips.knownMs - settleMs);
        } else {
          const { envelope } = source.head;
          this.#message = envelope;
          this.#noteLate(envelope.stamp);
          this.#projection.apply(source.node, source.head, source.jump);
          this.#pass(source.node.name, envelope);
          source.advance();
        }
        await this.#keepUp();
      }
      if (!live && !signal.aborted) this.#settle(now());
      await this.#flushing;
      if (!signal.aborted || live) await this.#flush();
    } finally {
      merge.close();
      await this.#flushing;
      this.#report();
    }
  }

  /** True if something depends on what the streams hold now: a message or ends that are due, or a stream that is waited for. */
  #mustAsk(source: StreamSource | null, tips: StreamTips, merge: Merge): boolean {
    if (source === null) return this.#projection.held > 0 || !merge.idle;
    const { now, settleMs = SETTLE_MS } = this.#options;
    return source.headTimeMs > tips.knownMs - settleMs && source.headTimeMs <= now() - settleMs;
  }

  #ended(connection: Connection, source: EndSource): void {
    const { writer, now } = this.#options;
    const by = this.#message;
    const isBefore = source.stamp <= (this.#before[source.node]?.stamp ?? 0);
    const byBefore = by !== null && by.stamp <= this.#beforeSettled && this.#isBefore(by);
    if (isBefore && (byBefore || source.stamp + HOLD_STAMPS < this.#beforeSettled)) return;
    // The archive may hold such a connection, whatever the places say.
    const isLate = isBefore || !source.whole || (by !== null && by.stamp <= (writer.state?.stamp ?? -1));
    writer.add(connection, isLate);
    this.#waitingSinceMs ??= now();
  }

  #isBefore({ node, epoch, number }: Envelope): boolean {
    const archived = this.#before[node];
    return archived !== undefined && !isAfter({ epoch, number }, archived);
  }

  /** Takes note of a message that came late. Until its stream's next snapshot, connections that seem alive may have ended. */
  #noteLate(stamp: number): void {
    const { stamp: read } = this.#projection;
    if (stamp >= read) {
      if (read > this.#lateUntil + LATE_STAMPS) this.#lateFrom = Number.POSITIVE_INFINITY;
      return;
    }
    this.#lateFrom = Math.min(this.#lateFrom, stamp);
    this.#lateUntil = read;
  }

  /** Archives the held ends of connections that no node can take up any more at that time. */
  #settle(timeMs: number): void {
    this.#message = null;
    this.#projection.settle(stampOfMs(timeMs));
  }

  #pass(name: string, { node, epoch, number, stamp }: Envelope): void {
    if (node !== name) return;
    const place = this.#places[node];
    if (place === undefined || isAfter({ epoch, number }, place)) this.#places[node] = { epoch, number, stamp };
  }

  /**
   * Begins to write a file when enough has gathered. Reading continues meanwhile until as much has gathered again. So if files cannot
   * be written, reading stops, and nothing is lost.
   */
  async #keepUp(): Promise<void> {
    const { writer, now, signal, flushRows = FLUSH_ROWS, flushMs = FLUSH_MS } = this.#options;
    for (;;) {
      const nowMs = now();
      if (nowMs >= this.#retentionAtMs) await this.#retain(nowMs);
      if (nowMs >= this.#reportAtMs) this.#report();
      const due = this.#waitingSinceMs !== null && nowMs - this.#waitingSinceMs >= flushMs;
      if (this.#flushing === null && (writer.rows >= flushRows || due) && nowMs >= this.#retryAtMs) this.#beginFlush();
      if (writer.unwritten < 2 * flushRows || signal.aborted) return;
      await (this.#flushing ?? tick(TICK_MS));
    }
  }

  #beginFlush(): void {
    const waitingSinceMs = this.#waitingSinceMs;
    this.#flushing = this.#flush()
      .catch((error: unknown) => {
        // For example, the disk is full. What has gathered is kept, and written later.
        this.#failures++;
        this.#retryAtMs = this.#options.now() + RETRY_MS;
        this.#waitingSinceMs = waitingSinceMs;
        this.#options.onFailure(error);
      })
      .finally(() => {
        this.#flushing = null;
      });
  }

  async #flush(): Promise<void> {
    const { writer } = this.#options;
    this.#waitingSinceMs = null;
    const { stamp } = this.#projection;
    const settled = Math.min(this.#projection.settled, this.#lateFrom);
    const from = Math.min(this.#projection.oldestBirth, stamp);
    const gaps = this.#projection.gaps(this.#gapsFrom, stamp);
    await writer.flush({ version: 1, places: { ...this.#places }, stamp, settled, from, gaps });
    this.#gapsFrom = stamp;
    this.#report();
  }

  async #retain(nowMs: number): Promise<void> {
    this.#retentionAtMs = nowMs + RETENTION_EVERY_MS;
    await this.#options.writer.removeBefore(nowMs - this.#options.maxAgeMs).catch(this.#options.onFailure);
    this.#report();
  }

  #report(): void {
    const { writer, onProgress, now } = this.#options;
    this.#reportAtMs = now() + REPORT_EVERY_MS;
    onProgress({
      ...writer.counters,
      archivedUntilMs: writer.state === null ? null : stampMs(writer.state.stamp),
      waiting: writer.unwritten + this.#projection.held,
      open: this.#projection.size,
      failures: this.#failures,
    });
  }
}

/** The time from which the streams must be read so that all connections that were open are known; null: from the beginning. */
function startMs(state: ArchiveState | null): number | null {
  if (state === null || state.stamp === 0) return null;
  return Math.max(stampMs(state.from), stampMs(state.stamp) - LOOK_BACK_MS);
}

function tick(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
