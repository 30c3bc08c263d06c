import assert from "node:assert/strict";
import { test } from "node:test";
import { EXPECTATIONS_MAX, secondsLeft } from "../../src/cache/expectation-row.js";
import { ExternalExpectations } from "../../src/cache/external-expectations.js";
import { InternalExpectations } from "../../src/cache/internal-expectations.js";
import {
  type Expectation,
  expectationFromJson,
  expectationKey,
  setExpectationZone,
} from "../../src/flow/expectation.js";
import { sampleExpectation } from "../support/control-handlers.js";

const NOW = 1_769_860_800;

function expectation(number: number, id = 1000 + number): Expectation {
  return { ...expectationFromJson(sampleExpectation("kernel", number)), id };
}

const key = (number: number): string => expectationKey(expectation(number));

/** Publishes all that waits: the numbers (of ports) that came and that ended. */
function publish(table: InternalExpectations, stamp: number): { news: number[]; ended: number[] } {
  const pending = table.pending(1000);
  const numbers = (list: readonly Expectation[]): number[] => list.map(({ tuple }) => (tuple[16]! & 0xffff) - 50_000);
  const result = { news: numbers(pending.rows.map((row) => row.expectation)), ended: numbers(pending.ended) };
  table.settle(pending, stamp);
  assert.equal(table.pendingCount, 0);
  return result;
}

test("what happens between two publications is one change", () => {
  const table = new InternalExpectations();
  table.upsert(expectation(1), NOW);
  table.destroy(expectation(1));
  assert.deepEqual(publish(table, 1), { news: [], ended: [] });
  table.upsert(expectation(2), NOW);
  table.destroy(expectation(2));
  table.upsert(expectation(2, 7), NOW);
  assert.deepEqual(publish(table, 2), { news: [2], ended: [] });
  assert.equal(table.stamp(key(2)), 2);
  table.destroy(expectation(2, 7));
  assert.deepEqual(publish(table, 3), { news: [], ended: [2] });
  assert.equal(table.stamp(key(2)), null);
  assert.equal(table.size, 0);
});

test("a destroy is of the very expectation, whatever its zone", () => {
  const table = new InternalExpectations();
  const zoned = expectation(1);
  setExpectationZone(zoned, 3);
  table.upsert(zoned, NOW);
  table.destroy(expectation(1, 5));
  assert.equal(table.size, 1);
  assert.equal(table.counters.destroyUnknown, 1);
  table.destroy(expectation(1));
  assert.equal(table.size, 0);
});

test("a dump takes in what is new, ends what is gone, and yields to events since it began", () => {
  const table = new InternalExpectations();
  for (const number of [1, 2, 3]) table.upsert(expectation(number), NOW);
  publish(table, 1);
  table.beginDump();
  table.upsert(expectation(4), NOW);
  table.destroy(expectation(3));
  for (const number of [1, 3, 5]) table.dumped(expectation(number), NOW + 1, null, false);
  table.endDump();
  assert.deepEqual(publish(table, 2), { news: [4, 5], ended: [3, 2] });
  table.beginDump();
  table.abandonDump();
  assert.equal(table.size, 3);
});

test("what a peer holds by a newer claim is its own: not told, not ended here, and purged", () => {
  const table = new InternalExpectations();
  for (const number of [1, 2]) table.upsert(expectation(number), NOW);
  publish(table, 1);
  for (const number of [1, 2, 9]) table.supersede(key(number));
  table.endElsewhere(key(1));
  assert.deepEqual([...table.claimed()], []);
  assert.equal(table.superseded(false).length, 2);
  assert.deepEqual(table.superseded(true), [expectation(1)]);
  table.destroy(expectation(1));
  assert.deepEqual(publish(table, 2), { news: [], ended: [] });
  table.beginDump();
  table.dumped(expectation(2), NOW, 5, false);
  table.endDump();
  assert.deepEqual(publish(table, 3), { news: [], ended: [] });
  table.beginDump();
  table.dumped(expectation(2), NOW, null, true);
  table.endDump();
  assert.deepEqual(publish(table, 4), { news: [2], ended: [] });
});

test("a dump of a node that does not carry traffic takes what a peer claims as the peer's", () => {
  const table = new InternalExpectations();
  table.beginDump();
  table.dumped(expectation(1), NOW, 5, false);
  table.endDump();
  assert.equal(table.size, 1);
  assert.deepEqual(publish(table, 1), { news: [], ended: [] });
  table.claimAgain(key(1));
  assert.equal(table.pendingCount, 0, "it is no claim of this node");
});

test("a claim that is told once more keeps its stamp", () => {
  const table = new InternalExpectations();
  table.upsert(expectation(1), NOW);
  assert.equal(table.pending(9).rows[0]!.stamp, null);
  assert.equal(table.stamp(key(1)), Number.POSITIVE_INFINITY);
  publish(table, 5);
  table.claimAgain(key(1));
  assert.equal(table.pending(9).rows[0]!.stamp, 5);
  assert.equal(table.stamp(key(1)), 5);
  assert.deepEqual(publish(table, 9), { news: [1], ended: [] });
  assert.equal(table.stamp(key(1)), 5);
  table.claimAgain(key(1));
  table.upsert(expectation(1), NOW);
  assert.deepEqual(publish(table, 10), { news: [1], ended: [] });
  assert.equal(table.stamp(key(1)), 10);
});

test("what was taken over from the own stream ends when the kernel has it no more", () => {
  const table = new InternalExpectations();
  const { id: _, ...known } = expectation(1);
  table.adopt({ expectation: known, createdSeconds: NOW, updatedSeconds: NOW }, 1);
  table.adopt({ expectation: expectation(2), createdSeconds: NOW, updatedSeconds: NOW }, 1);
  table.beginDump();
  table.dumped(expectation(1), NOW, null, false);
  table.endDump();
  assert.deepEqual(publish(table, 2), { news: [], ended: [2] });
  table.endAll();
  assert.deepEqual(publish(table, 3), { news: [], ended: [1] });
});

test("a flush hides them until an event or a dump tells of them again, and tells the peers nothing", () => {
  const table = new InternalExpectations();
  for (const number of [1, 2, 3]) table.upsert(expectation(number), NOW);
  publish(table, 1);
  table.flush();
  assert.deepEqual([[...table.rows()], table.pendingCount, table.size], [[], 0, 3]);
  table.beginDump();
  table.upsert(expectation(1), NOW);
  table.dumped(expectation(2), NOW, null, false);
  assert.equal([...table.rows()].length, 2);
  table.endDump();
  assert.deepEqual(publish(table, 2), { news: [1], ended: [3] });
});

function row(number: number, timeoutSeconds = 300, updatedSeconds = NOW) {
  return { expectation: { ...expectation(number), timeoutSeconds }, createdSeconds: NOW, updatedSeconds };
}

test("external: the newer stamp takes over, of equal ones the lesser name, and only the owner ends", () => {
  const table = new ExternalExpectations();
  assert.equal(table.upsert("b", row(1), 10), "created");
  assert.equal(table.upsert("c", row(1), 9), "stale");
  assert.equal(table.upsert("c", row(1), 10), "stale");
  assert.equal(table.upsert("a", row(1), 10), "taken");
  assert.equal(table.claim(key(1)), 10);
  table.destroy("b", expectation(1));
  assert.equal(table.size, 1);
  assert.equal([...table.rows()][0]!.owner, "a");
  table.destroy("a", expectation(1));
  assert.equal(table.size, 0);
  const { created, taken, stale, unknown, destroyed } = table.counters;
  assert.deepEqual([created, taken, stale, unknown, destroyed], [1, 1, 2, 1, 1]);
});

test("external: what a whole snapshot does not name has ended, of its owner only", () => {
  const table = new ExternalExpectations();
  for (const number of [1, 2]) table.upsert("a", row(number), 1);
  table.upsert("b", row(3), 1);
  table.beginSnapshot("a");
  table.upsert("a", row(2), 2);
  table.endSnapshot("a");
  assert.deepEqual([...table.rows()].map(({ owner }) => owner).sort(), ["a", "b"]);
  assert.equal(table.counters.sweptBySnapshot, 1);
  table.flush("a");
  assert.equal(table.size, 1);
  table.retire(key(3));
  assert.equal(table.counters.retired, 1);
});

test("external: what is over without a word goes", () => {
  const table = new ExternalExpectations();
  table.upsert("a", row(1, 10), 1);
  table.upsert("a", row(2, 20), 1);
  assert.equal(secondsLeft(row(1, 10), NOW + 4), 6);
  table.expire(NOW + 10);
  assert.equal(table.size, 1);
  assert.equal(table.counters.expired, 1);
});

test("both tables are bounded", () => {
  const internal = new InternalExpectations();
  const external = new ExternalExpectations();
  for (let i = 0; i < EXPECTATIONS_MAX + 5; i++) {
    internal.upsert(expectation(i), NOW);
    external.upsert("a", row(i), 1);
  }
  assert.deepEqual([internal.size, external.size], [EXPECTATIONS_MAX, EXPECTATIONS_MAX]);
  assert.deepEqual([internal.counters.createFailedFull, external.counters.createFailedFull], [5, 5]);
  // The others have shares of their own.
  assert.equal(external.upsert("b", row(EXPECTATIONS_MAX + 1), 1), "created");
  assert.equal(external.upsert("b", row(1), 2), "taken");
  assert.equal(external.upsert("a", row(EXPECTATIONS_MAX + 2), 1), "created");
  assert.deepEqual(
    ["a", "b"].map((owner) => external.hasRoom(owner, NOW)),
    [false, true],
  );
});
