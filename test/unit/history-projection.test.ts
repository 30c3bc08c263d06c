import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { stampMs } from "../../src/flow/clock.js";
import { HAS_COUNTERS, HAS_TIMES, W_MARK, W_PROTOINFO, W_REPLY_L4 } from "../../src/flow/record.js";
import { createMessageOpener } from "../../src/stream/format/batch-view.js";
import { add, BEGIN, Bench, destroy } from "../support/projection-bench.js";
import { tcpRecord } from "../support/records.js";
import type { StreamWriter, WrittenMessage } from "../support/stream-writer.js";

describe("a connection in one stream", () => {
  it("has counters, kernel times and its last TCP state where they were measured", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    const startMicros = stampMs(born) * 1000 - 1234;
    const times = Float64Array.of(startMicros, startMicros + 5_000_500);
    const end = { has: HAS_COUNTERS | HAS_TIMES, counters: Float64Array.of(1, 2, 3, 4), timesMicros: times };
    const words = tcpRecord(1);
    words[W_PROTOINFO] = 7;
    bench.events(bench.fw1, (batch) => batch.addDestroy(1, words, 0, end));
    const [connection] = bench.ended;
    assert.ok(connection);
    assert.deepEqual(connection.counters, { origPackets: 1, origBytes: 2, replyPackets: 3, replyBytes: 4 });
    assert.equal(connection.startMs, startMicros / 1000);
    assert.deepEqual(connection.path, [{ node: "fw1", sinceMs: startMicros / 1000 }]);
    assert.equal(connection.endMs, startMicros / 1000 + 5000.5);
    assert.equal(connection.timedByKernel, true);
    assert.equal(connection.words[W_PROTOINFO]! & 0xff, 7);
    assert.equal(connection.mayMiss, false);
    assert.match(connection.uid, /^C[0-9A-Za-z]{17}$/);
  });

  it("has no counters and no times where nothing was measured", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    const end = bench.events(bench.fw1, (batch) => destroy(batch, 1));
    const [connection] = bench.ended;
    assert.equal(connection?.counters, null);
    assert.equal(connection?.timedByKernel, false);
    assert.equal(connection?.endMs, stampMs(end));
  });

  it("is another one when the kernel reuses its tuple, also within a message", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => {
      add(batch, 2, 1);
      add(batch, 3, 1);
      destroy(batch, 1);
      destroy(batch, 2);
    });
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["ended", "ended"],
    );
    assert.equal(bench.alive.length, 1);
    // Two that began within one message have one birth, and so one uid.
    assert.equal(new Set([...bench.ended, ...bench.alive].map(({ uid }) => uid)).size, 2);
  });

  it("is lost when its flow id refers to another flow", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => add(batch, 1, 2));
    assert.deepEqual(
      bench.ended.map(({ end, mayMiss }) => [end, mayMiss]),
      [["lost", true]],
    );
    assert.equal(bench.alive.length, 1);
  });

  it("is lost too when that other flow does not pass the filter", () => {
    const bench = new Bench({ port: 1024 + 1 });
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => add(batch, 1, 2));
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["lost"],
    );
    assert.equal(bench.alive.length, 0);
  });

  it("keeps its birth when its row is published whole again", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => add(batch, 1, 1, born));
    assert.deepEqual(
      bench.alive.map(({ startMs }) => startMs),
      [stampMs(born)],
    );
    assert.equal(bench.ended.length, 0);
  });

  it("is found by a mark that it got later, and not by one that it no longer has", () => {
    const bench = new Bench({ mark: 7 });
    bench.events(bench.fw1, (batch) => {
      add(batch, 1);
      add(batch, 2);
    });
    const words = tcpRecord(1);
    words[W_MARK] = 7;
    bench.events(bench.fw1, (batch) => batch.addUpdate(1, words, 0, null));
    assert.deepEqual(
      bench.alive.map((connection) => connection.words[W_MARK]),
      [7],
    );
  });

  it("is lost when a snapshot does not list it", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => {
      add(batch, 1);
      add(batch, 2);
    });
    bench.snapshot(bench.fw1, (batch) => add(batch, 2, 2, born, { stamp: born }));
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["lost"],
    );
    assert.equal(bench.alive.length, 1);
  });
});

describe("a connection that moves", () => {
  it("is one, with the path and the birth, and only its owner ends it", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    const taken = bench.events(bench.fw2, (batch) => add(batch, 5, 1, born));
    bench.events(bench.fw1, (batch) => batch.addMoved(1, "fw2", taken));
    bench.events(bench.fw1, (batch) => destroy(batch, 1));
    assert.equal(bench.ended.length, 0);
    bench.events(bench.fw2, (batch) => destroy(batch, 5));
    const [connection] = bench.ended;
    assert.deepEqual(connection?.path, [
      { node: "fw1", sinceMs: stampMs(born) },
      { node: "fw2", sinceMs: stampMs(taken) },
    ]);
    assert.equal(connection?.startMs, stampMs(born));
    assert.equal(connection?.mayMiss, false);
  });

  it("has the same uid from whichever part of its life is read", () => {
    const whole = new Bench();
    const born = whole.events(whole.fw1, (batch) => add(batch, 1));
    const taken = whole.events(whole.fw2, (batch) => add(batch, 5, 1, born));
    const part = new Bench();
    part.snapshot(part.fw2, (batch) => add(batch, 5, 1, born, { stamp: taken }));
    assert.equal(part.alive[0]?.uid, whole.alive[0]?.uid);
    assert.equal(part.alive[0]?.startMs, whole.alive[0]?.startMs);
  });

  it("is kept at the node it went to while that node's claim has not been read", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    const claim = born + 10 * 4096;
    bench.events(bench.fw1, (batch) => batch.addMoved(1, "fw2", claim));
    assert.deepEqual(
      bench.alive.map(({ path, mayMiss }) => [path.map(({ node }) => node), mayMiss]),
      [[["fw1", "fw2"], true]],
    );
    bench.events(bench.fw2, (batch) => add(batch, 5, 1, born, { stamp: claim }));
    assert.deepEqual(
      bench.alive.map(({ path, mayMiss }) => [path.map(({ node }) => node), mayMiss]),
      [[["fw1", "fw2"], false]],
    );
  });

  it("is lost when the node it went to does not know it", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw1, (batch) => batch.addMoved(1, "fw2", born + 10 * 4096));
    bench.snapshot(bench.fw2, () => undefined);
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["lost"],
    );
  });

  it("stays where the newer claim is", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.events(bench.fw2, (batch) => add(batch, 5, 1, born, { stamp: born - 4096 }));
    bench.events(bench.fw2, (batch) => destroy(batch, 5));
    assert.deepEqual(
      bench.alive.map(({ path }) => path.map(({ node }) => node)),
      [["fw1"]],
    );
  });
});

describe("restarts and gaps", () => {
  it("is kept across a restart that took the table over, and says that events may be missing", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.say(bench.fw1, (writer) => writer.restart(true));
    bench.events(bench.fw1, (batch) => add(batch, 2));
    bench.events(bench.fw1, (batch) => {
      destroy(batch, 1);
      destroy(batch, 2);
    });
    assert.deepEqual(
      bench.ended.map(({ end, mayMiss }) => [end, mayMiss]),
      [
        ["ended", true],
        ["ended", false],
      ],
    );
    assert.deepEqual(
      bench.projection.gaps(0, Number.POSITIVE_INFINITY).map(({ node, reason }) => [node, reason]),
      [["fw1", "the daemon was not running (test)"]],
    );
  });

  it("keeps connections that a node publishes again after it forgot them, and loses the others", () => {
    const bench = new Bench();
    const born = bench.events(bench.fw1, (batch) => {
      add(batch, 1);
      add(batch, 2);
    });
    bench.say(bench.fw1, (writer) => writer.restart(false));
    bench.events(bench.fw1, (batch) => add(batch, 9, 1));
    bench.events(bench.fw1, (batch) => destroy(batch, 1));
    const stated = { stamp: born };
    bench.snapshot(bench.fw1, (batch) => add(batch, 9, 1, born, stated));
    assert.deepEqual(
      bench.ended.map(({ end }) => end),
      ["lost"],
    );
    assert.deepEqual(
      bench.alive.map(({ startMs, mayMiss }) => [startMs, mayMiss]),
      [[stampMs(born), true]],
    );
  });

  it("is another one where its tuple was used anew in a part of the stream that was not read", () => {
    for (const how of ["snapshot", "claim"]) {
      const bench = new Bench();
      const first = bench.events(bench.fw1, (batch) => add(batch, 1));
      let second = 0;
      bench.skip(bench.fw1, () => {
        bench.events(bench.fw1, (batch) => destroy(batch, 1));
        second = bench.events(bench.fw1, (batch) => add(batch, 2, 1));
      });
      if (how === "snapshot") {
        bench.snapshot(bench.fw1, (batch) => add(batch, 2, 1, second, { stamp: second }));
      } else bench.events(bench.fw1, (batch) => add(batch, 2, 1, second));
      assert.deepEqual(
        bench.alive.map(({ startMs }) => startMs),
        [stampMs(second)],
        how,
      );
      assert.deepEqual(
        bench.ended.map(({ startMs, end }) => [startMs, end]),
        [[stampMs(first), "lost"]],
        how,
      );
    }
  });

  it("has a gap where numbers are missing, at a gap mark, and at a damaged message", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.fw1.number += 3;
    bench.events(bench.fw1, (batch) => add(batch, 2));
    bench.say(bench.fw1, (writer) => writer.mark({ type: "gap", reason: "event socket overrun", events: 12 }));
    const damaged = bench.fw1.events((batch) => add(batch, 3));
    bench.read("fw1", { kind: "ev", payload: damaged.payload.subarray(0, 20) });
    bench.events(bench.fw1, (batch) => add(batch, 4));
    const gaps = bench.projection.gaps(0, Number.POSITIVE_INFINITY);
    assert.deepEqual(
      gaps.map(({ reason, events }) => [reason, events]),
      [
        ["3 messages are missing", null],
        ["event socket overrun", 12],
        ["1 messages are missing", null],
      ],
    );
    assert.equal(bench.projection.counters.malformed, 1);
    assert.deepEqual(
      bench.alive.map(({ mayMiss }) => mayMiss),
      [true, true, true],
    );
  });

  it("skips another node's message, a repeated one and an unknown version", () => {
    const bench = new Bench();
    const first = bench.fw1.events((batch) => add(batch, 1));
    bench.read("fw1", first);
    bench.read("fw1", first);
    bench.read(
      "fw1",
      bench.fw2.events((batch) => add(batch, 2)),
    );
    bench.read("fw1", { kind: "ev", payload: Uint8Array.of(0x81, 0xa1, 0x76, 0x09) });
    const { malformed, outdated } = bench.projection.counters;
    assert.deepEqual({ malformed, outdated, alive: bench.alive.length }, { malformed: 2, outdated: 1, alive: 1 });
  });

  it("believes a stream again that goes on behind a message with a wrong number", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.fw1.epoch += 1000;
    bench.events(bench.fw1, (batch) => add(batch, 2));
    bench.fw1.epoch -= 1000;
    for (const id of [3, 4, 5]) bench.events(bench.fw1, (batch) => add(batch, id));
    assert.equal(bench.projection.counters.outdated, 1);
    const reasons = bench.projection.gaps(0, Number.POSITIVE_INFINITY).map(({ reason }) => reason);
    assert.deepEqual(reasons, ["messages are missing", "the numbers of the messages go back"]);
    assert.equal(bench.alive.length, 4);
  });

  it("is another one where the next node translates it otherwise, or sees TCP begin", () => {
    const translated = tcpRecord(1);
    translated[W_REPLY_L4]! ^= 1;
    const begun = tcpRecord(1);
    begun[W_PROTOINFO] = 1;
    const cases = [translated, begun].flatMap((words) => [
      { words, isEarly: false },
      { words, isEarly: true },
    ]);
    for (const { words, isEarly } of cases) {
      const bench = new Bench();
      const born = bench.events(bench.fw1, (batch) => add(batch, 1));
      let claim = born + 10 * 4096;
      // Who follows streams that are slow may read of the move first.
      if (isEarly) bench.events(bench.fw1, (batch) => batch.addMoved(1, "fw2", claim));
      const stated = isEarly ? { stamp: claim } : null;
      const read = bench.events(bench.fw2, (batch) => batch.addNew(9, words, 0, null, stated, isEarly ? claim : 0));
      if (!isEarly) {
        claim = read;
        bench.events(bench.fw1, (batch) => batch.addMoved(1, "fw2", claim));
      }
      const [before] = bench.ended;
      const [after] = bench.alive;
      assert.deepEqual([bench.ended.length, bench.alive.length], [1, 1]);
      assert.deepEqual([before?.startMs, before?.endMs, before?.end], [stampMs(born), stampMs(claim), "lost"]);
      assert.deepEqual([after?.startMs, after?.path.map(({ node }) => node)], [stampMs(claim), ["fw2"]]);
      assert.notEqual(before?.uid, after?.uid);
    }
  });

  it("says what was missing when the range ended, by the first message behind it", () => {
    const beyond = (write: (writer: StreamWriter) => WrittenMessage) => {
      const bench = new Bench();
      const heard = bench.events(bench.fw1, (batch) => add(batch, 1));
      const { payload } = write(bench.fw1);
      const message = createMessageOpener()(payload);
      assert.ok(message);
      bench.projection.beyond(bench.projection.node("fw1"), message);
      const gaps = bench.projection.gaps(heard, heard + 1).map(({ reason }) => reason);
      return { gaps, doubts: bench.alive.map(({ mayMiss }) => mayMiss) };
    };
    const next = beyond((writer) => writer.events((batch) => add(batch, 2)));
    assert.deepEqual(next, { gaps: [], doubts: [false] });
    const started = beyond((writer) => writer.restart(true));
    assert.deepEqual(started.doubts, [true]);
    assert.match(started.gaps.join(), /^the daemon was not running/);
    const overrun = beyond((writer) => writer.mark({ type: "gap", reason: "overrun", events: 3 }));
    assert.deepEqual(overrun, { gaps: ["overrun"], doubts: [true] });
  });

  it("says that a stopped daemon tells nothing more", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    bench.say(bench.fw1, (writer) => writer.mark({ type: "stop" }));
    assert.deepEqual(
      bench.alive.map(({ mayMiss }) => mayMiss),
      [true],
    );
    assert.deepEqual(
      bench.projection.gaps(0, Number.POSITIVE_INFINITY).map(({ reason, untilMs }) => [reason, untilMs]),
      [["the daemon was stopped", null]],
    );
  });

  it("doubts what a silent node holds once another has committed", () => {
    const bench = new Bench();
    bench.events(bench.fw1, (batch) => add(batch, 1));
    assert.deepEqual(
      bench.alive.map(({ mayMiss }) => mayMiss),
      [false],
    );
    bench.say(bench.fw2, (writer) =>
      writer.mark({ type: "commit", committed: 0, updated: 0, failed: 0, stale: 0, durationMs: 1 }),
    );
    assert.deepEqual(
      bench.alive.map(({ mayMiss }) => mayMiss),
      [true],
    );
  });

  it("tells nothing of what ended before the range", () => {
    const bench = new Bench({}, stampMs(BEGIN) + 25);
    bench.events(bench.fw1, (batch) => {
      add(batch, 1);
      add(batch, 2);
    });
    bench.events(bench.fw1, (batch) => destroy(batch, 1));
    bench.events(bench.fw1, (batch) => destroy(batch, 2));
    assert.equal(bench.ended.length, 1);
  });
});
