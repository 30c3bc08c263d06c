import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import { FLOW_ID_MAX } from "../cache/slot-map.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { RECORD_WORDS, W_CREATED, W_UPDATED } from "../flow/record.js";
import { BatchDecoder, readNewRow, readUpdateRow } from "../stream/batch.js";
import type { NewSection } from "../stream/columns.js";
import type { Envelope } from "../stream/envelope.js";
import { MarkCodec } from "../stream/mark.js";
import type { ReaderItem, StreamMessage } from "../stream/reader.js";

/** The stream of one peer, as the follower reads it. */
export interface PeerStream {
  /** The stream's last mark; null when there is none. */
  readLast(kind: "mark", signal: AbortSignal): Promise<StreamMessage | null>;
  /** Items from a stream sequence on, in order, until the signal or a reset. */
  read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]>;
}

/** What a follower counts; the group `reader.<peer>` of `stats`. */
export interface FollowerCounters {
  messages: number;
  bytes: number;
  rows: number;
  malformed: number;
  /** Messages of an epoch that is over, or read before. */
  outdated: number;
  /** Holes in the batch numbers of an epoch. */
  holes: number;
  epochs: number;
  snapshots: number;
  resets: number;
  gapMarks: number;
  reconnects: number;
}

/** What `status` says of a peer. */
export interface FollowerState {
  readonly connected: boolean;
  readonly inSync: boolean;
  readonly lagEvents: number;
  readonly lagMs: number;
  /** Wall clock of the last message; null when none was heard yet. */
  readonly lastHeardMs: number | null;
  readonly epoch: number | null;
  /** Stream sequence of the last message read; 0 before the first. */
  readonly sequence: number;
}

/**
 * The way in: one peer's stream into the external cache. Starts at the begin mark of the peer's last complete snapshot and
 * applies everything in order; in sync once that snapshot's end mark was reached and no number is missing since.
 */
export class Follower {
  readonly node: string;
  readonly counters: FollowerCounters = {
    messages: 0,
    bytes: 0,
    rows: 0,
    malformed: 0,
    outdated: 0,
    holes: 0,
    epochs: 0,
    snapshots: 0,
    resets: 0,
    gapMarks: 0,
    reconnects: 0,
  };
  readonly #stream: PeerStream;
  readonly #external: ExternalCache;
  readonly #internal: InternalCache;
  readonly #hybridClock: HybridClock;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #reassert: (slot: number) => void;
  readonly #sinceStamp: number;
  readonly #origin: number;
  readonly #decoder = new BatchDecoder();
  readonly #marks = new MarkCodec();
  readonly #record = new Uint32Array(RECORD_WORDS);
  #sequence = 0;
  #epoch = 0;
  #number = 0;
  /** The furthest place ever read: what comes before it is a repetition. */
  #seenEpoch = 0;
  #seenNumber = 0;
  #fresh = true;
  #connected = false;
  /** Holds the exact state of the peer: a snapshot was read whole and nothing is missing since. */
  #exact = false;
  #holed = false;
  #snapshotId = 0;
  #pending = 0;
  #lastHeardMs: number | null = null;
  #appliedWallMs = 0;
  readonly #waiters = new Set<() => void>();
  #restart = new AbortController();

  constructor(options: {
    node: string;
    stream: PeerStream;
    external: ExternalCache;
    internal: InternalCache;
    hybridClock: HybridClock;
    clock: Clock;
    log: Logger;
    /** Called with the slot of an internal row that a peer's message was older than. */
    reassert: (slot: number) => void;
    /** This daemon's first stamp. */
    sinceStamp: number;
  }) {
    this.node = options.node;
    this.#stream = options.stream;
    this.#external = options.external;
    this.#internal = options.internal;
    this.#hybridClock = options.hybridClock;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#reassert = options.reassert;
    this.#sinceStamp = options.sinceStamp;
    this.#origin = options.external.origin(options.node);
  }

  get state(): FollowerState {
    const behind = this.#pending > 0;
    return {
      connected: this.#connected,
      inSync: this.#connected && this.#exact && !behind,
      lagEvents: this.#pending,
      lagMs: behind ? Math.max(0, this.#clock.wallMs() - this.#appliedWallMs) : 0,
      lastHeardMs: this.#lastHeardMs,
      epoch: this.#epoch === 0 ? null : this.#epoch,
      sequence: this.#sequence,
    };
  }

  /** Flows of the peer in the external cache. */
  get flows(): number {
    return this.#external.flowsOf(this.#origin);
  }

  /** Reads the stream until the signal; resets and lost connections are ordinary. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#restart = new AbortController();
      const either = AbortSignal.any([signal, this.#restart.signal]);
      try {
        const start = await this.#startSequence(either);
        for await (const items of this.#stream.read(start, either)) this.#take(items);
      } catch (error) {
        if (!either.aborted) this.#log.warn({ err: error, peer: this.node }, "reading the peer's stream failed; again");
      }
      this.#exact = false;
      if (!either.aborted) await delay(RETRY_MS, undefined, { signal: either }).catch(() => undefined);
    }
    this.#connected = false;
  }

  /** Forgets where it is and reads again from the last complete snapshot (`resync peers`). */
  resync(): void {
    this.#exact = false;
    this.#restart.abort();
  }

  /** Resolves when the peer's state is held exactly, or with the signal. */
  async exact(signal: AbortSignal): Promise<void> {
    if (this.#exact || signal.aborted) return;
    await new Promise<void>((resolve) => {
      this.#waiters.add(resolve);
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  /** Reads again from the last complete snapshot if messages are missing (`hook backup`). */
  catchUp(): void {
    if (this.#holed) this.resync();
  }

  async #startSequence(signal: AbortSignal): Promise<number> {
    const last = await this.#stream.readLast("mark", signal);
    const mark = last === null ? null : this.#marks.decode(last.payload);
    if (this.#epoch !== 0) this.#external.forgetFlowIds(this.#origin);
    this.#epoch = 0;
    this.#number = 0;
    this.#snapshotId = 0;
    if (mark === null || mark.snapshotSequence === 0) return 1;
    this.#log.debug({ peer: this.node, from: mark.snapshotSequence }, "following from the last complete snapshot");
    return mark.snapshotSequence;
  }

  #take(items: readonly ReaderItem[]): void {
    for (const item of items) {
      switch (item.type) {
        case "state":
          if (item.connected && !this.#connected) this.counters.reconnects++;
          this.#connected = item.connected;
          break;
        case "reset":
          this.counters.resets++;
          this.#exact = false;
          this.#log.warn({ peer: this.node, reason: item.reason }, "the peer's stream was reset; reading it anew");
          break;
        case "message":
          this.#connected = true;
          this.#pending = item.pending;
          this.#message(item);
          break;
      }
    }
  }

  #message(message: StreamMessage): void {
    this.#sequence = message.sequence;
    this.counters.messages++;
    this.counters.bytes += message.payload.length;
    this.#lastHeardMs = this.#clock.wallMs();
    const applied = message.kind === "mark" ? this.#mark(message.payload) : this.#batch(message.payload);
    if (!applied) this.counters.malformed++;
  }

  /** Keeps track of (epoch, number). False when the message is not to be applied: it is old, or not this peer's. */
  #accept(envelope: Envelope): boolean {
    if (envelope.node !== this.node || envelope.epoch < this.#epoch) {
      this.counters.outdated++;
      return false;
    }
    if (envelope.epoch > this.#epoch) this.#beginEpoch(envelope.epoch);
    if (this.#number !== 0 && envelope.number <= this.#number) {
      this.counters.outdated++;
      return false;
    }
    if (this.#number !== 0 && envelope.number !== this.#number + 1) {
      this.counters.holes++;
      this.#exact = false;
      this.#holed = true;
      this.#log.warn(
        { peer: this.node, after: this.#number, next: envelope.number },
        "messages of the peer are missing",
      );
    }
    this.#number = envelope.number;
    this.#fresh = envelope.epoch > this.#seenEpoch || envelope.number > this.#seenNumber;
    if (this.#fresh) {
      this.#seenEpoch = envelope.epoch;
      this.#seenNumber = envelope.number;
    }
    this.#hybridClock.observe(envelope.stamp);
    this.#appliedWallMs = envelope.wallMs;
    return true;
  }

  #beginEpoch(epoch: number): void {
    if (this.#epoch !== 0) {
      this.counters.epochs++;
      this.#exact = false;
      this.#external.forgetFlowIds(this.#origin);
    }
    this.#epoch = epoch;
    this.#number = 0;
    this.#snapshotId = 0;
  }

  #mark(payload: Uint8Array): boolean {
    const decoded = this.#marks.decode(payload);
    if (decoded === null) return false;
    if (!this.#accept(decoded.envelope)) return true;
    const { mark } = decoded;
    switch (mark.type) {
      case "snapshot-begin":
        this.#snapshotId = mark.id;
        break;
      case "snapshot-end":
        if (mark.id !== this.#snapshotId) break;
        this.counters.snapshots++;
        this.#external.sweepOrphans(this.#origin);
        this.#exact = true;
        this.#holed = false;
        for (const resolve of this.#waiters) resolve();
        this.#waiters.clear();
        this.#log.info({ peer: this.node, flows: this.flows }, "in sync with the peer");
        break;
      case "gap":
        this.counters.gapMarks++;
        this.#log.warn({ peer: this.node, reason: mark.reason }, "the peer may have missed events");
        break;
      case "epoch":
      case "role":
      case "commit":
      case "stop":
        this.#log.info({ peer: this.node, mark }, "peer");
        break;
    }
    return true;
  }

  #batch(payload: Uint8Array): boolean {
    const envelope = this.#decoder.decode(payload);
    if (envelope === null) return false;
    if (!this.#accept(envelope)) return true;
    const { new4, new6, updates, destroys, range } = this.#decoder;
    this.#applyNew(new4, 0, envelope);
    this.#applyNew(new6, 1, envelope);
    this.#applyUpdates(envelope);
    for (let row = 0; row < destroys.rows; row++) this.#applyDestroy(destroys.flowId[row]!);
    if (range !== null) this.#external.sweepRange(this.#origin, range.from, range.to, statedIn(new4, new6));
    this.counters.rows += new4.rows + new6.rows + updates.rows + destroys.rows;
    return true;
  }

  #applyNew(section: NewSection, index: 0 | 1, envelope: Envelope): void {
    const words = this.#record;
    const internal = this.#internal.table;
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    for (let row = 0; row < section.rows; row++) {
      const flowId = section.flowId[row]!;
      if (flowId > FLOW_ID_MAX) continue;
      readNewRow(section, row, words);
      words[W_UPDATED] = wallSeconds;
      if (words[W_CREATED] === 0) words[W_CREATED] = wallSeconds;
      const local = internal.size === 0 ? -1 : internal.find(words, 0);
      if (local >= 0) {
        if (this.#internal.stamp(local) > envelope.stamp) {
          this.#external.counters.stale++;
          // What was told before this epoch, or read before, has long been answered by our own snapshot.
          if (this.#fresh && envelope.stamp > this.#sinceStamp) this.#reassert(local);
          continue;
        }
        this.#internal.supersede(local);
      }
      this.#external.upsert(this.#origin, flowId, words, this.#decoder.rare[index]?.get(row) ?? null, envelope.stamp);
    }
  }

  #applyDestroy(flowId: number): void {
    const { table } = this.#external;
    const slot = this.#external.slotOf(this.#origin, flowId);
    if (slot >= 0 && this.#internal.table.size > 0) {
      const local = this.#internal.table.find(table.slab(slot), table.base(slot));
      if (local >= 0 && this.#internal.isSuperseded(local)) this.#internal.endElsewhere(local);
    }
    this.#external.destroy(this.#origin, flowId);
  }

  #applyUpdates(envelope: Envelope): void {
    const { updates } = this.#decoder;
    const { table } = this.#external;
    const wallSeconds = Math.floor(envelope.wallMs / 1000);
    for (let row = 0; row < updates.rows; row++) {
      const slot = this.#external.slotOf(this.#origin, updates.flowId[row]!);
      if (slot < 0) {
        this.#external.counters.unknown++;
        continue;
      }
      const slab = table.slab(slot);
      const base = table.base(slot);
      readUpdateRow(updates, row, slab, base);
      slab[base + W_UPDATED] = wallSeconds;
      this.#external.changed(slot, this.#decoder.rare[2]?.get(row) ?? null, envelope.stamp);
    }
  }
}

const RETRY_MS = 200;

/** A test for "this chunk states the flow id", asked in ascending order: both sections are sorted by flow id. */
function statedIn(new4: NewSection, new6: NewSection): (flowId: number) => boolean {
  let row4 = 0;
  let row6 = 0;
  return (flowId) => {
    while (row4 < new4.rows && new4.flowId[row4]! < flowId) row4++;
    while (row6 < new6.rows && new6.flowId[row6]! < flowId) row6++;
    const stated4 = row4 < new4.rows && new4.flowId[row4] === flowId;
    return stated4 || (row6 < new6.rows && new6.flowId[row6] === flowId);
  };
}
