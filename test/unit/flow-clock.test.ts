import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { Random } from "../support/records.js";

const NOW_MS = Date.UTC(2026, 0, 1);

function setUp(wallMs = NOW_MS) {
  const wall = { ms: wallMs };
  return { wall, clock: new HybridClock({ wallMs: () => wall.ms }) };
}

describe("HybridClock", () => {
  it("grows while the wall clock stands still", () => {
    const { clock } = setUp();
    let last = clock.next();
    for (let i = 0; i < 10_000; i++) {
      const stamp = clock.next();
      assert.ok(stamp > last);
      last = stamp;
    }
  });

  it("counts milliseconds since 2020 times 4096", () => {
    assert.equal(setUp(Date.UTC(2020, 0, 1) + 1000).clock.next(), 1000 * 4096);
    const { wall, clock } = setUp();
    const first = clock.next();
    wall.ms += 5;
    assert.equal(clock.next() - first, 5 * 4096);
  });

  it("stays an exact integer until 2089", () => {
    const { clock } = setUp(Date.UTC(2088, 11, 31));
    const first = clock.next();
    assert.ok(Number.isSafeInteger(first));
    assert.equal(clock.next(), first + 1);
  });

  it("gives integers from a wall clock with fractions of a millisecond", () => {
    const { clock } = setUp(NOW_MS + 0.1234);
    assert.ok(Number.isSafeInteger(clock.next()));
  });

  it("grows from 1 when the wall clock is before 2020", () => {
    const { clock } = setUp(0);
    assert.equal(clock.next(), 1);
    assert.equal(clock.next(), 2);
  });

  it("goes on growing when the wall clock goes back an hour, and follows it again later", () => {
    const { wall, clock } = setUp();
    let last = clock.next();
    wall.ms -= 3_600_000;
    for (let i = 0; i < 3_600; i++, wall.ms += 999) {
      const stamp = clock.next();
      assert.equal(stamp, last + 1);
      last = stamp;
    }
    wall.ms = NOW_MS + 1;
    assert.equal(clock.next(), (NOW_MS + 1 - Date.UTC(2020, 0, 1)) * 4096);
  });

  it("gives stamps greater than what it has observed, an hour ahead as well", () => {
    const { clock } = setUp();
    const ahead = setUp(NOW_MS + 3_600_000).clock.next();
    clock.observe(ahead);
    assert.equal(clock.next(), ahead + 1);
  });

  it("is not set back by an old stamp", () => {
    const { clock } = setUp();
    const stamp = clock.next();
    clock.observe(stamp - 1_000_000);
    assert.equal(clock.next(), stamp + 1);
  });

  it("sorts causes before effects among three nodes with any clocks", () => {
    const random = new Random(1);
    const nodes = [setUp(NOW_MS), setUp(NOW_MS - 86_400_000), setUp(NOW_MS + 7_000)];
    const seen = [0, 0, 0];
    for (let i = 0; i < 30_000; i++) {
      const at = random.below(3);
      const { wall, clock } = nodes[at]!;
      wall.ms += random.below(20) - (random.oneIn(100) ? 3_600_000 : 5);
      const stamp = clock.next();
      assert.ok(stamp > seen[at]!, "greater than all that the node knows of");
      assert.ok(Number.isSafeInteger(stamp));
      seen[at] = stamp;
      const to = random.below(3);
      nodes[to]!.clock.observe(stamp);
      seen[to] = Math.max(seen[to]!, stamp);
    }
  });

  it("has a system clock in milliseconds since the Unix epoch", () => {
    assert.ok(Math.abs(systemClock.wallMs() - Date.now()) < 1000);
  });
});
