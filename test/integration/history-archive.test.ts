import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { stampMs } from "../../src/flow/clock.js";
import { W_ORIG_L4 } from "../../src/flow/record.js";
import { Archive } from "../../src/history/archive/archive.js";
import { ArchivedHistory } from "../../src/history/archive/archived-history.js";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { dayFolder, dayOf, listFiles } from "../../src/history/archive/files.js";
import { ArchiveRun } from "../../src/history/archive/run.js";
import { SqlSession } from "../../src/history/archive/sql.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection, HistoryAnswer, HistoryQuery } from "../../src/history/connection.js";
import { communityId } from "../../src/history/format/community-id.js";
import { connectionToJson } from "../../src/history/format/connection-json.js";
import { History } from "../../src/history/scan/history.js";
import { createUid } from "../../src/history/uid.js";
import { archiveCluster, EVERYTHING, keysOf, readArchive, truthOf } from "../support/archive-cluster.js";
import { connection, NOON_MS, tcpConnection } from "../support/connections.js";
import type { HistoryCluster } from "../support/history-cluster.js";
import { anyRecord, Random, randomRare, tcpRecord } from "../support/records.js";

const skip = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const LIMITS = { threads: 1, memoryMiB: 128 };
const STATE = { version: 1, places: {}, stamp: 5, from: 1, gaps: [] } as const;
const never = new AbortController().signal;
setMaxListeners(0, never);
const quiet = (): void => undefined;

function temporary(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "conntrail-archive-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

async function write(directory: string, connections: readonly Connection[]): Promise<void> {
  const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet });
  for (const each of connections) writer.add(each, false);
  await writer.flush(STATE);
  await writer.close();
}

/** Archives all that a cluster has, `flushRows` a file; `later`: so long after its last message that no end waits. */
async function archive(
  directory: string,
  cluster: HistoryCluster,
  flushRows = 1000,
  later = false,
): Promise<ArchiveWriter> {
  const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet });
  const run = new ArchiveRun({
    streams: cluster,
    nodes: await cluster.nodes(),
    writer,
    live: false,
    maxAgeMs: Number.MAX_SAFE_INTEGER,
    now: () => stampMs(cluster.stamp) + (later ? 3_600_000 : 0),
    signal: never,
    onProgress: quiet,
    onFailure: (error) => assert.fail(String(error)),
    flushRows,
  });
  await run.run();
  await writer.close();
  return writer;
}

async function collect(answer: Pick<HistoryAnswer, "connections">): Promise<Connection[]> {
  const all: Connection[] = [];
  for await (const batch of answer.connections) all.push(...batch);
  return all;
}

/** Connections of every protocol, counted and timed or not, with what few have. */
function manyConnections(count: number): Connection[] {
  const random = new Random(11);
  return Array.from({ length: count }, (_, i) => {
    const startMs = random.oneIn(9) ? null : NOON_MS + random.below(1e7) / 1000;
    const rest = {
      words: anyRecord(random),
      rare: random.oneIn(5) ? randomRare(random) : null,
      uid: `C${String(i).padStart(17, "0")}`,
      startMs,
      endMs: NOON_MS + 20_000 + i,
      timedByKernel: random.oneIn(2),
      end: random.oneIn(4) ? ("lost" as const) : ("ended" as const),
      mayMiss: random.oneIn(3),
      ...(random.oneIn(3) && { counters: null }),
      ...(random.oneIn(2) && { path: [{ node: "a-node-of-a-long-name_32-letters", sinceMs: NOON_MS + 0.001 }] }),
    };
    return connection(undefined, rest);
  });
}

describe("the archive's files", { skip }, () => {
  it("give every connection back as it was", async (t) => {
    const directory = temporary(t);
    const written = manyConnections(5000);
    await write(directory, written);
    const { connections, damaged } = await readArchive(directory);
    assert.deepEqual(damaged, []);
    const json = (each: Connection): unknown => JSON.parse(JSON.stringify(connectionToJson(each)));
    assert.deepEqual(connections.map(json), written.map(json));
  });

  it("are read alike by a reader that others wrote", async (t) => {
    const directory = temporary(t);
    const written = manyConnections(3000);
    await write(directory, written);
    const [file] = await listFiles(directory);
    const rows = await parquetReadObjects({ file: await asyncBufferFromFile(file!.path), compressors });
    assert.equal(rows.length, written.length);
    for (const [i, row] of rows.entries()) {
      const { uid, words, startMs, endMs, counters, path, mayMiss, end } = written[i]!;
      const flow = connectionToJson(written[i]!);
      assert.equal(row.uid, uid);
      assert.equal(row.community_id, communityId(words, 0));
      assert.equal((row.end_time as Date).getTime(), endMs);
      assert.equal(row.start_time === null, startMs === null);
      assert.equal(row.protocol, flow.protocol);
      assert.equal(row.orig_src, flow.orig.src);
      assert.equal(row.reply_dst, flow.reply?.dst ?? null);
      assert.equal(row.orig_dport, flow.orig.dport ?? null);
      assert.equal(row.snat, flow.nat?.src !== undefined);
      assert.equal(row.dnat, flow.nat?.dst !== undefined);
      assert.equal(row.orig_bytes === null ? null : Number(row.orig_bytes), counters?.origBytes ?? null);
      assert.equal(row.may_miss, mayMiss);
      assert.equal(row.outcome, end);
      assert.deepEqual(
        (row.path as { node: string }[]).map(({ node }) => node),
        path.map(({ node }) => node),
      );
    }
  });

  it("name connections by their birth as every other output does", async (t) => {
    const directory = temporary(t);
    const uidOf = createUid();
    const random = new Random(5);
    const written = manyConnections(3000).map((each) => {
      const birth = random.word() * 4096 + random.below(4096);
      return { ...each, birth, uid: uidOf(birth, each.words) };
    });
    const withoutUid = written.map((each) => ({ ...each, uid: "" }));
    await write(directory, withoutUid);
    const { connections } = await readArchive(directory);
    assert.deepEqual(
      connections.map(({ uid }) => uid),
      written.map(({ uid }) => uid),
    );
  });

  it("hold counters that no kernel can have as the greatest that fit", async (t) => {
    const directory = temporary(t);
    const counters = { origPackets: 2 ** 53 - 1, origBytes: 2 ** 63, replyPackets: 0, replyBytes: 2 ** 64 - 2048 };
    await write(directory, [connection(undefined, { counters })]);
    const { connections } = await readArchive(directory);
    assert.deepEqual(connections[0]!.counters, { ...counters, origBytes: 2 ** 63, replyBytes: 2 ** 63 });
  });

  it("lie in the folder of the day of the end, each day's in its own", async (t) => {
    const directory = temporary(t);
    const midnight = Date.UTC(2026, 1, 1);
    await write(directory, [
      connection(undefined, { endMs: midnight - 0.5 }),
      connection(undefined, { endMs: midnight }),
    ]);
    assert.deepEqual(
      (await listFiles(directory)).map(({ path }) => path.slice(directory.length)),
      ["/date=2026-01-31/conntrail-00000001.parquet", "/date=2026-02-01/conntrail-00000002.parquet"],
    );
  });

  it("are written by one process at a time", async (t) => {
    const directory = temporary(t);
    const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet });
    await assert.rejects(ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet }), {
      code: "ALREADY_RUNNING",
      message: `another process writes the archive ${directory}`,
    });
    await writer.close();
    await (await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet })).close();
  });

  it("that are damaged are named and left out, and their connections archived again", async (t) => {
    const directory = temporary(t);
    const cluster = archiveCluster(5, 300);
    await archive(directory, cluster, 10);
    const files = (await listFiles(directory)).sort((a, b) => a.number - b.number);
    assert.ok(files.length > 3);
    const last = files.at(-1)!.path;
    truncateSync(last, 100);
    const foreign = join(dayFolder(directory, files[0]!.day), "conntrail-00000000.parquet");
    writeFileSync(foreign, "nothing that Parquet is");
    writeFileSync(join(dayFolder(directory, files[0]!.day), ".conntrail-00000099.parquet.tmp"), "half");
    assert.deepEqual((await readArchive(directory)).damaged.sort(), [foreign, last].sort());
    await archive(directory, cluster, 10, true);
    const { connections, damaged } = await readArchive(directory);
    assert.deepEqual(damaged.sort(), [foreign, last].sort());
    assert.deepEqual(keysOf(connections), truthOf(cluster));
    const names = readdirSync(directory, { recursive: true, encoding: "utf8" });
    assert.ok(!names.some((name) => name.endsWith(".tmp")));
  });

  it("go with their day when they are old, but never the last day", async (t) => {
    const directory = temporary(t);
    const day = 86_400_000;
    await write(
      directory,
      [0, 1, 2].map((i) => connection(undefined, { uid: `C${i}`, startMs: null, endMs: NOON_MS + i * day })),
    );
    const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet });
    await writer.removeBefore(NOON_MS + day);
    assert.deepEqual([writer.counters.daysRemoved, writer.counters.filesRemoved], [1, 1]);
    await writer.removeBefore(NOON_MS + 100 * day);
    assert.deepEqual(
      (await listFiles(directory)).map((file) => file.day),
      [dayOf(NOON_MS + 2 * day)],
    );
    await writer.close();
  });
});

describe("archiving", { skip }, () => {
  it("continues where the last run ended, each connection once", async (t) => {
    for (const seed of [1, 2, 3, 4]) {
      const directory = temporary(t);
      for (const steps of [40, 41, 90, 90, 200, 300]) await archive(directory, archiveCluster(seed, steps), 7);
      await archive(directory, archiveCluster(seed, 300), 7, true);
      const { connections } = await readArchive(directory);
      assert.equal(new Set(connections.map(({ uid }) => uid)).size, connections.length);
      assert.deepEqual(keysOf(connections), truthOf(archiveCluster(seed, 300)));
    }
  });

  it("in pieces gives the same connections as the streams in one piece", async (t) => {
    const directory = temporary(t);
    for (const steps of [60, 130, 250]) await archive(directory, archiveCluster(8, steps), 5, steps === 250);
    const history = await History.open({ streams: archiveCluster(8, 250), nodes: null });
    const whole = (await collect(history.connections(EVERYTHING, never))).filter(({ end }) => end !== "open");
    const byUid = (list: readonly Connection[]) =>
      list.map((each) => connectionToJson(each)).sort((a, b) => (a.uid < b.uid ? -1 : 1));
    const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
    assert.deepEqual(plain(byUid((await readArchive(directory)).connections)), plain(byUid(whole)));
  });

  it("of a message that comes late adds nothing that is there", async (t) => {
    const directory = temporary(t);
    const once = connection(undefined, { uid: "C00000000000000001" });
    await write(directory, [once]);
    const writer = await ArchiveWriter.open({ directory, limits: LIMITS, onDamaged: quiet });
    writer.add(once, true);
    writer.add(connection(undefined, { uid: "C00000000000000002" }), true);
    await writer.flush(STATE);
    assert.equal(writer.counters.known, 1);
    await writer.close();
    assert.deepEqual(
      (await readArchive(directory)).connections.map(({ uid }) => uid),
      ["C00000000000000001", "C00000000000000002"],
    );
  });
});

/** What a reader finds when it comes to the rows: its two ends stay as they are. */
function spoilRows(path: string): void {
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.fill(0xee, 4, Math.floor(bytes.length / 3)));
}

describe("an archive that is asked for a part of it", { skip }, () => {
  /** A file for each hour, with three connections; `damaged` gets the files that cannot be read. */
  async function hours(t: TestContext): Promise<{ archive: Archive; files: readonly string[]; damaged: string[] }> {
    const directory = temporary(t);
    for (let hour = 0; hour < 3; hour++) {
      await write(
        directory,
        [0, 1, 2].map((i) => hourly(hour, i)),
      );
    }
    const damaged: string[] = [];
    const archive = await Archive.open(directory, { onDamaged: (path) => damaged.push(path) });
    t.after(() => archive.close());
    return { archive, files: (await listFiles(directory)).map(({ path }) => path), damaged };
  }

  function hourly(hour: number, i: number, uid = `C000000000000000${hour}${i}`): Connection {
    const endMs = NOON_MS + hour * 3_600_000 + i;
    const sport = 1000 + hour * 10 + i;
    const orig = { src: "10.0.0.12", dst: "198.51.100.7", sport, dport: 443 };
    return tcpConnection({ orig }, { uid, startMs: endMs - 50, endMs });
  }

  it("finds what it holds by uid, and by tuple and end, and reads only what ended around that time", async (t) => {
    const { archive, files, damaged } = await hours(t);
    spoilRows(files[0]!);
    const fresh = [hourly(1, 0, "Cnew1"), hourly(2, 3)];
    fresh[0] = { ...fresh[0]!, endMs: fresh[0]!.endMs! + 0.001 };
    const known = [hourly(1, 0), hourly(1, 1, "Canother"), { ...hourly(2, 2), endMs: hourly(2, 2).endMs! + 1000 }];
    assert.deepEqual(await archive.unknown([...fresh, ...known]), fresh);
    assert.deepEqual(damaged, []);
    assert.deepEqual(await archive.unknown([hourly(0, 0)]), [hourly(0, 0)]);
    assert.deepEqual(damaged, [files[0]!], "the rows were not spoilt");
  });
});

describe("archive and streams as one", { skip }, () => {
  async function both(
    t: TestContext,
    seed: number,
  ): Promise<{
    whole: History;
    merged: ArchivedHistory;
    times: number[];
    cut: HistoryCluster;
    directory: string;
    asked: number[];
  }> {
    const directory = temporary(t);
    await archive(directory, archiveCluster(seed, 200), 10);
    const whole = await History.open({ streams: archiveCluster(seed, 300), nodes: null });
    const cut = archiveCluster(seed, 300);
    // Retention has taken what was archived long before.
    const early = archiveCluster(seed, 100);
    for (const { name, stream } of cut.members) {
      stream.first = Math.max(1, early.lookup(name).messages.length - 3);
    }
    const history = await History.open({ streams: cut, nodes: null });
    const opened = Archive.open(directory, { onDamaged: (path) => assert.fail(path) });
    t.after(async () => (await opened).close());
    const stamps = cut.stamps.map((stamp) => Math.floor(stamp / 4096) + 1_577_836_800_000);
    const { unknown } = Archive.prototype;
    const asked: number[] = [];
    (await opened).unknown = function (connections) {
      asked.push(connections.length);
      return unknown.call(this, connections);
    };
    return { whole, merged: new ArchivedHistory(history, cut, () => opened), times: stamps, cut, directory, asked };
  }

  it("answer with every connection once", async (t) => {
    for (const seed of [2, 6, 9]) {
      const { whole, merged } = await both(t, seed);
      const expected = await collect(whole.connections(EVERYTHING, never));
      const found = await collect(merged.connections(EVERYTHING, never));
      assert.equal(new Set(found.map(({ uid }) => uid)).size, found.length, "one uid twice");
      assert.deepEqual(keysOf(found), keysOf(expected));
    }
  });

  it("agree with the streams about ranges, filters and limits", async (t) => {
    const { whole, merged, times } = await both(t, 12);
    for (const share of [0.1, 0.3, 0.5, 0.7, 0.9]) {
      const sinceMs = times[Math.floor(share * times.length)]!;
      const range: HistoryQuery = { ...EVERYTHING, sinceMs, filter: { proto: "tcp" } };
      const expected = keysOf(await collect(whole.connections(range, never)));
      assert.deepEqual(keysOf(await collect(merged.connections(range, never))), expected, `since ${share}`);
    }
  });

  it("read as much of the archive as a limit leaves room for, and ask it about many connections at once", async (t) => {
    const { merged, directory, asked } = await both(t, 12);
    const all = await collect(merged.connections(EVERYTHING, never));
    const streamed = asked[0]!;
    assert.ok(streamed > 0 && asked.length === 1, `asked of ${asked.join(", ")} connections`);
    const [oldest] = await listFiles(directory);
    for (const limit of [1, 4, 50, all.length - 20, all.length, all.length + 1]) {
      const found = await collect(merged.connections({ ...EVERYTHING, limit }, never));
      assert.deepEqual(keysOf(found), keysOf(all.slice(-limit)), `limit ${limit}`);
    }
    spoilRows(oldest!.path);
    const half = Math.floor(all.length / 2);
    assert.equal((await collect(merged.connections({ ...EVERYTHING, limit: half }, never))).length, half);
    await assert.rejects(collect(merged.connections(EVERYTHING, never)), "the rows were not spoilt");
  });

  it("agree with the streams about who was alive at a time", async (t) => {
    const { whole, merged, times, cut } = await both(t, 21);
    // Between an end and the moment when another node takes the connection up again it is alive to who knows of both.
    const without = (keys: readonly string[], timeMs: number): readonly string[] => {
      const between = cut.truth.filter(({ ends }) =>
        ends.some(({ end, againStamp }) => stampMs(end.stamp) <= timeMs && timeMs < stampMs(againStamp)),
      );
      return keys.filter((key) => !between.some(({ tuple }) => key.startsWith(`${tcpRecord(tuple)[W_ORIG_L4]} `)));
    };
    for (const share of [0.05, 0.2, 0.4, 0.6, 0.8, 1]) {
      const timeMs = times[Math.floor(share * (times.length - 1))]!;
      const expected = keysOf(await collect(whole.at(timeMs, EVERYTHING, never)));
      const found = keysOf(await collect(merged.at(timeMs, EVERYTHING, never)));
      assert.deepEqual(without(found, timeMs), without(expected, timeMs), `at ${share}`);
    }
  });
});

describe("sql", { skip }, () => {
  async function session(t: TestContext, connections: readonly Connection[] = []): Promise<SqlSession> {
    const directory = temporary(t);
    await write(directory, [
      tcpConnection({}, { uid: "Carchived0000000001" }),
      tcpConnection({}, { uid: "Cboth000000000001" }),
    ]);
    const opened = await SqlSession.open(directory, join(directory, "spill"), (path) => assert.fail(path));
    t.after(() => opened.close());
    await opened.addStream(
      (async function* () {
        yield connections;
      })(),
    );
    return opened;
  }

  async function rows(opened: SqlSession, sql: string): Promise<unknown[][]> {
    const all: unknown[][] = [];
    for await (const batch of (await opened.query(sql, never)).rows) for (const row of batch) all.push([...row]);
    return all;
  }

  it("sees the archive and the streams, each connection once", async (t) => {
    const open = tcpConnection({}, { uid: "Copen000000000001", end: "open", endMs: null });
    const opened = await session(t, [tcpConnection({}, { uid: "Cboth000000000001" }), open]);
    assert.deepEqual(await rows(opened, "SELECT uid, outcome FROM connections ORDER BY uid"), [
      ["Carchived0000000001", "ended"],
      ["Cboth000000000001", "ended"],
      ["Copen000000000001", "open"],
    ]);
  });

  it("describes the view", async (t) => {
    const names = (await rows(await session(t), "DESCRIBE connections")).map(([name]) => name);
    assert.equal(names[0], "uid");
    assert.equal(names.at(-1), "may_miss");
  });

  const refused: readonly (readonly [string, RegExp])[] = [
    ["SELECT 1; SELECT 2", /one statement is allowed, found 2/],
    ["COPY connections TO '/tmp/x.csv'", /only SELECT|disabled/],
    ["ATTACH '/tmp/x.db'", /only SELECT/],
    ["INSTALL httpfs", /only SELECT/],
    ["LOAD httpfs", /only SELECT/],
    ["CREATE TABLE x (i INTEGER)", /only SELECT/],
    ["DROP VIEW connections", /only SELECT/],
    ["DELETE FROM recent", /only SELECT/],
    ["SET threads = 9", /only SELECT/],
    ["PRAGMA threads = 9", /only SELECT/],
    ["CALL pragma_version()", /only SELECT/],
    ["EXPLAIN ANALYZE COPY connections TO '/tmp/x.csv'", /sql: /],
    ["SELECT * FROM read_csv('/etc/passwd')", /disabled/],
    ["SELECT * FROM '/etc/passwd'", /does not exist|disabled/],
    ["SELECT * FROM read_text('/etc/passwd')", /disabled/],
    ["SELECT * FROM glob('/etc/*')", /disabled/],
    ["SELEKT", /sql: /],
    ["SELECT nothing FROM connections", /nothing/],
    ["", /there is no statement/],
  ];
  for (const [sql, message] of refused) {
    it(`refuses ${sql === "" ? "nothing" : sql}`, async (t) => {
      const opened = await session(t);
      await assert.rejects(rows(opened, sql), (error: Error) => {
        assert.match(error.message, message);
        assert.ok(!error.message.includes("\n"), error.message);
        return true;
      });
    });
  }

  it("writes over no file of the archive", async (t) => {
    const directory = temporary(t);
    await write(directory, [connection()]);
    const [file] = await listFiles(directory);
    const before = readFileSync(file!.path);
    const opened = await SqlSession.open(directory, join(directory, "spill"), (path) => assert.fail(path));
    for (const sql of [`COPY (SELECT 1) TO '${file!.path}'`, `EXPLAIN ANALYZE COPY (SELECT 1) TO '${file!.path}'`]) {
      await assert.rejects(rows(opened, sql), /sql: /);
    }
    await opened.close();
    assert.ok(readFileSync(file!.path).equals(before));
  });

  it("leaves a damaged file out", async (t) => {
    const directory = temporary(t);
    await write(directory, [connection()]);
    const [file] = await listFiles(directory);
    cpSync(file!.path, join(dayFolder(directory, file!.day), "conntrail-00000002.parquet"));
    truncateSync(file!.path, 50);
    const damaged: string[] = [];
    const opened = await SqlSession.open(directory, join(directory, "spill"), (path) => damaged.push(path));
    assert.deepEqual(await rows(opened, "SELECT count(*) FROM connections"), [["1"]]);
    assert.deepEqual(damaged, [file!.path]);
    await opened.close();
  });
});
