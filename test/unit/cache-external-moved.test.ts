/** ExternalCache: flows that their owners gave up, equal stamps, and what a listener hears of each path. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ExternalCache, type ExternalListener } from "../../src/cache/external.js";
import { tcpRecord } from "../support/records.js";

/** Notes each call with the tuple's port, which must be readable at that time. */
class Spy implements ExternalListener {
  readonly calls: string[] = [];
  readonly #cache: () => ExternalCache;

  constructor(cache: () => ExternalCache) {
    this.#cache = cache;
  }

  changed(slot: number): void {
    this.#note("changed", slot);
  }

  ended(slot: number): void {
    this.#note("ended", slot);
  }

  retired(slot: number): void {
    this.#note("retired", slot);
  }

  forgotten(slot: number): void {
    this.#note("forgotten", slot);
  }

  #note(what: string, slot: number): void {
    const { table } = this.#cache();
    assert.ok(table.isLive(slot));
    const tuple = table.slab(slot)[table.base(slot) + 16]! >>> 16;
    assert.equal(table.find(tcpRecord(tuple - 1024), 0), slot, "the row can be found while it is spoken of");
    this.calls.push(`${what} ${tuple - 1024}`);
  }

  /** The calls since the last take. */
  take(): string[] {
    return this.calls.splice(0);
  }
}

function setUp(flowsMax = 100) {
  const spy: Spy = new Spy(() => cache);
  const cache: ExternalCache = new ExternalCache(flowsMax);
  cache.listen(spy);
  return { cache, spy, a: cache.origin("fw1"), b: cache.origin("fw2"), c: cache.origin("fw3") };
}

function holder(cache: ExternalCache, tuple: number): string | null {
  return cache.claim(tcpRecord(tuple), 0)?.node ?? null;
}

describe("ExternalCache, a flow that its owner gave up", () => {
  it("is no flow of that owner any more, also while the new owner's claim has yet to come", () => {
    const { cache, a, b } = setUp();
    for (const tuple of [1, 2, 3]) cache.upsert(a, tuple, tcpRecord(tuple), null, 100);
    for (const tuple of [1, 2]) cache.moved(a, tuple, "fw2", 200);
    assert.deepEqual([cache.table.size, cache.flowsOf(a), cache.flowsOf(b)], [3, 1, 0]);
    cache.upsert(b, 7, tcpRecord(1), null, 200);
    assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b)], [1, 1]);
    cache.heard(b, 300);
    cache.sweepOrphans(b);
    assert.deepEqual([cache.table.size, cache.flowsOf(a), cache.flowsOf(b)], [2, 1, 1]);
    cache.flush();
    assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b)], [0, 0]);
  });

  it("stays with the new owner whose claim came first", () => {
    const { cache, spy, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(b, 7, tcpRecord(1), null, 200);
    cache.heard(b, 200);
    spy.take();
    cache.moved(a, 1, "fw2", 200);
    assert.equal(holder(cache, 1), "fw2");
    assert.deepEqual(spy.take(), []);
    assert.equal(cache.counters.moved, 0, "the row was no longer its owner's");
  });

  it("goes when the new owner was heard up to its claim, and the flow has ended there", () => {
    const { cache, spy, a, b } = setUp();
    cache.heard(b, 200);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    spy.take();
    cache.moved(a, 1, "fw2", 200);
    assert.equal(holder(cache, 1), null);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"], "what was written for it is to go");
    assert.deepEqual(
      [cache.counters.moved, cache.counters.destroyed, cache.flowsOf(a), cache.table.size],
      [1, 0, 0, 0],
    );
    assert.equal(cache.slotOf(a, 1), -1);
  });

  it("stays until the claim comes, which then takes it over", () => {
    const { cache, spy, a, b } = setUp();
    cache.heard(b, 199);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, "fw2", 200);
    assert.equal(holder(cache, 1), "fw1", "this node may have to commit just now");
    assert.equal(cache.slotOf(a, 1), -1, "the flow id stands for nothing");
    assert.equal(cache.destroy(a, 1), "unknown");
    spy.take();
    assert.equal(cache.upsert(b, 7, tcpRecord(1), null, 200), "taken");
    assert.deepEqual(spy.take(), ["changed 1"]);
    cache.heard(b, 300);
    cache.sweepOrphans(b);
    cache.sweepOrphans(a);
    assert.equal(holder(cache, 1), "fw2", "no departure is left of it");
    assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b), cache.counters.moved], [0, 1, 0]);
  });

  it("outlives the snapshots of its old owner, and ends with one of the new owner that does not hold it", () => {
    const { cache, spy, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, "fw2", 200);
    cache.sweepRange(a, 0, 100, () => false);
    cache.sweepOrphans(a);
    assert.equal(holder(cache, 1), "fw1");
    cache.heard(b, 150);
    cache.sweepOrphans(b);
    assert.equal(holder(cache, 1), "fw1", "that snapshot was complete before the claim");
    spy.take();
    cache.heard(b, 250);
    cache.sweepOrphans(b);
    assert.equal(holder(cache, 1), null);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"]);
    assert.deepEqual([cache.counters.moved, cache.counters.sweptBySnapshot, cache.flowsOf(a)], [1, 0, 0]);
  });

  it("outlives the old owner's next epoch as well", () => {
    const { cache, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, "fw2", 200);
    cache.forgetFlowIds(a);
    cache.sweepOrphans(a);
    assert.equal(holder(cache, 1), "fw1");
    cache.heard(b, 200);
    cache.sweepOrphans(b);
    assert.equal(holder(cache, 1), null);
  });

  it("goes when this node is the new owner", () => {
    const { cache, spy, a } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    spy.take();
    cache.moved(a, 1, null, 200);
    assert.equal(holder(cache, 1), null);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"]);
    assert.equal(cache.counters.moved, 1);
  });

  it("stays when nobody knows the new owner, until its old owner states its table", () => {
    const { cache, spy, a } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(a, 2, tcpRecord(2), null, 100);
    cache.moved(a, 1, "fw9", 200);
    assert.equal(holder(cache, 1), "fw1");
    spy.take();
    cache.sweepOrphans(a);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"]);
    assert.equal(holder(cache, 2), "fw1");
  });

  it("is its old owner's again when that claims it anew, under whatever flow id", () => {
    const { cache, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, "fw2", 200);
    assert.equal(cache.upsert(a, 5, tcpRecord(1), null, 300), "updated");
    cache.heard(b, 400);
    cache.sweepOrphans(b);
    assert.equal(holder(cache, 1), "fw1");
    assert.equal(cache.slotOf(a, 5), cache.table.find(tcpRecord(1), 0));
    assert.equal(cache.flowsOf(a), 1);
    assert.equal(cache.destroy(a, 5), "destroyed");
  });

  it("has nothing to do with the next flow of its flow id", () => {
    const { cache, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, "fw2", 200);
    assert.equal(cache.upsert(a, 1, tcpRecord(2), null, 300), "created");
    assert.deepEqual([holder(cache, 1), holder(cache, 2)], ["fw1", "fw1"]);
    assert.equal(cache.upsert(b, 7, tcpRecord(1), null, 200), "taken");
    assert.equal(cache.slotOf(a, 1), cache.table.find(tcpRecord(2), 0), "the id is not taken from it");
    assert.equal(cache.counters.replaced, 0);
  });

  it("does not make the row after it in its slot one that was given up", () => {
    for (const leave of ["retire", "taken", "flush"] as const) {
      const { cache, a, b, c } = setUp();
      cache.upsert(a, 1, tcpRecord(1), null, 100);
      cache.moved(a, 1, "fw2", 200);
      const slot = cache.table.find(tcpRecord(1), 0);
      if (leave === "retire") cache.retire(tcpRecord(1), 0);
      else if (leave === "flush") cache.flush(a);
      else {
        cache.upsert(c, 1, tcpRecord(1), null, 150);
        cache.destroy(c, 1);
      }
      cache.upsert(c, 9, tcpRecord(9), null, 100);
      assert.equal(cache.slotOf(c, 9), slot);
      cache.heard(b, 900);
      cache.sweepOrphans(b);
      assert.equal(holder(cache, 9), "fw3", leave);
    }
  });

  it("is not moved twice, nor when its flow id is unknown", () => {
    const { cache, spy, a, b } = setUp();
    cache.heard(b, 200);
    cache.moved(a, 1, "fw2", 200);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.moved(a, 1, null, 200);
    spy.take();
    cache.moved(a, 1, null, 200);
    assert.deepEqual(spy.take(), []);
    assert.equal(cache.counters.moved, 1);
  });
});

describe("ExternalCache, a flow id that this node does not follow", () => {
  it("after a hole: ends what it stood for before", () => {
    const { cache, spy, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(b, 1, tcpRecord(2), null, 100);
    spy.take();
    cache.disclaim(a, 1);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"]);
    assert.deepEqual([holder(cache, 1), holder(cache, 2)], [null, "fw2"]);
    assert.deepEqual([cache.counters.replaced, cache.flowsOf(a)], [1, 0]);
    cache.disclaim(a, 1);
    cache.disclaim(a, 5);
    assert.equal(cache.counters.replaced, 1);
  });
});

describe("ExternalCache, claims", () => {
  it("of equal stamps: all nodes choose the lesser name, in whatever order they read", () => {
    for (const order of ["abc", "acb", "bac", "bca", "cab", "cba"]) {
      const { cache, a, b, c } = setUp();
      const origins: Record<string, number> = { a, b, c };
      for (const name of order) cache.upsert(origins[name]!, 1, tcpRecord(1), null, 100);
      assert.equal(holder(cache, 1), "fw1", order);
      assert.equal(cache.counters.taken + cache.counters.stale, 2);
      assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b), cache.flowsOf(c)], [1, 0, 0]);
    }
  });

  it("of one node: the later message counts, whatever its stamp", () => {
    const { cache, a } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    assert.equal(cache.upsert(a, 1, tcpRecord(1), null, 90), "updated");
    assert.deepEqual(cache.claim(tcpRecord(1), 0), { node: "fw1", stamp: 90 });
  });

  it("can be looked up by tuple, at any place of an array", () => {
    const { cache, b } = setUp();
    assert.equal(cache.claim(tcpRecord(1), 0), null);
    cache.upsert(b, 1, tcpRecord(1), null, 2 ** 52 + 1);
    assert.deepEqual(cache.claim(tcpRecord(1), 0), { node: "fw2", stamp: 2 ** 52 + 1 });
    assert.equal(cache.claim(tcpRecord(2), 0), null);
    const words = new Uint32Array(64);
    words.set(tcpRecord(1), 32);
    assert.equal(cache.claim(words, 32)?.node, "fw2");
    assert.equal(cache.claim(words, 0), null);
  });
});

describe("ExternalCache, what a listener hears", () => {
  it("once of each change, and of each end that the row goes", () => {
    const { cache, spy, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    assert.deepEqual(spy.take(), ["changed 1"], "created");
    cache.upsert(a, 1, tcpRecord(1), null, 101);
    assert.deepEqual(spy.take(), ["changed 1"], "updated");
    cache.changed(cache.slotOf(a, 1), null, 102);
    assert.deepEqual(spy.take(), ["changed 1"], "changed in place");
    cache.upsert(b, 1, tcpRecord(1), null, 101);
    assert.deepEqual(spy.take(), [], "stale");
    cache.upsert(b, 1, tcpRecord(1), null, 103);
    assert.deepEqual(spy.take(), ["changed 1"], "taken");
    cache.destroy(a, 1);
    assert.deepEqual(spy.take(), [], "unknown");
    cache.destroy(b, 1);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1"], "destroyed");
  });

  it("of the flow that a flow id stood for, before the one that it stands for", () => {
    const { cache, spy, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    spy.take();
    cache.upsert(a, 1, tcpRecord(2), null, 101);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1", "changed 2"]);
    cache.upsert(b, 1, tcpRecord(3), null, 500);
    spy.take();
    cache.upsert(a, 1, tcpRecord(3), null, 102);
    assert.deepEqual(spy.take(), ["ended 2", "forgotten 2"], "also where the next one is not for it");
  });

  it("of the flow that made room in a full table, and of none that found none", () => {
    const { cache, spy, a } = setUp(1);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    spy.take();
    cache.upsert(a, 2, tcpRecord(2), null, 101);
    assert.deepEqual(spy.take(), []);
    cache.upsert(a, 1, tcpRecord(2), null, 102);
    assert.deepEqual(spy.take(), ["ended 1", "forgotten 1", "changed 2"]);
  });

  it("of no end when a row is retired or flushed, and of the end of those that a snapshot does not hold", () => {
    const { cache, spy, a, b } = setUp();
    for (let i = 1; i <= 5; i++) cache.upsert(a, i, tcpRecord(i), null, 100);
    cache.upsert(b, 1, tcpRecord(6), null, 100);
    spy.take();
    cache.retire(tcpRecord(1), 0);
    assert.deepEqual(spy.take(), ["retired 1", "forgotten 1"]);
    cache.sweepRange(a, 0, 4, (flowId) => flowId === 3);
    assert.deepEqual(spy.take(), ["ended 2", "forgotten 2"]);
    cache.forgetFlowIds(a);
    assert.deepEqual(spy.take(), []);
    cache.upsert(a, 1, tcpRecord(3), null, 101);
    spy.take();
    cache.sweepOrphans(a);
    assert.deepEqual(spy.take().toSorted(), ["ended 4", "ended 5", "forgotten 4", "forgotten 5"]);
    cache.flush(b);
    assert.deepEqual(spy.take(), ["forgotten 6"]);
    cache.flush();
    assert.deepEqual(spy.take(), ["forgotten 3"]);
    assert.equal(cache.table.size, 0);
  });
});
