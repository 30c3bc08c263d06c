import { stampMs, stampOfMs } from "../../flow/clock.js";
import { HAS_PROTOINFO, HAS_STATUS, W_HAS } from "../../flow/record.js";
import { StreamIndex } from "../../stream/stream-index.js";
import type { Connection, ConnectionChange, Gap, HistoryAnswer, HistoryQuery, WhoQuestion } from "../connection.js";
import { HOLD_MS } from "../scan/held-ends.js";
import { type History, newest } from "../scan/history.js";
import { planStreams } from "../scan/plan.js";
import type { HistoryStreams } from "../scan/streams.js";
import type { Archive } from "./archive.js";
import type { ArchiveState } from "./state.js";

/** What the history commands ask: the streams, or the streams and an archive. */
export type HistorySource = Pick<History, "nodes" | "connections" | "at" | "who" | "follow">;

/**
 * How much before the end of the archive the streams are read: what an archiver had read then may have waited, and kernel's times are
 * not quite those of the messages.
 */
const OVERLAP_MS = HOLD_MS + 10_000;
/** Of so many connections the archive is asked at once whether it has them: each time it looks through what ended around then. */
const ASKED_AT_ONCE = 8192;

/** What of an answer comes from the archive. */
interface ArchivePart {
  /** `latestFirst`: as Archive.connections has it; asked for only where there is a limit. */
  connections(archive: Archive, latestFirst: boolean): AsyncIterable<readonly Connection[]>;
  /** From the streams, what overlaps that time. */
  stream(sinceMs: number | null, untilMs: number | null): HistoryAnswer;
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  readonly limit: number | null;
  /** What of the connections counts, and as what. */
  readonly as: (connection: Connection) => Connection | null;
}

/**
 * Streams and archive as one: where the streams reach back far enough they answer alone, else the archive tells what it has,
 * and the streams what has ended since or lives on. What both have is told once.
 */
export class ArchivedHistory implements HistorySource {
  readonly #history: HistorySource;
  readonly #streams: HistoryStreams;
  readonly #openArchive: () => Promise<Archive>;

  /** `openArchive` is asked when the archive is needed; who gives it closes it. */
  constructor(history: HistorySource, streams: HistoryStreams, openArchive: () => Promise<Archive>) {
    this.#history = history;
    this.#streams = streams;
    this.#openArchive = openArchive;
  }

  get nodes(): readonly string[] {
    return this.#history.nodes;
  }

  /** As History.connections. */
  connections(query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    const { sinceMs, untilMs, limit } = query;
    const history = this.#history;
    const answer = history.connections(query, signal);
    return this.#answer(answer, signal, {
      connections: (archive, latestFirst) => archive.connections(query, latestFirst),
      stream: (from, until) => history.connections({ ...query, sinceMs: from, untilMs: until, limit: null }, signal),
      sinceMs,
      untilMs,
      limit,
      as: (connection) => (overlaps(connection, sinceMs, untilMs) ? connection : null),
    });
  }

  /** As History.at; of what comes from the archive the state at that time is not known, and left out. */
  at(timeMs: number, query: HistoryQuery, signal: AbortSignal): HistoryAnswer {
    const { limit, nodes } = query;
    const range = { ...query, nodes: null, sinceMs: timeMs, untilMs: timeMs, limit: null };
    return this.#answer(this.#history.at(timeMs, query, signal), signal, {
      connections: (archive, latestFirst) => archive.connections(range, latestFirst),
      stream: (from, until) => this.#history.connections({ ...range, sinceMs: from, untilMs: until }, signal),
      sinceMs: timeMs,
      untilMs: timeMs,
      limit,
      as: (connection) => {
        const then = asOf(connection, timeMs);
        return then !== null && (nodes === null || nodes.includes(then.path.at(-1)!.node)) ? then : null;
      },
    });
  }

  /** As History.who. */
  who(question: WhoQuestion, signal: AbortSignal): HistoryAnswer {
    const { sinceMs, untilMs } = question;
    return this.#answer(this.#history.who(question, signal), signal, {
      connections: (archive) => archive.who(question),
      stream: (from, until) =>
        this.#history.who({ ...question, sinceMs: from ?? sinceMs, untilMs: until ?? untilMs }, signal),
      sinceMs,
      untilMs,
      limit: null,
      as: (connection) => (overlaps(connection, sinceMs, untilMs) ? connection : null),
    });
  }

  /** As History.follow: what is to come is in the streams. */
  follow(
    query: HistoryQuery,
    signal: AbortSignal,
    settled = false,
  ): AsyncGenerator<readonly ConnectionChange[], void, undefined> {
    return this.#history.follow(query, signal, settled);
  }

  /** `alone` answers when the streams reach back far enough. */
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
      // All that the archive has been through is read, so that what is open behind that is open in truth.
      const untilMs = part.untilMs === null ? null : Math.max(part.untilMs, stampMs(state.stamp) + 1);
      answering = part.stream(sinceMs, untilMs);
      const streamed = notArchived(archive, part, answering);
      if (part.limit === null) {
        yield* chosenOf(part, part.connections(archive, false), signal);
        yield* streamed;
      } else {
        const found = await latest(part.connections(archive, true), streamed, part, part.limit, signal);
        if (found.length > 0) yield found;
      }
    };
    return {
      connections: connections.call(this),
      gaps: () => [...archiveGaps, ...answering.gaps()],
      progress: () => ({ ...answering.progress(), ...(read !== null && { archive: read.progress }) }),
    };
  }

  /** True when the streams alone know all that a range rests on. */
  async #reachesBack(sinceMs: number | null): Promise<boolean> {
    const plans = await planStreams(this.#indexes(), sinceMs, false);
    return plans.every(({ missing }) => missing === null);
  }

  #indexes(): StreamIndex[] {
    return indexesOf(this.#streams, this.nodes);
  }
}

/** What finds places in the streams of these nodes. */
export function indexesOf(streams: HistoryStreams, nodes: readonly string[]): StreamIndex[] {
  return nodes.map((node) => new StreamIndex(streams.lookup(node), node));
}

/**
 * From when on the streams have what the archive has not, milliseconds since 1970: the least of what its nodes have said since. Null:
 * from their beginning on.
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

/** What only the streams have. */
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

/** The last `limit` of what archive and streams have: of the archive no more is read than the streams leave room for. */
async function latest(
  archived: AsyncIterable<readonly Connection[]>,
  streamed: AsyncIterable<readonly Connection[]>,
  part: ArchivePart,
  limit: number,
  signal: AbortSignal,
): Promise<readonly Connection[]> {
  let found: readonly Connection[] = [];
  for await (const batch of newest(streamed, limit)) found = batch;
  if (found.length === limit) return found;
  for await (const rows of chosenOf(part, archived, signal)) {
    found = [...rows.slice(Math.max(0, rows.length - limit + found.length)), ...found];
    if (found.length === limit) break;
  }
  return found;
}

/** A connection as it was at a time, as far as its record tells: alive, and nobody knows in which state. Null: it was not alive. */
function asOf(connection: Connection, timeMs: number): Connection | null {
  if (!overlaps(connection, timeMs, timeMs) || (connection.endMs !== null && connection.endMs <= timeMs)) return null;
  const words = connection.words.slice();
  words[W_HAS]! &= ~(HAS_PROTOINFO | HAS_STATUS);
  // The first node is named even where the time lies before what is known of it.
  const path = connection.path.filter(({ sinceMs }, i) => i === 0 || sinceMs <= timeMs);
  return { ...copyOf(connection), words, path, end: "open", endMs: null, timedByKernel: false, counters: null };
}

/** Its getters as values. */
function copyOf({ uid, rare, startMs, mayMiss }: Connection): Pick<Connection, "uid" | "rare" | "startMs" | "mayMiss"> {
  return { uid, rare, startMs, mayMiss };
}

/** A range ends with its last millisecond, as the stamps of messages do. */
function overlaps({ startMs, endMs }: Connection, sinceMs: number | null, untilMs: number | null): boolean {
  const began = startMs === null || untilMs === null || stampOfMs(startMs) <= stampOfMs(untilMs);
  return began && (endMs === null || sinceMs === null || endMs >= sinceMs);
}
