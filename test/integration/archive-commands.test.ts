/** `archive`, `sql`, `history` over an archive, and the archiver beside a daemon, with a real broker. */
import assert from "node:assert/strict";
import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { ArchiveSupervisor } from "../../src/daemon/archive.js";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { listFiles } from "../../src/history/archive/files.js";
import type { ConnectionJson } from "../../src/history/format/connection-json.js";
import { streamName, subject } from "../../src/stream/format/subjects.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { archiveCluster, keysOf, readArchive, settledOf, truthOf } from "../support/archive-cluster.js";
import { HistoryCluster } from "../support/history-cluster.js";
import {
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";
import { finish, type ProgramResult, startMain } from "../support/program.js";
import { Random } from "../support/records.js";

const skip =
  natsServerMissing() ||
  (await loadDuckdb().then(
    () => false,
    () => "DuckDB is not installed",
  ));
const SEED = 42;

let server: TestNatsServer;
let config: string;
let directory: string;
/** Messages of all streams that were published. */
let sent = 0;

/** Brings the streams to what the cluster has after so many steps. */
async function publish(steps: number): Promise<HistoryCluster> {
  const cluster = archiveCluster(SEED, steps);
  await publishFrom(cluster, sent);
  sent = cluster.writers.length;
  return cluster;
}

/** What a cluster has written but the first `sent` messages, in the order in which it was written, as nodes do. */
async function publishFrom(cluster: HistoryCluster, sent: number): Promise<void> {
  const client = await server.client();
  const jsm = await client.jetstreamManager();
  for (const { name } of cluster.members) await ensureStream(jsm, name, { maxAgeMs: 0, bytesMax: 64 * 1024 ** 2 });
  const next = new Map(cluster.members.map(({ name, stream }) => [name, stream.messages.values()]));
  for (const [i, name] of cluster.writers.entries()) {
    const { kind, payload } = next.get(name)!.next().value!;
    if (i >= sent) await client.jetstream().publish(subject(name, kind), payload);
  }
  await client.close();
}

before(async () => {
  if (skip !== false) return;
  server = await startNatsServer();
  directory = join(server.directory, "archive");
  config = join(server.directory, "fw1.yaml");
  writeFileSync(config, configText());
  await publish(150);
});

after(async () => {
  await server?.[Symbol.asyncDispose]();
});

function configText(): string {
  return `cluster: edge
node: fw1
listen: 127.0.0.1
peers: { fw2: 127.0.0.2, fw3: 127.0.0.3 }
broker: { mode: external, servers: ["nats://${server.address}"] }
archive: { dir: ${directory}, max_age: 36500d }
`;
}

function run(...args: string[]): Promise<ProgramResult> {
  return finish(startMain([...args, "-c", config]));
}

/** All connections by original source port and end. */
async function history(): Promise<string[]> {
  const { code, stdout, stderr } = await run("history", "--format", "ndjson");
  assert.equal(code, 0, stderr);
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as ConnectionJson)
    .map(({ orig, end = "open" }) => `${orig.sport} ${end}`)
    .sort();
}

test("archive writes what has ended, and then nothing twice", { skip }, async () => {
  const { code, stdout, stderr } = await run("archive", "--once", "--json");
  assert.equal(code, 0, stderr);
  const truth = settledOf(archiveCluster(SEED, 150));
  assert.equal((JSON.parse(stdout) as { connections: number }).connections, truth.length);
  assert.match((await run("archive")).stdout, /^0 connections in 0 files; \d+ are open; archived until /);
  assert.deepEqual(keysOf((await readArchive(directory)).connections), truth);
});

test("archive logs in as the configuration says", { skip }, async () => {
  await using asking = await startNatsServer({ more: 'authorization { token: "a secret" }' });
  const path = join(asking.directory, "fw1.yaml");
  const secret = join(asking.directory, "token");
  writeFileSync(secret, "a secret\n", { mode: 0o600 });
  writeFileSync(
    path,
    `cluster: edge
node: fw1
listen: 127.0.0.1
broker: { mode: external, servers: ["nats://${asking.address}"], login: { token: ${secret} } }
`,
  );
  const into = join(asking.directory, "archive");
  const { code, stderr } = await finish(startMain(["archive", "--once", "--dir", into, "-c", path]));
  assert.equal(code, 0, stderr);
});

/**
 * An archiver as a daemon has it. A process of a low priority: what a busy machine brings later than `settleMs` comes too late for the order
 * of ends.
 */
function startArchiver(
  t: TestContext,
  into: string,
  settleMs: number,
): { readonly supervisor: ArchiveSupervisor; readonly end: () => Promise<void> } {
  const stop = new AbortController();
  const options = {
    directory: into,
    maxAgeSeconds: 36_500 * 86_400,
    broker: { servers: [server.address], node: "fw1" },
    writers: ["fw1", "fw2", "fw3"],
    live: true,
    settleMs,
  };
  const supervisor = new ArchiveSupervisor(options, silentLogger());
  const running = supervisor.run(stop.signal);
  const end = async (): Promise<void> => {
    stop.abort();
    await running;
  };
  t.after(end);
  return { supervisor, end };
}

test("the archiver beside a daemon goes on, and archives what is left when it ends", { skip }, async (t) => {
  const { supervisor, end } = startArchiver(t, directory, 10_000);
  await until("the archiver to report", () => supervisor.counters.open !== undefined);
  const before_ = supervisor.counters.archivedUntilMs;
  assert.ok(typeof before_ === "number");
  const cluster = await publish(300);
  const waiting = truthOf(cluster).length - settledOf(archiveCluster(SEED, 150)).length;
  assert.ok(waiting > 0);
  await until("it to hear of the last message", () => supervisor.counters.waiting === waiting, 60_000);
  await end();
  assert.equal(supervisor.counters.restarts, 0);
  assert.deepEqual(keysOf((await readArchive(directory)).connections), settledOf(cluster));
});

test("the archiver takes in the stream of a node that joins", { skip }, async (t) => {
  const into = join(server.directory, "joined");
  const { supervisor, end } = startArchiver(t, into, 1000);
  const known = truthOf(archiveCluster(SEED, 300)).length;
  await until("the archiver to be through", () => supervisor.counters.waiting === known, 60_000);
  const joined = new HistoryCluster(["fw9"], 100);
  for (let i = 0; i < 40; i++) joined.batch(joined.members[0]!, new Random(i));
  t.after(() => server.manage((jsm) => jsm.streams.delete(streamName("fw9"))));
  await publishFrom(joined, 0);
  // It began so long before the others' last messages that no end waits for them.
  const more = truthOf(joined);
  assert.ok(more.length > 0);
  await until("the one that joined to be heard", () => supervisor.counters.waiting === known + more.length, 60_000);
  await end();
  const { connections } = await readArchive(into);
  assert.deepEqual(keysOf(connections.filter(({ path }) => path.some(({ node }) => node === "fw9"))), more);
});

test("history reads archive and streams as one when retention has cut the streams", { skip }, async () => {
  const whole = await history();
  const client = await server.client();
  const jsm = await client.jetstreamManager();
  for (const { name, stream } of archiveCluster(SEED, 200).members) {
    await jsm.streams.purge(streamName(name), { seq: stream.messages.length });
  }
  await client.close();
  assert.deepEqual(await history(), whole);
});

test("sql answers from both, in three formats", { skip }, async () => {
  const all = await history();
  const query = "SELECT outcome, count(*) AS n FROM connections GROUP BY ALL ORDER BY ALL";
  const json = JSON.parse((await run("sql", query, "--json")).stdout) as { outcome: string; n: string }[];
  assert.equal(
    json.reduce((sum, { n }) => sum + Number(n), 0),
    all.length,
  );
  assert.match((await run("sql", query)).stdout, /^outcome +n\nended +\d+\n/);
  assert.match((await run("sql", query, "--format", "csv")).stdout, /^outcome,n\nended,\d+\n/);
  const refused = await run("sql", "DROP VIEW connections");
  assert.equal(refused.code, 2);
  assert.match(
    refused.stderr,
    /^conntrail: sql: only SELECT, WITH, DESCRIBE and SHOW are allowed, nothing that writes\n$/,
  );
});

test("a half-written file costs a line, not the answer", { skip }, async () => {
  const [file] = await listFiles(directory);
  truncateSync(file!.path, 1000);
  const { code, stderr } = await run("history", "--limit", "1");
  assert.equal(code, 0);
  assert.match(stderr, new RegExp(`conntrail: ${file!.path} is left out: it is cut short\n`));
  rmSync(file!.path);
});

test("bad options are refused in one line", { skip }, async () => {
  assert.match(
    (await run("archive", "--max-age", "5m")).stderr,
    /^conntrail: --max-age: "5m" is not allowed; give a duration/,
  );
  assert.match(
    (await run("archive", "--once", "--follow")).stderr,
    /^conntrail: --once and --follow: give one of them\n$/,
  );
  const taken = await run("archive", "--dir", join(config, "archive"));
  assert.equal(taken.code, 1);
  assert.match(taken.stderr, /^conntrail: the archive \S+ cannot be made: ENOTDIR/);
});
