/** The log of ended flows: what is written, what is not, and what is counted. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { EVENT_DESTROY, EVENT_NEW } from "../../src/ctnetlink/event-socket.js";
import { EndedLog } from "../../src/daemon/ended-log.js";
import { ConntrailError } from "../../src/errors.js";
import { recordFromFlow } from "../../src/flow/flow.js";
import { DecodedFlow, HAS_COUNTERS, HAS_TIMES, W_HAS } from "../../src/flow/record.js";
import { testNode } from "../support/test-node.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-ended-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

const NOW_MS = Date.UTC(2026, 10, 5, 1, 2, 3);
const TIME = /^Thu Nov {2}5 \d\d:02:03 2026\t/;

function flow(sport: number): DecodedFlow {
  const decoded = new DecodedFlow();
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "udp",
    orig: { src: "10.1.1.1", dst: "10.2.2.2", sport, dport: 53 },
    reply: { src: "10.2.2.2", dst: "10.1.1.1", sport: 53, dport: sport },
    status: ["SEEN_REPLY"],
    mark: 3,
  });
  decoded.words.set(words);
  return decoded;
}

function ended(sport: number): DecodedFlow {
  const decoded = flow(sport);
  decoded.words[W_HAS]! |= HAS_COUNTERS | HAS_TIMES;
  decoded.counters.set([1, 60, 2, 90]);
  decoded.timesMicros.set([1_900_000, 4_100_000]);
  return decoded;
}

const line = (sport: number, counters: readonly [string, string], more = ""): string =>
  `udp      17 src=10.1.1.1 dst=10.2.2.2 sport=${sport} dport=53 ${counters[0]}src=10.2.2.2 dst=10.1.1.1 sport=53 dport=${sport} ${counters[1]}mark=3${more}`;
const COUNTED = ["packets=1 bytes=60 ", "packets=2 bytes=90 "] as const;
const NOT_COUNTED = ["", ""] as const;

test("each own flow that ends is one line, also one whose end was not heard of", async () => {
  const file = join(directory, "flows");
  const log = new EndedLog({ file, syslog: null }, () => NOW_MS);
  const node = testNode({ ended: log });
  for (const sport of [1, 2, 3]) node.replicator.onEvent(EVENT_NEW, flow(sport), 0);
  node.replicator.onEvent(EVENT_DESTROY, ended(1), 0);
  // It was never known.
  node.replicator.onEvent(EVENT_DESTROY, ended(9), 0);
  const slot = node.internal.table.find(flow(3).words, 0);
  node.internal.supersede(slot, { node: "other", stamp: Number.MAX_SAFE_INTEGER });
  assert.equal(await node.replicator.resyncKernel(), true);
  renameSync(file, `${file}.1`);
  log.reopen();
  const lines = readFileSync(`${file}.1`, "utf8").trimEnd().split("\n");
  for (const each of lines) assert.match(each, TIME);
  assert.deepEqual(
    lines.map((each) => each.split("\t")[1]),
    [line(1, COUNTED, " delta-time=3"), line(2, NOT_COUNTED)],
  );
  assert.deepEqual(log.counters, { lines: 2, missedEnds: 1, lostInFile: 0, lostInSyslog: 0 });
  assert.deepEqual(node.replicator.traffic, { bytes: 150, packets: 3 });

  node.replicator.onEvent(EVENT_NEW, flow(4), 0);
  node.internal.flush();
  node.replicator.onEvent(EVENT_DESTROY, ended(4), 0);
  node.replicator.onEvent(EVENT_NEW, flow(5), 0);
  node.replicator.onEvent(EVENT_DESTROY, ended(5), 0);
  log.close();
  assert.match(readFileSync(file, "utf8"), /^[^\n]* sport=5 [^\n]*\n$/);
});

test("a reload moves it to another file, or to none", () => {
  const [one, two] = ["one", "two"].map((name) => join(directory, name)) as [string, string];
  const log = new EndedLog({ file: one, syslog: null }, () => NOW_MS);
  log.ended(ended(1));
  assert.throws(() => log.reopen({ file: join(directory, "none", "x"), syslog: "daemon" }), ConntrailError);
  log.ended(ended(2));
  log.reopen({ file: two, syslog: null });
  log.ended(ended(3));
  log.reopen({ file: null, syslog: null });
  log.ended(ended(4));
  log.close();
  const ports = (path: string) =>
    [...readFileSync(path, "utf8").matchAll(/ sport=(\d) dport=53 packets/g)].map(([, port]) => port);
  assert.deepEqual([ports(one), ports(two)], [["1", "2"], ["3"]]);
});

test("what a full disk or a dead syslog does not take is counted", () => {
  const log = new EndedLog({ file: "/dev/full", syslog: "local0" }, () => NOW_MS, join(directory, "none"));
  log.ended(ended(1));
  log.ended(ended(2));
  log.close();
  assert.deepEqual(log.counters, { lines: 2, missedEnds: 0, lostInFile: 2, lostInSyslog: 2 });
});

test("a file that cannot be opened is named", () => {
  assert.throws(
    () => new EndedLog({ file: "/none/flows", syslog: null }, () => NOW_MS),
    (error) =>
      error instanceof ConntrailError && /^stats\.file \/none\/flows cannot be written: ENOENT/.test(error.message),
  );
});
