/** The takeovers that the streams have on record, without reading what is between their marks. */
import { stampMs } from "../../flow/clock.js";
import { aheadMs } from "../../stream/format/envelope.js";
import type { DecodedMark } from "../../stream/format/mark.js";
import { StreamIndex } from "../../stream/stream-index.js";
import type { HistoryStreams } from "./streams.js";

/** A takeover: a commit of a node. Null where the node's build did not record it yet. */
export interface RecordedTakeover {
  readonly node: string;
  /** When it began, milliseconds since the Unix epoch, by the node's clock. */
  readonly beganMs: number;
  /** `hook`: the node became primary; `command`: somebody asked for the commit. */
  readonly cause: "hook" | "command" | null;
  /** The sync group that became primary; null: none was named. */
  readonly group: string | null;
  /** Entries created in the kernel. */
  readonly committed: number;
  /** Flows that the kernel had before. */
  readonly ahead: number;
  /** Entries that the kernel had and that were updated; in mode `inject`, flows that the node made its own. */
  readonly updated: number;
  readonly skipped: number | null;
  /** Flows of `committed` for which another entry had to go. */
  readonly repaired: number;
  /** Entries that the kernel refused, and how many for which reason; null: the reasons are not recorded. */
  readonly failed: number;
  readonly reasons: Readonly<Record<string, number>> | null;
  /** Entries removed, because the flow had ended elsewhere. */
  readonly stale: number;
  readonly withoutMaster: number;
  readonly withoutHelper: number;
  readonly expectations: number;
  readonly durationMs: number;
}

/** Which takeovers to read. */
export interface TakeoverQuery {
  readonly nodes: readonly string[];
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  /** The newest so many. */
  readonly limit: number;
}

/** The takeovers of these nodes, oldest first. */
export async function readTakeovers(streams: HistoryStreams, query: TakeoverQuery): Promise<RecordedTakeover[]> {
  const found = await Promise.all(query.nodes.map((node) => readNode(streams, node, query)));
  const all = found.flat().sort((a, b) => a.beganMs - b.beganMs || (a.node < b.node ? -1 : 1));
  return all.slice(-query.limit);
}

async function readNode(streams: HistoryStreams, node: string, query: TakeoverQuery): Promise<RecordedTakeover[]> {
  const { sinceMs, untilMs, limit } = query;
  const index = new StreamIndex(streams.lookup(node), node);
  const bounds = await index.bounds();
  const found: RecordedTakeover[] = [];
  if (bounds === null || bounds.messages === 0) return found;
  const from = sinceMs === null ? bounds.first : await index.findTime(sinceMs, bounds);
  for await (const decoded of index.marks(from, bounds.last)) {
    const takeover = takeoverOf(decoded);
    if (takeover === null || takeover.beganMs < (sinceMs ?? 0)) continue;
    if (untilMs !== null && takeover.beganMs > untilMs) break;
    found.push(takeover);
    if (found.length > limit) found.shift();
  }
  return found;
}

function takeoverOf({ envelope, mark }: DecodedMark): RecordedTakeover | null {
  if (mark.type !== "commit") return null;
  const { committed, updated, stale, failed, durationMs, reasons } = mark;
  const writtenMs = stampMs(envelope.stamp) - aheadMs(envelope);
  return {
    node: envelope.node,
    beganMs: mark.beganMs ?? Math.floor(writtenMs - durationMs),
    cause: mark.cause ?? null,
    group: mark.group ?? null,
    ...{ committed, ahead: mark.ahead ?? 0, updated, skipped: mark.skipped ?? null, repaired: mark.repaired ?? 0 },
    ...{ failed, reasons: reasons ?? (failed === 0 ? {} : null), stale },
    withoutMaster: mark.withoutMaster ?? 0,
    withoutHelper: mark.withoutHelper ?? 0,
    expectations: mark.expectations ?? 0,
    durationMs,
  };
}
