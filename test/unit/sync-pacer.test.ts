import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it, mock } from "node:test";
import { Pacer } from "../../src/sync/out/pacer.js";

/** A pacer over a clock that stands still until it is told; `rows` is what each flush finds. */
class Bench {
  readonly flushedMs: number[] = [];
  readonly pacer: Pacer;
  rows = 0;
  #nowMs = 10_000;

  constructor(intervalMs: number) {
    this.pacer = new Pacer({
      intervalMs,
      flush: () => {
        this.flushedMs.push(this.#nowMs - 10_000);
        return this.rows;
      },
      nowMs: () => this.#nowMs,
    });
  }

  /** Lets time pass, timers included, millisecond by millisecond. */
  pass(ms: number): void {
    for (let i = 0; i < ms; i++) {
      this.#nowMs++;
      mock.timers.tick(1);
    }
  }

  /** Something happens in every millisecond. */
  load(ms: number, rows: number): void {
    this.rows = rows;
    for (let i = 0; i < ms; i++) {
      this.pacer.poke(false);
      this.pass(1);
    }
  }
}

/** Time between the last two flushes. */
function lastInterval({ flushedMs }: Bench): number {
  return flushedMs.at(-1)! - flushedMs.at(-2)!;
}

describe("Pacer", () => {
  beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
  afterEach(() => mock.timers.reset());

  it("publishes the first event after quiet at once, and those behind it together, an interval later", () => {
    const bench = new Bench(4);
    bench.pacer.poke(false);
    assert.deepEqual(bench.flushedMs, [0]);
    bench.pass(1);
    bench.pacer.poke(false);
    bench.pass(1);
    bench.pacer.poke(false);
    assert.deepEqual(bench.flushedMs, [0]);
    bench.pass(10);
    assert.deepEqual(bench.flushedMs, [0, 4]);
    bench.pacer.poke(false);
    assert.deepEqual(bench.flushedMs, [0, 4, 12]);
  });

  it("does not wait when there is enough for a whole message, nor flush a second time for the timer that was set", () => {
    const bench = new Bench(4);
    bench.pacer.poke(false);
    bench.pacer.poke(false);
    bench.pass(1);
    bench.pacer.poke(true);
    bench.pass(20);
    assert.deepEqual(bench.flushedMs, [0, 1]);
  });

  it("slows down to 20 ms while there is much to publish, and comes back when there is little", () => {
    const bench = new Bench(4);
    bench.load(100, 201);
    assert.equal(lastInterval(bench), 20);
    bench.load(200, 200);
    assert.equal(lastInterval(bench), 20, "as much as is aimed at: as it is");
    bench.load(200, 50);
    assert.equal(lastInterval(bench), 20);
    bench.load(200, 49);
    assert.equal(lastInterval(bench), 4);
    const { length } = bench.flushedMs;
    bench.load(40, 10);
    assert.equal(bench.flushedMs.length - length, 10, "never faster than it was told");
  });

  it("publishes everything at once when the interval is 0, however much it is", () => {
    const bench = new Bench(0);
    bench.load(10, 5000);
    assert.deepEqual(bench.flushedMs, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it("takes a flush that was asked for as the last one", () => {
    const bench = new Bench(4);
    bench.pacer.flushNow();
    bench.pass(2);
    bench.pacer.poke(false);
    bench.pass(10);
    assert.deepEqual(bench.flushedMs, [0, 4]);
  });

  it("stops what is due", () => {
    const bench = new Bench(4);
    bench.pacer.poke(false);
    bench.pacer.poke(false);
    bench.pacer.stop();
    bench.pass(20);
    assert.deepEqual(bench.flushedMs, [0]);
    bench.pacer.poke(false);
    assert.deepEqual(bench.flushedMs, [0, 20], "and can go on");
  });
});
