/** Opens the streams of several nodes at the places from which a range must be read, and merges them. */
import { stampOfMs } from "../../flow/clock.js";
import { StreamIndex } from "../../stream/stream-index.js";
import { Merge } from "./merge.js";
import { planStreams } from "./plan.js";
import type { Projection } from "./projection.js";
import { StreamSource } from "./source.js";
import type { HistoryStreams } from "./streams.js";

/** Which part of the streams is read. */
export interface StreamRange {
  /** Reading begins at the last snapshot before this time; null: at the beginning. */
  readonly sinceMs: number | null;
  /** Null or left out: reading ends where the streams end. */
  readonly untilMs?: number | null;
  /** The streams are followed without end. */
  readonly live: boolean;
}

/** How often new streams are looked for while streams are followed. */
export const NEW_STREAMS_EVERY_MS = 5000;

/** Merges the streams of these nodes over a range, for a projection that has read nothing yet. */
export async function mergeStreams(
  streams: HistoryStreams,
  nodes: readonly string[],
  projection: Projection,
  range: StreamRange,
  signal: AbortSignal,
): Promise<{ merge: Merge; messages: number }> {
  const { sources, messages } = await openSources(streams, nodes, projection, range);
  return { merge: new Merge(sources, signal), messages };
}

/** Adds the streams of nodes that have joined since. Finds none while the broker is away. */
export async function joinStreams(
  streams: HistoryStreams,
  merge: Merge,
  projection: Projection,
  range: StreamRange,
): Promise<void> {
  try {
    const nodes = (await streams.nodes()).filter((node) => !merge.reads(node));
    if (nodes.length > 0) merge.add((await openSources(streams, nodes, projection, range)).sources);
  } catch {
    // The next attempt comes soon, and if the broker stays away the readers report it.
  }
}

async function openSources(
  streams: HistoryStreams,
  nodes: readonly string[],
  projection: Projection,
  { sinceMs, untilMs = null, live }: StreamRange,
): Promise<{ sources: StreamSource[]; messages: number }> {
  const indexes = nodes.map((node) => new StreamIndex(streams.lookup(node), node));
  const plans = await planStreams(indexes, sinceMs, live);
  const sources = plans.map(({ node, segments, messages, missing }) => {
    const state = projection.node(node);
    if (missing !== null) {
      const from = sinceMs === null ? 0 : stampOfMs(sinceMs + missing.aheadMs);
      state.gaps.add({ from, ...missing, events: null });
    }
    return new StreamSource({
      node: state,
      read: (start, stop) => streams.read(node, start, plans.length, stop),
      segments,
      messages,
      untilMs: live ? Number.POSITIVE_INFINITY : (untilMs ?? Number.POSITIVE_INFINITY),
      onDamaged: () => projection.skip(),
      onBeyond: (message) => projection.beyond(state, message),
    });
  });
  return { sources, messages: plans.reduce((sum, { messages }) => sum + messages, 0) };
}
