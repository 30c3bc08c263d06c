/** Answers questions about connections from the streams of all nodes that one broker holds. */
import { ConntrailError } from "../../errors.js";
import { stampMs, stampOfMs } from "../../flow/clock.js";
import type {
  Connection,
  ConnectionChange,
  Gap,
  HistoryAnswer,
  HistoryProgress,
  HistoryQuery,
  WhoQuestion,
} from "../connection.js";
import { mergeStreams, NEW_STREAMS_EVERY_MS } from "./merged-streams.js";
import { Projection } from "./projection.js";
import { compileRowFilter, compileWhoFilter, type RowFilter } from "./row-filter.js";
import { StreamTips } from "./stream-tips.js";
import type { HistoryStreams } from "./streams.js";

/** Where the streams are. */
export interface HistoryOptions {
  /** `brokerStreams` of the broker that holds this node's stream and the copies of its peers' streams. */
  readonly streams: HistoryStreams;
  /** Nodes that must have a stream: where one has none, the answer has a gap. Null: only the streams that the broker holds. */
  readonly nodes: readonly string[] | null;
}

/** A range to be read, and which of its connections are answered. */
interface Reading {
  readonly filter: RowFilter;
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  /** Connections that ended in the range are answered too. */
  readonly ends: boolean;
  readonly accepts: (connection: Connection) => boolean;
  readonly limit: number | null;
}

/** How many connections are handed over at a time. */
const BATCH_CONNECTIONS = 128;
/** After how many messages the event loop has its turn. */
const TURN_MESSAGES = 256;
/** How often held ends are settled while no message comes. */
const SETTLE_EVERY_MS = 500;

/** The history of the connections in those streams. */
export class History {
  readonly #streams: HistoryStreams;
  readonly #nodes: readonly string[];

  private constructor(streams: HistoryStreams, nodes: readonly string[]) {
    this.#streams = streams;
    this.#nodes = nodes;
  }

  /** @throws ConntrailError BROKER when the broker is away */
  static async open(options: HistoryOptions): Promise<History> {
    const found = await options.streams.nodes();
    const nodes = [...new Set([...found, ...(options.nodes ?? [])])].sort();
    return new History(options.streams, nodes);
  }

  /** The nodes whose streams are read, in the order of their names. */
  get nodes(): readonly string[] {
    return this.#nodes;
  }

  /** Connections whose life overlaps the range. @throws ConntrailError USAGE where the filter cannot be read */
  connections(query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    checkRange(query.sinceMs, query.untilMs);
    const { sinceMs, untilMs, limit, nodes } = query;
    const accepts = (connection: Connection) => wasCarriedBy(connection, nodes);
    const filter = compileRowFilter(query.filter);
    return this.#answer({ filter, sinceMs, untilMs, ends: true, accepts, limit }, signal);
  }

  /** Connections that were alive at a time. `sinceMs` and `untilMs` of the query are ignored. */
  at(timeMs: number, query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    const { limit, nodes } = query;
    const accepts = (connection: Connection) => isCarriedBy(connection, nodes);
    const filter = compileRowFilter(query.filter);
    return this.#answer({ filter, sinceMs: timeMs, untilMs: timeMs, ends: false, accepts, limit }, signal);
  }

  /** Connections behind a public address and port. @throws ConntrailError USAGE when the address is none */
  who(question: WhoQuestion, signal: AbortSignal): HistoryAnswer {
    const { sinceMs, untilMs } = question;
    checkRange(sinceMs, untilMs);
    const filter = compileWhoFilter(question);
    return this.#answer({ filter, sinceMs, untilMs, ends: true, accepts: () => true, limit: null }, signal);
  }

  /**
   * Changes of connections as they are published, until the signal: from `sinceMs` on, or from now on when that is null. Quiet streams
   * are not waited for, so the changes of a slow copy come late. `settled`: an end is reported once, HOLD_MS later, when no node can
   * take the connection up again. Otherwise it is reported at once; a connection that is taken up again then moves, and ends again.
   */
  async *follow(
    query: HistoryQuery,
    signal: AbortSignal,
    settled = false,
  ): AsyncGenerator<readonly ConnectionChange[], void, undefined> {
    const filter = compileRowFilter(query.filter);
    const sinceMs = query.sinceMs ?? Date.now();
    const { nodes } = query;
    const accepts = (connection: Connection) => filter.accepts(connection.words, 0) && wasCarriedBy(connection, nodes);
    let changes: ConnectionChange[] = [];
    let messageMs = 0;
    const report = (type: ConnectionChange["type"], connection: Connection): void => {
      if (messageMs >= sinceMs && accepts(connection)) changes.push({ type, connection });
    };
    const onEnd = (connection: Connection): void => report("ended", connection);
    const projection = new Projection({
      filter,
      sinceMs,
      listener: {
        ...(settled ? { ended: onEnd } : { ended: () => {}, over: onEnd }),
        changed: (type, slot) => {
          if (messageMs >= sinceMs) report(type, projection.connection(slot));
        },
      },
    });
    const range = { sinceMs, live: true };
    const { merge } = await mergeStreams(this.#streams, this.#nodes, projection, range, signal);
    const tips = new StreamTips(this.#streams, merge, projection, { range, now: Date.now });
    try {
      while (!signal.aborted && !merge.ended) {
        const source = merge.next();
        if (source === null) {
          await merge.wait(settled && projection.held > 0 ? SETTLE_EVERY_MS : NEW_STREAMS_EVERY_MS);
          if (merge.idle) projection.settle(stampOfMs(tips.knownMs));
        } else {
          messageMs = source.timeMs;
          projection.apply(source.node, source.head, source.jump);
          source.advance();
        }
        if (!signal.aborted) tips.ask(projection.held > 0 ? SETTLE_EVERY_MS : NEW_STREAMS_EVERY_MS);
        if (changes.length === 0) continue;
        yield changes;
        changes = [];
      }
      projection.settle(Number.POSITIVE_INFINITY);
      if (changes.length > 0) yield changes;
    } finally {
      merge.close();
    }
  }

  #answer(reading: Reading, signal: AbortSignal): HistoryAnswer {
    const ended: Connection[] = [];
    const projection = new Projection({
      filter: reading.filter,
      sinceMs: reading.sinceMs,
      listener: {
        ended: (connection) => {
          if (reading.ends && reading.accepts(connection)) ended.push(connection);
        },
        changed: null,
      },
    });
    const total = { messages: 0 };
    const connections = this.#read(projection, reading, ended, total, signal);
    return {
      connections: reading.limit === null ? connections : newest(connections, reading.limit),
      gaps: (): readonly Gap[] => projection.gapsBetween(reading.sinceMs, reading.untilMs),
      progress: (): HistoryProgress => {
        const { messages, events, malformed } = projection.counters;
        const timeMs = projection.stamp === 0 ? null : stampMs(projection.stamp);
        return { messages, events, malformed, messagesTotal: total.messages, timeMs };
      },
    };
  }

  async *#read(
    projection: Projection,
    reading: Reading,
    ended: Connection[],
    total: { messages: number },
    signal: AbortSignal,
  ): AsyncGenerator<readonly Connection[], void, undefined> {
    const range = { ...reading, live: false };
    const { merge, messages } = await mergeStreams(this.#streams, this.#nodes, projection, range, signal);
    total.messages = messages;
    try {
      for (let turn = 0; !signal.aborted; turn++) {
        const source = merge.next();
        if (source === null) {
          if (merge.ended) break;
          await merge.wait();
          continue;
        }
        projection.apply(source.node, source.head, source.jump);
        source.advance();
        if (ended.length >= BATCH_CONNECTIONS) yield* batchesOf(ended);
        // The socket and the signal must have their turn.
        else if (turn % TURN_MESSAGES === TURN_MESSAGES - 1) await new Promise(setImmediate);
      }
      if (signal.aborted) return;
      while (projection.held > 0) {
        projection.settle(Number.POSITIVE_INFINITY, BATCH_CONNECTIONS);
        yield* batchesOf(ended);
      }
      for (const connection of projection.open()) {
        if (!reading.accepts(connection)) continue;
        ended.push(connection);
        if (ended.length >= BATCH_CONNECTIONS) yield ended.splice(0);
      }
      yield* batchesOf(ended);
    } finally {
      merge.close();
    }
  }
}

/** Empties a list in batches, so that a batch stays small however many connections have ended at once. */
function* batchesOf(list: Connection[]): Generator<readonly Connection[], void, undefined> {
  const all = list.splice(0);
  for (let at = 0; at < all.length; at += BATCH_CONNECTIONS) yield all.slice(at, at + BATCH_CONNECTIONS);
}

function checkRange(sinceMs: number | null, untilMs: number | null): void {
  if (sinceMs !== null && untilMs !== null && untilMs < sinceMs) {
    throw new ConntrailError("USAGE", "the range ends before it begins");
  }
}

/** True when one of these nodes carried the connection; null: any node. */
export function wasCarriedBy({ path }: Connection, nodes: readonly string[] | null): boolean {
  return nodes === null || path.some(({ node }) => nodes.includes(node));
}

/** True when the last node that carried the connection is one of these; null: any node. */
export function isCarriedBy({ path }: Connection, nodes: readonly string[] | null): boolean {
  return nodes === null || path.slice(-1).some(({ node }) => nodes.includes(node));
}

/** The last `limit` connections. */
export async function* newest(
  connections: AsyncIterable<readonly Connection[]>,
  limit: number,
): AsyncGenerator<readonly Connection[], void, undefined> {
  let kept: Connection[] = [];
  for await (const batch of connections) {
    for (const connection of batch) kept.push(connection);
    if (kept.length > 2 * limit + BATCH_CONNECTIONS) kept = kept.slice(kept.length - limit);
  }
  const rest = limit === 0 ? [] : kept.slice(-limit);
  if (rest.length > 0) yield rest;
}
