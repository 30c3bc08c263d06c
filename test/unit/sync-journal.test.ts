import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { BatchDecoder } from "../../src/stream/format/batch.js";
import { BATCH_ROWS_MAX } from "../../src/stream/format/columns.js";
import { createEnvelopeReader, type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import { type Continuation, Journal } from "../../src/sync/out/journal.js";
import { MemoryStream } from "../support/memory-stream.js";
import { decodedFlow, tcpRecord } from "../support/records.js";

const log = pino({ level: "silent" });
const NEVER = new AbortController().signal;
const SLOTS_END = 0xffff_ffff;

class Bench {
  readonly internal = new InternalCache(100_000);
  readonly stream = new MemoryStream();
  readonly journal: Journal;
  readonly clock = { ms: 1_800_000_000_000 };
  readonly #decoder = new BatchDecoder();
  readonly #marks = new MarkCodec();

  constructor(continues: Continuation | null = null) {
    const clock = { wallMs: () => this.clock.ms };
    this.journal = new Journal({
      node: "fw1",
      epoch: 10,
      continues,
      internal: this.internal,
      sink: this.stream,
      clock,
      hybridClock: new HybridClock(clock),
      log,
    });
  }

  flow(tuple: number): number {
    return this.internal.upsert(decodedFlow(tcpRecord(tuple)), 0);
  }

  end(tuple: number): void {
    this.internal.destroy(decodedFlow(tcpRecord(tuple)), 0);
  }

  batch(index: number): BatchDecoder {
    assert.notEqual(this.#decoder.decode(this.stream.messages.at(index)!.payload), null);
    return this.#decoder;
  }

  mark(index: number): { mark: Mark; snapshotSequence: number } {
    const { mark, snapshotSequence } = this.#marks.decode(this.stream.messages.at(index)!.payload)!;
    return { mark, snapshotSequence };
  }

  get kinds(): string[] {
    return this.stream.messages.map(({ kind }) => kind);
  }
}

function ids(section: { rows: number; flowId: Uint32Array }): number[] {
  return [...section.flowId.subarray(0, section.rows)];
}

describe("Journal", () => {
  it("turns what waits into one batch of every kind of row, and settles it by the message's stamp", () => {
    const bench = new Bench();
    const [changed, ended, moved] = [1, 2, 3].map((tuple) => bench.flow(tuple)) as [number, number, number];
    assert.equal(bench.journal.writePending(), 3);
    bench.flow(1);
    bench.end(2);
    bench.internal.supersede(moved, { node: "fw2", stamp: 77 });
    const fresh = bench.flow(4);
    assert.equal(bench.journal.writePending(), 4);
    const batch = bench.batch(-1);
    assert.deepEqual(
      [ids(batch.new4), ids(batch.updates), ids(batch.destroys), ids(batch.moved)],
      [[fresh], [changed], [ended], [moved]],
    );
    assert.deepEqual([batch.movedTo, batch.moved.stamp[0], batch.new4.stamp[0]], [["fw2"], 77, 0]);
    assert.equal(bench.internal.pendingCount, 0);
    const envelope = createEnvelopeReader()(bench.stream.messages[1]!.payload)!;
    assert.deepEqual([envelope.epoch, envelope.number, bench.internal.stamp(changed)], [10, 2, envelope.stamp]);
    assert.deepEqual([bench.journal.counters.rows, bench.journal.counters.batches], [7, 2]);
  });

  it("writes no message, and uses no number, for what peers need not know", () => {
    const bench = new Bench();
    bench.internal.supersede(bench.flow(1), { node: "fw2", stamp: 77 });
    assert.equal(bench.internal.pendingCount, 1);
    assert.equal(bench.journal.writePending(), 0);
    assert.deepEqual([bench.stream.messages.length, bench.journal.number, bench.internal.pendingCount], [0, 0, 0]);
    bench.end(1);
    assert.equal(bench.journal.writePending(), 0);
    assert.equal(bench.internal.table.size, 0);
  });

  it("tells a restated claim with the stamp that it was made by", () => {
    const bench = new Bench();
    const slot = bench.flow(1);
    bench.journal.writePending();
    const claimed = bench.internal.stamp(slot);
    bench.clock.ms += 1000;
    bench.internal.claimAgain(slot);
    bench.journal.writePending();
    assert.equal(bench.batch(-1).new4.stamp[0], claimed);
    assert.equal(bench.internal.stamp(slot), claimed);
    bench.internal.claimAgain(slot);
    bench.flow(1);
    bench.journal.writePending();
    assert.equal(
      bench.batch(-1).new4.stamp[0],
      0,
      "something happened to it meanwhile: a claim by the message's stamp",
    );
    assert.ok(bench.internal.stamp(slot) > claimed);
  });

  it("tells a connection that is over already from the next of its tuple by its birth", () => {
    const bench = new Bench();
    bench.flow(1);
    bench.end(1);
    bench.flow(1);
    bench.journal.writePending();
    const { new4 } = bench.batch(0);
    assert.equal(new4.rows, 2);
    const births = [...new4.birth.subarray(0, 2)];
    assert.ok(births[0]! > 0 && births[0]! < bench.internal.stamp(bench.internal.table.find(tcpRecord(1), 0)));
    assert.equal(births[1], 0);
  });

  it("splits what is too much for one message, without holes in the numbers", () => {
    const bench = new Bench();
    for (let tuple = 0; tuple < 2.5 * BATCH_ROWS_MAX; tuple++) bench.flow(tuple);
    bench.journal.writePending();
    const read = createEnvelopeReader();
    const numbers = bench.stream.messages.map(({ payload }) => read(payload)!.number);
    assert.deepEqual(numbers, [1, 2, 3]);
    const rows = numbers.map((_, i) => bench.batch(i).new4.rows);
    assert.deepEqual(rows, [BATCH_ROWS_MAX, BATCH_ROWS_MAX, BATCH_ROWS_MAX / 2]);
  });

  it("begins an epoch with its mark, also where rows wait: or readers could not go on", () => {
    const bench = new Bench();
    bench.flow(1);
    bench.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 9, previousNumber: 5 });
    bench.journal.writePending();
    assert.deepEqual(bench.kinds, ["mark", "ev"]);
  });

  it("puts the rows that wait before a mark", () => {
    const bench = new Bench();
    bench.flow(1);
    bench.journal.writeMark({ type: "role", role: "primary" });
    assert.deepEqual(bench.kinds, ["ev", "mark"]);
    assert.deepEqual(bench.mark(-1), { mark: { type: "role", role: "primary" }, snapshotSequence: 0 });
  });
});

describe("Journal, snapshots", () => {
  it("state all slots without a gap between begin and end mark, and are named by the marks from then on", async () => {
    const bench = new Bench();
    bench.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    for (let tuple = 0; tuple < 5000; tuple++) bench.flow(tuple);
    for (let tuple = 0; tuple < 5000; tuple += 3) bench.end(tuple);
    bench.journal.writePending();
    const begin = bench.stream.messages.length;
    assert.equal(await bench.journal.writeSnapshot(NEVER), true);
    const snap = bench.kinds.indexOf("snap");
    assert.equal(snap, begin + 1);
    const stated: number[] = [];
    let from = 0;
    for (let i = snap; bench.kinds[i] === "snap"; i++) {
      const { range, new4 } = bench.batch(i);
      assert.equal(range?.from, from);
      assert.ok(new4.rows <= 1024 && ids(new4).every((id) => id >= range.from && id < range.to));
      assert.ok(
        [...new4.stamp.subarray(0, new4.rows)].every((stamp, row) => stamp === bench.internal.stamp(ids(new4)[row]!)),
      );
      stated.push(...ids(new4));
      from = range.to;
    }
    assert.equal(from, SLOTS_END);
    assert.equal(stated.length, bench.internal.table.size);
    assert.deepEqual(
      stated,
      stated.toSorted((a, b) => a - b),
    );
    assert.deepEqual([bench.mark(begin).snapshotSequence, bench.mark(-1).snapshotSequence], [0, begin + 1]);
    const [first, last] = [bench.mark(begin).mark, bench.mark(-1).mark];
    assert.ok(first.type === "snapshot-begin" && last.type === "snapshot-end" && first.id === last.id);
    bench.journal.writeMark({ type: "stop" });
    assert.equal(bench.mark(-1).snapshotSequence, begin + 1);
  });

  it("leave out flows that another node carries, and those that have ended", async () => {
    const bench = new Bench();
    const [kept, moved, untold] = [1, 2, 3].map((tuple) => bench.flow(tuple)) as [number, number, number];
    bench.internal.supersede(untold, { node: "fw3", stamp: 5 });
    bench.journal.writePending();
    bench.internal.supersede(moved, { node: "fw2", stamp: 77 });
    bench.flow(4);
    bench.end(4);
    assert.equal(await bench.journal.writeSnapshot(NEVER), true);
    assert.deepEqual(bench.kinds, ["ev", "ev", "mark", "snap", "mark"]);
    assert.deepEqual(ids(bench.batch(1).moved), [moved], "given up before");
    const { new4, range } = bench.batch(3);
    assert.deepEqual([ids(new4), range], [[kept], { from: 0, to: SLOTS_END }]);
  });

  it("of an empty table are one chunk", async () => {
    const bench = new Bench();
    assert.equal(await bench.journal.writeSnapshot(NEVER), true);
    assert.deepEqual(bench.kinds, ["mark", "snap", "mark"]);
  });

  it("let the events that come meanwhile out between their chunks", async () => {
    const bench = new Bench();
    for (let tuple = 0; tuple < 3000; tuple++) bench.flow(tuple);
    bench.journal.writePending();
    const writing = bench.journal.writeSnapshot(NEVER);
    await new Promise(setImmediate);
    bench.end(2999);
    bench.end(0);
    const late = bench.flow(7000);
    assert.equal(await writing, true);
    const between = bench.kinds.slice(bench.kinds.indexOf("snap"));
    assert.ok(between.includes("ev") && between.at(-2) === "snap", between.join(" "));
    const lastChunk = ids(bench.batch(-2).new4);
    assert.ok(!lastChunk.includes(2999) && lastChunk.includes(late), "a chunk is exact at its place");
  });

  it("are one at a time: a second call joins the first", async () => {
    const bench = new Bench();
    const both = [bench.journal.writeSnapshot(NEVER), bench.journal.writeSnapshot(NEVER)];
    assert.deepEqual(await Promise.all(both), [true, true]);
    assert.equal(bench.journal.counters.snapshots, 1);
    assert.equal(await bench.journal.writeSnapshot(NEVER), true);
    assert.equal(bench.journal.counters.snapshots, 2);
  });

  it("that the broker drops are abandoned, and named by nobody", async () => {
    const bench = new Bench();
    assert.equal(await bench.journal.writeSnapshot(NEVER), true);
    const named = bench.mark(-1).snapshotSequence;
    bench.stream.dropsAcked = true;
    assert.equal(await bench.journal.writeSnapshot(NEVER), false);
    bench.stream.dropsAcked = false;
    assert.equal(bench.journal.counters.snapshotsAbandoned, 1);
    bench.journal.writeMark({ type: "stop" });
    assert.equal(bench.mark(-1).snapshotSequence, named);
    assert.equal(await bench.journal.writeSnapshot(AbortSignal.abort()), false);
    assert.equal(bench.journal.counters.snapshotsAbandoned, 2);
    bench.journal.writeMark({ type: "stop" });
    assert.equal(bench.mark(-1).snapshotSequence, named);
  });

  it("wait while too much is unconfirmed", async () => {
    const bench = new Bench();
    bench.stream.backlog.bytes = 8 * 1024 * 1024 + 1;
    const writing = bench.journal.writeSnapshot(NEVER);
    for (let i = 0; i < 20; i++) await new Promise(setImmediate);
    assert.deepEqual(bench.kinds, ["mark"]);
    bench.stream.backlog.bytes = 0;
    assert.equal(await writing, true);
  });

  it("are due when the events since the last outweigh it twice, and 4 MiB at the least", async () => {
    const bench = new Bench();
    const { journal } = bench;
    const work = (bytes: number): void => {
      const until = journal.counters.bytes + bytes;
      while (journal.counters.bytes < until) {
        for (let tuple = 0; tuple < BATCH_ROWS_MAX; tuple++) bench.flow(tuple);
        journal.writePending();
      }
    };
    const MIB = 1024 * 1024;
    work(3.9 * MIB);
    assert.equal(journal.snapshotDue, false);
    work(0.2 * MIB);
    assert.equal(journal.snapshotDue, true);
    await journal.writeSnapshot(NEVER);
    assert.equal(journal.snapshotDue, false);
    for (let tuple = 0; tuple < 90_000; tuple++) bench.flow(tuple);
    journal.writePending();
    await journal.writeSnapshot(NEVER);
    const bytes = journal.counters.snapshotBytes;
    assert.ok(bytes > 3 * MIB, `${bytes}`);
    work(4.2 * MIB);
    assert.equal(journal.snapshotDue, false, "a large table's snapshot is dear");
    work(2 * bytes - 4.2 * MIB);
    assert.equal(journal.snapshotDue, true);
  });
});

describe("Journal, an epoch that goes on", () => {
  it("names the last epoch's snapshot until it has written one", async () => {
    const bench = new Bench({ epoch: 9, number: 500, snapshotSequence: 321 });
    assert.deepEqual([bench.journal.epoch, bench.journal.number], [10, 0]);
    bench.journal.writeMark({ type: "epoch", reason: "start", previousEpoch: 9, previousNumber: 500 });
    assert.equal(bench.mark(-1).snapshotSequence, 321);
    await bench.journal.writeSnapshot(NEVER);
    assert.equal(bench.mark(-1).snapshotSequence, 2);
  });
});
