/** InternalCache beside other owners: flows that moved away, that come back, and that a restart takes over. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InternalCache } from "../../src/cache/internal.js";
import { type DecodedFlow, HAS_ID, HAS_MASK, RECORD_WORDS, W_HAS, W_ID, W_STATUS } from "../../src/flow/record.js";
import type { Claim } from "../../src/ownership/claim.js";
import { PUBLISH_DESTROY, PUBLISH_MOVED, PUBLISH_NEW, PUBLISH_UPDATE } from "../../src/ownership/state.js";
import { decodedFlow, tcpRecord } from "../support/records.js";

const NOW = 1_800_000_000;
const FW2: Claim = { node: "fw2", stamp: 500 };
const FW3: Claim = { node: "fw3", stamp: 600 };

/** A message of tuple `index` with this CTA_ID. */
function message(index: number, id: number, status = 1): DecodedFlow {
  const flow = decodedFlow(tcpRecord(index));
  flow.words[W_ID] = id;
  flow.words[W_STATUS] = status;
  flow.words[W_HAS]! |= HAS_ID;
  return flow;
}

function settleAll(cache: InternalCache, stamp = 1): void {
  cache.settle(cache.pendingCount, stamp);
}

/** What waits: bits by slot. */
function pending(cache: InternalCache): [number, number][] {
  return Array.from({ length: cache.pendingCount }, (_, i) => {
    const slot = cache.pendingSlot(i);
    return [slot, cache.publication(slot)];
  });
}

/** A cache with one flow that its stream has told of at stamp 100. */
function publishedOne(): { cache: InternalCache; slot: number } {
  const cache = new InternalCache(10);
  const slot = cache.upsert(message(1, 1), NOW);
  settleAll(cache, 100);
  return { cache, slot };
}

describe("InternalCache, flows that moved to another node", () => {
  it("gives a flow up once, and says to whom", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]]);
    assert.deepEqual(cache.newerOwner(slot), FW2);
    assert.ok(cache.isSuperseded(slot) && cache.isFlow(slot));
    assert.equal(cache.stamp(slot), 100, "giving up is no claim");
    settleAll(cache, 700);
    assert.equal(cache.newerOwner(slot), undefined);
    assert.equal(cache.stamp(slot), 100);
    cache.supersede(slot, FW3);
    assert.deepEqual(pending(cache), [], "the next owner is for the last one to tell");
    assert.equal(cache.table.size, 1, "the kernel has it still");
  });

  it("names the last owner when it moves on before it was published", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    cache.supersede(slot, FW3);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]]);
    assert.deepEqual(cache.newerOwner(slot), FW3);
  });

  it("keeps the newest owner when an older claim is read after it", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW3);
    cache.supersede(slot, FW2);
    assert.deepEqual(cache.newerOwner(slot), FW3);
  });

  it("says nothing of a flow that it has never told of", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.supersede(slot, FW2);
    assert.deepEqual(pending(cache), [[slot, 0]]);
    settleAll(cache, 700);
    assert.deepEqual(pending(cache), []);
    assert.ok(cache.isSuperseded(slot));
    cache.destroy(message(1, 1), NOW);
    assert.deepEqual(pending(cache), [[slot, 0]], "nor of its end");
    settleAll(cache);
    assert.equal(cache.table.isLive(slot), false);
  });

  it("drops a change that waited, and gives the flow up instead", () => {
    const { cache, slot } = publishedOne();
    cache.upsert(message(1, 1, 3), NOW);
    cache.supersede(slot, FW2);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]]);
    cache.announce(slot);
    cache.supersede(slot, FW3);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]], "also one that would have gone out whole");
  });

  it("claims it again with the next local event, as a new row, whether or not it was given up by then", () => {
    for (const published of [true, false]) {
      const { cache, slot } = publishedOne();
      cache.supersede(slot, FW2);
      if (published) settleAll(cache, 700);
      cache.upsert(message(1, 1, 3), NOW);
      assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]]);
      assert.equal(cache.stamp(slot), Number.POSITIVE_INFINITY);
      assert.equal(cache.newerOwner(slot), undefined);
      settleAll(cache, 800);
      assert.equal(cache.stamp(slot), 800);
      assert.ok(!cache.isSuperseded(slot));
      cache.supersede(slot, FW3);
      assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]], "told again, so given up again");
    }
  });

  it("says that it moved, not that it ended, when it ends here before that is published", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    cache.destroy(message(1, 1), NOW);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_MOVED]]);
    assert.deepEqual(cache.newerOwner(slot), FW2);
    settleAll(cache);
    assert.equal(cache.table.isLive(slot), false);
    assert.equal(cache.newerOwner(slot), undefined);
  });

  it("says nothing when it ends here after it was given up", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    settleAll(cache);
    cache.destroy(message(1, 1), NOW);
    assert.deepEqual(pending(cache), [[slot, 0]]);
    settleAll(cache);
    assert.equal(cache.upsert(message(2, 2), NOW), slot, "its slot is free again");
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]]);
    cache.destroy(message(2, 2), NOW);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW | PUBLISH_DESTROY]], "nothing of the last flow sticks to it");
  });

  it("publishes the end of a superseded flow's successor under the same tuple", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    const young = cache.upsert(message(1, 2), NOW);
    assert.notEqual(young, slot);
    assert.deepEqual(pending(cache), [
      [slot, PUBLISH_MOVED],
      [young, PUBLISH_NEW],
    ]);
  });

  it("begins another connection when its tuple comes back after it ended at its owner", () => {
    const { cache, slot } = publishedOne();
    assert.equal(cache.table.birth(slot), 100);
    cache.supersede(slot, FW2);
    settleAll(cache, 501);
    cache.endElsewhere(slot);
    cache.upsert(message(1, 1, 3), NOW);
    cache.table.inheritBirth(slot, 550);
    assert.equal(cache.table.birth(slot), 550, "a peer's, who has it by now");
    cache.supersede(slot, FW3);
    cache.endElsewhere(slot);
    cache.upsert(message(1, 1, 5), NOW);
    settleAll(cache, 700);
    assert.equal(cache.table.birth(slot), 700, "its own");
  });

  it("remembers that a superseded flow ended at its owner, until anybody claims it anew", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    assert.equal(cache.hasEndedElsewhere(slot), false);
    cache.endElsewhere(slot);
    assert.equal(cache.hasEndedElsewhere(slot), true);
    settleAll(cache);
    assert.equal(cache.hasEndedElsewhere(slot), true);
    cache.supersede(slot, FW3);
    assert.equal(cache.hasEndedElsewhere(slot), false, "another owner carries it");
    cache.endElsewhere(slot);
    cache.upsert(message(1, 1, 3), NOW);
    assert.equal(cache.hasEndedElsewhere(slot), false, "traffic of its own");
    settleAll(cache);
    cache.supersede(slot, FW3);
    cache.endElsewhere(slot);
    cache.destroy(message(1, 1), NOW);
    settleAll(cache);
    cache.upsert(message(2, 2), NOW);
    assert.equal(cache.hasEndedElsewhere(slot), false, "a slot starts clean");
  });
});

describe("InternalCache, claims told once more", () => {
  it("go out whole by the stamp that they were made by", () => {
    const { cache, slot } = publishedOne();
    cache.claimAgain(slot);
    cache.claimAgain(slot);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]]);
    assert.deepEqual([cache.isClaimedAgain(slot), cache.stamp(slot)], [true, 100]);
    settleAll(cache, 900);
    assert.deepEqual([cache.isClaimedAgain(slot), cache.stamp(slot)], [false, 100]);
  });

  it("are claims anew when something happens to the flow before they go out", () => {
    for (const happens of ["update", "announce"] as const) {
      const { cache, slot } = publishedOne();
      cache.claimAgain(slot);
      if (happens === "update") cache.upsert(message(1, 1, 3), NOW);
      else cache.announce(slot);
      assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]]);
      assert.deepEqual([cache.isClaimedAgain(slot), cache.stamp(slot)], [false, Number.POSITIVE_INFINITY]);
      settleAll(cache, 900);
      assert.equal(cache.stamp(slot), 900);
    }
  });

  it("go out whole where a change waits already, and are none of a flow that moved or that has ended", () => {
    const { cache, slot } = publishedOne();
    cache.upsert(message(1, 1, 3), NOW);
    cache.claimAgain(slot);
    assert.deepEqual([cache.publication(slot), cache.isClaimedAgain(slot)], [PUBLISH_NEW, false]);
    settleAll(cache, 200);
    cache.claimAgain(slot);
    cache.supersede(slot, FW2);
    assert.deepEqual([pending(cache), cache.isClaimedAgain(slot)], [[[slot, PUBLISH_MOVED]], false]);
    settleAll(cache, 300);
    cache.claimAgain(slot);
    assert.deepEqual(pending(cache), []);
    assert.equal(cache.stamp(slot), 200);
  });

  it("end as they would have", () => {
    const { cache, slot } = publishedOne();
    cache.claimAgain(slot);
    cache.destroy(message(1, 1), NOW);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW | PUBLISH_DESTROY]]);
    settleAll(cache);
    assert.equal(cache.table.isLive(slot), false);
  });
});

describe("InternalCache, dumps of flows that a peer carries", () => {
  it("takes one that it did not know in as superseded, and tells nobody", () => {
    const cache = new InternalCache(10);
    cache.beginDump();
    const slot = cache.dumped(message(1, 1), NOW, FW2, false);
    assert.ok(cache.isFlow(slot) && cache.isSuperseded(slot));
    assert.deepEqual(pending(cache), [[slot, 0]]);
    while (!cache.sweep(10));
    assert.equal(cache.table.size, 1);
    settleAll(cache);
    cache.upsert(message(1, 1, 3), NOW);
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]], "an event says that it is here");
  });

  it("claims one that it did not know when no peer carries it, or when this node carries traffic", () => {
    const cache = new InternalCache(10);
    cache.beginDump();
    const slots = [cache.dumped(message(1, 1), NOW, null, false), cache.dumped(message(2, 2), NOW, FW2, true)];
    assert.deepEqual(
      pending(cache),
      slots.map((slot) => [slot, PUBLISH_NEW]),
    );
  });

  it("leaves a superseded one superseded, though the dump has it changed", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    settleAll(cache);
    for (const claimed of [FW2, null]) {
      cache.beginDump();
      assert.equal(cache.dumped(message(1, 1, 7), NOW, claimed, false), slot);
      while (!cache.sweep(10));
      assert.ok(cache.isSuperseded(slot));
      assert.deepEqual(pending(cache), []);
      assert.equal(cache.table.slab(slot)[cache.table.base(slot) + W_STATUS], 7);
    }
  });

  it("claims a superseded one when this node carries traffic", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    cache.endElsewhere(slot);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW, FW2, true);
    while (!cache.sweep(10));
    assert.deepEqual(pending(cache), [[slot, PUBLISH_NEW]]);
    assert.ok(!cache.isSuperseded(slot) && !cache.hasEndedElsewhere(slot));
  });

  it("takes in as superseded also one under the tuple of an older flow, whose end was missed", () => {
    const { cache, slot } = publishedOne();
    cache.beginDump();
    const young = cache.dumped(message(1, 2), NOW, FW2, false);
    while (!cache.sweep(10));
    assert.notEqual(young, slot);
    assert.ok(cache.isSuperseded(young));
    assert.deepEqual(pending(cache), [
      [slot, PUBLISH_DESTROY],
      [young, 0],
    ]);
    assert.equal(cache.counters.replaced, 1);
    assert.equal(cache.table.size, 1);
  });

  it("sweeps a superseded one that the kernel no longer has, without a word", () => {
    const { cache, slot } = publishedOne();
    cache.supersede(slot, FW2);
    settleAll(cache);
    cache.beginDump();
    while (!cache.sweep(10));
    assert.deepEqual(pending(cache), [[slot, 0]]);
    assert.equal(cache.counters.sweptByDump, 1);
  });

  it("does not take one in that ended while the dump ran, nor when it is full", () => {
    const cache = new InternalCache(1);
    cache.beginDump();
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.dumped(message(1, 1), NOW, FW2, false), -1);
    assert.ok(cache.dumped(message(2, 2), NOW, FW2, false) >= 0);
    assert.equal(cache.dumped(message(3, 3), NOW, FW2, false), -1);
    assert.equal(cache.counters.createFailedFull, 1);
  });
});

describe("InternalCache, flows taken over from its own stream", () => {
  /** A record as the stream's reader has it: no CTA_ID, its flow id in that place. */
  function restored(index: number, status = 1): Uint32Array {
    const words = tcpRecord(index);
    words[W_ID] = 7777;
    words[W_STATUS] = status;
    return words;
  }

  it("have their slots, stamps and rare attributes, and nothing of them waits", () => {
    const cache = new InternalCache(100);
    const rare = { helper: "ftp" };
    assert.ok(cache.adopt(40, restored(1), 0, rare, 300));
    assert.ok(cache.adopt(3, restored(2), 0, null, 301));
    cache.sealAdopted();
    assert.deepEqual([cache.table.find(tcpRecord(1), 0), cache.table.find(tcpRecord(2), 0)], [40, 3]);
    assert.deepEqual([cache.stamp(40), cache.stamp(3)], [300, 301]);
    assert.deepEqual([cache.table.rare.get(40), cache.table.rare.get(3)], [rare, undefined]);
    assert.ok(cache.isFlow(40) && cache.isFlow(3) && !cache.isFlow(39));
    assert.equal(cache.pendingCount, 0);
    assert.equal(cache.counters.created, 0);
    const has = cache.table.slab(40)[cache.table.base(40) + W_HAS]!;
    assert.equal(has & HAS_MASK & HAS_ID, 0, "the flow id is no CTA_ID");
  });

  it("come from any place of a slab, and are refused beyond the bounds or in a slot that is taken", () => {
    const cache = new InternalCache(10);
    const slab = new Uint32Array(3 * RECORD_WORDS);
    slab.set(restored(1), RECORD_WORDS);
    assert.ok(cache.adopt(9, slab, RECORD_WORDS, null, 1));
    assert.equal(cache.adopt(10, restored(2), 0, null, 1), false);
    assert.equal(cache.adopt(9, restored(3), 0, { helper: "ftp" }, 1), false);
    assert.equal(cache.table.rare.size, 0);
    cache.sealAdopted();
    assert.equal(cache.table.size, 1);
    assert.equal(cache.table.find(tcpRecord(1), 0), 9);
  });

  it("are told as changed, ended or not at all by the dump that follows; others take the free slots", () => {
    const cache = new InternalCache(10);
    for (const [slot, index] of [
      [1, 1],
      [3, 3],
      [5, 5],
    ] as const) {
      cache.adopt(slot, restored(index), 0, null, 100 + slot);
    }
    cache.sealAdopted();
    cache.beginDump();
    cache.dumped(message(1, 11), NOW, null, false);
    cache.dumped(message(3, 13, 9), NOW, null, false);
    const fresh = cache.dumped(message(8, 18), NOW, null, false);
    while (!cache.sweep(2));
    assert.ok(![1, 3, 5].includes(fresh));
    assert.deepEqual(pending(cache), [
      [3, PUBLISH_UPDATE],
      [fresh, PUBLISH_NEW],
      [5, PUBLISH_DESTROY],
    ]);
    assert.equal(cache.stamp(1), 101, "what did not change is no new claim");
    cache.upsert(message(1, 12), NOW);
    assert.equal(cache.counters.replaced, 1, "the dump told the CTA_ID");
  });

  it("are given up like any other when a peer's copy claims them", () => {
    const cache = new InternalCache(10);
    cache.adopt(4, restored(1), 0, null, 100);
    cache.sealAdopted();
    cache.supersede(4, FW2);
    assert.deepEqual(pending(cache), [[4, PUBLISH_MOVED]]);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW, FW2, false);
    while (!cache.sweep(10));
    assert.deepEqual(pending(cache), [[4, PUBLISH_MOVED]]);
  });

  it("fill a table to its last slot", () => {
    const cache = new InternalCache(5);
    cache.adopt(4, restored(4), 0, null, 1);
    cache.adopt(0, restored(0), 0, null, 1);
    cache.sealAdopted();
    const slots = [1, 2, 3].map((i) => cache.upsert(message(i, i), NOW));
    assert.deepEqual(slots.toSorted(), [1, 2, 3]);
    assert.equal(cache.upsert(message(9, 9), NOW), -1);
  });
});
