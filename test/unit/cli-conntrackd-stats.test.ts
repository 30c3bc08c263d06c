/** The texts of -s in the forms in which conntrackd 1.4.7 printed them (test/golden/conntrackd/command-line.json). */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { StatsPart } from "../../src/cli/conntrackd/options.js";
import { formatStatsPart, type StatsLink } from "../../src/cli/conntrackd/stats.js";
import { DEFAULT_SHAPE } from "../../src/conntrackd/shape.js";
import { STATS, STATUS } from "../support/control-handlers.js";
import { printfForm } from "../support/printf-form.js";

const captured = JSON.parse(readFileSync("test/golden/conntrackd/command-line.json", "utf8")) as {
  args: string;
  daemon: boolean;
  stdout: string;
}[];

const link: StatsLink = { protocol: "UDP", device: "sync0" };

function text(part: StatsPart, stats = STATS, unconfirmed = 1): string {
  const status = { ...STATUS, publisher: { ...STATUS.publisher, unconfirmed } };
  return formatStatsPart(part, { stats, status, link, shape: DEFAULT_SHAPE });
}

const PARTS = ["ct", "expect", "network", "cache", "runtime", "link", "rsqueue", "queue", "process"] as const;

for (const part of PARTS) {
  test(`-s ${part}`, () => {
    const real = captured.find(({ args, daemon }) => daemon && args === `-C DIR/conf -s ${part}`);
    assert.equal(printfForm(text(part)), printfForm(real?.stdout ?? assert.fail("not captured")));
  });
}

test("numbers come from the counters", () => {
  const stats = {
    ...STATS,
    internal: {
      active: 3,
      created: 10,
      createFailed: 2,
      createFailedFull: 1,
      updated: 20,
      destroyed: 7,
      destroyFailed: 4,
    },
    expectations: { internalActive: 1, externalActive: 2, internalCreated: 5, externalCreated: 6 },
    runtime: { uptimeSeconds: 2 * 86_400 + 3 * 3600 + 240 },
    events: { eventsReceived: 12, overruns: 2, bufferBytes: 4096 },
    replicator: { filtered: 5, kernelResyncs: 3, kernelFlushes: 1 },
    publisher: { droppedMessages: 9 },
  };
  assert.match(
    text("cache", stats),
    /creation OK\/failed:\t\t {10}10\/ {11}2\n\t\tno memory .*\n\t\tno space left in cache:\t {11}1\n/,
  );
  const expected = text("expect", stats);
  assert.match(expected, /^cache internal:\ncurrent active connections:\t {11}1\nconnections created:\t\t {11}5\t/);
  assert.match(expected, /cache external:\ncurrent active connections:\t {11}2\nconnections created:\t\t {11}6\t/);
  const runtime = text("runtime", stats);
  assert.match(runtime, /^daemon uptime: 2 days 3 h 4 min\n/);
  assert.match(runtime, /events received:\t {18}12\n\tevents filtered:\t {19}5\n/);
  assert.match(runtime, /overrun:\t\t {11}2\n\tflush kernel table:\t\t {11}1\n\tresync with kernel table:\t {11}3\n/);
  assert.match(text("queue", stats), /queue rsqueue:\n.* 1\n.* 16384\nnot enough space errors:\t {11}9\n\n$/);
  assert.equal(text("rsqueue", stats, 2), "resent queue (len=2)\nobject -> seq:8\nobject -> seq:9\n");
});

test("the link is called what the configuration calls it", () => {
  const shape = { ...DEFAULT_SHAPE, expectations: false };
  const sources = { stats: STATS, status: STATUS, shape };
  const multicast = formatStatsPart("link", { ...sources, link: { protocol: "multicast", device: "eth2" } });
  assert.match(multicast, /^multicast traffic device=eth2 status=RUNNING role=ACTIVE:\n/);
  const tcp = formatStatsPart("network", { ...sources, link: { protocol: "TCP", device: "eth2" } });
  assert.match(tcp, /\nTCP traffic \(active device=eth2\) server=disconnected client=disconnected:\n/);
  const down = { ...STATUS, broker: { ...STATUS.broker, state: "unreachable" } };
  assert.match(formatStatsPart("link", { ...sources, status: down, link }), /status=DOWN /);
  assert.equal(formatStatsPart("expect", { ...sources, link }), "");
});
