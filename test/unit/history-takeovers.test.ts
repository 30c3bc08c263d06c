/** The takeovers on record, and how they are printed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatTakeovers } from "../../src/cli/history/takeovers.js";
import { stampMs } from "../../src/flow/clock.js";
import { type RecordedTakeover, readTakeovers, type TakeoverQuery } from "../../src/history/scan/takeovers.js";
import type { CommitMark } from "../../src/stream/format/mark.js";
import { HistoryCluster } from "../support/history-cluster.js";

const START_MS = Date.parse("2026-03-01T12:00:00Z");
const MINUTE_STAMPS = 60_000 * 4096;
const ALL: TakeoverQuery = { nodes: ["fw1", "fw2"], sinceMs: null, untilMs: null, limit: 100 };
/** As builds before the record of takeovers write it. */
const OLD: CommitMark = { type: "commit", committed: 7, updated: 2, failed: 1, stale: 3, durationMs: 500 };

function cluster(): HistoryCluster {
  const streams = new HistoryCluster(["fw1", "fw2"], 0, START_MS);
  const [fw1, fw2] = streams.members as [(typeof streams.members)[0], (typeof streams.members)[0]];
  const minutes = (count: number): number => START_MS + count * 60_000;
  streams.stamp += MINUTE_STAMPS;
  streams.mark(fw1, OLD);
  streams.stamp += MINUTE_STAMPS;
  streams.snapshot(fw1, () => undefined);
  streams.mark(fw2, {
    ...{
      type: "commit",
      cause: "hook",
      group: "lan",
      beganMs: minutes(2),
      committed: 20_000,
      ahead: 480_000,
      updated: 4,
    },
    ...{ failed: 3, reasons: { EEXIST: 2, ENOMEM: 1 }, stale: 1, repaired: 9, withoutHelper: 2, durationMs: 240.5 },
  });
  streams.stamp += MINUTE_STAMPS;
  streams.mark(fw1, { ...OLD, cause: "command", beganMs: minutes(3), failed: 0, skipped: 5 });
  return streams;
}

test("all takeovers of all nodes, oldest first, also those of an earlier build", async () => {
  const found = await readTakeovers(cluster(), ALL);
  assert.deepEqual(
    found.map(({ node, cause, group, committed }) => [node, cause, group, committed]),
    [
      ["fw1", null, null, 7],
      ["fw2", "hook", "lan", 20_000],
      ["fw1", "command", null, 7],
    ],
  );
  assert.deepEqual([found[0]?.reasons, found[0]?.skipped, found[0]?.ahead], [null, null, 0]);
  assert.ok(Math.abs(found[0]!.beganMs - (START_MS + 59_500)) < 1000, "it began before its mark was written");
  assert.deepEqual([found[2]?.reasons, found[2]?.skipped], [{}, 5]);
});

test("by time, by node, and the newest", async () => {
  const streams = cluster();
  const nodes = async (query: Partial<TakeoverQuery>): Promise<string[]> =>
    (await readTakeovers(streams, { ...ALL, ...query })).map(({ node, committed }) => `${node} ${committed}`);
  assert.deepEqual(await nodes({ limit: 1 }), ["fw1 7"]);
  assert.deepEqual(await nodes({ limit: 2 }), ["fw2 20000", "fw1 7"]);
  assert.deepEqual(await nodes({ nodes: ["fw2"] }), ["fw2 20000"]);
  assert.deepEqual(await nodes({ sinceMs: START_MS + 90_000 }), ["fw2 20000", "fw1 7"]);
  assert.deepEqual(await nodes({ untilMs: START_MS + 150_000 }), ["fw1 7", "fw2 20000"]);
  assert.deepEqual(await nodes({ sinceMs: stampMs(streams.stamp) + 60_000 }), []);
});

test("as a table", async () => {
  const found = await readTakeovers(cluster(), ALL);
  const lines = formatTakeovers(found).split("\n");
  assert.match(lines[0]!, /^BEGAN +NODE +GROUP +BY +COMMITTED +AHEAD +UPDATED +FAILED +STALE +TIME$/);
  assert.match(
    lines[2]!,
    /^2026-03-01T12:02:00Z +fw2 +lan +hook +20000 \(9 repaired\) +480000 +4 +3 \(EEXIST 2, ENOMEM 1, 2 without helper\) +1 +241 ms$/,
  );
  assert.match(lines[3]!, /^2026-03-01T12:03:00Z +fw1 +- +command +7 +0 +2 +0 +3 +500 ms$/);
  const none: RecordedTakeover[] = [];
  assert.equal(formatTakeovers(none), "no takeovers are on record\n");
});
