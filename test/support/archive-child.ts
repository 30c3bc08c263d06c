/**
 * Archives the streams of a made-up cluster, to be killed by a test: SEED STEPS START_MS DIRECTORY LATER. LATER is `true`
 * when no end is to wait any more. Says `begun`, and `done` at the end.
 */
import { stampMs } from "../../src/flow/clock.js";
import { ArchiveRun } from "../../src/history/archive/run.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import { archiveCluster } from "./archive-cluster.js";

const [seed = "1", steps = "100", startMs = "", directory = "", later = ""] = process.argv.slice(2);
const cluster = archiveCluster(Number(seed), Number(steps), Number(startMs));
const onDamaged = (path: string, why: string): void => {
  process.stdout.write(`damaged ${path}: ${why}\n`);
};
const writer = await ArchiveWriter.open({ directory, limits: { threads: 1, memoryMiB: 128 }, onDamaged });
process.stdout.write("begun\n");
const run = new ArchiveRun({
  streams: cluster,
  nodes: await cluster.nodes(),
  writer,
  live: false,
  maxAgeMs: Number.MAX_SAFE_INTEGER,
  now: () => stampMs(cluster.stamp) + (later === "true" ? 3_600_000 : 0),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onFailure: (error) => {
    throw error;
  },
  flushRows: 8,
});
await run.run();
await writer.close();
process.stdout.write("done\n");
