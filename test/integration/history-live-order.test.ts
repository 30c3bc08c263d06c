/** What reads streams as they come takes all that they hold in the order of its stamps, however slowly one of them is brought. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { stampMs } from "../../src/flow/clock.js";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { ArchiveRun } from "../../src/history/archive/run.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import type { Connection } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import { mergeStreams } from "../../src/history/scan/merged-streams.js";
import { Projection } from "../../src/history/scan/projection.js";
import { compileRowFilter } from "../../src/history/scan/row-filter.js";
import { StreamTips } from "../../src/history/scan/stream-tips.js";
import type { HistoryStreams } from "../../src/history/scan/streams.js";
import type { ReaderItem } from "../../src/stream/reader.js";
import type { StreamBounds, StreamLookup } from "../../src/stream/stream-index.js";
import { aborted } from "../support/aborted.js";
import { archiveCluster, EVERYTHING, keysOf, readArchive, truthOf } from "../support/archive-cluster.js";
import type { HistoryCluster } from "../support/history-cluster.js";

const skip = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const SEEDS = 10;
const STEPS = 150;
const HOUR_MS = 3_600_000;
const quiet = (): void => undefined;

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
}

/**
 * Streams without end that hold all of a cluster's messages. Each message was the last one when it was sent, so none says that
 * more is to come. `turnsOf`: so many turns of the event loop pass before a node's next message is here.
 */
class BroughtStreams implements HistoryStreams {
  readonly #cluster: HistoryCluster;
  readonly #turnsOf: (node: string) => number;
  #reading: number;
  onEnd: () => void = quiet;

  constructor(cluster: HistoryCluster, turnsOf: (node: string) => number) {
    this.#cluster = cluster;
    this.#turnsOf = turnsOf;
    this.#reading = cluster.members.length;
  }

  nodes(): Promise<readonly string[]> {
    return this.#cluster.nodes();
  }

  lookup(node: string): StreamLookup {
    return this.#cluster.lookup(node);
  }

  async *read(
    node: string,
    from: number,
    _readers: number,
    signal: AbortSignal,
  ): AsyncGenerator<readonly ReaderItem[], void, undefined> {
    for (const message of this.#cluster.lookup(node).messages.slice(Math.max(0, from - 1))) {
      await turns(this.#turnsOf(node));
      yield [{ ...message, pending: 0 }];
    }
    if (--this.#reading === 0) void turns(100).then(() => this.onEnd());
    await aborted(signal);
  }
}

/** All that an archiver archives that reads streams until they bring no more, an hour after the last message. */
async function archived(streams: BroughtStreams, cluster: HistoryCluster): Promise<readonly Connection[]> {
  const directory = mkdtempSync(join(tmpdir(), "conntrail-order-"));
  try {
    const writer = await ArchiveWriter.open({ directory, limits: { threads: 1, memoryMiB: 128 }, onDamaged: quiet });
    const stop = new AbortController();
    streams.onEnd = () => stop.abort();
    const run = new ArchiveRun({
      streams,
      nodes: await streams.nodes(),
      writer,
      live: true,
      maxAgeMs: Number.MAX_SAFE_INTEGER,
      now: () => stampMs(cluster.stamp) + HOUR_MS,
      signal: stop.signal,
      onProgress: quiet,
      onFailure: (error) => assert.fail(String(error)),
    });
    await run.run();
    await writer.close();
    return (await readArchive(directory)).connections;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function follow(streams: BroughtStreams): Promise<Connection[]> {
  const stop = new AbortController();
  streams.onEnd = () => stop.abort();
  const history = await History.open({ streams, nodes: null });
  const ended: Connection[] = [];
  for await (const batch of history.follow({ ...EVERYTHING, sinceMs: 0 }, stop.signal, true)) {
    for (const { type, connection } of batch) if (type === "ended") ended.push(connection);
  }
  return ended;
}

test("an archiver takes in order what is at hand, though no message told of the next", { skip }, async () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const cluster = archiveCluster(seed, STEPS);
    const found = await archived(new BroughtStreams(cluster, () => 0), cluster);
    assert.deepEqual(keysOf(found), truthOf(cluster), `seed ${seed}`);
  }
});

test("an archiver waits for what the broker holds, though it was stored long ago", { skip }, async () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const cluster = archiveCluster(seed, STEPS);
    const slow = `fw${(seed % 3) + 1}`;
    const found = await archived(new BroughtStreams(cluster, (node) => (node === slow ? 5 : 0)), cluster);
    assert.deepEqual(keysOf(found), truthOf(cluster), `seed ${seed}`);
  }
});

test("an archiver does not wait for what retention has removed meanwhile", { skip }, async () => {
  const cluster = archiveCluster(1, STEPS);
  const streams = new BroughtStreams(cluster, () => 0);
  let asked = 0;
  streams.lookup = (node) => {
    const stream = cluster.lookup(node);
    const bounds = async (): Promise<StreamBounds> => {
      const found = await stream.bounds();
      // The first to ask is who plans what to read.
      if (node !== "fw1" || ++asked === 1) return found;
      return { ...found, last: found.last + 1, messages: asked === 2 ? 1 : 0 };
    };
    return { bounds, next: (sequence, kind) => stream.next(sequence, kind), lastMark: () => stream.lastMark() };
  };
  assert.deepEqual(keysOf(await archived(streams, cluster)), truthOf(cluster));
  assert.ok(asked >= 3);
});

test("a stream without end is read on however often its reader begins anew", { timeout: 60_000 }, async () => {
  const cluster = archiveCluster(1, STEPS);
  const streams = new BroughtStreams(cluster, () => 0);
  const read = streams.read.bind(streams);
  let resets = 0;
  streams.read = async function* (node, from, readers, signal) {
    if (node === "fw1" && ++resets <= 4) yield [{ type: "reset", reason: "truncated" }];
    else yield* read(node, from, readers, signal);
  };
  assert.deepEqual(keysOf(await follow(streams)), truthOf(cluster));
});

test("what streams hold is known when the broker told of each, or did not of one for long", async () => {
  const cluster = archiveCluster(1, STEPS);
  const known = async (away: readonly string[], untoldMsMax: number): Promise<number> => {
    const streams = new BroughtStreams(cluster, () => 0);
    const projection = new Projection({
      filter: compileRowFilter({}),
      sinceMs: null,
      listener: { ended: quiet, changed: null },
    });
    const range = { sinceMs: null, live: true };
    const { merge } = await mergeStreams(
      streams,
      await streams.nodes(),
      projection,
      range,
      new AbortController().signal,
    );
    streams.lookup = (node) => {
      if (away.includes(node)) throw new Error("no leader");
      return cluster.lookup(node);
    };
    const tips = new StreamTips(streams, merge, projection, { range, now: () => 4711, untoldMsMax });
    assert.equal(tips.knownMs, 0);
    tips.ask(0);
    await turns(10);
    merge.close();
    return tips.knownMs;
  };
  assert.deepEqual([await known([], 60_000), await known(["fw2"], 60_000), await known(["fw2"], 0)], [4711, 0, 4711]);
  assert.equal(await known(["fw1", "fw2", "fw3"], 0), 0);
});

test("who follows the streams from an earlier time gets in order what is at hand", async () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const cluster = archiveCluster(seed, STEPS);
    assert.deepEqual(keysOf(await follow(new BroughtStreams(cluster, () => 0))), truthOf(cluster), `seed ${seed}`);
  }
});
