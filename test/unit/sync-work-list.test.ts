/** Rows that wait until they are old enough to be written. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { InjectorCounters } from "../../src/sync/inject/injector-counters.js";
import { WorkList } from "../../src/sync/inject/work-list.js";

function taken(work: WorkList): number[] {
  return [...work.takeChanged()];
}

test("a young row waits until it is due, and is nothing to write until then", () => {
  const work = new WorkList(new InjectorCounters());
  work.addYoung(1, 10);
  work.addYoung(2, 11);
  work.addYoung(1, 99);
  assert.deepEqual([work.isEmpty, work.young, work.isChanged(1), work.isChanged(3)], [true, 2, true, false]);
  work.takeDue(9);
  assert.deepEqual([work.isEmpty, taken(work)], [true, []]);
  work.takeDue(10);
  assert.deepEqual([work.isEmpty, work.young, taken(work)], [false, 1, [1]]);
  work.takeDue(11);
  assert.deepEqual([taken(work), work.young, work.isChanged(2)], [[2], 0, false]);
});

test("a row that is written for another reason, is dropped or is removed waits no more", () => {
  const work = new WorkList(new InjectorCounters());
  for (const slot of [1, 2, 3]) work.addYoung(slot, 10);
  work.addChanged(1);
  work.dropChanged(2);
  work.dropRow(3);
  assert.equal(work.young, 0);
  work.addYoung(1, 10);
  assert.equal(work.young, 0, "it is to be written already");
  work.takeDue(10);
  assert.deepEqual(taken(work), [1]);
});

test("at a takeover the youngest come first, and before what waits already", () => {
  const work = new WorkList(new InjectorCounters());
  for (const slot of [7, 8]) work.addChanged(slot);
  for (const slot of [1, 2, 3]) work.addYoung(slot, 10 + slot);
  work.hasten();
  assert.deepEqual([work.young, taken(work)], [0, [3, 2, 1, 7, 8]]);
});
