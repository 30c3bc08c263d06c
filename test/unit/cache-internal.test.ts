import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InternalCache } from "../../src/cache/internal.js";
import {
  type DecodedFlow,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_UPDATED,
} from "../../src/flow/record.js";
import { IPS_CONFIRMED, IPS_NAT_DONE, IPS_SEEN_REPLY } from "../../src/flow/status.js";
import type { Claim } from "../../src/ownership/claim.js";
import { PUBLISH_DESTROY, PUBLISH_NEW, PUBLISH_UPDATE } from "../../src/ownership/state.js";
import { decodedFlow, tcpRecord } from "../support/records.js";

const NOW = 1_800_000_000;

/** Who carries a flow in place of this node. */
const FW2: Claim = { node: "fw2", stamp: 500 };

/** A message of tuple `index` with this CTA_ID. */
function message(index: number, id: number, status = 1, mark = 0): DecodedFlow {
  const flow = decodedFlow(tcpRecord(index));
  flow.words[W_ID] = id;
  flow.words[W_STATUS] = status;
  flow.words[W_MARK] = mark;
  flow.words[W_HAS]! |= HAS_ID;
  return flow;
}

/** A message that carries the tuples and nothing else but the attributes of `has`. */
function bare(index: number, has: number): DecodedFlow {
  const flow = message(index, 1);
  for (const word of [W_STATUS, W_TIMEOUT, W_MARK, W_PROTOINFO, W_PROTOINFO_B]) flow.words[word] = 0;
  if ((has & HAS_ID) === 0) flow.words[W_ID] = 0;
  flow.words[W_HAS] = has;
  return flow;
}

function row(cache: InternalCache, slot: number): Uint32Array {
  const base = cache.table.base(slot);
  return cache.table.slab(slot).slice(base, base + RECORD_WORDS);
}

function isNew(cache: InternalCache, slot: number): boolean {
  return (cache.publication(slot) & PUBLISH_NEW) !== 0;
}

function isDead(cache: InternalCache, slot: number): boolean {
  return (cache.publication(slot) & PUBLISH_DESTROY) !== 0;
}

function settleAll(cache: InternalCache, stamp = 1): void {
  cache.settle(cache.pendingCount, stamp);
}

/** A whole dump that lists these flows and finds nothing else. */
function dump(cache: InternalCache, flows: readonly DecodedFlow[]): void {
  cache.beginDump();
  for (const flow of flows) cache.dumped(flow, NOW, null, false);
  while (!cache.sweep(3));
}

describe("InternalCache events", () => {
  it("announces a flow once, however often it changes before it is settled", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.upsert(message(1, 1, 3), NOW + 1);
    cache.upsert(message(1, 1, 7), NOW + 2);
    assert.equal(cache.pendingCount, 1);
    assert.equal(cache.pendingSlot(0), slot);
    assert.ok(isNew(cache, slot) && !isDead(cache, slot));
    assert.equal(row(cache, slot)[W_STATUS], 7);
    settleAll(cache, 99);
    assert.equal(cache.pendingCount, 0);
    assert.ok(!isNew(cache, slot));
    assert.equal(cache.stamp(slot), 99);
    cache.upsert(message(1, 1, 15), NOW + 3);
    assert.equal(cache.pendingCount, 1);
    assert.ok(!isNew(cache, slot), "peers know its tuples");
    assert.equal(cache.stamp(slot), Number.POSITIVE_INFINITY);
    assert.deepEqual({ created: cache.counters.created, updated: cache.counters.updated }, { created: 1, updated: 3 });
  });

  it("keeps what an event does not name", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1, 5, 77), NOW);
    const before = row(cache, slot);
    const update = bare(1, HAS_ID | HAS_TIMEOUT);
    update.words[W_TIMEOUT] = 60;
    cache.upsert(update, NOW + 9);
    const after = row(cache, slot);
    assert.equal(after[W_TIMEOUT], 60);
    assert.equal(after[W_UPDATED], NOW + 9);
    for (const word of [W_STATUS, W_MARK, W_PROTOINFO, W_PROTOINFO_B, W_REPLY_SRC, W_CREATED]) {
      assert.equal(after[word], before[word], `word ${word}`);
    }
    cache.upsert(bare(1, HAS_ID), NOW + 20);
    assert.equal(row(cache, slot)[W_UPDATED], NOW + 9, "no new timeout, so the old one still counts from then");
  });

  it("takes each attribute that an event names", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(bare(1, HAS_ID), NOW);
    const update = message(1, 1, 0x3ff, 0xdeadbeef);
    update.words[W_HAS] = HAS_ID | HAS_STATUS | HAS_MARK | HAS_PROTOINFO;
    update.words[W_PROTOINFO_C] = 12;
    cache.upsert(update, NOW);
    const after = row(cache, slot);
    for (const word of [W_STATUS, W_MARK, W_PROTOINFO, W_PROTOINFO_B, W_PROTOINFO_C]) {
      assert.equal(after[word], update.words[word], `word ${word}`);
    }
    assert.equal(after[W_HAS]! & 0xffff, update.words[W_HAS]);
  });

  it("tells the tuples again when the reply tuple changes", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    const translated = message(1, 1);
    translated.words[W_REPLY_SRC] = 0xcb007107;
    cache.upsert(translated, NOW);
    assert.ok(isNew(cache, slot));
    assert.equal(row(cache, slot)[W_REPLY_SRC], 0xcb007107);
  });

  it("knows since when a flow is there, from its timestamp or from the clock", () => {
    const cache = new InternalCache(10);
    const timed = message(1, 1);
    timed.words[W_HAS]! |= HAS_TIMES;
    timed.timesMicros[0] = 1_700_000_000_999_999;
    assert.equal(row(cache, cache.upsert(timed, NOW))[W_CREATED], 1_700_000_000);
    assert.equal(row(cache, cache.upsert(message(2, 2), NOW))[W_CREATED], NOW);
  });

  it("merges rare attributes", () => {
    const cache = new InternalCache(10);
    const first = message(1, 1);
    first.rare = { helper: "ftp" };
    const slot = cache.upsert(first, NOW);
    const second = message(1, 1);
    second.rare = { labels: new Uint8Array(16).fill(1) };
    cache.upsert(second, NOW);
    assert.deepEqual(cache.table.rare.get(slot), { helper: "ftp", labels: new Uint8Array(16).fill(1) });
  });

  it("keeps the record of an ended flow, with its last state and counters, until it is settled", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    const end = message(1, 1, 0x200);
    end.words[W_HAS]! |= HAS_COUNTERS | HAS_TIMES;
    end.counters.set([10, 1000, 20, 2 ** 40]);
    end.timesMicros.set([1, 2]);
    assert.equal(cache.destroy(end, NOW), slot);
    end.counters.fill(0);
    end.timesMicros.fill(0);
    assert.equal(cache.pendingCount, 1);
    assert.ok(isDead(cache, slot) && !isNew(cache, slot) && !cache.isFlow(slot));
    assert.equal(row(cache, slot)[W_STATUS], 0x200);
    assert.deepEqual(Array.from(cache.ending(slot)!.counters), [10, 1000, 20, 2 ** 40]);
    assert.deepEqual(Array.from(cache.ending(slot)!.timesMicros), [1, 2]);
    assert.equal(cache.ending(slot)!.has, HAS_COUNTERS | HAS_TIMES);
    settleAll(cache);
    assert.equal(cache.ending(slot), undefined);
    assert.equal(cache.table.isLive(slot), false);
  });

  it("has no ending for a flow whose end was not measured", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.ending(slot), undefined);
  });

  it("publishes a flow that lived between two settles as new and as ended, in one row", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.pendingCount, 1);
    assert.ok(isNew(cache, slot) && isDead(cache, slot));
  });

  it("gives no slot to another flow before its end is settled", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.destroy(message(1, 1), NOW);
    const again = cache.upsert(message(1, 2), NOW);
    assert.notEqual(again, slot);
    assert.deepEqual([cache.pendingSlot(0), cache.pendingSlot(1)], [slot, again]);
    cache.settle(1, 5);
    assert.deepEqual([cache.pendingCount, cache.pendingSlot(0)], [1, again]);
    assert.ok(isNew(cache, again), "what was not settled is still to be told");
    assert.equal(cache.upsert(message(3, 3), NOW), slot);
    assert.deepEqual([cache.pendingSlot(0), cache.pendingSlot(1)], [again, slot]);
  });

  it("ends the old flow when a message of its tuple has another id", () => {
    const cache = new InternalCache(10);
    const old = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    const young = cache.upsert(message(1, 2), NOW);
    assert.notEqual(young, old);
    assert.ok(isDead(cache, old) && isNew(cache, young) && !isDead(cache, young));
    assert.deepEqual([cache.pendingSlot(0), cache.pendingSlot(1)], [old, young]);
    assert.equal(cache.counters.replaced, 1);
    assert.equal(cache.table.size, 1);
  });

  it("does not end a flow by the destroy of another id", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 2), NOW);
    assert.equal(cache.destroy(message(1, 1), NOW), -1);
    assert.ok(cache.isFlow(slot));
    assert.equal(cache.counters.destroyStale, 1);
    assert.equal(cache.destroy(message(9, 9), NOW), -1);
    assert.equal(cache.counters.destroyUnknown, 1);
    assert.equal(cache.counters.destroyed, 0);
  });

  it("takes messages without an id for the flow that is there", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    assert.equal(cache.upsert(bare(1, HAS_REPLY), NOW), slot);
    assert.equal(row(cache, slot)[W_ID], 1);
    assert.equal(cache.destroy(bare(1, 0), NOW), slot);
    const anonymous = cache.upsert(bare(2, 0), NOW);
    assert.equal(cache.upsert(message(2, 5), NOW), anonymous);
    assert.equal(row(cache, anonymous)[W_ID], 5);
    assert.equal(cache.destroy(message(2, 6), NOW), -1, "the id is known by now");
  });

  it("refuses flows beyond its size, counts them, and takes them again when there is room", () => {
    const cache = new InternalCache(2);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.upsert(message(2, 2), NOW);
    assert.equal(cache.upsert(message(3, 3), NOW), -1);
    assert.equal(cache.counters.createFailedFull, 1);
    assert.equal(cache.pendingCount, 2);
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.upsert(message(3, 3), NOW), -1, "an ended flow keeps its place until it is settled");
    settleAll(cache);
    assert.equal(cache.upsert(message(3, 3), NOW), slot);
    assert.equal(cache.upsert(message(3, 3, 2), NOW), slot, "a full table still takes changes");
    assert.equal(cache.counters.created, 3);
  });

  it("when full, still ends the flow that a refused one has replaced", () => {
    const cache = new InternalCache(1);
    const slot = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    assert.equal(cache.upsert(message(1, 2), NOW), -1);
    assert.ok(isDead(cache, slot));
    assert.deepEqual([cache.counters.replaced, cache.counters.createFailedFull], [1, 1]);
    settleAll(cache);
    assert.equal(cache.table.size, 0);
  });

  it("refuses flows beyond its limit at once, whatever waits to be published", () => {
    const cache = new InternalCache(10, 2);
    for (const tuple of [1, 2, 3]) cache.upsert(message(tuple, tuple), NOW);
    assert.deepEqual([cache.size, cache.counters.createFailedFull], [2, 1]);
    cache.destroy(message(1, 1), NOW);
    assert.notEqual(cache.upsert(message(3, 3), NOW), -1);
    assert.equal(cache.upsert(message(4, 4), NOW), -1);
    assert.equal(cache.size, 2);
  });

  it("counts each flow that found no room once, until it finds room or has ended", () => {
    const cache = new InternalCache(10, 1);
    cache.upsert(message(1, 1), NOW);
    for (let times = 0; times < 5; times++) cache.upsert(message(2, 2, times), NOW);
    cache.upsert(message(3, 3), NOW);
    assert.deepEqual([cache.unpublished, cache.hasRoomForUnpublished], [2, false]);
    cache.destroy(message(2, 2), NOW);
    assert.equal(cache.unpublished, 1);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW, null, true);
    cache.abandonDump();
    assert.equal(cache.unpublished, 1, "the dump may not have come to it");
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.hasRoomForUnpublished, true);
    cache.beginDump();
    cache.dumped(message(3, 3), NOW, null, true);
    assert.equal(cache.sweep(10_000), true);
    assert.deepEqual([cache.unpublished, cache.size], [0, 1]);
    for (const tuple of [4, 5]) cache.upsert(message(tuple, tuple), NOW);
    cache.beginDump();
    for (const tuple of [3, 5]) cache.dumped(message(tuple, tuple), NOW, null, true);
    cache.sweep(10_000);
    assert.equal(cache.unpublished, 1, "the dump shows that the other has ended");
  });

  it("hides what it has when it is flushed, and tells the peers nothing", () => {
    const cache = new InternalCache(10);
    const slots = [1, 2, 3, 4].map((i) => cache.upsert(message(i, i), NOW));
    settleAll(cache);
    cache.flush();
    cache.flush();
    assert.deepEqual([cache.size, cache.table.size, cache.pendingCount], [0, 4, 0]);
    assert.ok(slots.every((slot) => !cache.isShown(slot) && cache.isFlow(slot)));
    cache.upsert(message(1, 1, 2), NOW);
    assert.ok(cache.isShown(slots[0]!), "an event tells of it");
    assert.equal(cache.publication(slots[0]!), PUBLISH_UPDATE, "the peers know it");
    cache.destroy(message(2, 2), NOW);
    assert.ok(isDead(cache, slots[1]!), "its end is told of as ever");
    cache.beginDump();
    for (const tuple of [1, 3]) cache.dumped(message(tuple, tuple), NOW, null, false);
    assert.ok(cache.isShown(slots[2]!), "a dump tells of it");
    assert.equal(cache.size, 2);
    while (!cache.sweep(1));
    assert.ok(isDead(cache, slots[3]!));
    settleAll(cache);
    assert.deepEqual([cache.size, cache.table.size], [2, 2]);
  });

  it("goes on hiding what a dump that failed did not reach", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.flush();
    cache.beginDump();
    cache.abandonDump();
    assert.deepEqual([cache.isShown(slot), cache.isFlow(slot)], [false, true]);
  });

  it("announces a superseded flow whole with its next change, once", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    cache.supersede(slot, FW2);
    settleAll(cache);
    assert.ok(cache.isSuperseded(slot));
    assert.equal(cache.pendingCount, 0);
    cache.upsert(message(1, 1, 2), NOW);
    assert.equal(cache.publication(slot), PUBLISH_NEW);
    settleAll(cache);
    assert.ok(!cache.isSuperseded(slot));
    cache.upsert(message(1, 1, 3), NOW);
    assert.equal(cache.publication(slot), PUBLISH_UPDATE);
  });

  it("announces a flow again when told to", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    cache.announce(slot);
    assert.equal(cache.pendingCount, 1);
    settleAll(cache);
    cache.announce(slot);
    cache.announce(slot);
    assert.equal(cache.pendingCount, 1);
    assert.ok(isNew(cache, slot));
  });
});

describe("InternalCache dumps", () => {
  it("finds the new flows that events had missed and ends those whose destroy was missed", () => {
    const cache = new InternalCache(100);
    for (let i = 0; i < 20; i++) cache.upsert(message(i, i), NOW);
    settleAll(cache);
    dump(
      cache,
      [5, 6, 7, 30].map((i) => message(i, i)),
    );
    assert.equal(cache.table.size, 4);
    assert.equal(cache.counters.sweptByDump, 17);
    assert.equal(cache.pendingCount, 18, "what the dump found as it was is not told again");
    assert.ok(isNew(cache, cache.table.find(tcpRecord(30), 0)));
  });

  it("sweeps a bounded number of slots a call", () => {
    const cache = new InternalCache(100);
    for (let i = 0; i < 10; i++) cache.upsert(message(i, i), NOW);
    cache.beginDump();
    assert.equal(cache.sweep(4), false);
    assert.equal(cache.table.size, 6);
    assert.equal(cache.sweep(4), false);
    assert.equal(cache.sweep(4), true);
    assert.equal(cache.table.size, 0);
    assert.equal(cache.sweep(4), true, "nothing to do without a dump");
  });

  it("keeps a flow that began while the dump ran, also between two steps of the sweep", () => {
    const cache = new InternalCache(100);
    for (let i = 0; i < 10; i++) cache.upsert(message(i, i), NOW);
    cache.beginDump();
    cache.upsert(message(50, 50), NOW);
    cache.sweep(4);
    cache.upsert(message(51, 51), NOW);
    while (!cache.sweep(4));
    assert.equal(cache.table.size, 2);
  });

  it("does not bring back a flow that ended while the dump ran", () => {
    const cache = new InternalCache(10);
    cache.upsert(message(1, 1), NOW);
    cache.beginDump();
    cache.destroy(message(1, 1), NOW);
    assert.equal(cache.dumped(message(1, 1), NOW, null, false), -1);
    cache.destroy(message(2, 2), NOW);
    assert.equal(cache.dumped(message(2, 2), NOW, null, false), -1, "nor one that the events had never told of");
    while (!cache.sweep(10));
    assert.equal(cache.table.size, 0);
    dump(cache, [message(2, 2)]);
    assert.equal(cache.table.size, 1, "the next dump starts with a clean slate");
  });

  it("does not take an ended flow from the dump in place of an older one of its tuple", () => {
    // Missed: the end of 1 and the beginning of 2. The dump had listed 2 before it ended.
    const cache = new InternalCache(10);
    cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    cache.beginDump();
    cache.destroy(message(1, 2), NOW);
    cache.dumped(message(1, 2), NOW, null, false);
    while (!cache.sweep(10));
    assert.equal(cache.table.size, 0);
  });

  it("keeps what an event told while the dump ran", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1, 1), NOW);
    cache.beginDump();
    cache.upsert(message(1, 1, 2), NOW);
    assert.equal(cache.dumped(message(1, 1, 1), NOW, null, false), slot);
    assert.equal(row(cache, slot)[W_STATUS], 2);
    const young = cache.upsert(message(1, 9, 3), NOW);
    assert.equal(
      cache.dumped(message(1, 1, 1), NOW, null, false),
      young,
      "nor does the old flow of a tuple displace the young one",
    );
    assert.equal(row(cache, young)[W_ID], 9);
  });

  it("takes from a dump what no event has named since it began", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1, 8, 2), NOW);
    settleAll(cache);
    cache.beginDump();
    const update = bare(1, HAS_ID | HAS_STATUS);
    update.words[W_STATUS] = 10;
    cache.upsert(update, NOW);
    settleAll(cache);
    cache.dumped(message(1, 1, 8, 0), NOW, null, false);
    assert.deepEqual([row(cache, slot)[W_STATUS], row(cache, slot)[W_MARK]], [10, 0]);
    assert.equal(cache.publication(slot), PUBLISH_UPDATE);
    settleAll(cache);
    cache.dumped(message(1, 1, 8, 5), NOW, null, false);
    assert.equal(row(cache, slot)[W_MARK], 0, "a dump lists a flow once");
  });

  it("ignores an event that was queued before a dump listed the flow", () => {
    const cache = new InternalCache(10);
    dump(cache, [message(1, 1, IPS_CONFIRMED | IPS_SEEN_REPLY, 7)]);
    settleAll(cache);
    const slot = cache.upsert(message(1, 1, IPS_CONFIRMED, 0), NOW);
    assert.deepEqual([row(cache, slot)[W_MARK], cache.pendingCount], [7, 0]);
    cache.upsert(message(1, 2, IPS_CONFIRMED, 0), NOW);
    assert.ok(cache.pendingCount > 0, "another flow of that tuple is none of that kind");
  });

  it("ends the flow of a missed destroy when the dump lists another under its tuple", () => {
    const cache = new InternalCache(10);
    const old = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    dump(cache, [message(1, 2)]);
    assert.ok(isDead(cache, old));
    assert.equal(cache.table.size, 1);
    assert.equal(cache.counters.replaced, 1);
    assert.equal(cache.counters.sweptByDump, 0);
  });

  it("tells the peers of each difference a dump finds, the timeout aside", () => {
    const differences: [string, (flow: DecodedFlow) => void][] = [
      ["status", ({ words }) => (words[W_STATUS] = 3)],
      ["mark", ({ words }) => (words[W_MARK] = 3)],
      ["state", ({ words }) => (words[W_PROTOINFO] = 5)],
      ["reply", ({ words }) => (words[W_REPLY_SRC] = 5)],
      ["helper", (flow) => (flow.rare = { helper: "ftp", labels: labels(1) })],
      ["labels", (flow) => (flow.rare = { labels: labels(2) })],
    ];
    for (const [name, change] of differences) {
      const cache = new InternalCache(10);
      const known = message(1, 1);
      known.rare = { labels: labels(1) };
      const slot = cache.upsert(known, NOW);
      settleAll(cache);
      const same = message(1, 1);
      same.rare = { labels: labels(1) };
      same.words[W_TIMEOUT] = 1;
      dump(cache, [same]);
      assert.equal(cache.pendingCount, 0, "no difference");
      assert.equal(row(cache, slot)[W_TIMEOUT], 1);
      change(same);
      dump(cache, [same]);
      assert.equal(cache.pendingCount, 1, name);
    }
  });

  it("tells the peers of verification tags that a dump finds", () => {
    const cache = new InternalCache(10);
    const sctp = (tag: number): DecodedFlow => {
      const flow = message(1, 1);
      flow.words[W_PROTO] = (2 << 8) | 132;
      flow.words[W_PROTOINFO] = 3;
      flow.words[W_PROTOINFO_B] = tag;
      return flow;
    };
    cache.upsert(sctp(1), NOW);
    settleAll(cache);
    dump(cache, [sctp(2)]);
    assert.equal(cache.pendingCount, 1);
  });

  it("does not tell of TCP flags that a dump finds changed: they change without events", () => {
    const cache = new InternalCache(10);
    cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    const flags = message(1, 1);
    flags.words[W_PROTOINFO_B] = 0x33;
    dump(cache, [flags]);
    assert.equal(cache.pendingCount, 0);
  });

  it("does not tell of translations that a kernel has decided on: they are decided without events", () => {
    const cache = new InternalCache(10);
    cache.upsert(message(1, 1, IPS_CONFIRMED), NOW);
    settleAll(cache);
    dump(cache, [message(1, 1, IPS_CONFIRMED | IPS_NAT_DONE)]);
    assert.equal(cache.pendingCount, 0);
  });

  it("ends nothing after a dump that was abandoned", () => {
    const cache = new InternalCache(10);
    for (let i = 0; i < 5; i++) cache.upsert(message(i, i), NOW);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW, null, false);
    cache.abandonDump();
    assert.equal(cache.sweep(100), true);
    assert.equal(cache.table.size, 5);
    dump(cache, [message(2, 2)]);
    assert.equal(cache.table.size, 1, "the next dump is not misled by the abandoned one");
  });

  it("is not misled by a dump that begins anew before the last was swept", () => {
    const cache = new InternalCache(10);
    for (let i = 0; i < 5; i++) cache.upsert(message(i, i), NOW);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW, null, false);
    dump(cache, [message(2, 2)]);
    assert.equal(cache.table.size, 1);
  });
});

function labels(value: number): Uint8Array {
  return new Uint8Array(16).fill(value);
}
