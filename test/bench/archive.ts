/** The archive: connections written to Parquet, and read back by a filter. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AF_INET,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
} from "../../src/flow/record.js";
import { Archive } from "../../src/history/archive/archive.js";
import { ARCHIVE_LIMITS, FLUSH_ROWS } from "../../src/history/archive/limits.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection } from "../../src/history/connection.js";
import { connectionUid } from "../../src/history/uid.js";

const DAY_START_MS = Date.parse("2026-01-31T00:00:00Z");
const INSIDE = 0x0a000000;
const OUTSIDE = 0xc6336400;
const PUBLIC = 0xcb007101;
const STAMPS_PER_MS = 4096;
const TURN = 1024;

/** Writes `count` connections of hosts behind a translated address, then looks for one host's. */
export async function benchArchive(count: number): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "conntrail-bench-archive-"));
  try {
    const rssMax = watchMemory();
    const written = await write(directory, count);
    const perSecond = Math.round(count / (written.ms / 1000)).toLocaleString("en");
    const cost = `${written.cpuMicros.toFixed(1)} µs of CPU each`;
    console.log(`  write: ${perSecond} connections/s (goal 500,000), ${count} in ${written.files} files, ${cost}`);
    console.log(`  memory: ${Math.round(rssMax() / 2 ** 20)} MiB (goal 300)`);
    const archive = await Archive.open(directory, { onDamaged: (path, why) => console.log(`  ${path}: ${why}`) });
    const begun = performance.now();
    let found = 0;
    const query = { sinceMs: null, untilMs: null, filter: { src: "10.0.3.7" }, nodes: null, limit: null };
    for await (const batch of archive.connections(query)) found += batch.length;
    archive.close();
    console.log(`  read: ${found} connections of one host in ${(performance.now() - begun).toFixed(0)} ms`);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function write(directory: string, count: number): Promise<{ ms: number; files: number; cpuMicros: number }> {
  const begun = performance.now();
  const cpu = process.cpuUsage();
  const limits = { ...ARCHIVE_LIMITS };
  const writer = await ArchiveWriter.open({ directory, limits, onDamaged: () => undefined });
  const state = { version: 1, places: {}, stamp: 1, from: 0, gaps: [] } as const;
  // As the archiver does: the next file's connections gather while one is written.
  let flushing = Promise.resolve();
  for (let i = 0; i < count; i++) {
    writer.add(connection(i), false);
    if (i % TURN === 0) await new Promise(setImmediate);
    if (writer.rows < FLUSH_ROWS) continue;
    await flushing;
    flushing = writer.flush(state);
  }
  await flushing;
  await writer.flush(state);
  await writer.close();
  const { user, system } = process.cpuUsage(cpu);
  return { ms: performance.now() - begun, files: writer.counters.files, cpuMicros: (user + system) / count };
}

function connection(i: number): Connection {
  const words = new Uint32Array(RECORD_WORDS);
  const port = 1024 + (i % 60_000);
  const publicPort = 1024 + ((i * 7919) % 60_000);
  words[W_PROTO] = (AF_INET << 8) | 6;
  words[W_ORIG_SRC] = INSIDE + (i % 5000);
  words[W_ORIG_DST] = OUTSIDE + ((i * 31) % 20_000);
  words[W_REPLY_SRC] = words[W_ORIG_DST]!;
  words[W_REPLY_DST] = PUBLIC;
  words[W_ORIG_L4] = (port << 16) | 443;
  words[W_REPLY_L4] = (443 << 16) | publicPort;
  words[W_STATUS] = 0x18e;
  words[W_PROTOINFO] = 7;
  words[W_HAS] = HAS_STATUS | HAS_MARK | HAS_PROTOINFO | HAS_REPLY;
  const startMs = DAY_START_MS + i / 100;
  const birth = i * STAMPS_PER_MS;
  return {
    get uid() {
      return connectionUid(birth, words);
    },
    words,
    rare: null,
    startMs,
    endMs: startMs + (i % 30_000),
    timedByKernel: true,
    end: "ended",
    counters: { origPackets: i % 100, origBytes: (i * 13) % 100_000, replyPackets: i % 90, replyBytes: (i * 17) % 1e6 },
    path: [{ node: "fw1", sinceMs: startMs }],
    mayMiss: false,
  };
}

/** The greatest resident size since. */
function watchMemory(): () => number {
  let max = 0;
  const look = (): void => {
    max = Math.max(max, process.memoryUsage.rss());
  };
  const timer = setInterval(look, 20);
  return () => {
    look();
    clearInterval(timer);
    return max;
  };
}
