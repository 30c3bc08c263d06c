/** Plans from where each stream is read, so that a question costs what its range needs, however much is stored. */
import { STAMPS_PER_MS, stampMs } from "../../flow/clock.js";
import type { StreamBounds, StreamIndex } from "../../stream/stream-index.js";
import type { Segment } from "./source.js";

/** Which parts of one stream are read for a range. */
export interface StreamPlan {
  readonly node: string;
  /** In order; empty where there is nothing to read. */
  readonly segments: readonly Segment[];
  /** Null when the node's connections at the beginning of the range are known; else why they are not, and until when. */
  readonly missing: Missing | null;
  /** How many messages the segments hold, at the most. */
  readonly messages: number;
}

interface Missing {
  readonly reason: string;
  /** A stamp. */
  readonly until: number;
  /** How far that stamp is ahead of its writer's clock. */
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

/** How far before and behind a commit is read: the claims of a commit are published around it. */
const CLAIM_STAMPS = 2000 * STAMPS_PER_MS;

/**
 * Plans to read each stream from the last snapshot that was complete when the range began. Where another stream begins earlier, a
 * stream is also read around its next commit after that other stream's last message: if that node died, its connections were taken
 * over then, and would otherwise seem alive for ever. `live`: the streams are followed without end.
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
    // Such a stream is followed all the same: it may be made later.
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

/** The part of a stream around its first commit after a silent node's last message, if that lies before where it is read anyway. */
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

/** The segments in order, with those merged that touch. */
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
