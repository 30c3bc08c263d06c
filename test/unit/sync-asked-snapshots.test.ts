import assert from "node:assert/strict";
import { describe, it, mock } from "node:test";
import { pino } from "pino";
import { AskedSnapshots } from "../../src/sync/out/asked-snapshots.js";

const DAY_MS = 86_400_000;

/** A journal whose snapshots have so many bytes, under a clock that the test moves. */
function setUp(snapshotBytes: number, bytesADay = Number.MAX_SAFE_INTEGER) {
  let nowMs = 0;
  const counters = { snapshotBytes: 0, snapshotsAsked: 0, snapshotsPostponed: 0 };
  const written: number[] = [];
  const end = new AbortController();
  const asked = new AskedSnapshots({
    journal: {
      counters: counters as never,
      writeSnapshot: async () => {
        written.push(nowMs);
        counters.snapshotBytes += snapshotBytes;
        return true;
      },
    },
    limits: { pauseMs: 5000, bytesADay },
    nowMs: () => nowMs,
    signal: end.signal,
    log: pino({ level: "silent" }),
  });
  const pass = async (ms: number): Promise<void> => {
    nowMs += ms;
    mock.timers.tick(ms);
    await new Promise(setImmediate);
  };
  return { asked, counters, written, pass, end };
}

describe("snapshots that peers ask for", () => {
  it("begin at once, and then share one after the pause", async (context) => {
    mock.timers.enable({ apis: ["setTimeout"] });
    context.after(() => mock.timers.reset());
    const { asked, counters, written, pass } = setUp(1000);
    for (let i = 0; i < 100; i++) asked.ask();
    await pass(0);
    assert.deepEqual(written, [0]);
    for (let i = 0; i < 100; i++) {
      asked.ask();
      await pass(100);
    }
    assert.deepEqual(written, [0, 5000, 10_000]);
    assert.equal(counters.snapshotsAsked, 200);
    assert.equal(counters.snapshotsPostponed, 2);
  });

  it("take no more of the stream in a day than is allowed, and come once an hour beyond that", async (context) => {
    mock.timers.enable({ apis: ["setTimeout"] });
    context.after(() => mock.timers.reset());
    const { asked, written, pass } = setUp(200_000, 10_000_000);
    for (let at = 0; at < DAY_MS; at += 60_000) {
      asked.ask();
      await pass(60_000);
    }
    // Fifty at once, one that goes beyond the limit, and fifty in the day.
    assert.ok(written.length >= 95 && written.length <= 102, String(written.length));
    const large = setUp(100_000_000, 10_000_000);
    large.asked.ask();
    await large.pass(1000);
    large.asked.ask();
    await large.pass(3_600_000);
    assert.equal(large.written.length, 2);
  });

  it("end with the node", async (context) => {
    mock.timers.enable({ apis: ["setTimeout"] });
    context.after(() => mock.timers.reset());
    const { asked, written, pass, end } = setUp(1000);
    asked.ask();
    await pass(10);
    asked.ask();
    end.abort();
    asked.ask();
    await pass(60_000);
    assert.deepEqual(written, [0]);
  });
});
