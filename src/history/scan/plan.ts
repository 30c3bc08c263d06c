import { STAMPS_PER_MS, stampMs } from "../../flow/clock.js";
import type { StreamBounds, StreamIndex } from "../../stream/stream-index.js";
import type { Segment } from "./source.js";

/** What of one stream is read for a range. */
export interface StreamPlan {
  readonly node: string;
  /** In order; none: there is nothing. */
  readonly segments: readonly Segment[];
  /** Why the table at the beginning of the range is not known, and up to which stamp that is so; null when it is known. */
  readonly missing: Missing | null;
  /** Messages in the segments, at the most. */
  readonly messages: number;
}

interface Missing {
  readonly reason: string;
  readonly until: number;
  /** How far that is ahead of the clock of its writer, milliseconds. */
  readonly aheadMs: number;
}

interface Start {
  readonly index: StreamIndex;
  readonly bounds: StreamBounds | null;
  readonly sequence: number;
  /** Stamp of the message there. */
  readonly stamp: number;
  readonly missing: Missing | null;
}

/** What is read before and behind a commit: claims come about with it, not at it. */
const CLAIM_STAMPS = 2000 * STAMPS_PER_MS;

/**
 * Where to begin with each stream: at its last snapshot that was complete when the range began, so that however much is stored
 * only what the answer rests on is read. Of a stream that begins later than another's, also what it said when that other one was
 * last heard: where that node died, its flows were taken over then, and would else live for ever. `live`: the streams have no end.
 */
export async function planStreams(
  indexes: readonly StreamIndex[],
  sinceMs: number | null,
  live: boolean,
): Promise<StreamPlan[]> {
  const starts = await Promise.all(indexes.map((index) => startOf(index, sinceMs)));
  return Promise.all(starts.map((start) => planOf(start, starts, live)));
}

async function startOf(index: StreamIndex, sinceMs: number | null): Promise<Start> {
  const bounds = await index.bounds();
  const none = (reason: string): Start => {
    const never = Number.POSITIVE_INFINITY;
    return { index, bounds, sequence: 0, stamp: never, missing: { reason, until: never, aheadMs: 0 } };
  };
  if (bounds === null) return none("this broker holds no stream of it");
  const first = bounds.messages === 0 ? null : await index.stampAt(bounds.first);
  if (first === null) return none("its stream is empty");
  if (sinceMs !== null) {
    const since = await index.findTime(sinceMs, bounds);
    const snapshot = await index.snapshotBefore(since, bounds);
    if (snapshot !== null) return { index, bounds, ...snapshot, missing: null };
  }
  const reason = "nothing older is kept; connections that began before are known from the next snapshot on";
  const whole = await index.isBeginning(bounds.first);
  const { sequence, stamp, timeMs } = first;
  const missing = whole ? null : { reason, until: stamp, aheadMs: stampMs(stamp) - timeMs };
  return { index, bounds, sequence, stamp, missing };
}

async function planOf(start: Start, all: readonly Start[], live: boolean): Promise<StreamPlan> {
  const { index, bounds, sequence, missing } = start;
  if (bounds === null || sequence === 0) {
    // Followed all the same: it may come.
    const segments = live ? [{ from: 0, until: Number.POSITIVE_INFINITY }] : [];
    return { node: index.node, segments, missing, messages: 0 };
  }
  const until = live ? Number.POSITIVE_INFINITY : bounds.last;
  const earlier = all.filter((other) => other !== start && other.stamp < start.stamp);
  const windows = (await Promise.all(earlier.map((other) => takeover(other, start, bounds)))).flat();
  const segments = joined([...windows, { from: sequence, until }]);
  const messages = segments.reduce((sum, { from, until }) => sum + Math.min(until, bounds.last) - from + 1, 0);
  return { node: index.node, segments, missing, messages };
}

/** What a stream said between the last word of a silent node and its own beginning, around its next commit. */
async function takeover(silent: Start, start: Start, bounds: StreamBounds): Promise<Segment[]> {
  if (silent.bounds === null) return [];
  const behind = await silent.index.findStamp(start.stamp, silent.bounds);
  const last = await silent.index.stampAt(Math.max(silent.sequence, behind - 1));
  if (last === null) return [];
  const from = await start.index.findStamp(last.stamp - CLAIM_STAMPS, bounds);
  if (from >= start.sequence) return [];
  const commit = await start.index.commitBehind(from, start.sequence);
  if (commit === null) return [];
  const until = await start.index.findStamp(commit.stamp + CLAIM_STAMPS, bounds);
  return [{ from, until: Math.min(until, start.sequence - 1) }];
}

/** In order, and those that touch as one. */
function joined(segments: Segment[]): Segment[] {
  segments.sort((a, b) => a.from - b.from);
  const kept: Segment[] = [];
  for (const segment of segments) {
    const last = kept.at(-1);
    if (last === undefined || segment.from > last.until + 1) kept.push(segment);
    else kept[kept.length - 1] = { from: last.from, until: Math.max(last.until, segment.until) };
  }
  return kept;
}
