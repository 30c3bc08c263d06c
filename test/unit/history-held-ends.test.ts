import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { formatAddress } from "../../src/flow/address.js";
import { stampMs } from "../../src/flow/clock.js";
import { AF_INET, HAS_COUNTERS, W_REPLY_DST, W_REPLY_L4 } from "../../src/flow/record.js";
import type { Ending } from "../../src/history/scan/ending.js";
import { EndQueue, HELD_MAX, HOLD_MS } from "../../src/history/scan/held-ends.js";
import { compileWhoFilter } from "../../src/history/scan/row-filter.js";
import { add, Bench, destroy } from "../support/projection-bench.js";
import { tcpRecord } from "../support/records.js";

describe("a connection that ends as another node takes over", () => {
  const end = { has: HAS_COUNTERS, counters: Float64Array.of(1, 2, 3, 4), timesMicros: Float64Array.of(0, 0) };

  /** Begun and ended on fw1. */
  function over(): { bench: Bench; born: number; endStamp: number } {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.say(bench.fw2, (writer) => writer.mark({ type: "role", role: "backup" }));
    const endStamp = bench.events(bench.fw1, (batch) => batch.addDestroy(1, tcpRecord(1), 0, end));
    return { bench, born, endStamp };
  }

  it("is taken up again by a node that has not seen the end, and ends there, once", () => {
    const { bench, born } = over();
    assert.deepEqual([bench.alive.length, bench.projection.size, bench.projection.oldestBirth], [0, 0, born]);
    const taken = bench.events(bench.fw2, (batch) => add(batch, 5, 1, born));
    assert.deepEqual([bench.alive.length, bench.projection.size, bench.projection.held], [1, 1, 0]);
    const last = bench.events(bench.fw2, (batch) => destroy(batch, 5));
    const [connection, ...more] = bench.ended;
    assert.deepEqual(more, []);
    assert.deepEqual(connection?.path, [
      { node: "fw1", sinceMs: stampMs(born) },
      { node: "fw2", sinceMs: stampMs(taken) },
    ]);
    assert.deepEqual(
      [connection?.startMs, connection?.endMs, connection?.end, connection?.counters],
      [stampMs(born), stampMs(last), "ended", null],
    );
    assert.deepEqual(
      bench.over.map(({ endMs }) => endMs),
      [stampMs(last) - 20, stampMs(last)],
    );
    assert.deepEqual(bench.changes, ["new", "moved"]);
  });

  it("is reported with its first end if no node takes it up, and not before that is certain", () => {
    const { bench, endStamp } = over();
    bench.pass(HOLD_MS - 100);
    bench.events(bench.fw2, (batch) => add(batch, 9));
    assert.deepEqual([bench.settled.length, bench.over.length], [0, 1]);
    bench.pass(200);
    bench.events(bench.fw2, (batch) => add(batch, 10));
    assert.deepEqual(
      bench.settled.map(({ endMs, counters, mayMiss }) => [endMs, counters?.replyBytes, mayMiss]),
      [[stampMs(endStamp), 4, false]],
    );
  });

  it("is reported at once where there is only one node, or the message comes late", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => destroy(batch, 1));
    assert.equal(bench.settled.length, 1);
    const late = new Bench();
    late.events(late.fw1, (batch) => add(batch, 1));
    late.pass(HOLD_MS + 100);
    late.events(late.fw2, (batch) => add(batch, 2));
    late.pass(-HOLD_MS - 100);
    late.events(late.fw1, (batch) => destroy(batch, 1));
    assert.equal(late.settled.length, 1);
  });

  it("stays over for a claim that is older than its owner's last row", () => {
    const { bench, born } = over();
    bench.events(bench.fw2, (batch) => add(batch, 5, 1, born, { stamp: born - 4096 }));
    bench.events(bench.fw2, (batch) => destroy(batch, 5));
    assert.deepEqual(
      bench.ended.map(({ path }) => path.map(({ node }) => node)),
      [["fw1"]],
    );
  });

  it("is not the next connection with its tuple", () => {
    for (const writer of ["fw1", "fw2"] as const) {
      const { bench, endStamp } = over();
      bench.events(bench[writer], (batch) => add(batch, 7, 1));
      const [next] = bench.alive;
      const [before, ...more] = bench.ended;
      assert.deepEqual([before?.endMs, more, bench.alive.length], [stampMs(endStamp), [], 1]);
      assert.notEqual(next?.uid, before?.uid);
    }
  });

  it("keeps its birth for itself when the other node uses its entry for the next connection", () => {
    const { bench, born } = over();
    const next = bench.events(bench.fw1, (batch) => add(batch, 2, 1));
    const [before] = bench.alive;
    bench.events(bench.fw2, (batch) => add(batch, 5, 1, born));
    assert.deepEqual(
      bench.alive.map(({ uid, startMs, path }) => [uid, startMs, path.map(({ node }) => node)]),
      [[before?.uid, stampMs(next), ["fw1", "fw2"]]],
    );
    assert.equal(bench.ended.length, 1);
  });

  for (const [how, apart] of [
    ["in one message", false],
    ["later", true],
  ] as const) {
    it(`is taken up again where the other node translated it differently until its commit, ${how}`, () => {
      const translated = tcpRecord(1);
      translated[W_REPLY_L4]! ^= 1;
      const bench = new Bench();
      const born = bench.events(bench.fw1, (batch) => add(batch, 1));
      const other = bench.events(bench.fw2, (batch) => batch.addNew(5, translated, 0, null, null, 0));
      bench.events(bench.fw1, (batch) => destroy(batch, 1));
      if (apart) bench.events(bench.fw2, (batch) => batch.addDestroy(5, translated, 0, undefined));
      const taken = bench.events(bench.fw2, (batch) => {
        add(batch, 6, 1, born);
        if (!apart) batch.addDestroy(5, translated, 0, undefined);
      });
      assert.deepEqual(
        bench.alive.map(({ startMs, path }) => [startMs, path]),
        [
          [
            stampMs(born),
            [
              { node: "fw1", sinceMs: stampMs(born) },
              { node: "fw2", sinceMs: stampMs(taken) },
            ],
          ],
        ],
      );
      bench.events(bench.fw2, (batch) => destroy(batch, 6));
      const ended = bench.ended.map(({ startMs, end, words }) => [startMs, end, words[W_REPLY_L4]]);
      assert.deepEqual(ended, [
        [stampMs(other), "ended", translated[W_REPLY_L4]],
        [stampMs(born), "ended", tcpRecord(1)[W_REPLY_L4]],
      ]);
      assert.deepEqual([bench.projection.size, bench.projection.held], [0, 0]);
    });
  }

  it("is lost to another node's connection with its tuple, also if only its translation is asked for", () => {
    const translated = tcpRecord(1);
    translated[W_REPLY_L4]! ^= 1;
    const [address, port] = [formatAddress(tcpRecord(1), W_REPLY_DST, AF_INET), tcpRecord(1)[W_REPLY_L4]! & 0xffff];
    const question = { address, port, protocol: 6, sinceMs: 0, untilMs: 0 };
    const bench = new Bench(compileWhoFilter(question));
    bench.events(bench.fw1, (batch) => add(batch, 1));
    assert.equal(bench.alive.length, 1);
    bench.events(bench.fw2, (batch) => batch.addNew(5, translated, 0, null, null, 0));
    assert.equal(bench.alive.length, 0);
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["lost"],
    );
  });

  it("is reported as lost when the other node's own connection with its tuple stays", () => {
    const translated = tcpRecord(1);
    translated[W_REPLY_L4]! ^= 1;
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    const other = bench.events(bench.fw2, (batch) => batch.addNew(5, translated, 0, null, null, 0));
    assert.deepEqual([bench.projection.size, bench.projection.held, bench.settled.length], [1, 1, 0]);
    bench.pass(HOLD_MS);
    bench.events(bench.fw2, (batch) => add(batch, 9));
    assert.deepEqual(
      bench.settled.map(({ end, endMs }) => [end, endMs]),
      [["lost", stampMs(other)]],
    );
    assert.equal(bench.projection.size, 2);
  });

  it("is taken up again by another node after a snapshot has not listed it", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.say(bench.fw2, (writer) => writer.mark({ type: "role", role: "backup" }));
    bench.snapshot(bench.fw1, () => undefined);
    bench.events(bench.fw2, (batch) => add(batch, 5, 1, born));
    bench.snapshot(bench.fw1, () => undefined);
    assert.deepEqual(
      [bench.ended.length, bench.alive.map(({ path }) => path.map(({ node }) => node))],
      [0, [["fw1", "fw2"]]],
    );
  });

  it("is held with as many others as there is memory for", () => {
    const bench = new Bench();
    bench.say(bench.fw2, (writer) => writer.mark({ type: "role", role: "backup" }));
    const messages = 36;
    for (let message = 0; message < messages; message++) {
      const first = message * 2000;
      bench.events(bench.fw1, (batch) => {
        for (let id = first; id < first + 2000; id++) add(batch, id);
      });
      bench.events(bench.fw1, (batch) => {
        for (let id = first; id < first + 2000; id++) destroy(batch, id);
      });
    }
    assert.equal(bench.projection.held, 65_536);
    assert.equal(bench.settled.length, messages * 2000 - 65_536);
    assert.equal(new Set(bench.ended.map(({ uid }) => uid)).size, messages * 2000);
  });
});

describe("the queue of held ends", () => {
  it("is full when its places are used up, also where all but the oldest were taken again", () => {
    const queue = new EndQueue();
    const ending: Ending = { end: "ended", stamp: 1, aheadMs: 0, counters: null, startMs: 0, endMs: 0 };
    const oldest = queue.push(7, 1, ending);
    for (let stamp = 2; stamp <= HELD_MAX; stamp++) {
      assert.equal(queue.isFull, false);
      queue.take(queue.push(8, stamp, ending));
    }
    assert.deepEqual([queue.isFull, queue.count, queue.oldest()], [true, 1, 7]);
    assert.equal(queue.take(oldest).publishedStamp, 1);
    assert.deepEqual([queue.isFull, queue.count, queue.oldestPublished], [false, 0, Number.POSITIVE_INFINITY]);
    const next = queue.push(9, 5, ending);
    assert.deepEqual([queue.oldest(), queue.take(next).publishedStamp], [9, 5]);
  });
});
