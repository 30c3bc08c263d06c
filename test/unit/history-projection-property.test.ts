import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { stampMs } from "../../src/flow/clock.js";
import { W_ORIG_L4, W_STATUS } from "../../src/flow/record.js";
import type { Connection, HistoryAnswer, HistoryQuery } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import { HistoryCluster, type TrueConnection } from "../support/history-cluster.js";
import { Random, tcpRecord } from "../support/records.js";

const EVERYTHING: HistoryQuery = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };
const never = new AbortController().signal;

async function collect(answer: HistoryAnswer): Promise<Connection[]> {
  const all: Connection[] = [];
  for await (const batch of answer.connections) all.push(...batch);
  return all;
}

/** The end of a connection as it was known at a time. */
function endAt({ end, ends }: TrueConnection, untilMs: number): TrueConnection["end"] {
  const first = ends.find(({ againStamp }) => stampMs(againStamp) > untilMs)?.end ?? end;
  return first === null || stampMs(first.stamp) > untilMs ? null : first;
}

/** What the answer about a range must be: the connections alive in it, as they were at its end. */
function expected(truth: readonly TrueConnection[], sinceMs: number, untilMs: number): TrueConnection[] {
  return truth
    .map((connection) => ({
      ...connection,
      end: endAt(connection, untilMs),
      path: connection.path.filter(({ since }) => stampMs(since) <= untilMs),
    }))
    .filter(({ births, end }) => stampMs(births[0]!) <= untilMs && (end === null || stampMs(end.stamp) >= sinceMs));
}

function keyOf(tuple: number, endMs: number | null): string {
  return `${tcpRecord(tuple)[W_ORIG_L4]} ${endMs}`;
}

function check(found: readonly Connection[], truth: readonly TrueConnection[], whole: boolean): void {
  const wanted = new Map(truth.map((c) => [keyOf(c.tuple, c.end === null ? null : stampMs(c.end.stamp)), c]));
  const keys = found.map(({ words, endMs }) => `${words[W_ORIG_L4]} ${endMs}`);
  assert.deepEqual(keys.toSorted(), [...wanted.keys()].toSorted());
  for (const [i, connection] of found.entries()) {
    const true_ = wanted.get(keys[i]!)!;
    assert.equal(connection.end, true_.end?.kind ?? "open", keys[i]!);
    const packets = true_.end?.packets ?? null;
    assert.equal(connection.counters?.origPackets ?? null, packets);
    const births = true_.births.map((birth) => stampMs(birth));
    assert.ok(births.includes(connection.startMs!), `${keys[i]} began at ${connection.startMs}, not ${births}`);
    const path = true_.path.map(({ node, since }) => ({ node, sinceMs: stampMs(since) }));
    if (whole) {
      assert.equal(connection.startMs, births[0]);
      assert.deepEqual(connection.path, path, keys[i]!);
    } else {
      const known = path.slice(-connection.path.length).map(({ node }) => node);
      assert.deepEqual(
        connection.path.map(({ node }) => node),
        known,
        keys[i]!,
      );
    }
  }
}

function clusterOf(script: readonly number[]): HistoryCluster {
  const cluster = new HistoryCluster(["fw1", "fw2", "fw3"]);
  for (const seed of script) cluster.step(new Random(seed));
  return cluster;
}

const scripts = fc.array(fc.integer({ min: 0, max: 2 ** 31 }), { minLength: 1, maxLength: 60 });
const runs = Number(process.env.HISTORY_RUNS ?? 40);

describe("the history of a cluster of which all is known", () => {
  it("answers with every connection once and whole, when all streams are read from the beginning", async () => {
    await fc.assert(
      fc.asyncProperty(scripts, async (script) => {
        const cluster = clusterOf(script);
        const history = await History.open({ streams: cluster, nodes: null });
        const found = await collect(history.connections(EVERYTHING, never));
        check(found, expected(cluster.truth, 0, Number.MAX_SAFE_INTEGER), true);
        assert.equal(new Set(found.map(({ uid }) => uid)).size, found.length);
      }),
      { numRuns: runs },
    );
  });

  it("answers with the connections of any range, read from the snapshots before it", async () => {
    await fc.assert(
      fc.asyncProperty(scripts, fc.nat(), fc.nat(), async (script, a, b) => {
        const cluster = clusterOf(script);
        const { stamps } = cluster;
        const times = [a, b].map((n) => stampMs(stamps[n % stamps.length]!)).sort((x, y) => x - y);
        const [sinceMs, untilMs] = times as [number, number];
        const history = await History.open({ streams: cluster, nodes: null });
        const found = await collect(history.connections({ ...EVERYTHING, sinceMs, untilMs }, never));
        check(found, expected(cluster.truth, sinceMs, untilMs), false);
      }),
      { numRuns: 2 * runs },
    );
  });

  it("answers with the connections that were alive at any time", async () => {
    await fc.assert(
      fc.asyncProperty(scripts, fc.nat(), async (script, n) => {
        const cluster = clusterOf(script);
        const timeMs = stampMs(cluster.stamps[n % cluster.stamps.length]!);
        const history = await History.open({ streams: cluster, nodes: null });
        const found = await collect(history.at(timeMs, EVERYTHING, never));
        const truth = expected(cluster.truth, timeMs, timeMs).filter(({ end }) => end === null);
        check(found, truth, false);
        for (const { words } of found) assert.notEqual(words[W_STATUS], undefined);
      }),
      { numRuns: 2 * runs },
    );
  });

  it("finds the same with a filter as without", async () => {
    await fc.assert(
      fc.asyncProperty(scripts, fc.nat(29), async (script, tuple) => {
        const cluster = clusterOf(script);
        const history = await History.open({ streams: cluster, nodes: null });
        const filter = { port: tcpRecord(tuple)[W_ORIG_L4]! >>> 16 };
        const found = await collect(history.connections({ ...EVERYTHING, filter }, never));
        const truth = cluster.truth.filter((connection) => connection.tuple === tuple);
        check(found, expected(truth, 0, Number.MAX_SAFE_INTEGER), true);
      }),
      { numRuns: runs },
    );
  });
});
