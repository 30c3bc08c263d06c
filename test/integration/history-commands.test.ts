/** `history`, `at` and `who` against streams on a real broker: two nodes, a connection that moves, one that is measured. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { NatsConnection } from "nats";
import { stampOfMs } from "../../src/flow/clock.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { HAS_COUNTERS, HAS_TIMES } from "../../src/flow/record.js";
import { subject } from "../../src/stream/format/subjects.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { natsServerMissing, startNatsServer, type TestNatsServer } from "../support/nats-server.js";
import { finish, type ProgramResult, startMain } from "../support/program.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

const skip = natsServerMissing();
/** The name under which another program imports it; not a literal, because its types are those of this very build. */
const PACKAGE: string = "conntrail";
/** A minute ago, at a whole second: nothing of the scene lies ahead. */
const START_MS = Math.floor(Date.now() / 1000) * 1000 - 60_000;
const ALL = 0xffff_ffff;

const TCP = words({
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 443 },
  reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 443, dport: 61000 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"],
  state: "ESTABLISHED",
  timeoutSeconds: 432000,
  mark: 7,
});
const UDP = words({
  family: "ipv4",
  protocol: "udp",
  orig: { src: "10.0.0.13", dst: "198.51.100.53", sport: 5353, dport: 53 },
  reply: { src: "198.51.100.53", dst: "10.0.0.13", sport: 53, dport: 5353 },
  status: ["SEEN_REPLY", "CONFIRMED"],
  timeoutSeconds: 30,
  mark: 0,
});

function words(flow: Flow): Uint32Array {
  return recordFromFlow(flow).words;
}

let server: TestNatsServer;
let client: NatsConnection;
let config: string;
const writers = { fw1: new StreamWriter("fw1"), fw2: new StreamWriter("fw2") };

async function publish(
  node: "fw1" | "fw2",
  afterMs: number,
  write: (writer: StreamWriter) => WrittenMessage,
): Promise<void> {
  const writer = writers[node];
  writer.stamp = stampOfMs(START_MS + afterMs);
  writer.wallMs = START_MS + afterMs;
  const { kind, payload } = write(writer);
  await client.jetstream().publish(subject(node, kind), payload);
}

/** The first start of a node: an empty table, stated. */
async function begin(node: "fw1" | "fw2"): Promise<void> {
  writers[node].epoch = 0;
  await publish(node, 0, (writer) => writer.restart(false));
  await publish(node, 1, (writer) => writer.mark({ type: "snapshot-begin", id: 1, flows: 0 }));
  await publish(node, 2, (writer) => writer.chunk(0, ALL, () => undefined));
  await publish(node, 3, (writer) => writer.mark({ type: "snapshot-end", id: 1, flows: 0 }));
}

before(async () => {
  if (skip !== false) return;
  server = await startNatsServer();
  client = await server.client();
  const jsm = await client.jetstreamManager();
  for (const node of ["fw1", "fw2"] as const) {
    await ensureStream(jsm, node, { maxAgeMs: 86_400_000, bytesMax: 64 * 1024 * 1024 });
    await begin(node);
  }
  await publish("fw1", 1000, (writer) => writer.events((batch) => batch.addNew(1, TCP, 0, null, null)));
  const birth = writers.fw1.stamp;
  await publish("fw1", 2000, (writer) => writer.events((batch) => batch.addNew(2, UDP, 0, null, null)));
  const timesMicros = Float64Array.of((START_MS + 1990) * 1000 + 250, (START_MS + 9990) * 1000);
  const end = { has: HAS_COUNTERS | HAS_TIMES, counters: Float64Array.of(3, 300, 2, 2000), timesMicros };
  await publish("fw1", 10_000, (writer) => writer.events((batch) => batch.addDestroy(2, UDP, 0, end)));
  await publish("fw2", 20_000, (writer) => writer.events((batch) => batch.addNew(1, TCP, 0, null, null, birth)));
  const claim = writers.fw2.stamp;
  await publish("fw1", 21_000, (writer) => writer.events((batch) => batch.addMoved(1, "fw2", claim)));
  await publish("fw2", 30_000, (writer) => writer.events((batch) => batch.addDestroy(1, TCP, 0, undefined)));
  config = join(server.directory, "fw1.yaml");
  writeFileSync(
    config,
    `cluster: edge\nnode: fw1\nlisten: 127.0.0.1\npeers: { fw2: 127.0.0.2 }\nbroker: { mode: external, servers: ["nats://${server.address}"] }\n`,
  );
});

after(async () => {
  await client?.close();
  await server?.[Symbol.asyncDispose]();
});

function start(...args: string[]): ChildProcess {
  return startMain([...args, "-c", config]);
}

function run(...args: string[]): Promise<ProgramResult> {
  return finish(start(...args));
}

function time(afterMs: number): string {
  return new Date(START_MS + afterMs).toISOString();
}

async function json(...args: string[]): Promise<ReturnType<typeof JSON.parse>> {
  const { code, stdout, stderr } = await run(...args, "--json");
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

test("a connection that moved is one, a measured one has what was measured", { skip }, async () => {
  const { connections, gaps } = await json("history");
  assert.deepEqual(gaps, []);
  const [udp, tcp, ...more] = connections;
  assert.deepEqual(more, []);
  assert.deepEqual(
    [udp.protocol, udp.outcome, udp.timedByKernel, udp.durationSeconds, udp.counters],
    ["udp", "ended", true, 7.99975, { orig: { packets: 3, bytes: 300 }, reply: { packets: 2, bytes: 2000 } }],
  );
  assert.deepEqual(
    [tcp.protocol, tcp.outcome, tcp.counters, tcp.mark, tcp.state],
    ["tcp", "ended", undefined, 7, "ESTABLISHED"],
  );
  assert.deepEqual(
    tcp.path.map(({ node }: { node: string }) => node),
    ["fw1", "fw2"],
  );
  assert.equal(tcp.start, time(1000).replace(".000Z", "Z"));
  assert.deepEqual(tcp.nat, { src: { address: "203.0.113.1", port: 61000 } });
});

test("ranges and filters", { skip }, async () => {
  const protocols = async (...args: string[]): Promise<string[]> => {
    const { connections } = await json("history", ...args);
    return connections.map(({ protocol }: { protocol: string }) => protocol);
  };
  assert.deepEqual(await protocols("--until", time(500)), []);
  assert.deepEqual(await protocols("--until", time(1500)), ["tcp"]);
  assert.deepEqual(await protocols("--since", time(15_000)), ["tcp"]);
  assert.deepEqual(await protocols("--since", time(40_000)), []);
  assert.deepEqual(await protocols("--host", "203.0.113.1"), ["tcp"]);
  assert.deepEqual(await protocols("--proto", "udp", "--port", "53"), ["udp"]);
  assert.deepEqual(await protocols("--node", "fw2"), ["tcp"]);
  assert.deepEqual(await protocols("--nat", "--mark", "7", "--src", "10.0.0.0/8"), ["tcp"]);
  assert.deepEqual(await protocols("--limit", "1"), ["tcp"]);
});

test("the table as it stood", { skip }, async () => {
  const alive = async (afterMs: number): Promise<string[]> => {
    const { connections } = await json("at", time(afterMs));
    return connections.map(({ protocol, path }: { protocol: string; path: { node: string }[] }) => {
      return `${protocol} at ${path.map(({ node }) => node).join(">")}`;
    });
  };
  assert.deepEqual(await alive(500), []);
  assert.deepEqual((await alive(5000)).toSorted(), ["tcp at fw1", "udp at fw1"]);
  assert.deepEqual(await alive(15_000), ["tcp at fw1"]);
  assert.deepEqual(await alive(25_000), ["tcp at fw1>fw2"]);
  assert.deepEqual(await alive(31_000), []);
});

test("who it was, before and after the move, and nobody", { skip }, async () => {
  for (const afterMs of [5000, 25_000]) {
    const { answers, mayMiss } = await json("who", "203.0.113.1:61000", "--at", time(afterMs));
    assert.equal(mayMiss, false);
    assert.deepEqual(
      answers.map(({ inside }: { inside: object }) => inside),
      [{ address: "10.0.0.12", port: 40000 }],
    );
  }
  const { code, stderr } = await run("who", "203.0.113.1:61000", "--at", time(40_000));
  assert.equal(code, 1);
  assert.match(stderr, /nobody had 203\.0\.113\.1:61000 at .*; no events are missing around then\n$/);
  // Logs write whole seconds: it began within this one.
  assert.equal((await json("who", "203.0.113.1:61000", "--at", time(1000).replace(".000", ""))).answers.length, 1);
});

test("--follow tells what is written", { skip }, async () => {
  const child = start("history", "--follow", "--since", time(29_000), "--format", "ndjson", "--limit", "2");
  const result = finish(child);
  await once(child.stdout!, "data");
  await publish("fw2", 59_000, (writer) => writer.events((batch) => batch.addNew(5, UDP, 0, null, null)));
  const { code, stdout, stderr } = await result;
  assert.deepEqual([code, stderr], [0, ""]);
  const lines = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { change: string; protocol: string });
  assert.deepEqual(
    lines.map(({ change, protocol }) => `${change} ${protocol}`),
    ["ended tcp", "new udp"],
  );
});

test("a stream that is not there is said to be missing", { skip }, async () => {
  const other = join(server.directory, "three.yaml");
  writeFileSync(
    other,
    `cluster: edge\nnode: fw1\nlisten: 127.0.0.1\npeers: { fw2: 127.0.0.2, fw3: 127.0.0.3 }\nbroker: { mode: external, servers: ["nats://${server.address}"] }\n`,
  );
  const before = config;
  config = other;
  try {
    const { code, stderr } = await run("history", "--format", "csv");
    assert.equal(code, 0);
    assert.match(stderr, /^conntrail: events of fw3 may be missing.*: this broker holds no stream of it\n/);
  } finally {
    config = before;
  }
});

test("a program gets the same objects from the package as from the commands", { skip }, async () => {
  const { connections, follow, who }: typeof import("../../src/api/conntrail.js") = await import(PACKAGE);
  const found = [];
  const gaps: unknown[] = [];
  for await (const each of connections({ port: 443 }, { config, onGaps: (all) => gaps.push(...all) })) found.push(each);
  const printed = JSON.parse((await run("history", "--port", "443", "--json")).stdout);
  assert.deepEqual(JSON.parse(JSON.stringify(found)), printed.connections);
  assert.deepEqual(gaps, printed.gaps);
  const at = new Date(START_MS + 15_000);
  const { answers } = await who({ address: "203.0.113.1", port: 61000, at }, { config });
  const asked = JSON.parse((await run("who", "203.0.113.1:61000", "--at", at.toISOString(), "--json")).stdout);
  assert.deepEqual(JSON.parse(JSON.stringify(answers)), asked.answers);
  assert.equal(answers[0]!.inside.address, "10.0.0.12");
  const changes = [];
  for await (const { change, orig } of follow({ since: START_MS, limit: 3 }, { config }))
    changes.push(`${change} ${orig.sport}`);
  assert.deepEqual(changes, ["new 40000", "new 5353", "moved 40000"]);
  // A reader that ends early closes everything, and the signal ends a reading that waits.
  for await (const each of connections({}, { config })) {
    assert.ok(each.uid);
    break;
  }
  const stop = new AbortController();
  const waiting = follow({}, { config, signal: stop.signal }).next();
  stop.abort();
  assert.deepEqual(await waiting, { done: true, value: undefined });
  await assert.rejects(connections({ host: "nowhere" }, { config }).next(), { code: "USAGE" });
  await assert.rejects(who({ address: "203.0.113.1", port: 99_999 }, { config }), { code: "USAGE" });
  await assert.rejects(connections({}, { config: join(server.directory, "none.yaml") }).next(), { code: "CONFIG" });
});
