import type { StatsReport } from "../control/protocol.js";
import type { Exposition, Labels } from "./exposition.js";

/** Groups of `stats` that repeat others in conntrackd's words. */
const REPEATED_GROUPS = new Set(["runtime", "traffic", "link", "messages"]);
/** Figures of `stats` that repeat a gauge of the node, or the sum of others. */
const REPEATED = new Set(["active", "createFailed", "updateFailed", "destroyFailed"]);
/** Figures that go down again, and the time stamps among them. */
const GAUGES = new Set(["bufferBytes", "filterInstructions", "filterLeftOut", "internalActive", "externalActive"]);

/** Why something was lost or refused: the counter of `stats`, and what it counts. */
const DROPS: readonly (readonly [reason: string, group: string, name: string])[] = [
  ["internal_cache_full", "internal", "createFailedFull"],
  ["external_cache_full", "external", "createFailedFull"],
  ["kernel_message_malformed", "replicator", "malformed"],
  ["publish_queue_full", "publisher", "droppedMessages"],
  ["stream_lost", "publisher", "lostMessages"],
  ["peer_message_malformed", "reader.*", "malformed"],
  ["peer_message_missing", "reader.*", "holes"],
  ["peer_message_refused", "reader.*", "refused"],
  ["peer_row_refused", "reader.*", "rowsRefused"],
  ["peer_row_without_room", "reader.*", "rowsWithoutRoom"],
  ["commit_refused", "commit", "commitFailed"],
  ["inject_refused", "inject", "failed"],
];

/**
 * Every figure of `stats` as a metric of its own: `publisher.droppedMessages` is
 * `conntrail_publisher_dropped_messages_total`, and what a reader of a peer counts has the peer as its label. New
 * counters need no line here.
 */
export function addCounters(out: Exposition, stats: StatsReport): void {
  for (const [key, counters] of Object.entries(stats)) {
    if (REPEATED_GROUPS.has(key)) continue;
    const [group = "", peer] = splitGroup(key);
    const labels: Labels = peer === undefined ? {} : { peer };
    for (const [name, value] of Object.entries(counters)) {
      if (REPEATED.has(name) || (group === "takeover" && name.startsWith("last"))) continue;
      addFigure(out, group, name, value, labels);
    }
  }
  for (const [reason, group, name] of DROPS) {
    const value = sumOf(stats, group, name);
    out.counter("conntrail_drops_total", "What was lost or refused, by reason", value, { reason });
  }
}

function addFigure(out: Exposition, group: string, name: string, value: number, labels: Labels): void {
  const help = `The figure ${group}.${name} of conntrail stats`;
  const base = `conntrail_${withoutEcho(group, snake(name))}`;
  if (name.endsWith("UntilMs")) {
    out.gauge(`${base.replace(/_ms$/, "")}_timestamp_seconds`, help, value / 1000, labels);
  } else if (GAUGES.has(name) || /^(waiting|pending)/.test(name)) out.gauge(base, help, value, labels);
  else out.counter(`${base}_total`, help, value, labels);
}

/** `reader.fw2` is the group `reader` of the peer fw2. */
function splitGroup(key: string): readonly [group: string, peer: string | undefined] {
  const dot = key.indexOf(".");
  return dot < 0 ? [key, undefined] : [key.slice(0, dot), key.slice(dot + 1)];
}

/** `commit.commitFailed` is `commit_failed`, not `commit_commit_failed`. */
function withoutEcho(group: string, name: string): string {
  return name.startsWith(group) ? name : `${group}_${name}`;
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function sumOf(stats: StatsReport, group: string, name: string): number {
  const prefix = group.endsWith(".*") ? group.slice(0, -1) : null;
  let sum = 0;
  for (const [key, counters] of Object.entries(stats)) {
    if (prefix === null ? key === group : key.startsWith(prefix)) sum += counters[name] ?? 0;
  }
  return sum;
}
