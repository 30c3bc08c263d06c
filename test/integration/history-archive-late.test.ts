/** An archiver that reads streams as they come, where one of them comes late, and that is started again. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { stampMs } from "../../src/flow/clock.js";
import { W_ORIG_L4 } from "../../src/flow/record.js";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { ArchiveRun } from "../../src/history/archive/run.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection } from "../../src/history/connection.js";
import type { HistoryStreams } from "../../src/history/scan/streams.js";
import { createUid } from "../../src/history/uid.js";
import type { ReaderItem } from "../../src/stream/reader.js";
import type { StreamLookup } from "../../src/stream/stream-index.js";
import { aborted } from "../support/aborted.js";
import { archiveCluster, keysOf, readArchive } from "../support/archive-cluster.js";
import type { HistoryCluster } from "../support/history-cluster.js";
import { tcpRecord } from "../support/records.js";

const skip = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const SEEDS = 40;
const HOUR_MS = 3_600_000;
const quiet = (): void => undefined;

function directoryOf(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "conntrail-late-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Turns of the event loop in which what was handed over is applied. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
}

/** Streams without end, of which one stops half way until the others have been read: that is all that its copy holds until then. */
class LateStreams implements HistoryStreams {
  readonly #cluster: HistoryCluster;
  readonly #late: string;
  readonly #share: number;
  #waiting = 0;
  #go: () => void = quiet;
  readonly #opened = new Promise<void>((resolve) => {
    this.#go = resolve;
  });
  /** All of them are at their end. */
  onEnd: () => void = quiet;

  constructor(cluster: HistoryCluster, late: string, share: number) {
    this.#cluster = cluster;
    this.#late = late;
    this.#share = share;
  }

  nodes(): Promise<readonly string[]> {
    return this.#cluster.nodes();
  }

  /** Until the rest of its copy has come, that is known to hold what was read of it. */
  lookup(node: string): StreamLookup {
    const stream = this.#cluster.lookup(node);
    const bounds = async () => {
      const { first, last, messages } = await stream.bounds();
      const half =
        node === this.#late && this.#waiting < this.#cluster.members.length ? this.#halfOf(messages) : messages;
      return { first, last: last - messages + half, messages: half };
    };
    return { bounds, next: (sequence, kind) => stream.next(sequence, kind), lastMark: () => stream.lastMark() };
  }

  #halfOf(messages: number): number {
    return Math.floor(messages * this.#share);
  }

  async *read(node: string, from: number, _readers: number, signal: AbortSignal) {
    const { messages } = this.#cluster.lookup(node);
    const first = messages.slice(Math.max(0, from - 1));
    const half = node === this.#late ? this.#halfOf(first.length) : first.length;
    // Nothing is known to come: nobody waits for it.
    const idle = (items: readonly (typeof messages)[number][]): readonly ReaderItem[] =>
      items.map((item) => ({ ...item, pending: 0 }));
    yield idle(first.slice(0, half));
    await this.#wait();
    if (half < first.length) yield idle(first.slice(half));
    await this.#wait();
    await aborted(signal);
  }

  /** Waits until all streams have come here and their messages were applied. */
  async #wait(): Promise<void> {
    const all = this.#cluster.members.length;
    const time = Math.floor(this.#waiting++ / all);
    if (this.#waiting === all) {
      await turns();
      this.#go();
    }
    if (time === 0) return this.#opened;
    if (this.#waiting === 2 * all) {
      await turns();
      this.onEnd();
    }
  }
}

/** Archives until everything was read. */
async function archive(
  directory: string,
  streams: HistoryStreams | LateStreams,
  cluster: HistoryCluster,
  laterMs: number,
): Promise<void> {
  const writer = await ArchiveWriter.open({ directory, limits: { threads: 1, memoryMiB: 128 }, onDamaged: quiet });
  const stop = new AbortController();
  const live = streams instanceof LateStreams;
  if (live) streams.onEnd = () => stop.abort();
  const run = new ArchiveRun({
    streams,
    nodes: await streams.nodes(),
    writer,
    live,
    maxAgeMs: Number.MAX_SAFE_INTEGER,
    now: () => stampMs(cluster.stamp) + laterMs,
    settleMs: 0,
    signal: stop.signal,
    onProgress: quiet,
    onFailure: (error) => assert.fail(String(error)),
  });
  await run.run();
  await writer.close();
}

test("ends that came late are archived, also when the archiver was stopped while they waited", { skip }, async (t) => {
  const uidOf = createUid();
  let waited = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const cluster = archiveCluster(seed, 150);
    const [at, share] = [`fw${(seed % 3) + 1}`, 0.6 + (seed % 5) / 12];
    const read = async (directory: string): Promise<readonly Connection[]> =>
      (await readArchive(directory)).connections;
    const [whole, stopped] = [directoryOf(t), directoryOf(t)];
    await archive(whole, new LateStreams(cluster, at, share), cluster, HOUR_MS);
    await archive(stopped, new LateStreams(cluster, at, share), cluster, (seed % 5) * 4000);
    const atOnce = await read(stopped);
    await archive(stopped, cluster, cluster, HOUR_MS);
    const expected = keysOf(await read(whole));
    waited += expected.length - atOnce.length;
    const found = await read(stopped);
    const told = new Set([...keysOf(found), ...found.map(({ uid }) => uid)]);
    // An end that was archived too early, because a message came late, is not archived again.
    const missing = cluster.truth.filter(({ tuple, end, births }) => {
      const key = end === null ? "" : `${tcpRecord(tuple)[W_ORIG_L4]} ${stampMs(end.stamp)}`;
      return (
        expected.includes(key) &&
        ![key, ...births.map((birth) => uidOf(birth, tcpRecord(tuple)))].some((name) => told.has(name))
      );
    });
    assert.deepEqual(missing, [], `seed ${seed}: not archived`);
  }
  assert.ok(waited > SEEDS, "hardly an end waited: this has shown nothing");
});
