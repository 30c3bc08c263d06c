/**
 * A connection as an object: what `--json` and `--format ndjson` print, and what the other formats read from.
 *
 * The shape is a contract: names stay, more may be added. What was not recorded is left out, never zero. Beside what stands
 * here are the keys of a flow (src/flow/flow.ts) that outlive it; what only a commit needs (windows, sequence numbers) is not.
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
  /** ISO 8601 in UTC. Left out: it began before what is kept. */
  readonly start?: string;
  /** Left out while it lives. With the outcome `lost`: the latest time at which it may have ended. */
  readonly end?: string;
  /** Where both ends are known. */
  readonly durationSeconds?: number;
  readonly outcome: Connection["end"];
  /** Left out where the kernel did not count (nf_conntrack_acct). */
  readonly counters?: { readonly orig: DirectionCounters; readonly reply: DirectionCounters };
  /** The nodes that carried it, in order. */
  readonly path: readonly { readonly node: string; readonly since: string }[];
  /** The end, and on a connection of one node the start, are the kernel's own (nf_conntrack_timestamp). */
  readonly timedByKernel: boolean;
  /** True where events may be missing in what this rests on. */
  readonly mayMiss: boolean;
}

/** A gap as JSON has it. */
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

/** The object form of a connection. */
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

/** How long it lasted, to the microsecond. Null while it lives, and where the beginning or the end was not seen. */
export function durationSeconds(connection: Connection): number | null {
  const { startMs, endMs, end } = connection;
  if (startMs === null || endMs === null || end !== "ended") return null;
  return Math.max(0, Math.round((endMs - startMs) * 1000) / 1_000_000);
}

/** The object form of a gap. */
export function gapToJson(gap: Gap): GapJson {
  return {
    node: gap.node,
    ...(gap.fromMs !== null && { from: formatTime(gap.fromMs) }),
    ...(gap.untilMs !== null && { until: formatTime(gap.untilMs) }),
    reason: gap.reason,
    ...(gap.events !== null && { events: gap.events }),
  };
}
