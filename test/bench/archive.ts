/** The archive: connections written to Parquet by a process that only archives, and read back by a filter. */
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Archive } from "../../src/history/archive/archive.js";
import { writeStreamFile } from "./archive-stream.js";

const PROCESS = fileURLToPath(new URL("archive-process.js", import.meta.url));

/** What the archiving process saw of itself. */
export interface ArchiveBenchResult {
  readonly connections: number;
  readonly files: number;
  readonly ms: number;
  readonly cpuMicros: number;
  /** The greatest resident size, bytes. */
  readonly rssMax: number;
}

/** Archives `count` connections of hosts behind a translated address, by themselves and out of a stream, then looks for one host's. */
export async function benchArchive(count: number): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "conntrail-bench-archive-"));
  try {
    const written = join(directory, "written");
    show("write", "(goal 500,000)", await archive("write", count, written));
    const stream = join(directory, "stream");
    const messages = writeStreamFile(stream, count);
    show("from a stream, two events each", "", await archive("stream", messages, join(directory, "read"), stream));
    await readBack(written);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** In a process like that beside the daemon (src/daemon/archive.ts). */
async function archive(...args: readonly (string | number)[]): Promise<ArchiveBenchResult> {
  const command = ["--max-old-space-size=192", PROCESS, ...args.map(String)];
  const { stdout } = await promisify(execFile)(process.execPath, command, {
    env: { ...process.env, MALLOC_ARENA_MAX: "2" },
  });
  return JSON.parse(stdout) as ArchiveBenchResult;
}

function show(name: string, goal: string, { connections, files, ms, cpuMicros, rssMax }: ArchiveBenchResult): void {
  const perSecond = Math.round(connections / (ms / 1000)).toLocaleString("en");
  const cost = `${(cpuMicros / connections).toFixed(1)} µs of CPU each`;
  console.log(`  ${name}: ${perSecond} connections/s ${goal}, ${connections} in ${files} files, ${cost}`);
  console.log(`  memory of the process: ${Math.round(rssMax / 2 ** 20)} MiB (goal 300 MB)`);
}

async function readBack(directory: string): Promise<void> {
  const archive = await Archive.open(directory, { onDamaged: (path, why) => console.log(`  ${path}: ${why}`) });
  const begun = performance.now();
  let found = 0;
  const query = { sinceMs: null, untilMs: null, filter: { src: "10.0.3.7" }, nodes: null, limit: null };
  for await (const batch of archive.connections(query)) found += batch.length;
  archive.close();
  console.log(`  read: ${found} connections of one host in ${(performance.now() - begun).toFixed(0)} ms`);
}
