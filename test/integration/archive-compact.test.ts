/** Compaction: few large files in place of many small ones, with the same answers before, during and after, whatever happens. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { Archive } from "../../src/history/archive/archive.js";
import { readCatalog } from "../../src/history/archive/catalog.js";
import { Compactor } from "../../src/history/archive/compactor.js";
import { Database, loadDuckdb } from "../../src/history/archive/duckdb.js";
import { dayFolder, dayOf, listDays, listFiles } from "../../src/history/archive/files.js";
import { readSealer } from "../../src/history/archive/seal.js";
import { type ArchiveVerdict, verifyArchive } from "../../src/history/archive/verify.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection, HistoryQuery } from "../../src/history/connection.js";
import { connectionToJson } from "../../src/history/format/connection-json.js";
import { EVERYTHING } from "../support/archive-cluster.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { NOON_MS, tcpConnection } from "../support/connections.js";
import { temporaryDirectory } from "../support/nats-server.js";
import { Random } from "../support/records.js";

const skip = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const child = fileURLToPath(new URL("../support/compact-child.js", import.meta.url));
const LIMITS = { threads: 1, memoryMiB: 64 };
const DAY_MS = 86_400_000;
const DAYS = 3;
const FILES = 4;
const ROWS = 60;
const LATER_MS = NOON_MS + 10 * DAY_MS;
const never = new AbortController().signal;
const fail = (why: unknown): never => assert.fail(String(why));

/** Connections of some hosts behind two public addresses, one of them alive for days, in the order of their ends. */
function life(day: number, file: number): Connection[] {
  const random = new Random(1000 * day + file);
  return Array.from({ length: ROWS }, (_, i) => {
    const endMs = NOON_MS + day * DAY_MS + file * 3_600_000 + i * 1000;
    const host = `10.0.0.${random.below(9) + 1}`;
    const [sport, shown] = [1024 + random.below(50_000), 1024 + random.below(50_000)];
    const remote = `198.51.100.${random.below(5)}`;
    const orig = { src: host, dst: remote, sport, dport: 443 };
    const reply = { src: remote, dst: `203.0.113.${random.below(2)}`, sport: 443, dport: shown };
    const startMs = i === 7 ? endMs - 2 * DAY_MS : endMs - random.below(100_000);
    return tcpConnection({ orig, reply }, { uid: `C${day}${file}${String(i).padStart(15, "0")}`, startMs, endMs });
  });
}

/** Writes FILES files for each of DAYS days; the end of each file's last connection is read late, with the next one's. */
async function write(
  directory: string,
  certificate?: { key: string; cert: string },
  days = DAYS,
  files = FILES,
): Promise<void> {
  const sealing = certificate === undefined ? {} : { sealer: await readSealer(certificate) };
  const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: fail, ...sealing });
  let late: Connection[] = [];
  for (let day = 0; day < days; day++) {
    for (let file = 0; file < files; file++) {
      const all = life(day, file);
      for (const each of [...late, ...all.slice(0, -1)]) writer.add(each, false);
      late = all.slice(-1);
      const stamp = 10 * day + file + 1;
      const gaps = [
        { node: "fw1", fromMs: all[0]!.startMs, untilMs: all[0]!.endMs, reason: `test ${stamp}`, events: 1 },
      ];
      await writer.flush({ version: 1, places: { fw1: { epoch: 1, number: stamp, stamp } }, stamp, from: 0, gaps });
    }
  }
  for (const each of late) writer.add(each, false);
  await writer.flush({ version: 1, places: {}, stamp: 99, from: 0, gaps: [] });
  await writer.close();
}

async function compact(directory: string, certificate?: { key: string; cert: string }): Promise<ArchiveWriter> {
  const sealing = certificate === undefined ? {} : { sealer: await readSealer(certificate) };
  const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: fail, ...sealing });
  const compactor = new Compactor({ directory, writer, now: () => LATER_MS, onFailure: fail });
  await compactor.finish(never);
  await writer.close();
  return writer;
}

const QUERIES: readonly Partial<HistoryQuery>[] = [
  {},
  { filter: { host: "10.0.0.3" } },
  { filter: { host: "203.0.113.1" }, sinceMs: NOON_MS + DAY_MS },
  { filter: { dst: "198.51.100.2", port: "443" }, untilMs: NOON_MS + DAY_MS },
  { filter: { src: "10.0.0.0/30" }, sinceMs: NOON_MS + 3_600_000, untilMs: NOON_MS + DAY_MS + 3_600_000 },
  { limit: 17 },
  { limit: 5, filter: { host: "10.0.0.3" } },
  { limit: 1000 },
];

function plain(connections: readonly Connection[]): unknown[] {
  return connections.map((each) => JSON.parse(JSON.stringify(connectionToJson(each))));
}

/** The answers of an archive to many questions, in their order. */
async function answers(directory: string, queries = QUERIES): Promise<unknown[]> {
  const archive = await Archive.open(directory, { onDamaged: fail });
  const all: unknown[] = [];
  for (const query of queries) {
    const asked = { ...EVERYTHING, ...query };
    const found: Connection[] = [];
    if (asked.limit !== null) found.push(...(await archive.newest(asked, asked.limit, () => true)));
    else for await (const batch of archive.connections(asked)) found.push(...batch);
    all.push({ query, found: plain(found) });
  }
  for (const known of [life(0, 0)[3]!, life(0, 1)[7]!, life(2, 3)[7]!, life(2, 3).at(-1)!]) {
    const { reply } = connectionToJson(known);
    const question = { address: reply!.dst, port: reply!.dport!, protocol: 6 };
    for (const timeMs of [known.startMs! + 1, known.startMs! - 1, known.endMs! - 1]) {
      const found: Connection[] = [];
      for await (const batch of archive.who({ ...question, sinceMs: timeMs, untilMs: timeMs })) found.push(...batch);
      all.push({ question, timeMs, found: plain(found) });
    }
  }
  all.push((await archive.gaps(NOON_MS + DAY_MS, null)).map(({ reason }) => reason).sort());
  all.push((await archive.state())?.stamp);
  archive.close();
  return all;
}

async function verdictOf(directory: string, authority: string | null = null): Promise<ArchiveVerdict> {
  const database = await Database.open(LIMITS);
  try {
    return await verifyArchive(database, directory, authority);
  } finally {
    database.close();
  }
}

function leftovers(directory: string): string[] {
  const names = readdirSync(directory, { recursive: true, encoding: "utf8" });
  return names.filter((name) => name.endsWith(".tmp") || name.includes(".spill"));
}

describe("compaction", { skip }, () => {
  it("gives the same answers from fewer files, in the same order, and the archive is whole", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    const before = await answers(directory.path);
    const { counters } = await compact(directory.path);
    // Each day has a file more, for the end of its last connection that was read on the next day.
    const newest = (FILES + 1) * DAYS;
    assert.deepEqual([counters.compactedFiles, counters.replacedFiles], [DAYS - 1, (FILES + 1) * (DAYS - 1)]);
    const files = (await listFiles(directory.path)).map(({ path }) => path.slice(path.lastIndexOf("/") + 1));
    assert.equal(files[0], `conntrail-${String(newest + 1).padStart(8, "0")}-00000001-00000005.parquet`);
    assert.deepEqual(await answers(directory.path), before);
    const verdict = await verdictOf(directory.path);
    assert.deepEqual(verdict.problems, []);
    assert.equal(verdict.replaced, counters.replacedFiles);
    assert.deepEqual(leftovers(directory.path), []);
    const again = await compact(directory.path);
    assert.equal(again.counters.compactedFiles, 0);
  });

  it("goes on when more comes to a day that was compacted, and takes compacted files into new ones", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    await compact(directory.path);
    const writer = await ArchiveWriter.open({ directory: directory.path, limits: LIMITS, onDamaged: fail });
    const more = life(0, 0).map((each, i) => ({ ...each, uid: `D${i}`, endMs: each.endMs! + 0.5 }));
    for (const each of [...more, ...life(0, 1)]) writer.add(each, true);
    await writer.flush({ version: 1, places: {}, stamp: 100, from: 0, gaps: [] });
    assert.equal(writer.counters.known, ROWS);
    for (let i = 0; i < 8; i++) {
      writer.add({ ...more[0]!, uid: `E${i}` }, false);
      await writer.flush({ version: 1, places: {}, stamp: 101 + i, from: 0, gaps: [] });
    }
    writer.add({ ...life(2, 3)[0]!, uid: "F" }, false);
    await writer.flush({ version: 1, places: {}, stamp: 200, from: 0, gaps: [] });
    await writer.close();
    const before = await answers(directory.path);
    const { counters } = await compact(directory.path);
    assert.equal(counters.replacedFiles > 9, true);
    assert.deepEqual(await answers(directory.path), before);
    assert.deepEqual((await verdictOf(directory.path)).problems, []);
    assert.equal((await listFiles(directory.path, dayOf(NOON_MS), dayOf(NOON_MS))).length, 1);
  });

  it("leaves a reader alone that has begun", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    const expected = (await answers(directory.path))[0] as { found: unknown[] };
    const archive = await Archive.open(directory.path, { onDamaged: fail });
    const found: Connection[] = [];
    const reading = archive.connections(EVERYTHING);
    found.push(...((await reading.next()).value ?? []));
    await compact(directory.path);
    for await (const batch of reading) found.push(...batch);
    archive.close();
    assert.deepEqual(plain(found), expected.found);
  });

  it("loses nothing when it is killed, at whichever step", { skip: opensslMissing() }, async (t) => {
    await using ground = await temporaryDirectory();
    const certificate = makeCertificate(ground.path, "authority", "fw1", "DNS:fw1");
    const authority = readFileSync(certificate.ca, "utf8");
    const from = join(ground.path, "from");
    await write(from, certificate, 2, 2);
    const before = await answers(from, QUERIES.slice(0, 1));
    let steps = 0;
    for (let killAt = 0; ; killAt++) {
      const directory = join(ground.path, `at-${killAt}`);
      cpSync(from, directory, { recursive: true });
      const done = await compactUntil(directory, killAt, certificate);
      assert.deepEqual(await answers(directory, QUERIES.slice(0, 1)), before, `killed at step ${killAt}`);
      const verdict = await verdictOf(directory, authority);
      assert.deepEqual([verdict.problems, verdict.unsealed], [[], 0], `killed at step ${killAt}`);
      // The next one finds what is left to do.
      const { counters } = await compact(directory, certificate);
      if (done) assert.equal(counters.compactedFiles, 0);
      assert.deepEqual(leftovers(directory), []);
      const names = readdirSync(directory, { recursive: true, encoding: "utf8" });
      const [seals, files] = [names.filter((name) => name.endsWith(".seal")), await listFiles(directory)];
      assert.equal(seals.length, files.length);
      assert.deepEqual((await verdictOf(directory, authority)).problems, []);
      steps++;
      if (done) break;
    }
    t.diagnostic(`${steps} steps`);
    assert.ok(steps > 8, `${steps} steps`);
  });

  it("does not touch files that were changed or cannot be read, and says so", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    const [, second] = await listFiles(directory.path);
    const bytes = readFileSync(second!.path);
    bytes[200]! ^= 1;
    writeFileSync(second!.path, bytes);
    const problems: string[] = [];
    const writer = await ArchiveWriter.open({ directory: directory.path, limits: LIMITS, onDamaged: fail });
    const onFailure = (error: unknown): void => void problems.push(String(error));
    await new Compactor({ directory: directory.path, writer, now: () => LATER_MS, onFailure }).finish(never);
    await writer.close();
    assert.deepEqual([problems.length, writer.counters.compactionsFailed], [1, 1]);
    assert.match(problems[0]!, /not compacted: .*(not as the next one knows it|cannot|Invalid|corrupt)/i);
    const day = await listFiles(directory.path, dayOf(NOON_MS), dayOf(NOON_MS));
    assert.equal(day.length, FILES + 1);
    assert.match((await verdictOf(directory.path)).problems.join(), /file 2 was changed/);
  });

  it("and retention leave a chain that says what has gone", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    await compact(directory.path);
    const open = () => ArchiveWriter.open({ directory: directory.path, limits: LIMITS, onDamaged: fail });
    let writer = await open();
    // The numbers of the first day's compacted file lie behind those of days that stay: a file must name them first.
    await writer.removeBefore(NOON_MS + DAY_MS);
    assert.equal(writer.counters.daysRemoved, 0);
    writer.add({ ...life(2, 3)[0]!, uid: "G" }, false);
    await writer.flush({ version: 1, places: {}, stamp: 300, from: 0, gaps: [] });
    await writer.removeBefore(NOON_MS + DAY_MS);
    assert.equal(writer.counters.daysRemoved, 1);
    await writer.close();
    const verdict = await verdictOf(directory.path);
    assert.deepEqual([verdict.problems, verdict.removed, (await listDays(directory.path)).length], [[], 1, DAYS - 1]);
    writer = await open();
    writer.add({ ...life(2, 3)[0]!, uid: "H" }, false);
    await writer.flush({ version: 1, places: {}, stamp: 301, from: 0, gaps: [] });
    await writer.close();
    assert.deepEqual((await verdictOf(directory.path)).problems, []);
  });

  it("has a catalog that leads a question past files without an answer, and does without it", async (t: TestContext) => {
    await using directory = await temporaryDirectory();
    await write(directory.path);
    await compact(directory.path);
    const [day] = await listDays(directory.path);
    const catalog = [...readCatalog(directory.path, day!).values()];
    assert.equal(catalog.length, 1);
    const [file] = await listFiles(directory.path, day, day);
    assert.equal(catalog[0]!.bytes, statSync(file!.path).size);
    assert.equal(catalog[0]!.rows, FILES * ROWS);
    assert.deepEqual(catalog[0]!.translated, ["203.0.113.0", "203.0.113.1"]);
    // Its rows are not read where it has no answer.
    const bytes = readFileSync(file!.path);
    writeFileSync(file!.path, bytes.fill(0xee, 4, Math.floor(bytes.length / 2)));
    const archive = await Archive.open(directory.path, { onDamaged: fail });
    t.after(() => archive.close());
    const nobody = {
      address: "203.0.113.77",
      port: 5,
      protocol: 6,
      sinceMs: NOON_MS - DAY_MS,
      untilMs: NOON_MS - DAY_MS,
    };
    for await (const batch of archive.who(nobody)) assert.fail(`${batch.length} found`);
    const early = archive.connections({ ...EVERYTHING, untilMs: NOON_MS - 3 * DAY_MS });
    for await (const batch of early) assert.fail(`${batch.length} found`);
    writeFileSync(join(dayFolder(directory.path, day!), ".catalog.json"), "{");
    assert.equal(readCatalog(directory.path, day!).size, 0);
  });
});

/** True when it came to its end. */
function compactUntil(
  directory: string,
  killAt: number,
  { key, cert }: { key: string; cert: string },
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const args = [child, directory, String(LATER_MS), String(killAt), key, cert];
    const process_ = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    process_.stdout.on("data", (data: Buffer) => {
      output += data.toString();
    });
    process_.once("error", reject);
    process_.once("exit", (code, signal) => {
      if (output.includes("failed")) reject(new Error(output));
      else if (code !== 0 && signal !== "SIGKILL") reject(new Error(`it ended with ${code}: ${output}`));
      else resolve(output.includes("done"));
    });
  });
}
