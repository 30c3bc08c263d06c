/** Answers questions about connections from the streams and, where those do not reach back far enough, from the archive too. */
import { stampMs, stampOfMs } from "../../flow/clock.js";
import { HAS_PROTOINFO, HAS_STATUS, W_HAS } from "../../flow/record.js";
import { StreamIndex } from "../../stream/stream-index.js";
import type { Connection, ConnectionChange, Gap, HistoryAnswer, HistoryQuery, WhoQuestion } from "../connection.js";
import { HOLD_MS } from "../scan/held-ends.js";
import { type History, isCarriedBy, newest } from "../scan/history.js";
import { planStreams } from "../scan/plan.js";
import type { HistoryStreams } from "../scan/streams.js";
import type { Archive } from "./archive.js";
import type { ArchiveState } from "./state.js";

/** Where the history commands get their answers: the streams, or the streams and an archive. */
export type HistorySource = Pick<History, "nodes" | "connections" | "at" | "who" | "follow">;

/**
 * How far before the end of the archive the streams are read. The archiver may have held ends then, and the kernel's times are not
 * quite those of the messages.
 */
const OVERLAP_MS = HOLD_MS + 10_000;
/** About how many connections the archive is asked at once, because each question reads all that ended around that time. */
const ASKED_AT_ONCE = 8192;

/** What an answer from streams and archive is made of. */
interface ArchivePart {
  /** Reads the archive. */
  connections(archive: Archive): AsyncIterable<readonly Connection[]>;
  /** The last `limit` connections of the archive that belong to the answer. Called only where there is a limit. */
  newest(archive: Archive, limit: number): Promise<readonly Connection[]>;
  /** Reads the connections that overlap that time from the streams. */
  stream(sinceMs: number | null, untilMs: number | null): HistoryAnswer;
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  readonly limit: number | null;
  /** The form in which a connection is answered; null: it does not belong to the answer. */
  readonly as: (connection: Connection) => Connection | null;
}

/**
 * Streams and archive as one history. If the streams reach back far enough they answer alone. Otherwise the archive answers with the
 * connections that it has, and the streams with those that have ended since or are alive. Each connection is answered once.
 */
export class ArchivedHistory implements HistorySource {
  readonly #history: HistorySource;
  readonly #streams: HistoryStreams;
  readonly #openArchive: () => Promise<Archive>;

  /** `openArchive` is called when the archive is needed. The caller closes the archive. */
  constructor(history: HistorySource, streams: HistoryStreams, openArchive: () => Promise<Archive>) {
    this.#history = history;
    this.#streams = streams;
    this.#openArchive = openArchive;
  }

  /** The nodes whose streams are read, in the order of their names. */
  get nodes(): readonly string[] {
    return this.#history.nodes;
  }

  /** As History.connections. */
  connections(query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    const { sinceMs, untilMs, limit } = query;
    const history = this.#history;
    const answer = history.connections(query, signal);
    const as = (connection: Connection) => (overlaps(connection, sinceMs, untilMs) ? connection : null);
    return this.#answer(answer, signal, {
      connections: (archive) => archive.connections(query),
      newest: (archive, room) => archive.newest(query, room, (connection) => as(connection) !== null),
      stream: (from, until) => history.connections({ ...query, sinceMs: from, untilMs: until, limit: null }, signal),
      sinceMs,
      untilMs,
      limit,
      as,
    });
  }

  /** As History.at. A connection from the archive has no state, because the state at that time is not known. */
  at(timeMs: number, query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    const { limit, nodes } = query;
    const range = { ...query, nodes: null, sinceMs: timeMs, untilMs: timeMs, limit: null };
    const as = (connection: Connection) => {
      const then = asOf(connection, timeMs);
      return then !== null && isCarriedBy(then, nodes) ? then : null;
    };
    return this.#answer(this.#history.at(timeMs, query, signal), signal, {
      connections: (archive) => archive.connections(range),
      newest: (archive, room) => archive.newest(range, room, (connection) => as(connection) !== null),
      stream: (from, until) => this.#history.connections({ ...range, sinceMs: from, untilMs: until }, signal),
      sinceMs: timeMs,
      untilMs: timeMs,
      limit,
      as,
    });
  }

  /** As History.who. */
  who(question: WhoQuestion, signal: AbortSignal): HistoryAnswer {
    const { sinceMs, untilMs } = question;
    return this.#answer(this.#history.who(question, signal), signal, {
      connections: (archive) => archive.who(question),
      newest: async () => [],
      stream: (from, until) =>
        this.#history.who({ ...question, sinceMs: from ?? sinceMs, untilMs: until ?? untilMs }, signal),
      sinceMs,
      untilMs,
      limit: null,
      as: (connection) => (overlaps(connection, sinceMs, untilMs) ? connection : null),
    });
  }

  /** As History.follow: changes come from the streams alone. */
  follow(
    query: HistoryQuery,
    signal: AbortSignal,
    settled = false,
  ): AsyncGenerator<readonly ConnectionChange[], void, undefined> {
    return this.#history.follow(query, signal, settled);
  }

  /** `alone` is the answer if the streams reach back far enough. */
  #answer(alone: HistoryAnswer, signal: AbortSignal, part: ArchivePart): HistoryAnswer {
    let answering = alone;
    let archiveGaps: readonly Gap[] = [];
    let read: Archive | null = null;
    const connections = async function* (
      this: ArchivedHistory,
    ): AsyncGenerator<readonly Connection[], void, undefined> {
      const archive = (await this.#reachesBack(part.sinceMs)) ? null : await this.#openArchive();
      const state = (await archive?.state()) ?? null;
      if (archive === null || state === null) {
        yield* alone.connections;
        return;
      }
      read = archive;
      archiveGaps = await archive.gaps(part.sinceMs, part.untilMs);
      const beyondMs = await streamsBeyondMs(state, this.#indexes());
      const sinceMs = beyondMs === null ? part.sinceMs : Math.max(beyondMs, part.sinceMs ?? 0);
      // Reads at least as far as the archiver has, so that a connection that looks open then really is.
      const untilMs = part.untilMs === null ? null : Math.max(part.untilMs, stampMs(state.stamp) + 1);
      answering = part.stream(sinceMs, untilMs);
      const streamed = notArchived(archive, part, answering);
      if (part.limit === null) {
        yield* chosenOf(part, part.connections(archive), signal);
        yield* streamed;
      } else {
        const found = await latest(archive, streamed, part, part.limit);
        if (found.length > 0) yield found;
      }
    };
    return {
      connections: connections.call(this),
      gaps: () => [...archiveGaps, ...answering.gaps()],
      progress: () => ({ ...answering.progress(), ...(read !== null && { archive: read.progress }) }),
    };
  }

  /** True when the streams alone hold all that an answer from that time on needs. */
  async #reachesBack(sinceMs: number | null): Promise<boolean> {
    const plans = await planStreams(this.#indexes(), sinceMs, false);
    return plans.every(({ missing }) => missing === null);
  }

  #indexes(): StreamIndex[] {
    return indexesOf(this.#streams, this.nodes);
  }
}

/** Finds places in the streams of these nodes. */
export function indexesOf(streams: HistoryStreams, nodes: readonly string[]): StreamIndex[] {
  return nodes.map((node) => new StreamIndex(streams.lookup(node), node));
}

/**
 * The time from which the streams must be read to find all that the archive does not have, milliseconds since the Unix epoch. It is
 * the earliest place that the archiver has reached in a stream that goes on. Null: they must be read from the beginning.
 */
export async function streamsBeyondMs(
  { places, stamp, settled = stamp }: ArchiveState,
  indexes: readonly StreamIndex[],
): Promise<number | null> {
  let least = Math.min(stamp, settled);
  for (const index of indexes) {
    const bounds = await index.bounds();
    if (bounds === null || bounds.messages === 0) continue;
    const last = await index.stampAt(bounds.last);
    const archived = places[index.node]?.stamp ?? 0;
    if (last !== null && last.stamp > archived) least = Math.min(least, archived);
  }
  return least === 0 ? null : stampMs(least) - OVERLAP_MS;
}

async function* chosenOf(
  part: ArchivePart,
  batches: AsyncIterable<readonly Connection[]>,
  signal: AbortSignal,
): AsyncGenerator<readonly Connection[], void, undefined> {
  for await (const batch of batches) {
    if (signal.aborted) return;
    const rows = batch.map(part.as).filter((each) => each !== null);
    if (rows.length > 0) yield rows;
  }
}

/** The connections of the streams that the archive does not have. */
async function* notArchived(
  archive: Archive,
  part: ArchivePart,
  stream: HistoryAnswer,
): AsyncGenerator<readonly Connection[], void, undefined> {
  let asked: Connection[] = [];
  const unknown = async (): Promise<readonly Connection[]> => {
    const rows = (await archive.unknown(asked)).map(part.as).filter((each) => each !== null);
    asked = [];
    return rows;
  };
  for await (const batch of stream.connections) {
    for (const connection of batch) asked.push(connection);
    if (asked.length >= ASKED_AT_ONCE) yield await unknown();
  }
  if (asked.length > 0) yield await unknown();
}

/** The last `limit` connections of archive and streams. The archive is read only as far as the streams leave room. */
async function latest(
  archive: Archive,
  streamed: AsyncIterable<readonly Connection[]>,
  part: ArchivePart,
  limit: number,
): Promise<readonly Connection[]> {
  let found: readonly Connection[] = [];
  for await (const batch of newest(streamed, limit)) found = batch;
  if (found.length === limit) return found;
  const archived = await part.newest(archive, limit - found.length);
  return [...archived.map(part.as).filter((each) => each !== null), ...found];
}

/** A connection as it was at a time: alive, in an unknown state. Null: it was not alive then. */
function asOf(connection: Connection, timeMs: number): Connection | null {
  if (!overlaps(connection, timeMs, timeMs) || (connection.endMs !== null && connection.endMs <= timeMs)) return null;
  const words = connection.words.slice();
  const { [W_HAS]: has = 0 } = words;
  words[W_HAS] = has & ~(HAS_PROTOINFO | HAS_STATUS);
  // The path keeps its first node, even if the time lies before that node's first known row.
  const path = connection.path.filter(({ sinceMs }, i) => i === 0 || sinceMs <= timeMs);
  return { ...copyOf(connection), words, path, end: "open", endMs: null, timedByKernel: false, counters: null };
}

/** The getters of a connection as values. */
function copyOf({ uid, rare, startMs, mayMiss }: Connection): Pick<Connection, "uid" | "rare" | "startMs" | "mayMiss"> {
  return { uid, rare, startMs, mayMiss };
}

/** True when a connection was alive within a range, which includes its last millisecond as a whole, as stamps do. */
function overlaps({ startMs, endMs }: Connection, sinceMs: number | null, untilMs: number | null): boolean {
  const began = startMs === null || untilMs === null || stampOfMs(startMs) <= stampOfMs(untilMs);
  return began && (endMs === null || sinceMs === null || endMs >= sinceMs);
}
