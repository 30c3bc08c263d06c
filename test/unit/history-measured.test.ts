/** What a destroy row claims to have measured, where no kernel could have: it counts as not measured. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { stampOfMs } from "../../src/flow/clock.js";
import { HAS_COUNTERS, HAS_TIMES } from "../../src/flow/record.js";
import type { Connection } from "../../src/history/connection.js";
import { connectionToJson } from "../../src/history/format/connection-json.js";
import { natEvents } from "../../src/history/format/ipfix.js";
import { History } from "../../src/history/scan/history.js";
import { NOON_MS, tcpConnection } from "../support/connections.js";
import { StoredStream } from "../support/history-cluster.js";
import { StreamWriter } from "../support/stream-writer.js";

const FLOW = tcpConnection({}).words;

/** The one connection of a stream whose destroy row has these numbers. */
async function ended(counters: readonly number[], timesMicros: readonly number[]): Promise<Connection> {
  const stream = new StoredStream();
  const writer = new StreamWriter("fw1");
  const end = {
    has: HAS_COUNTERS | HAS_TIMES,
    counters: Float64Array.from(counters),
    timesMicros: Float64Array.from(timesMicros),
  };
  writer.stamp = stampOfMs(NOON_MS);
  for (const { kind, payload } of [
    writer.restart(false),
    writer.events((batch) => batch.addNew(1, FLOW, 0, null, null)),
    writer.events((batch) => batch.addDestroy(1, FLOW, 0, end)),
  ]) {
    stream.append(kind, payload);
  }
  const history = await History.open({
    streams: {
      nodes: async () => ["fw1"],
      lookup: () => stream,
      read: (_node, from, _, signal) => stream.read(from, signal),
    },
    nodes: null,
  });
  const query = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };
  const found: Connection[] = [];
  for await (const batch of history.connections(query, new AbortController().signal).connections) found.push(...batch);
  assert.equal(found.length, 1);
  return found[0]!;
}

const START = (NOON_MS - 5000) * 1000;
const STOP = NOON_MS * 1000;

test("sound numbers are taken", async () => {
  const connection = await ended([1, 2, 3, 4], [START, STOP]);
  assert.deepEqual(connection.counters, { origPackets: 1, origBytes: 2, replyPackets: 3, replyBytes: 4 });
  assert.deepEqual([connection.startMs, connection.endMs, connection.timedByKernel], [START / 1000, STOP / 1000, true]);
});

test("counters that no kernel counts are none", async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5, 1e300]) {
    const connection = await ended([1, 2, bad, 4], [START, STOP]);
    assert.equal(connection.counters, null, String(bad));
    assert.equal(connection.timedByKernel, true);
    assert.equal(natEvents(connection).length, 2);
  }
});

test("times that no kernel has are none", async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, -1, 1e300, 0]) {
    for (const times of [
      [bad, STOP],
      [START, bad],
    ]) {
      const connection = await ended([1, 2, 3, 4], times);
      assert.ok(connection.endMs! >= NOON_MS && connection.endMs! < NOON_MS + 1000, `${times}`);
      assert.doesNotThrow(() => connectionToJson(connection));
    }
  }
});
