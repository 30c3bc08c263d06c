import { stampMs } from "../flow/clock.js";
import { type BrokerConnection, jetStreamOf } from "./connection.js";
import { aheadMs, implausible } from "./format/envelope.js";
import { createEnvelopeReader, type DecodedMark, epochBegin, MarkCodec } from "./format/mark.js";
import type { MessageKind } from "./format/subjects.js";
import { directLast, directNext, oneByOne, type StoredMessage } from "./own-stream.js";
import { type StreamAccess, streamAccess } from "./stream-access.js";

/** Where a stream begins and ends. */
export interface StreamBounds {
  readonly first: number;
  readonly last: number;
  readonly messages: number;
}

/** A complete snapshot. */
export interface SnapshotPlace {
  /** Stream sequence of its begin mark, on the broker that is asked. */
  readonly sequence: number;
  readonly stamp: number;
}

/** A message with its place in the stream and in time. */
export interface MessagePlace extends SnapshotPlace {
  /** By the writer's clock, milliseconds since the Unix epoch. */
  readonly timeMs: number;
}

/** A store that is read from the disk may take its time. */
const API_TIMEOUT_MS = 5000;
/** Damaged messages in a row that a search skips. */
const DAMAGED_MAX = 16;
/** Marks that are read in search of a commit; each may be a whole snapshot away from the last. */
const COMMIT_MARKS_MAX = 6;

/** The nodes whose streams a broker holds, sorted by name. @throws ConntrailError BROKER when it is away */
export async function listNodes(connection: BrokerConnection): Promise<string[]> {
  const client = await connection.ready(API_TIMEOUT_MS);
  const jsm = await jetStreamOf(client, API_TIMEOUT_MS);
  const nodes: string[] = [];
  for await (const name of oneByOne(connection, jsm.streams.names("ct.>"))) {
    const node = connection.nodeOf(name);
    if (node !== null) nodes.push(node);
  }
  return nodes.sort();
}

/** Looks single messages of a stream up. */
export interface StreamLookup {
  /** Null when there is no such stream. */
  bounds(): Promise<StreamBounds | null>;
  /** The first message of a kind (null: of any) at or after `sequence`; null when there is none. */
  next(sequence: number, kind: MessageKind | null): Promise<StoredMessage | null>;
  lastMark(): Promise<StoredMessage | null>;
}

/** Looks messages up on a broker. */
export class BrokerLookup implements StreamLookup {
  readonly #connection: BrokerConnection;
  readonly #node: string;

  constructor(connection: BrokerConnection, node: string) {
    this.#connection = connection;
    this.#node = node;
  }

  async bounds(): Promise<StreamBounds | null> {
    const place = await (await this.#access()).find();
    if (place === null) return null;
    const { first, last } = place;
    return { first, last, messages: Math.max(0, last - first + 1) };
  }

  async next(sequence: number, kind: MessageKind | null): Promise<StoredMessage | null> {
    const client = await this.#connection.ready(API_TIMEOUT_MS);
    return directNext(client, this.#connection.nameOf(this.#node), sequence, kind, API_TIMEOUT_MS);
  }

  async lastMark(): Promise<StoredMessage | null> {
    // A standalone broker does not answer at all for a stream that does not exist.
    if ((await (await this.#access()).find()) === null) return null;
    const client = await this.#connection.ready(API_TIMEOUT_MS);
    return directLast(client, this.#connection.nameOf(this.#node), "mark", API_TIMEOUT_MS);
  }

  async #access(): Promise<StreamAccess> {
    return streamAccess(this.#connection, await this.#connection.ready(API_TIMEOUT_MS), this.#node, API_TIMEOUT_MS);
  }
}

/**
 * Finds places in the stream of one node without reading it: by stamp, by time, by kind, and snapshots. Each search is
 * a few requests for single messages, however long the stream is.
 */
export class StreamIndex {
  readonly node: string;
  readonly #lookup: StreamLookup;
  readonly #marks = new MarkCodec();
  readonly #envelopeOf = createEnvelopeReader();

  constructor(lookup: StreamLookup, node: string) {
    this.#lookup = lookup;
    this.node = node;
  }

  /** Null when there is no such stream. */
  bounds(): Promise<StreamBounds | null> {
    return this.#lookup.bounds();
  }

  /** The first undamaged message at or after `sequence`, with its stamp. */
  async stampAt(sequence: number): Promise<MessagePlace | null> {
    let at = sequence;
    for (let damaged = 0; damaged < DAMAGED_MAX; damaged++) {
      const message = await this.#lookup.next(at, null);
      if (message === null) return null;
      const envelope = this.#envelopeOf(message.payload);
      const nowMs = Math.max(Date.now(), message.timeMs);
      if (envelope !== null && implausible(envelope, this.node, nowMs) === null) {
        const { stamp } = envelope;
        return { sequence: message.sequence, stamp, timeMs: stampMs(stamp) - aheadMs(envelope) };
      }
      at = message.sequence + 1;
    }
    return null;
  }

  /** Sequence of the first message whose stamp is `stamp` or above; one after the last when there is none. */
  findStamp(stamp: number, bounds: StreamBounds): Promise<number> {
    return this.#find(stamp, (place) => place.stamp, bounds);
  }

  /** Sequence of the first message that was written at `timeMs` or later; one after the last when there is none. */
  findTime(timeMs: number, bounds: StreamBounds): Promise<number> {
    return this.#find(timeMs, (place) => place.timeMs, bounds);
  }

  /** Interpolates and bisects in turn: most streams grow evenly, but none has to. */
  async #find(value: number, measure: (place: MessagePlace) => number, { first, last }: StreamBounds): Promise<number> {
    let low = first;
    let high = last + 1;
    let lowValue = Number.NEGATIVE_INFINITY;
    let highValue = Number.POSITIVE_INFINITY;
    for (let probe = 0; low < high; probe++) {
      const guess = guessOf(probe, low, high, (value - lowValue) / (highValue - lowValue));
      const found = await this.stampAt(guess);
      if (found !== null && measure(found) < value) {
        low = found.sequence + 1;
        lowValue = measure(found);
      } else {
        high = guess;
        highValue = found === null ? highValue : measure(found);
      }
    }
    return low;
  }

  /** The last snapshot that was complete before the message at `sequence`; null when the stream has none. */
  async snapshotBefore(sequence: number, { first, last }: StreamBounds): Promise<SnapshotPlace | null> {
    const behind = sequence > last ? null : await this.#lookup.next(sequence, "mark");
    const mark = behind ?? (await this.#lookup.lastMark());
    if (mark === null) return null;
    let place = this.#snapshotOf(mark);
    if (mark.sequence >= sequence && this.#marks.decode(mark.payload)?.mark.type === "snapshot-end") {
      // This snapshot began before and ended after `sequence`: the one before it counts.
      const begin = place < first ? null : await this.#lookup.next(place, "mark");
      place = begin?.sequence === place ? this.#snapshotOf(begin) : 0;
    }
    if (place < Math.max(1, first)) return null;
    const begin = await this.#lookup.next(place, "mark");
    const decoded = begin?.sequence === place ? this.#marks.decode(begin.payload) : null;
    return decoded?.mark.type === "snapshot-begin" ? { sequence: place, stamp: decoded.envelope.stamp } : null;
  }

  /** The node's undamaged marks from `sequence` to `last`, in order. Costs a request for each. */
  async *marks(sequence: number, last: number): AsyncGenerator<DecodedMark> {
    for (let at = sequence; at <= last; ) {
      const message = await this.#lookup.next(at, "mark");
      if (message === null || message.sequence > last) return;
      const decoded = this.#marks.decode(message.payload);
      if (decoded !== null && decoded.envelope.node === this.node) yield decoded;
      at = message.sequence + 1;
    }
  }

  /** The first commit mark in [sequence, end), among the first few marks; null when there is none. */
  async commitBehind(sequence: number, end: number): Promise<SnapshotPlace | null> {
    let at = sequence;
    for (let i = 0; i < COMMIT_MARKS_MAX; i++) {
      const message = await this.#lookup.next(at, "mark");
      if (message === null || message.sequence >= end) return null;
      const decoded = this.#marks.decode(message.payload);
      if (decoded?.mark.type === "commit") return { sequence: message.sequence, stamp: decoded.envelope.stamp };
      at = message.sequence + 1;
    }
    return null;
  }

  /** True when the message at `sequence` is the first that the node ever wrote. */
  async isBeginning(sequence: number): Promise<boolean> {
    const message = await this.#lookup.next(sequence, null);
    const decoded = message?.sequence === sequence ? this.#marks.decode(message.payload) : null;
    return decoded !== null && epochBegin(decoded.envelope.number, decoded.mark)?.previousEpoch === 0;
  }

  /** A copy has the begin of the snapshot in a header; the mark itself holds the begin in the writer's stream. */
  #snapshotOf(mark: StoredMessage): number {
    return mark.origin > 0 ? mark.snapshot : (this.#marks.decode(mark.payload)?.snapshotSequence ?? 0);
  }
}

function guessOf(probe: number, low: number, high: number, share: number): number {
  if (probe === 0) return low;
  if (probe === 1) return high - 1;
  const even = low + Math.floor((high - low) / 2);
  if (probe % 3 === 2 || !Number.isFinite(share)) return even;
  return Math.min(high - 1, Math.max(low, low + Math.floor((high - low) * share)));
}
