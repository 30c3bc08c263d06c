import { stampMs, stampOfMs } from "../../src/flow/clock.js";
import { RECORD_WORDS, W_CREATED, W_STATUS } from "../../src/flow/record.js";
import type { HistoryStreams } from "../../src/history/scan/streams.js";
import { BatchEncoder } from "../../src/stream/format/batch.js";
import { createEnvelopeReader, type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import type { StoredMessage } from "../../src/stream/own-stream.js";
import type { ReaderItem, StreamMessage } from "../../src/stream/reader.js";
import type { StreamBounds, StreamLookup } from "../../src/stream/stream-index.js";
import { type Random, tcpRecord } from "./records.js";

/** A stream in memory, of which a test may cut off the beginning. */
export class StoredStream implements StreamLookup {
  readonly messages: StreamMessage[];
  /** The first message that is kept. */
  first = 1;
  readonly #envelopeOf = createEnvelopeReader();

  constructor(messages: StreamMessage[] = []) {
    this.messages = messages;
  }

  append(kind: MessageKind, payload: Uint8Array): number {
    const sequence = this.messages.length + 1;
    const copy = Uint8Array.from(payload);
    const timeMs = this.#envelopeOf(copy)?.wallMs ?? 0;
    this.messages.push({ type: "message", kind, sequence, timeMs, payload: copy, pending: 0 });
    return sequence;
  }

  async bounds(): Promise<StreamBounds> {
    const last = this.messages.length;
    return { first: this.first, last, messages: last - this.first + 1 };
  }

  async next(sequence: number, kind: MessageKind | null): Promise<StoredMessage | null> {
    const from = Math.max(sequence, this.first) - 1;
    return stored(this.messages.find((message, i) => i >= from && (kind === null || message.kind === kind)));
  }

  async lastMark(): Promise<StoredMessage | null> {
    return stored(this.messages.findLast(({ kind, sequence }) => kind === "mark" && sequence >= this.first));
  }

  /** In pieces of different sizes, as a broker would bring them. */
  async *read(from: number, signal: AbortSignal): AsyncGenerator<readonly ReaderItem[], void, undefined> {
    let next = Math.max(from, this.first) - 1;
    for (let size = 1; !signal.aborted; size = (size % 7) + 1) {
      const piece = this.messages.slice(next, next + size);
      next += piece.length;
      if (piece.length === 0) return;
      yield piece.map((message) => ({ ...message, pending: this.messages.length - message.sequence }));
    }
  }
}

function stored(message: StreamMessage | undefined): StoredMessage | null {
  return message === undefined ? null : { ...message, origin: 0, snapshot: 0 };
}

/** A connection as it really was. */
export interface TrueConnection {
  readonly tuple: number;
  /** What the stamps of its first claims say; more than one where a node forgot it. */
  readonly births: number[];
  readonly path: { node: string; since: number }[];
  status: number;
  /** Ends after which another node, which had not heard of them, took the connection up again, each with when that was. */
  readonly ends: { end: NonNullable<TrueConnection["end"]>; againStamp: number }[];
  end: { stamp: number; kind: "ended" | "lost"; packets: number | null } | null;
  flowId: number;
  told: number;
}

class ClusterNode {
  readonly name: string;
  readonly stream = new StoredStream();
  epoch = 1;
  number = 0;
  snapshotSequence = 0;
  nextFlowId = 0;
  readonly freeFlowIds: number[] = [];
  moved: { flowId: number; to: string; stamp: number }[] = [];

  constructor(name: string) {
    this.name = name;
  }
}

const SLOTS_END = 0xffffffff;
const TUPLES = 30;
const UNHEARD_STAMPS = 5000 * 4096;
/** Ahead of the clock of any broker, so that it passes no end, but not so far that a reader takes the stamps for another's. */
export const START_MS = Date.now() + 3_600_000;

/**
 * Nodes that write their streams as conntrail does, over a table of which a test knows all: connections begin, change, move and
 * end, nodes restart and fail over. Everything is decided by the numbers that a test gives.
 */
export class HistoryCluster implements HistoryStreams {
  readonly truth: TrueConnection[] = [];
  readonly members: readonly ClusterNode[];
  /** Stamps of all messages, in order. */
  readonly stamps: number[] = [];
  /** Who wrote each of them. */
  readonly writers: string[] = [];
  stamp: number;
  readonly #encoder = new BatchEncoder();
  readonly #marks = new MarkCodec();
  readonly #firstTuple: number;

  /** `firstTuple`: its connections are none of a cluster with another. `startMs`: when it begins. */
  constructor(names: readonly string[], firstTuple = 0, startMs = START_MS) {
    this.stamp = stampOfMs(startMs);
    this.#firstTuple = firstTuple;
    this.members = names.map((name) => new ClusterNode(name));
    for (const node of this.members) {
      this.mark(node, { type: "epoch", reason: "start", previousEpoch: 0, previousNumber: 0 });
      this.snapshot(node, () => undefined);
    }
  }

  async nodes(): Promise<readonly string[]> {
    return this.members.map(({ name }) => name).sort();
  }

  lookup(name: string): StoredStream {
    return this.members.find((node) => node.name === name)!.stream;
  }

  read(name: string, from: number, _readers: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]> {
    return this.lookup(name).read(from, signal);
  }

  alive(node?: ClusterNode): TrueConnection[] {
    return this.truth.filter(
      ({ end, path }) => end === null && (node === undefined || path.at(-1)!.node === node.name),
    );
  }

  /** Something happens. */
  step(random: Random): void {
    this.stamp += random.oneIn(6) ? random.below(6000 * 4096) : random.below(40 * 4096);
    const node = random.pick(this.members);
    switch (random.below(12)) {
      case 6:
      case 7:
        this.snapshot(node, () => this.batch(random.pick(this.members), random));
        break;
      case 8:
        this.failover(node, random);
        break;
      case 9:
        this.restart(node, random.oneIn(3), random);
        break;
      case 10:
        if (random.oneIn(3)) this.mark(node, { type: "gap", reason: "event socket overrun", events: 3 });
        break;
      default:
        this.batch(node, random);
    }
  }

  /** One message of events. */
  batch(node: ClusterNode, random: Random): void {
    const mine = this.alive(node);
    const touched = new Set<number>();
    const ended: { connection: TrueConnection; packets: number | null }[] = [];
    const opened: TrueConnection[] = [];
    for (let i = random.below(4); i >= 0; i--) {
      const connection = mine[random.below(mine.length + 2)];
      if (connection === undefined) {
        const tuple = this.#firstTuple + random.below(TUPLES);
        if (!touched.has(tuple) && !this.truth.some((c) => c.end === null && c.tuple === tuple))
          opened.push(this.#open(tuple, random));
        touched.add(tuple);
        continue;
      }
      if (touched.has(connection.tuple)) continue;
      touched.add(connection.tuple);
      if (random.oneIn(2)) {
        connection.status = random.below(0x10000);
        this.#encoder.addUpdate(connection.flowId, this.#words(connection), 0, null);
        connection.told = -1;
        continue;
      }
      ended.push({ connection, packets: random.oneIn(2) ? random.below(1000) : null });
      // The kernel has the tuple anew at once.
      if (random.oneIn(3)) opened.push(this.#open(connection.tuple, random));
    }
    for (const connection of opened) {
      connection.flowId = node.freeFlowIds.shift() ?? node.nextFlowId++;
      this.#encoder.addNew(connection.flowId, this.#words(connection), 0, null, null, 0);
    }
    for (const { connection, packets } of ended) {
      const counters = Float64Array.of(packets ?? 0, 0, 0, 0);
      const end = packets === null ? undefined : { has: 0x20, counters, timesMicros: Float64Array.of(0, 0) };
      this.#encoder.addDestroy(connection.flowId, this.#words(connection), 0, end);
    }
    this.#addMoved(node);
    if (this.#encoder.rows === 0) return;
    const stamp = this.#publish(node, null);
    for (const { connection, packets } of ended) {
      connection.end = { stamp, kind: "ended", packets };
      node.freeFlowIds.push(connection.flowId);
    }
    for (const connection of opened) {
      connection.births.push(stamp);
      connection.path.push({ node: node.name, since: stamp });
      connection.told = stamp;
      this.truth.push(connection);
    }
    for (const connection of mine) if (connection.told === -1) connection.told = stamp;
  }

  /** What another node has ended, and this one has not heard of: its tuple is not there again. */
  #unheard(node: ClusterNode, random: Random): TrueConnection[] {
    const since = this.stamp - UNHEARD_STAMPS;
    return this.truth.filter(({ tuple, end, path }, i) => {
      const recent = end !== null && end.stamp > since && path.at(-1)!.node !== node.name;
      return recent && random.oneIn(2) && !this.truth.some((other, j) => j > i && other.tuple === tuple);
    });
  }

  /** A node takes all connections of the others over, which tell of that when they next say something, if ever. */
  failover(node: ClusterNode, random: Random): void {
    const alive = this.alive().filter(({ path }) => path.at(-1)!.node !== node.name);
    const over = this.#unheard(node, random);
    const taken = [...alive, ...over];
    for (const connection of over) {
      connection.flowId = node.freeFlowIds.shift() ?? node.nextFlowId++;
      this.#encoder.addNew(connection.flowId, this.#words(connection), 0, null, null, connection.births.at(-1));
    }
    for (const connection of alive) {
      const before = this.members.find(({ name }) => name === connection.path.at(-1)!.node)!;
      before.moved.push({ flowId: connection.flowId, to: node.name, stamp: 0 });
      connection.flowId = node.freeFlowIds.shift() ?? node.nextFlowId++;
      this.#encoder.addNew(connection.flowId, this.#words(connection), 0, null, null, connection.births.at(-1));
    }
    this.#addMoved(node);
    if (this.#encoder.rows > 0) {
      const stamp = this.#publish(node, null);
      for (const connection of over) {
        connection.ends.push({ end: connection.end!, againStamp: stamp });
        connection.end = null;
      }
      for (const connection of taken) {
        connection.path.push({ node: node.name, since: stamp });
        connection.told = stamp;
      }
      for (const other of this.members) {
        other.moved = other.moved.map((row) => (row.stamp === 0 ? { ...row, stamp } : row));
      }
    }
    const committed = taken.length;
    this.mark(node, { type: "commit", committed, updated: 0, failed: 0, stale: 0, durationMs: 1 });
  }

  /** States the whole table; `between` runs between its chunks. */
  snapshot(node: ClusterNode, between: () => void): void {
    const id = node.stream.messages.length + 1;
    const begin = this.mark(node, { type: "snapshot-begin", id, flows: 0 });
    const middle = Math.floor(node.nextFlowId / 2);
    for (const [from, to] of [
      [0, middle],
      [middle, SLOTS_END],
    ] as const) {
      between();
      this.#flushMoved(node);
      const mine = this.alive(node).filter(({ flowId }) => flowId >= from && flowId < to);
      mine.sort((a, b) => a.flowId - b.flowId);
      for (const connection of mine) {
        const words = this.#words(connection);
        words[W_CREATED] = Math.floor(stampMs(connection.path.at(-1)!.since) / 1000);
        this.#encoder.addNew(connection.flowId, words, 0, null, { stamp: connection.told }, connection.births.at(-1));
      }
      this.#publish(node, { from, to });
    }
    between();
    this.mark(node, { type: "snapshot-end", id, flows: 0 }, begin);
    node.snapshotSequence = begin;
  }

  /** The daemon starts anew; some connections have ended meanwhile. With `forgets`, it has lost its stream's table. */
  restart(node: ClusterNode, forgets: boolean, random: Random): void {
    const { epoch: previousEpoch, number } = node;
    node.epoch++;
    node.number = 0;
    const previousNumber = forgets ? 0 : number;
    const moved = node.moved.splice(0);
    this.mark(node, { type: "epoch", reason: "start", previousEpoch, previousNumber });
    const mine = this.alive(node);
    const gone = mine.filter(() => random.oneIn(4));
    if (!forgets) {
      node.moved = moved;
      for (const { flowId } of gone) this.#encoder.addDestroy(flowId, new Uint32Array(RECORD_WORDS), 0, undefined);
      if (gone.length > 0) {
        const stamp = this.#publish(node, null);
        for (const connection of gone) {
          connection.end = { stamp, kind: "ended", packets: null };
          node.freeFlowIds.push(connection.flowId);
        }
      }
      return;
    }
    node.nextFlowId = 0;
    node.freeFlowIds.length = 0;
    const kept = mine.filter((connection) => !gone.includes(connection));
    for (const connection of kept) {
      connection.flowId = node.nextFlowId++;
      this.#encoder.addNew(connection.flowId, this.#words(connection), 0, null, null, 0);
    }
    if (kept.length > 0) {
      const stamp = this.#publish(node, null);
      for (const connection of kept) {
        connection.births.push(stamp);
        connection.told = stamp;
      }
    }
    for (const connection of gone) connection.end = { stamp: this.stamp, kind: "lost", packets: null };
    this.snapshot(node, () => undefined);
    for (const connection of gone) connection.end!.stamp = this.stamp;
  }

  mark(node: ClusterNode, mark: Mark, snapshotSequence = node.snapshotSequence): number {
    this.#flushMoved(node);
    const envelope = this.#envelope(node);
    return node.stream.append("mark", this.#marks.encode(envelope, mark, snapshotSequence));
  }

  #open(tuple: number, random: Random): TrueConnection {
    return { tuple, births: [], path: [], status: random.below(0x10000), ends: [], end: null, flowId: -1, told: 0 };
  }

  #flushMoved(node: ClusterNode): void {
    this.#addMoved(node);
    if (this.#encoder.rows > 0) this.#publish(node, null);
  }

  #addMoved(node: ClusterNode): void {
    for (const { flowId, to, stamp } of node.moved) {
      if (stamp === 0) continue;
      this.#encoder.addMoved(flowId, to, stamp);
      node.freeFlowIds.push(flowId);
    }
    node.moved = node.moved.filter(({ stamp }) => stamp === 0);
  }

  #publish(node: ClusterNode, range: { from: number; to: number } | null): number {
    const envelope = this.#envelope(node);
    node.stream.append(range === null ? "ev" : "snap", this.#encoder.encode(envelope, range));
    return envelope.stamp;
  }

  #envelope(node: ClusterNode) {
    this.stamp += 4096;
    this.stamps.push(this.stamp);
    this.writers.push(node.name);
    return {
      node: node.name,
      epoch: node.epoch,
      number: ++node.number,
      stamp: this.stamp,
      wallMs: stampMs(this.stamp),
    };
  }

  #words(connection: TrueConnection): Uint32Array {
    const words = tcpRecord(connection.tuple);
    words[W_STATUS] = connection.status;
    return words;
  }
}
