/**
 * A connection as an object: `--json` and `--format ndjson` print it, and the other formats are made from it.
 *
 * The shape is a contract: names never change, and more may be added. A value that was not recorded is left out, never zero. Beside
 * the keys below stand those of a flow (src/flow/flow.ts), without the ones that only a commit needs (windows, sequence numbers).
 *
 *   {
 *     "uid": "C5pVnZ0r2LhK8xQdWm", "communityId": "1:wCb3OG7yAFWelaUydu0D+125CLM=",
 *     "start": "2026-01-31T12:00:00.125Z", "end": "2026-01-31T12:00:05.250Z", "durationSeconds": 5.125, "outcome": "ended",
 *     "family": "ipv4", "protocol": "tcp", "orig": { … }, "reply": { … }, "nat": { … }, "state": "TIME_WAIT", …
 *     "counters": { "orig": { "packets": 12, "bytes": 3456 }, "reply": { "packets": 10, "bytes": 78901 } },
 *     "path": [{ "node": "fw1", "since": "2026-01-31T12:00:00.125Z" }],
 *     "timedByKernel": false, "mayMiss": false
 *   }
 */
import { type Flow, flowFromRecord } from "../../flow/flow.js";
import type { Connection, Gap } from "../connection.js";
import { formatTime } from "../time.js";
import { communityId } from "./community-id.js";

/** Packets and bytes of one direction, as the kernel counted them: with the IP header. */
export interface DirectionCounters {
  readonly packets: number;
  readonly bytes: number;
}

type OfTheTable = "timeoutSeconds" | "id" | "created" | "updated" | "tcp" | "seqadj" | "synproxy";

/** The object form of a connection. */
export interface ConnectionJson extends Omit<Flow, OfTheTable> {
  readonly uid: string;
  readonly communityId: string;
  /** ISO 8601 in UTC. Left out where the connection began before the oldest event that is kept. */
  readonly start?: string;
  /** Left out while the connection is alive. With the outcome `lost` it is the latest possible time. */
  readonly end?: string;
  /** Left out unless both start and end are known. */
  readonly durationSeconds?: number;
  readonly outcome: Connection["end"];
  /** Left out where the kernel did not count (nf_conntrack_acct). */
  readonly counters?: { readonly orig: DirectionCounters; readonly reply: DirectionCounters };
  /** The nodes that carried it, in order. */
  readonly path: readonly { readonly node: string; readonly since: string }[];
  /** The end is the kernel's own time (nf_conntrack_timestamp). The start is too, if only one node carried the connection. */
  readonly timedByKernel: boolean;
  /** True where events may be missing in the part of the streams from which this was made. */
  readonly mayMiss: boolean;
}

/** The object form of a gap. */
export interface GapJson {
  readonly node: string;
  /** Left out: from the beginning. */
  readonly from?: string;
  /** Left out: until now. */
  readonly until?: string;
  readonly reason: string;
  /** How many events, where that is known. */
  readonly events?: number;
}

/** A connection in its object form. */
export function connectionToJson(connection: Connection): ConnectionJson {
  const { words, rare, startMs, endMs, counters } = connection;
  const { timeoutSeconds, id, created, updated, tcp, seqadj, synproxy, ...flow } = flowFromRecord(words, 0, rare);
  const duration = durationSeconds(connection);
  return {
    uid: connection.uid,
    communityId: communityId(words, 0),
    ...(startMs !== null && { start: formatTime(startMs) }),
    ...(endMs !== null && { end: formatTime(endMs) }),
    ...(duration !== null && { durationSeconds: duration }),
    outcome: connection.end,
    ...flow,
    ...(counters !== null && {
      counters: {
        orig: { packets: counters.origPackets, bytes: counters.origBytes },
        reply: { packets: counters.replyPackets, bytes: counters.replyBytes },
      },
    }),
    path: connection.path.map(({ node, sinceMs }) => ({ node, since: formatTime(sinceMs) })),
    timedByKernel: connection.timedByKernel,
    mayMiss: connection.mayMiss,
  };
}

/** How long a connection lasted, to the microsecond. Null while it is alive, and where its start or end was not seen. */
export function durationSeconds(connection: Connection): number | null {
  const { startMs, endMs, end } = connection;
  if (startMs === null || endMs === null || end !== "ended") return null;
  return Math.max(0, Math.round((endMs - startMs) * 1000) / 1_000_000);
}

/** A gap in its object form. */
export function gapToJson(gap: Gap): GapJson {
  return {
    node: gap.node,
    ...(gap.fromMs !== null && { from: formatTime(gap.fromMs) }),
    ...(gap.untilMs !== null && { until: formatTime(gap.untilMs) }),
    reason: gap.reason,
    ...(gap.events !== null && { events: gap.events }),
  };
}
