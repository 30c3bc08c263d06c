/**
 * Questions to an archive of years: `who` at random times and a host's connections over everything in 300 days, and a host's
 * connections in one large day. The files are made by DuckDB, as the archiver would write them, and compacted as it does.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Archive } from "../../src/history/archive/archive.js";
import { compactFiles } from "../../src/history/archive/compact.js";
import { nextCompaction } from "../../src/history/archive/compaction-plan.js";
import { Database, quoted } from "../../src/history/archive/duckdb.js";
import { dayFolder, fileName, listFiles } from "../../src/history/archive/files.js";
import { COMPACT_LIMITS } from "../../src/history/archive/limits.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { HistoryQuery, WhoQuestion } from "../../src/history/connection.js";

const DAYS = 300;
const DAY_MS = 86_400_000;
const FIRST_DAY = Math.floor(Date.parse("2025-01-01T00:00:00Z") / DAY_MS);
const FILE_ROWS = 1_000_000;
const ASKED = 30;
const ASKED_COLD = 10;
const LIMITS = { threads: 2, memoryMiB: 1024 };

/** `scale` 1: 100 million connections in 300 days, and 30 million in one day. */
export async function benchArchiveQuestions(scale: number): Promise<void> {
  await ask("300 days", Math.round(100_000_000 * scale), DAYS);
  await ask("one day", Math.round(30_000_000 * scale), 1);
}

async function ask(name: string, rows: number, days: number): Promise<void> {
  // Not in /tmp, which may be memory.
  const directory = mkdtempSync(join(".tmp", "bench-archive-"));
  try {
    await makeFiles(directory, rows, days);
    const ms = await compact(directory);
    const files = await listFiles(directory);
    const perRow = ((ms * 1000) / rows).toFixed(1);
    console.log(
      `archive of ${rows.toLocaleString("en")} connections, ${name}: ${files.length} files; compacted in ${(ms / 1000).toFixed(0)} s, ${perRow} µs a connection`,
    );
    if (days > 1) await askWho(directory, rows, days);
    await askHost(directory, days);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Files as the archiver writes them, but larger, and one more, because the newest is never compacted. */
async function makeFiles(directory: string, rows: number, days: number): Promise<void> {
  const database = await Database.open(LIMITS);
  let number = 0;
  for (let day = 0; day < days; day++) {
    const ofDay = Math.round(rows / days);
    mkdirSync(dayFolder(directory, FIRST_DAY + day), { recursive: true });
    for (let from = 0; from < ofDay; from += FILE_ROWS) {
      const range = { from, until: Math.min(ofDay, from + FILE_ROWS), of: ofDay };
      await makeFile(database, join(dayFolder(directory, FIRST_DAY + day), fileName(++number)), day, range);
    }
  }
  mkdirSync(dayFolder(directory, FIRST_DAY + days), { recursive: true });
  const last = join(dayFolder(directory, FIRST_DAY + days), fileName(++number));
  await makeFile(database, last, days, { from: 0, until: 1, of: 1 });
  database.close();
}

/** Hosts of 10.0.0.0/14 behind 256 public addresses; one connection of 500 lives up to ten days, the others up to ten minutes. */
async function makeFile(
  database: Database,
  path: string,
  day: number,
  { from, until, of }: { from: number; until: number; of: number },
): Promise<void> {
  const dayMicros = (FIRST_DAY + day) * DAY_MS * 1000;
  const state = { version: 1, places: {}, stamp: 1, from: 0, gaps: [] };
  const pick = (salt: number, of_: number): string => `(hash(r * 64 + ${salt} + ${day * 1e9}) % ${of_})`;
  const none = (type: string, ...names: string[]): string => names.map((each) => `NULL::${type} AS ${each}`).join(", ");
  const select = `
    SELECT 'C' || lpad((r + ${day * 1e9})::BIGINT::VARCHAR, 17, '0') AS uid, '1:' || substr(md5(r::VARCHAR), 1, 27) || '=' AS community_id,
      make_timestamptz((${dayMicros} + r * ${(DAY_MS * 1000) / of} - ${pick(1, 600_000_000)} * CASE WHEN ${pick(2, 500)} = 0 THEN 1440 ELSE 1 END)::BIGINT) AS start_time,
      make_timestamptz((${dayMicros} + r * ${(DAY_MS * 1000) / of})::BIGINT) AS end_time,
      true AS timed_by_kernel, 'ended' AS outcome, 'ipv4' AS family, 'tcp' AS protocol, 6::UTINYINT AS protocol_number,
      '10.' || ${pick(3, 4)} || '.' || ${pick(4, 256)} || '.' || ${pick(5, 256)} AS orig_src,
      (1 + ${pick(6, 220)}) || '.' || ${pick(7, 256)} || '.' || ${pick(8, 16)} || '.7' AS orig_dst,
      (1024 + ${pick(9, 60_000)})::USMALLINT AS orig_sport, 443::USMALLINT AS orig_dport,
      orig_dst AS reply_src, '203.0.113.' || ${pick(10, 256)} AS reply_dst, 443::USMALLINT AS reply_sport,
      (1024 + ${pick(11, 60_000)})::USMALLINT AS reply_dport,
      ${none("UTINYINT", "icmp_type", "icmp_code")}, ${none("USMALLINT", "icmp_id")}, ${none("UTINYINT", "reply_icmp_type", "reply_icmp_code")},
      ${none("USMALLINT", "reply_icmp_id", "orig_src_key", "orig_dst_key", "reply_src_key", "reply_dst_key")},
      true AS snat, false AS dnat, 414::UINTEGER AS status, 'TIME_WAIT' AS state, 7::UINTEGER AS protoinfo_a, 0::UINTEGER AS protoinfo_b,
      0::UINTEGER AS protoinfo_c, 0::UINTEGER AS mark, 0::USMALLINT AS zone_orig, 0::USMALLINT AS zone_reply,
      ${pick(12, 100)}::BIGINT AS orig_packets, ${pick(13, 100_000)}::BIGINT AS orig_bytes, ${pick(14, 90)}::BIGINT AS reply_packets,
      ${pick(15, 1_000_000)}::BIGINT AS reply_bytes, NULL::VARCHAR AS attributes,
      [{'node': 'fw1', 'since': start_time}] AS path, false AS may_miss
    FROM range(${from}, ${until}) t(r)`;
  const metadata = `KV_METADATA {conntrail: ${quoted(JSON.stringify(state))}}`;
  const options = `FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 16384, ${metadata}`;
  await database.run(`COPY (${select}) TO ${quoted(path)} (${options})`);
}

/** As the archiver does, without a process for each file, whose start would be most of it for small ones. */
async function compact(directory: string): Promise<number> {
  const onFailure = (error: unknown): void => console.log(`  ${String(error)}`);
  const writer = await ArchiveWriter.open({ directory, limits: { threads: 1, memoryMiB: 64 }, onDamaged: onFailure });
  const spill = join(directory, ".spill-bench");
  const database = await Database.open({ ...COMPACT_LIMITS, temporary: spill });
  const begun = performance.now();
  for (;;) {
    const sources = await nextCompaction(directory, Date.now(), () => false);
    if (sources === null) break;
    const place = `${"0".repeat(15)} ${randomBytes(32).toString("hex")}`;
    const task = { sources, temporary: join(directory, ".compact.parquet.tmp"), place };
    await writer.publishCompacted(task, await compactFiles(database, task));
  }
  const ms = performance.now() - begun;
  database.close();
  await writer.close();
  return ms;
}

async function askWho(directory: string, rows: number, days: number): Promise<void> {
  const known = await someConnections(directory, Math.min(ASKED, rows));
  for (const cold of [true, false]) {
    const times: Cost[] = [];
    let found = 0;
    for (const [i, each] of known.slice(0, cold ? ASKED_COLD : ASKED).entries()) {
      const [address = "", port = 0] = each;
      // Half of them at a time when a connection was alive, half at any.
      const timeMs = i % 2 === 0 ? each[2] : (FIRST_DAY + ((i * 0.618034) % 1) * days) * DAY_MS;
      const question = { address, port, protocol: 6, sinceMs: timeMs, untilMs: timeMs };
      if (cold) await dropCache(directory);
      const done = costOf();
      found += await whoAsked(directory, question);
      times.push(done());
    }
    show(`who at a time, ${cold ? "cold" : "warm"}`, "goal 300 ms", times, found);
  }
}

async function whoAsked(directory: string, question: WhoQuestion): Promise<number> {
  const archive = await openArchive(directory);
  await archive.state();
  await archive.gaps(question.sinceMs, question.untilMs);
  let found = 0;
  for await (const batch of archive.who(question)) found += batch.length;
  archive.close();
  return found;
}

async function askHost(directory: string, days: number): Promise<void> {
  const goal = days > 1 ? "goal 5 s" : "goal 1 s";
  for (const cold of [true, false]) {
    const times: Cost[] = [];
    let found = 0;
    for (const host of ["10.1.7.9", "10.3.200.200", "10.0.0.1"]) {
      const query: HistoryQuery = { sinceMs: null, untilMs: null, filter: { host }, nodes: null, limit: null };
      if (cold) await dropCache(directory);
      const archive = await openArchive(directory);
      const done = costOf();
      for await (const batch of archive.connections(query)) found += batch.length;
      times.push(done());
      archive.close();
    }
    show(`one host over all, ${cold ? "cold" : "warm"}`, goal, times, found);
  }
}

function openArchive(directory: string): Promise<Archive> {
  return Archive.open(directory, { onDamaged: (path, why) => console.log(`  ${path}: ${why}`) });
}

/** Public address and port of some connections, and a time at which they were alive. */
async function someConnections(
  directory: string,
  count: number,
): Promise<readonly (readonly [string, number, number])[]> {
  const files = await listFiles(directory);
  const database = await Database.open(LIMITS);
  const found: [string, number, number][] = [];
  for (let i = 0; i < count; i++) {
    const file = files[Math.floor((i * 0.618034 * files.length) % files.length)];
    const [row] = await database.rows(
      `SELECT reply_dst, reply_dport::DOUBLE AS port, epoch_ms(end_time)::DOUBLE AS ms FROM read_parquet(${quoted(file?.path ?? "")}) LIMIT 1 OFFSET ${(i * 17) % 100}`,
    );
    if (row !== undefined) found.push([String(row.reply_dst), Number(row.port), Number(row.ms)]);
  }
  database.close();
  return found;
}

/** The kernel forgets what it has read of the files. */
async function dropCache(directory: string): Promise<void> {
  for (const { path } of await listFiles(directory)) {
    execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0"], { stdio: "ignore" });
  }
}

/** What a question took. */
interface Cost {
  readonly ms: number;
  readonly cpuMs: number;
}

/** Begins to measure; the result ends it. */
function costOf(): () => Cost {
  const [begun, cpu] = [performance.now(), process.cpuUsage()];
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return { ms: performance.now() - begun, cpuMs: (user + system) / 1000 };
  };
}

function show(name: string, goal: string, costs: readonly Cost[], found: number): void {
  const sorted = (values: number[]): number[] => values.sort((a, b) => a - b);
  const [times, cpus] = [sorted(costs.map(({ ms }) => ms)), sorted(costs.map(({ cpuMs }) => cpuMs))];
  const [median = 0, worst = 0, cpu = 0] = [times[times.length >> 1], times.at(-1), cpus[cpus.length >> 1]];
  const rss = Math.round(process.memoryUsage.rss() / 2 ** 20);
  const took = `median ${median.toFixed(0)} ms, worst ${worst.toFixed(0)} ms of ${times.length} (${goal})`;
  console.log(`  ${name}: ${took}, CPU median ${cpu.toFixed(0)} ms, ${found} found, RSS ${rss} MiB`);
}
