import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { GapList } from "../../src/history/scan/node-state.js";

describe("gaps of a node", () => {
  it("touch what they overlap, also where a later one ends before an earlier", () => {
    const gaps = new GapList();
    gaps.add({ from: 10, until: 100, reason: "a", events: null });
    gaps.add({ from: 20, until: 30, reason: "b", events: null });
    gaps.add({ from: 200, until: 210, reason: "c", events: null });
    const touched = [5, 10, 35, 100, 101, 199, 200, 210, 211].filter((at) => gaps.touches(at, at));
    assert.deepEqual(touched, [10, 35, 100, 200, 210]);
    assert.equal(gaps.touches(0, 9), false);
    assert.equal(gaps.touches(150, 250), true);
  });

  it("reach to the end while they are open", () => {
    const gaps = new GapList();
    gaps.open(50, "cut off");
    assert.equal(gaps.touches(0, 49), false);
    assert.equal(gaps.touches(60, 70), true);
    gaps.close(80);
    assert.equal(gaps.touches(90, 95), false);
    assert.equal([...gaps.list("fw1", 0, 1000)].length, 1);
  });

  it("are bounded: beyond a thousand, the last covers the rest", () => {
    const gaps = new GapList();
    for (let i = 0; i < 1500; i++) gaps.add({ from: 10 * i, until: 10 * i + 1, reason: `${i}`, events: null });
    const listed = [...gaps.list("fw1", 0, Number.MAX_SAFE_INTEGER)];
    assert.equal(listed.length, 1000);
    assert.equal(listed.at(-1)?.reason, "more gaps than are kept one by one");
    assert.equal(gaps.touches(14_995, 14_996), false);
    assert.equal(gaps.touches(12_345, 12_346), true);
    assert.equal(gaps.touches(5005, 5006), false);
  });
});
