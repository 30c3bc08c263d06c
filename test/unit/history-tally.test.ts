/** What many connections come to. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatHistogram, formatTop, readTally } from "../../src/cli/history/tally-output.js";
import { Histogram, SummaryTally, TopTally } from "../../src/history/tally.js";
import { bareConnection, echoConnection, NOON_MS, tcpConnection } from "../support/connections.js";

/** A connection of a host that has so many bytes in one direction. */
function of(host: number, origBytes: number) {
  const orig = { src: `10.0.0.${host}`, dst: "198.51.100.7", sport: 40000, dport: 443 };
  return tcpConnection({ orig }, { counters: { origPackets: 1, origBytes, replyPackets: 0, replyBytes: 0 } });
}

test("the top by connections and by bytes, protocols without ports under their names", () => {
  const [byCount, byBytes] = [new TopTally("src", "connections"), new TopTally("src", "bytes")];
  for (const each of [of(1, 10), of(1, 10), of(2, 500), bareConnection()]) {
    byCount.add(each);
    byBytes.add(each);
  }
  assert.deepEqual(
    byCount.top(2).map(({ name, connections, bytes }) => [name, connections, bytes]),
    [
      ["10.0.0.1", 2, 20],
      ["10.0.0.2", 1, 500],
    ],
  );
  assert.equal(byBytes.top(1)[0]!.name, "10.0.0.2");
  const ports = new TopTally("port", "connections");
  for (const each of [of(1, 1), of(2, 1), echoConnection()]) ports.add(each);
  assert.deepEqual(
    ports.top(9).map(({ name }) => name),
    ["443/tcp", "icmp"],
  );
  assert.match(
    formatTop([...byCount.top(9)].slice(-1), "src"),
    /^SOURCE +CONNECTIONS +BYTES +PACKETS\n2001:db8::1 +1 +- +-\n$/,
  );
});

test("too many names are dropped from the least on, and it says so", () => {
  const tally = new TopTally("src", "connections", 8);
  for (let host = 1; host < 200; host++) {
    tally.add(of(host, 1));
    for (const large of [250, 251]) tally.add(of(large, 1));
  }
  assert.deepEqual(
    tally.top(2).map(({ name, connections }) => [name, connections]),
    [
      ["10.0.0.250", 199],
      ["10.0.0.251", 199],
    ],
  );
  assert.ok(tally.dropped > 0);
});

test("a summary counts each connection once, and at each of its nodes", () => {
  const tally = new SummaryTally();
  for (const each of [tcpConnection({}), bareConnection(), echoConnection()]) tally.add(each);
  const { total, outcomes, translated, mayMiss, firstMs, lastMs, nodes, protocols } = tally.summary();
  assert.deepEqual([total.connections, total.uncounted, translated, mayMiss], [3, 2, 2, 1]);
  assert.deepEqual(outcomes, { ended: 1, lost: 1, open: 1 });
  assert.deepEqual([firstMs, lastMs], [NOON_MS + 125.5, NOON_MS + 5250]);
  assert.deepEqual(
    nodes.map(({ name, connections }) => [name, connections]),
    [
      ["fw1", 3],
      ["fw2", 2],
    ],
  );
  assert.equal(protocols.length, 3);
});

test("a histogram holds every connection, in few bars of one length, whatever comes first", () => {
  const times = fc.array(fc.integer({ min: 0, max: 2_000_000_000 }), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(times, (offsets) => {
      const histogram = new Histogram(NOON_MS);
      for (const offset of offsets) histogram.add(tcpConnection({}, { startMs: NOON_MS + offset }));
      const bars = histogram.bars();
      assert.ok(bars.length <= 48);
      assert.equal(
        bars.reduce((sum, { connections }) => sum + connections, 0),
        offsets.length,
      );
      for (const [i, { fromMs, connections }] of bars.entries()) {
        assert.equal(fromMs, bars[0]!.fromMs + i * histogram.stepMs);
        const within = offsets.filter((each) => NOON_MS + each >= fromMs && NOON_MS + each < fromMs + histogram.stepMs);
        assert.equal(within.length, connections);
      }
    }),
  );
  const early = new Histogram(NOON_MS);
  early.add(tcpConnection({}, { startMs: NOON_MS - 1 }));
  early.add(bareConnection());
  assert.deepEqual([early.earlier, early.bars()], [2, []]);
});

test("bars fit into the line", () => {
  const bars = [0, 1, 500].map((connections, i) => ({ fromMs: NOON_MS + i * 60_000, connections, bytes: 0 }));
  const lines = formatHistogram(bars, { stepMs: 60_000, earlier: 3, width: 60 }).split("\n");
  assert.match(lines[0]!, /^FROM +BEGUN {2}each 60\.0 s$/);
  assert.ok(lines[1]!.endsWith(" 0") && lines[2]!.endsWith("1  #") && lines[3]!.length === 60, lines.join("\n"));
  assert.equal(lines[4], "3 connections began earlier");
});

test("options that do not fit together are refused", () => {
  assert.deepEqual(readTally({ top: "src" }, 5), { type: "top", key: "src", order: "connections", count: 5 });
  assert.equal(readTally({}, 5), null);
  for (const options of [{ top: "x" }, { top: "src", by: "x" }, { by: "bytes" }, { top: "src", summary: true }]) {
    assert.throws(() => readTally(options, null), { code: "USAGE" });
  }
  assert.throws(() => readTally({ summary: true }, 5), { code: "USAGE" });
});
