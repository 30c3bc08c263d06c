/** A restart: what a node rebuilds from its own stream, held in memory. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { RECORD_WORDS, W_STATUS } from "../../src/flow/record.js";
import { PUBLISH_NEW } from "../../src/ownership/state.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import type { ReaderItem } from "../../src/stream/reader.js";
import { restoreInternal } from "../../src/sync/in/restore.js";
import { type Continuation, Journal } from "../../src/sync/out/journal.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";
import { aborted } from "../support/aborted.js";
import { MemoryStream } from "../support/memory-stream.js";
import { decodedFlow, Random, tcpRecord } from "../support/records.js";

const log = pino({ level: "silent" });
const NEVER = new AbortController().signal;
const clock = { wallMs: () => 1_800_000_000_000 };
const hybridClock = new HybridClock(clock);

/** A daemon's life on a stream: the cache of its kernel, and the journal that tells of it. */
class Life {
  readonly internal: InternalCache;
  readonly stream: MemoryStream;
  readonly journal: Journal;

  constructor(stream: MemoryStream, epoch: number, internal: InternalCache, continues: Continuation | null) {
    this.stream = stream;
    this.internal = internal;
    this.journal = new Journal({
      node: "fw1",
      epoch,
      continues,
      internal,
      sink: stream,
      clock,
      hybridClock,
      log,
    });
  }

  static first(): Life {
    return new Life(new MemoryStream(), 10, new InternalCache(10_000), null);
  }

  flow(tuple: number, status = 1): number {
    const words = tcpRecord(tuple);
    words[W_STATUS] = status;
    return this.internal.upsert(decodedFlow(words, status === 5 ? { helper: "ftp" } : null), 0);
  }

  end(tuple: number): void {
    this.internal.destroy(decodedFlow(tcpRecord(tuple)), 0);
  }

  snapshot(): Promise<boolean> {
    return this.journal.writeSnapshot(NEVER);
  }

  /** What a restart finds. */
  async restore(stream: PeerStream = this.stream, flowsMax = 10_000, logger = log) {
    const internal = new InternalCache(flowsMax);
    const lastMark = (await this.stream.readLast("mark"))?.payload ?? null;
    const tail = { lastMark, lastSequence: this.stream.messages.length };
    const timeout = AbortSignal.timeout(10_000);
    const continues = await restoreInternal(
      stream,
      tail,
      { node: "fw1", internal, formats: FORMATS, hybridClock, log: logger },
      timeout,
    );
    assert.equal(timeout.aborted, false, "the replay comes to its end");
    return { internal, continues };
  }
}

/** Flows by slot: tuple, state and the stamp of the claim; those that are superseded are left out. */
function view(internal: InternalCache): Map<number, string> {
  const flows = new Map<number, string>();
  for (let slot = 0; slot < internal.table.slotsUsed; slot++) {
    if (!internal.isFlow(slot) || internal.isSuperseded(slot)) continue;
    const base = internal.table.base(slot);
    const words = internal.table.slab(slot).slice(base, base + RECORD_WORDS);
    const helper = internal.table.rare.get(slot)?.helper ?? "-";
    flows.set(slot, `${words.slice(0, 23).join(" ")} ${helper} ${internal.stamp(slot)}`);
  }
  return flows;
}

describe("restoreInternal", () => {
  it("gives the flows back with their flow ids, states and stamps, and says where the stream ended", async () => {
    const life = Life.first();
    const random = new Random(5);
    life.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    for (let round = 0; round < 30; round++) {
      for (let i = 0; i < 100; i++) {
        const tuple = random.below(400);
        if (random.oneIn(3)) life.end(tuple);
        else life.flow(tuple, 1 + random.below(8));
      }
      life.journal.writePending();
      if (round === 10 || round === 20) await life.snapshot();
    }
    const { internal, continues } = await life.restore();
    assert.ok(internal.table.size > 100);
    assert.deepEqual(view(internal), view(life.internal));
    assert.equal(internal.pendingCount, 0);
    assert.deepEqual([continues?.epoch, continues?.number], [10, life.journal.number]);
    const begin = life.stream.messages[continues!.snapshotSequence - 1]!;
    assert.equal(begin.kind, "mark");
  });

  it("does not tell again, as of a peer, that events were missed once", async () => {
    const life = Life.first();
    life.flow(1);
    await life.snapshot();
    life.journal.writeMark({ type: "gap", reason: "event socket overrun" });
    const lines: string[] = [];
    await life.restore(life.stream, 10_000, pino({}, { write: (line) => lines.push(line) }));
    assert.deepEqual(
      lines.map((line) => (JSON.parse(line) as { msg: string }).msg),
      ["rebuilt this node's own flows from its stream"],
    );
  });

  it("goes on through any number of lives without another snapshot", async () => {
    let life = Life.first();
    const random = new Random(6);
    life.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    await life.snapshot();
    const named = life.stream.messages.length - 2;
    for (let epoch = 11; epoch < 20; epoch++) {
      for (let i = 0; i < 200; i++) {
        const tuple = random.below(100);
        if (random.oneIn(3)) life.end(tuple);
        else life.flow(tuple, 1 + random.below(8));
        if (random.oneIn(10)) life.journal.writePending();
      }
      life.journal.writePending();
      const expected = view(life.internal);
      const { internal, continues } = await life.restore();
      assert.deepEqual(view(internal), expected);
      assert.equal(continues?.snapshotSequence, named);
      life = new Life(life.stream, epoch, internal, continues);
      const { epoch: previousEpoch, number: previousNumber } = continues!;
      life.journal.writeMark({ type: "epoch", reason: "test", previousEpoch, previousNumber });
    }
  });

  it("passes over a snapshot that was cut short", async () => {
    const life = Life.first();
    life.flow(1);
    await life.snapshot();
    life.flow(2);
    life.stream.publish("mark", 0, new Uint8Array(0));
    await life.journal.writeSnapshot(AbortSignal.abort());
    life.flow(3);
    life.journal.writePending();
    const { internal, continues } = await life.restore();
    assert.deepEqual(view(internal), view(life.internal));
    assert.notEqual(continues, null);
  });

  const nothing: [string, (life: Life) => void | Promise<void>][] = [
    ["is empty", () => undefined],
    ["has no complete snapshot", (life) => life.journal.writeMark({ type: "stop" })],
    [
      "has a hole since the snapshot",
      async (life) => {
        await life.snapshot();
        life.flow(2);
        life.journal.writePending();
        life.journal.writeMark({ type: "stop" });
        life.stream.messages.splice(-2, 1);
      },
    ],
    [
      "has lost a chunk of the snapshot",
      async (life) => {
        await life.snapshot();
        life.journal.writeMark({ type: "stop" });
        life.stream.messages.splice(
          life.stream.messages.findIndex(({ kind }) => kind === "snap"),
          1,
        );
      },
    ],
    [
      "has a damaged message since the snapshot",
      async (life) => {
        await life.snapshot();
        life.flow(2);
        life.journal.writePending();
        life.stream.messages.at(-1)!.payload.fill(0xc1);
        life.journal.writeMark({ type: "stop" });
      },
    ],
    [
      "ends in an epoch that did not take the table over",
      async (life) => {
        await life.snapshot();
        const next = new Life(life.stream, 11, new InternalCache(10), { epoch: 10, number: 3, snapshotSequence: 2 });
        next.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 10, previousNumber: 0 });
      },
    ],
  ];
  for (const [name, damage] of nothing) {
    it(`gives nothing back, rather than half of it, from a stream that ${name}`, async () => {
      const life = Life.first();
      life.flow(1);
      life.journal.writePending();
      if (name === "is empty") life.stream.messages.length = 0;
      await damage(life);
      const { internal, continues } = await life.restore();
      assert.equal(continues, null);
      assert.deepEqual([internal.table.size, internal.table.slotsUsed, internal.pendingCount], [0, 0, 0]);
    });
  }

  it("gives nothing back when the stream is reset while it is read", async () => {
    const life = Life.first();
    life.flow(1);
    await life.snapshot();
    const reset: PeerStream = {
      readLast: (kind) => life.stream.readLast(kind),
      async *read(): AsyncIterable<readonly ReaderItem[]> {
        yield [{ type: "state", connected: true }];
        yield [{ type: "reset", reason: "trimmed" }];
      },
    };
    const { internal, continues } = await life.restore(reset);
    assert.deepEqual([continues, internal.table.size], [null, 0]);
  });

  it("comes to the end of a stream whose last message is none of ours", async () => {
    const life = Life.first();
    life.flow(1);
    await life.snapshot();
    const { messages } = life.stream;
    const foreign: PeerStream = {
      readLast: (kind) => life.stream.readLast(kind),
      async *read(from, signal): AsyncIterable<readonly ReaderItem[]> {
        yield messages.filter(({ sequence }) => sequence >= from).map((message) => ({ ...message, pending: 1 }));
        yield [{ type: "skipped", sequence: messages.length + 1, pending: 0 }];
        await aborted(signal);
      },
    };
    const { internal, continues } = await life.restore(foreign);
    assert.equal(internal.table.size, 1);
    assert.notEqual(continues, null);
  });

  it("keeps the flows that fit when the table is smaller now, and tells of nothing else", async () => {
    const life = Life.first();
    for (let tuple = 0; tuple < 20; tuple++) life.flow(tuple);
    await life.snapshot();
    const { internal } = await life.restore(life.stream, 10);
    assert.equal(internal.table.size, 10);
    const slot = internal.upsert(decodedFlow(tcpRecord(15)), 0);
    assert.equal(slot, -1);
    internal.destroy(decodedFlow(tcpRecord(0)), 0);
    internal.settle(1, 1);
    assert.equal(internal.publication(internal.upsert(decodedFlow(tcpRecord(15)), 0)), PUBLISH_NEW);
  });
});
