import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ExternalCache, ORIGINS_MAX } from "../../src/cache/external.js";
import { ROW_LIVE } from "../../src/flow/flow-table.js";
import {
  type RareAttributes,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_PROTOINFO,
  W_REPLY_L4,
  W_STATUS,
  W_UPDATED,
} from "../../src/flow/record.js";
import { Random, tcpRecord } from "../support/records.js";

function setUp(flowsMax = 100) {
  const cache = new ExternalCache(flowsMax);
  return { cache, a: cache.origin("fw1"), b: cache.origin("fw2"), c: cache.origin("fw3") };
}

function holder(cache: ExternalCache, tuple: number): string | null {
  const slot = cache.table.find(tcpRecord(tuple), 0);
  return slot < 0 ? null : cache.ownerName(slot);
}

describe("ExternalCache", () => {
  it("creates, updates and ends a flow of one peer", () => {
    const { cache, a } = setUp();
    const words = tcpRecord(1);
    words[W_UPDATED] = 10;
    words[W_CREATED] = 9;
    words[W_MARK] = 1;
    assert.equal(cache.upsert(a, 7, words, { helper: "ftp" }, 100), "created");
    const slot = cache.slotOf(a, 7);
    const row = cache.table.slab(slot).subarray(cache.table.base(slot), cache.table.base(slot) + RECORD_WORDS);
    assert.deepEqual(row.subarray(0, W_ID), words.subarray(0, W_ID));
    assert.deepEqual([row[W_ID], row[W_UPDATED], row[W_CREATED]], [7, 10, 9]);
    assert.equal(cache.stamp(slot), 100);
    words[W_MARK] = 2;
    assert.equal(cache.upsert(a, 7, words, null, 101), "updated");
    assert.equal(cache.slotOf(a, 7), slot);
    assert.equal(row[W_MARK], 2);
    assert.equal(cache.table.rare.has(slot), false, "a whole row says which rare attributes there are");
    assert.equal(cache.destroy(a, 7), "destroyed");
    assert.equal(cache.table.size, 0);
    assert.equal(cache.slotOf(a, 7), -1);
    assert.equal(cache.destroy(a, 7), "unknown");
    assert.deepEqual(cache.counters, {
      ...new ExternalCache(1).counters,
      created: 1,
      updated: 1,
      destroyed: 1,
      unknown: 1,
    });
  });

  it("notes changes in place, with rare attributes added to those there are", () => {
    const { cache, a } = setUp();
    cache.upsert(a, 7, tcpRecord(1), { helper: "ftp" }, 100);
    const slot = cache.slotOf(a, 7);
    cache.table.slab(slot)[cache.table.base(slot) + W_STATUS] = 5;
    cache.changed(slot, null, 101);
    assert.equal(cache.stamp(slot), 101);
    cache.changed(slot, { secctx: "x" }, 102);
    assert.deepEqual(cache.table.rare.get(slot), { helper: "ftp", secctx: "x" });
    assert.equal(cache.counters.updated, 2);
    assert.equal(cache.upsert(cache.origin("fw2"), 1, tcpRecord(1), null, 102), "stale");
  });

  it("gives a row to the newer stamp and keeps it from the older one", () => {
    const { cache, a, b, c } = setUp();
    cache.upsert(a, 1, tcpRecord(1), { helper: "ftp" }, 100);
    assert.equal(cache.upsert(b, 5, tcpRecord(1), null, 99), "stale");
    assert.equal(cache.upsert(b, 5, tcpRecord(1), null, 100), "stale", "as new is not newer");
    assert.equal(holder(cache, 1), "fw1");
    assert.equal(cache.upsert(b, 5, tcpRecord(1), null, 101), "taken");
    assert.equal(holder(cache, 1), "fw2");
    assert.equal(cache.slotOf(a, 1), -1);
    assert.equal(cache.table.rare.size, 0);
    assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b)], [0, 1]);
    assert.equal(cache.destroy(a, 1), "unknown", "only the owner ends a row");
    assert.equal(cache.upsert(a, 1, tcpRecord(1), null, 100), "stale");
    assert.equal(cache.upsert(c, 5, tcpRecord(1), null, 2 ** 52), "taken");
    assert.equal(cache.destroy(b, 5), "unknown");
    assert.equal(cache.destroy(c, 5), "destroyed");
    assert.equal(cache.table.size, 0);
    assert.deepEqual([cache.counters.taken, cache.counters.stale, cache.counters.unknown], [2, 3, 2]);
  });

  it("ends the flow that a flow id stood for when the id comes with another tuple", () => {
    const { cache, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(a, 1, tcpRecord(2), null, 101);
    assert.deepEqual([holder(cache, 1), holder(cache, 2)], [null, "fw1"]);
    assert.equal(cache.counters.replaced, 1);
    cache.upsert(b, 1, tcpRecord(3), null, 200);
    cache.upsert(a, 1, tcpRecord(3), null, 150);
    assert.deepEqual([holder(cache, 2), holder(cache, 3)], [null, "fw2"], "also when the other tuple is not for it");
    assert.equal(cache.slotOf(a, 1), -1);
    assert.equal(cache.flowsOf(a), 0);
    assert.equal(cache.counters.replaced, 2);
  });

  it("follows a tuple to another flow id of its owner", () => {
    const { cache, a } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(a, 2, tcpRecord(1), null, 101);
    assert.equal(cache.slotOf(a, 1), -1);
    assert.equal(cache.destroy(a, 1), "unknown", "the end of the first one, in the same batch");
    assert.equal(holder(cache, 1), "fw1");
    assert.equal(cache.flowsOf(a), 1);
  });

  it("swaps the flow ids of two tuples", () => {
    const { cache, a } = setUp();
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    cache.upsert(a, 2, tcpRecord(2), null, 100);
    cache.upsert(a, 1, tcpRecord(2), null, 101);
    cache.upsert(a, 2, tcpRecord(1), null, 101);
    assert.equal(cache.slotOf(a, 1), cache.table.find(tcpRecord(2), 0));
    assert.equal(cache.slotOf(a, 2), cache.table.find(tcpRecord(1), 0));
    assert.equal(cache.flowsOf(a), 2);
  });

  it("retires a row for a newer local event", () => {
    const { cache, a } = setUp();
    assert.equal(cache.retire(tcpRecord(1), 0), -1);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    assert.equal(cache.retire(tcpRecord(2), 0), -1);
    assert.equal(cache.retire(tcpRecord(1), 0), 100, "its birth");
    assert.equal(cache.slotOf(a, 1), -1);
    assert.deepEqual([cache.counters.retired, cache.flowsOf(a), cache.table.size], [1, 0, 0]);
  });

  it("retires a row of another connection without its birth", () => {
    const { cache, a } = setUp();
    for (const [word, value] of [
      [W_REPLY_L4, 1],
      [W_PROTOINFO, 1],
    ] as const) {
      cache.upsert(a, 1, tcpRecord(1), null, 100);
      const other = tcpRecord(1);
      other[word] = value;
      assert.equal(cache.retire(other, 0), 0);
      assert.equal(cache.table.size, 0);
    }
  });

  it("refuses flows beyond its size and counts them", () => {
    const { cache, a, b } = setUp(1);
    cache.upsert(a, 1, tcpRecord(1), null, 100);
    assert.equal(cache.upsert(a, 2, tcpRecord(2), null, 100), "full");
    assert.equal(cache.slotOf(a, 2), -1);
    assert.equal(cache.counters.createFailedFull, 1);
    assert.equal(cache.upsert(b, 2, tcpRecord(1), null, 101), "taken");
    assert.equal(cache.upsert(b, 2, tcpRecord(2), null, 102), "created", "the reused id has made room");
  });

  it("refuses the flows of a peer beyond its share, and has room for the others", () => {
    const cache = new ExternalCache(4, 2);
    const [a, b, c] = ["a", "b", "c"].map((node) => cache.origin(node)) as [number, number, number];
    for (const id of [1, 2]) assert.equal(cache.upsert(a, id, tcpRecord(id), null, 100), "created");
    assert.equal(cache.upsert(a, 3, tcpRecord(3), null, 100), "full");
    assert.deepEqual(
      [a, b].map((peer) => cache.hasRoomFor(peer)),
      [false, true],
    );
    // A row that waits for another's claim still takes its room.
    cache.moved(a, 1, "b", 200);
    assert.equal(cache.upsert(a, 3, tcpRecord(3), null, 100), "full");
    assert.equal(cache.upsert(b, 1, tcpRecord(1), null, 200), "taken");
    assert.equal(cache.upsert(a, 3, tcpRecord(3), null, 100), "created");
    for (const id of [4, 5]) cache.upsert(c, id, tcpRecord(id), null, 100);
    assert.deepEqual(
      [a, b, c].map((peer) => cache.flowsOf(peer)),
      [2, 1, 1],
    );
    cache.destroy(a, 2);
    assert.equal(cache.hasRoomFor(a), true);
  });

  it("keeps a peer's rows over its next epoch and ends those that its snapshot does not state", () => {
    const { cache, a, b } = setUp();
    for (let i = 0; i < 6; i++) cache.upsert(a, i, tcpRecord(i), null, 100 + i);
    cache.upsert(b, 3, tcpRecord(9), null, 100);
    cache.forgetFlowIds(a);
    assert.equal(cache.table.size, 7);
    assert.equal(cache.destroy(a, 0), "unknown", "its ids mean nothing any more");
    // Tuples 4 and 5 under the ids of others, with a clock that went back; tuple 2 is another's by now.
    cache.upsert(a, 0, tcpRecord(4), null, 50);
    cache.upsert(a, 3, tcpRecord(5), null, 51);
    cache.upsert(b, 4, tcpRecord(2), null, 300);
    cache.sweepOrphans(a);
    assert.deepEqual(
      [0, 1, 2, 3, 4, 5, 9].map((i) => holder(cache, i)),
      [null, null, "fw2", null, "fw1", "fw1", "fw2"],
    );
    assert.equal(cache.counters.sweptBySnapshot, 3);
    assert.deepEqual([cache.flowsOf(a), cache.flowsOf(b)], [2, 2]);
    assert.equal(cache.destroy(a, 3), "destroyed");
    assert.equal(holder(cache, 5), null);
  });

  it("ends the flow ids of a range that a chunk does not state", () => {
    const { cache, a, b } = setUp();
    for (let i = 0; i < 10; i++) cache.upsert(a, i, tcpRecord(i), null, 100);
    cache.upsert(b, 4, tcpRecord(50), null, 100);
    cache.sweepRange(a, 2, 6, (id) => id === 3);
    assert.deepEqual(
      Array.from({ length: 10 }, (_, i) => i).filter((i) => cache.slotOf(a, i) >= 0),
      [0, 1, 3, 6, 7, 8, 9],
    );
    assert.equal(holder(cache, 50), "fw2");
    cache.sweepRange(a, 8, 0xffff_ffff, () => false);
    assert.equal(cache.flowsOf(a), 5);
    assert.equal(cache.counters.sweptBySnapshot, 5);
  });

  it("flushes one peer or all", () => {
    const { cache, a, b } = setUp();
    cache.upsert(a, 1, tcpRecord(1), { helper: "ftp" }, 100);
    cache.upsert(b, 1, tcpRecord(2), null, 100);
    cache.flush(a);
    assert.deepEqual([holder(cache, 1), holder(cache, 2)], [null, "fw2"]);
    assert.equal(cache.upsert(a, 1, tcpRecord(1), null, 100), "created");
    cache.flush();
    assert.deepEqual([cache.table.size, cache.table.rare.size, cache.flowsOf(a), cache.flowsOf(b)], [0, 0, 0, 0]);
  });

  it("a flush of all rows touches none of them: a table in use is put aside as it is, and an empty one takes its place", () => {
    const { cache, a, b } = setUp();
    for (let i = 0; i < 50; i++) cache.upsert(i % 2 === 0 ? a : b, i, tcpRecord(i), null, 100);
    cache.moved(a, 0, "fw2", 200);
    const { table } = cache;
    const { size, slotsUsed, flowsMax } = table;
    cache.flush();
    assert.deepEqual([table.size, table.slotsUsed], [size, slotsUsed]);
    assert.deepEqual([cache.table.slotsUsed, cache.table.flowsMax], [0, flowsMax]);
    assert.equal(cache.slotOf(b, 1), -1, "its flow ids are forgotten");
    assert.equal(cache.destroy(b, 1), "unknown");
    cache.upsert(b, 1, tcpRecord(7), null, 300);
    cache.sweepOrphans(b);
    assert.deepEqual([holder(cache, 7), cache.flowsOf(b), cache.counters.moved], ["fw2", 1, 0]);
  });

  it("knows its peers by name, up to a limit", () => {
    const cache = new ExternalCache(ORIGINS_MAX + 1);
    const names = Array.from({ length: ORIGINS_MAX }, (_, i) => `n${i}`);
    for (const [i, name] of names.entries()) {
      cache.upsert(cache.origin(name), 1, tcpRecord(i), null, 1);
    }
    for (const [i, name] of names.entries()) assert.equal(holder(cache, i), name);
    assert.equal(cache.origin("n3"), 3);
    assert.throws(() => cache.origin("one-more"), RangeError);
  });

  it("takes nothing of the table's own bits from a message", () => {
    const { cache, a } = setUp();
    const words = tcpRecord(1);
    words[W_HAS] = 0xffff_01ff;
    for (let i = 0; i < 2; i++) {
      cache.upsert(a, 1, words, null, 100);
      const slot = cache.slotOf(a, 1);
      const has = cache.table.slab(slot)[cache.table.base(slot) + W_HAS]!;
      assert.equal(has, (ROW_LIVE | 0x1ff | (a << 24)) >>> 0);
    }
  });
});

interface Row {
  tuple: number;
  origin: number;
  flowId: number;
  mark: number;
  rare: RareAttributes | undefined;
}

/**
 * Messages of three peers, each in its own order and all mixed, checked by what was said of each tuple: since the tuple
 * was last free, the newest stamp holds it.
 */
class Checker {
  readonly cache: ExternalCache;
  readonly #random: Random;
  readonly #origins: readonly number[];
  readonly #flowsMax: number;
  /** What was said of a tuple since it was last free. */
  readonly #said = new Map<number, { row: Row; stamp: number }[]>();
  /** Of each peer: flow id to tuple. */
  readonly #ids: readonly Map<number, number>[];
  /** Tuples of a peer whose new epoch has not stated them. */
  readonly #orphans: readonly Set<number>[];
  readonly #stamps = [1000, 1001, 1002];
  readonly #tally: Record<string, number> = {};
  removedByEpoch = 0;

  constructor(seed: number, flowsMax: number) {
    this.#random = new Random(seed);
    this.#flowsMax = flowsMax;
    this.cache = new ExternalCache(flowsMax);
    this.#origins = ["fw1", "fw2", "fw3"].map((name) => this.cache.origin(name));
    this.#ids = this.#origins.map(() => new Map());
    this.#orphans = this.#origins.map(() => new Set());
  }

  step(): void {
    const origin = this.#random.pick(this.#origins);
    const what = this.#random.below(1000);
    if (what < 550) this.#upsert(origin);
    else if (what < 750) this.#destroy(origin);
    else if (what < 900) this.#change(origin);
    else if (what < 950) this.#retire();
    else if (what < 980) this.#sweepRange(origin);
    else if (what < 982) this.#epoch(origin);
    else if (what < 985) this.#sweepOrphans(origin);
  }

  /** Stamps of a peer grow, at very different speeds; no two peers have the same. */
  #stamp(origin: number): number {
    this.#stamps[origin]! += 3 * (1 + this.#random.below(this.#random.oneIn(50) ? 2000 : 5));
    return this.#stamps[origin]!;
  }

  #holder(tuple: number): Row | undefined {
    const said = this.#said.get(tuple);
    return said?.reduce((newest, next) => (next.stamp > newest.stamp ? next : newest)).row;
  }

  #free(tuple: number): void {
    const row = this.#holder(tuple)!;
    if (this.#ids[row.origin]!.get(row.flowId) === tuple) this.#ids[row.origin]!.delete(row.flowId);
    this.#orphans[row.origin]!.delete(tuple);
    this.#said.delete(tuple);
  }

  #count(outcome: string): void {
    this.#tally[outcome] = (this.#tally[outcome] ?? 0) + 1;
  }

  #upsert(origin: number): void {
    const random = this.#random;
    const row: Row = {
      tuple: random.below(40),
      origin,
      flowId: random.below(30),
      mark: random.word(),
      rare: undefined,
    };
    if (random.oneIn(3)) row.rare = { helper: `h${random.below(5)}` };
    const stamp = this.#stamp(origin);
    const words = tcpRecord(row.tuple);
    words[W_MARK] = row.mark;
    const outcome = this.cache.upsert(origin, row.flowId, words, row.rare ?? null, stamp);
    this.#count(outcome);
    const other = this.#ids[origin]!.get(row.flowId);
    if (other !== undefined && other !== row.tuple) {
      this.#free(other);
      this.#count("replaced");
    }
    const before = this.#holder(row.tuple);
    if (before === undefined && this.#said.size >= this.#flowsMax) {
      assert.equal(outcome, "full");
      return;
    }
    const said = this.#said.get(row.tuple) ?? [];
    said.push({ row, stamp });
    this.#said.set(row.tuple, said);
    if (this.#holder(row.tuple) !== row) {
      assert.equal(outcome, "stale");
      return;
    }
    assert.equal(outcome, before === undefined ? "created" : before.origin === origin ? "updated" : "taken");
    if (before !== undefined) {
      if (this.#ids[before.origin]!.get(before.flowId) === row.tuple) this.#ids[before.origin]!.delete(before.flowId);
      this.#orphans[before.origin]!.delete(row.tuple);
    }
    this.#ids[origin]!.set(row.flowId, row.tuple);
  }

  #destroy(origin: number): void {
    const flowId = this.#random.below(30);
    const tuple = this.#ids[origin]!.get(flowId);
    const outcome = this.cache.destroy(origin, flowId);
    this.#count(outcome);
    assert.equal(outcome, tuple === undefined ? "unknown" : "destroyed");
    if (tuple !== undefined) this.#free(tuple);
  }

  #change(origin: number): void {
    const flowId = this.#random.below(30);
    const tuple = this.#ids[origin]!.get(flowId);
    const slot = this.cache.slotOf(origin, flowId);
    assert.equal(slot >= 0, tuple !== undefined);
    if (tuple === undefined) return;
    const row = { ...this.#holder(tuple)!, mark: this.#random.word() };
    const stamp = this.#stamp(origin);
    this.cache.table.slab(slot)[this.cache.table.base(slot) + W_MARK] = row.mark;
    this.cache.changed(slot, null, stamp);
    this.#count("updated");
    this.#said.get(tuple)!.push({ row, stamp });
  }

  #retire(): void {
    const tuple = this.#random.below(40);
    const known = this.#said.has(tuple);
    assert.equal(this.cache.retire(tcpRecord(tuple), 0) > 0, known);
    if (!known) return;
    this.#free(tuple);
    this.#count("retired");
  }

  #sweepRange(origin: number): void {
    const from = this.#random.below(30);
    const to = from + this.#random.below(8);
    const stated = new Set([this.#random.below(30), this.#random.below(30)]);
    this.cache.sweepRange(origin, from, to, (flowId) => stated.has(flowId));
    for (const [flowId, tuple] of [...this.#ids[origin]!]) {
      if (flowId < from || flowId >= to || stated.has(flowId)) continue;
      this.#free(tuple);
      this.#count("swept");
    }
  }

  #epoch(origin: number): void {
    this.cache.forgetFlowIds(origin);
    for (const tuple of this.#ids[origin]!.values()) this.#orphans[origin]!.add(tuple);
    this.#ids[origin]!.clear();
  }

  #sweepOrphans(origin: number): void {
    this.cache.sweepOrphans(origin);
    for (const tuple of [...this.#orphans[origin]!]) {
      this.#free(tuple);
      this.#count("swept");
      this.removedByEpoch++;
    }
  }

  check(): void {
    const { cache } = this;
    const { table, counters } = cache;
    const flows = [0, 0, 0];
    for (let tuple = 0; tuple < 40; tuple++) {
      const slot = table.find(tcpRecord(tuple), 0);
      const expected = this.#holder(tuple);
      assert.equal(slot >= 0, expected !== undefined);
      if (expected === undefined) continue;
      flows[expected.origin]!++;
      assert.equal(cache.ownerName(slot), `fw${expected.origin + 1}`);
      assert.equal(table.slab(slot)[table.base(slot) + W_MARK], expected.mark);
      assert.deepEqual(table.rare.get(slot), expected.rare);
      assert.equal(cache.stamp(slot), Math.max(...this.#said.get(tuple)!.map(({ stamp }) => stamp)));
    }
    for (const origin of this.#origins) {
      assert.equal(cache.flowsOf(origin), flows[origin]);
      for (let flowId = 0; flowId < 30; flowId++) {
        const tuple = this.#ids[origin]!.get(flowId);
        assert.equal(cache.slotOf(origin, flowId), tuple === undefined ? -1 : table.find(tcpRecord(tuple), 0));
      }
    }
    assert.equal(
      table.size,
      counters.created - counters.destroyed - counters.replaced - counters.retired - counters.sweptBySnapshot,
    );
    const { created, updated, destroyed, taken, stale, unknown, replaced, retired, sweptBySnapshot } = counters;
    const counted = { created, updated, destroyed, taken, stale, unknown, replaced, retired, swept: sweptBySnapshot };
    for (const [name, count] of Object.entries(counted)) assert.equal(count, this.#tally[name] ?? 0, name);
    assert.equal(counters.createFailedFull, this.#tally.full ?? 0);
  }
}

describe("ExternalCache with the messages of three peers in any order", () => {
  for (let seed = 1; seed <= 10; seed++) {
    it(`gives each tuple to the newest stamp (seed ${seed})`, () => {
      const checker = new Checker(seed, seed % 2 === 0 ? 25 : 1000);
      for (let i = 0; i < 20_000; i++) {
        checker.step();
        if (i % 50 === 0) checker.check();
      }
      checker.check();
      assert.ok(checker.removedByEpoch > 0, "epochs took place");
    });
  }
});
