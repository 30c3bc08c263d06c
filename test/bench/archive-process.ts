/**
 * A process that archives and does nothing else: PART COUNT DIRECTORY [FILE]. `write`: so many connections to files, all of one
 * record that is changed; `stream`: so many messages of a stream to files. Prints what it saw as JSON.
 */
import { RECORD_WORDS } from "../../src/flow/record.js";
import { ARCHIVE_LIMITS, FLUSH_ROWS } from "../../src/history/archive/limits.js";
import { ArchiveRun } from "../../src/history/archive/run.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection } from "../../src/history/connection.js";
import type { ArchiveBenchResult } from "./archive.js";
import { fileStreams, fillRecord } from "./archive-stream.js";

const DAY_START_MS = Date.parse("2026-01-31T00:00:00Z");
const STAMPS_PER_MS = 4096;
/** A turn of the event loop, as in ArchiveRun. */
const TURN = 512;

const [part = "", count = "", directory = "", file = ""] = process.argv.slice(2);
const writer = await ArchiveWriter.open({ directory, limits: ARCHIVE_LIMITS, onDamaged: () => undefined });
let rssMax = 0;
const look = (): void => {
  rssMax = Math.max(rssMax, process.memoryUsage.rss());
};
const timer = setInterval(look, 20);
const cpu = process.cpuUsage();
const begun = performance.now();
await (part === "write" ? write(Number(count)) : archiveStream(file, Number(count)));
look();
clearInterval(timer);
const ms = performance.now() - begun;
const { user, system } = process.cpuUsage(cpu);
const { connections, files } = writer.counters;
await writer.close();
const result: ArchiveBenchResult = { connections, files, ms, cpuMicros: user + system, rssMax };
process.stdout.write(`${JSON.stringify(result)}\n`);

async function archiveStream(path: string, messages: number): Promise<void> {
  const streams = fileStreams(path, messages);
  const run = new ArchiveRun({
    streams,
    nodes: await streams.nodes(),
    writer,
    live: false,
    maxAgeMs: Number.MAX_SAFE_INTEGER,
    now: Date.now,
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onFailure: (error) => {
      throw error;
    },
  });
  await run.run();
}

/** As the archiver does: the next file's connections gather while one is written. */
async function write(total: number): Promise<void> {
  const state = { version: 1, places: {}, stamp: 1, from: 0, gaps: [] } as const;
  const words = new Uint32Array(RECORD_WORDS);
  let flushing = Promise.resolve();
  for (let i = 0; i < total; i++) {
    fillRecord(words, i);
    writer.add(connection(i, words), false);
    if (i % TURN === 0) await new Promise(setImmediate);
    if (writer.rows < FLUSH_ROWS) continue;
    await flushing;
    flushing = writer.flush(state);
  }
  await flushing;
  await writer.flush(state);
}

function connection(i: number, words: Uint32Array): Connection {
  const startMs = DAY_START_MS + i / 100;
  return {
    uid: "",
    birth: i * STAMPS_PER_MS,
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
