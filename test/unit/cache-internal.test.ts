import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InternalCache, ROW_DEAD, ROW_NEW } from "../../src/cache/internal.js";
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
  type RareAttributes,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_UPDATED,
} from "../../src/flow/record.js";
import { decodedFlow, Random, tcpRecord } from "../support/records.js";

const NOW = 1_800_000_000;

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
  return (cache.rowBits(slot) & ROW_NEW) !== 0;
}

function isDead(cache: InternalCache, slot: number): boolean {
  return (cache.rowBits(slot) & ROW_DEAD) !== 0;
}

function settleAll(cache: InternalCache, stamp = 1): void {
  cache.settle(cache.pendingCount, stamp);
}

/** A whole dump that lists these flows and finds nothing else. */
function dump(cache: InternalCache, flows: readonly DecodedFlow[]): void {
  cache.beginDump();
  for (const flow of flows) cache.dumped(flow, NOW);
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
    cache.upsert(message(1, 1, 8), NOW + 3);
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

  it("flushes every flow, telling the peers, and starts anew", () => {
    const cache = new InternalCache(10);
    const slots = [1, 2, 3].map((i) => cache.upsert(message(i, i), NOW));
    cache.destroy(message(3, 3), NOW);
    settleAll(cache);
    cache.flush();
    assert.equal(cache.table.size, 0);
    assert.equal(cache.pendingCount, 2);
    assert.ok(isDead(cache, slots[0]!) && isDead(cache, slots[1]!));
    cache.flush();
    assert.equal(cache.pendingCount, 2, "twice is as once");
    cache.upsert(message(1, 1, 2), NOW);
    assert.equal(cache.pendingCount, 3);
    settleAll(cache);
    assert.equal(cache.table.size, 1);
  });

  it("announces a superseded flow whole with its next change, once", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1), NOW);
    settleAll(cache);
    cache.supersede(slot);
    assert.ok(cache.isSuperseded(slot));
    assert.equal(cache.pendingCount, 0);
    cache.upsert(message(1, 1, 2), NOW);
    assert.ok(isNew(cache, slot));
    settleAll(cache);
    assert.ok(!cache.isSuperseded(slot));
    cache.upsert(message(1, 1, 3), NOW);
    assert.ok(!isNew(cache, slot));
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
    assert.equal(cache.dumped(message(1, 1), NOW), -1);
    cache.destroy(message(2, 2), NOW);
    assert.equal(cache.dumped(message(2, 2), NOW), -1, "nor one that the events had never told of");
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
    cache.dumped(message(1, 2), NOW);
    while (!cache.sweep(10));
    assert.equal(cache.table.size, 0);
  });

  it("keeps what an event told while the dump ran", () => {
    const cache = new InternalCache(10);
    const slot = cache.upsert(message(1, 1, 1), NOW);
    cache.beginDump();
    cache.upsert(message(1, 1, 2), NOW);
    assert.equal(cache.dumped(message(1, 1, 1), NOW), slot);
    assert.equal(row(cache, slot)[W_STATUS], 2);
    const young = cache.upsert(message(1, 9, 3), NOW);
    assert.equal(cache.dumped(message(1, 1, 1), NOW), young, "nor does the old flow of a tuple displace the young one");
    assert.equal(row(cache, young)[W_ID], 9);
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

  it("ends nothing after a dump that was abandoned", () => {
    const cache = new InternalCache(10);
    for (let i = 0; i < 5; i++) cache.upsert(message(i, i), NOW);
    cache.beginDump();
    cache.dumped(message(1, 1), NOW);
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
    cache.dumped(message(1, 1), NOW);
    dump(cache, [message(2, 2)]);
    assert.equal(cache.table.size, 1);
  });
});

function labels(value: number): Uint8Array {
  return new Uint8Array(16).fill(value);
}

interface KernelFlow {
  id: number;
  status: number;
  mark: number;
  state: number;
  replySource: number;
  helper: string | undefined;
}

type Event = { kind: "upsert" | "destroy"; flow: DecodedFlow };

/**
 * A kernel table, its event socket, a dump on another socket and a peer, around one cache. Events come in their order,
 * the dump's flows in theirs, both at any time after they were sent. Events are lost only before a dump, and
 * what came before the loss is read before the dump begins.
 */
class Simulation {
  readonly cache = new InternalCache(10_000);
  readonly #random: Random;
  readonly #tuples: number;
  readonly #kernel = new Map<number, KernelFlow>();
  readonly #events: Event[] = [];
  /** Where the running dump is in the kernel's table; -1 when none runs. */
  #dumpAt = -1;
  readonly #dumped: DecodedFlow[] = [];
  #sweeping = false;
  #losing = false;
  #ids = 0;
  readonly #lastIds = new Map<number, number>();
  #stamp = 0;
  /** Of the peer: flow id to row. */
  readonly #peer = new Map<number, string>();
  readonly #peerTuples = new Map<string, number>();

  constructor(seed: number, tuples: number) {
    this.#random = new Random(seed);
    this.#tuples = tuples;
  }

  step(): void {
    const what = this.#random.below(100);
    if (what < 40) this.#kernelStep();
    else if (what < 70) this.#readEvent();
    else if (what < 90) this.#dumpStep();
    else if (what < 96) this.#publish(this.#random.below(this.cache.pendingCount + 1));
    else if (what === 96 && this.#dumpAt < 0 && !this.#sweeping) this.#loseAndDump();
    else if (what === 97 && this.#random.oneIn(20)) this.#abandon();
  }

  /** Reads all events, runs one undisturbed dump after losses, publishes; then cache, kernel and peer must agree. */
  finish(): void {
    while (this.#dumpAt >= 0 || this.#sweeping) this.#dumpStep();
    this.#readAll();
    this.#check("after the dumps and events");
  }

  #check(when: string): void {
    this.#publish(this.cache.pendingCount);
    const expected = [...this.#kernel].map(([tuple, flow]) => describeRow(words(tuple, flow), flow.helper));
    const { table } = this.cache;
    const cached: string[] = [];
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (this.cache.isFlow(slot)) cached.push(describeRow(row(this.cache, slot), table.rare.get(slot)?.helper));
    }
    assertSame(cached, expected, `cache ${when}`);
    assertSame([...this.#peer.values()], expected, `peer ${when}`);
    assert.equal(table.size, expected.length);
  }

  #kernelStep(): void {
    const tuple = this.#random.below(this.#tuples);
    const flow = this.#kernel.get(tuple);
    if (flow === undefined) {
      const fresh = { id: this.#newId(tuple), status: 1, mark: 0, state: 1, replySource: 1, helper: undefined };
      this.#kernel.set(tuple, fresh);
      this.#events.push({ kind: "upsert", flow: asMessage(tuple, fresh) });
      return;
    }
    if (this.#random.oneIn(2)) {
      this.#kernel.delete(tuple);
      if (this.#losing) this.#lastIds.delete(tuple);
      this.#events.push({ kind: "destroy", flow: asMessage(tuple, flow) });
      return;
    }
    const change = this.#random.below(5);
    if (change === 0) flow.status = this.#random.below(8);
    else if (change === 1) flow.mark = this.#random.below(8);
    else if (change === 2) flow.state = this.#random.below(8);
    else if (change === 3) flow.replySource = this.#random.below(4);
    else flow.helper = this.#random.pick(["ftp", "sip"]);
    this.#events.push({ kind: "upsert", flow: asMessage(tuple, flow) });
  }

  /**
   * CTA_ID is a hash of address and tuple: a tuple that comes back may have the id it had, none has another's.
   * Where the end of the first one is lost as well, nobody can tell the two apart: that is left out here.
   */
  #newId(tuple: number): number {
    const last = this.#lastIds.get(tuple);
    const id = last !== undefined && !this.#losing && this.#random.oneIn(3) ? last : ++this.#ids;
    this.#lastIds.set(tuple, id);
    return id;
  }

  #readEvent(): void {
    const event = this.#events.shift();
    if (event === undefined) return;
    if (event.kind === "upsert") this.cache.upsert(event.flow, NOW);
    else this.cache.destroy(event.flow, NOW);
  }

  #readAll(): void {
    while (this.#events.length > 0) this.#readEvent();
  }

  #loseAndDump(): void {
    this.#readAll();
    if (this.#random.oneIn(2)) {
      this.#losing = true;
      for (let i = this.#random.below(60); i > 0; i--) this.#kernelStep();
      this.#events.length = 0;
      this.#losing = false;
    }
    this.cache.beginDump();
    this.#dumpAt = 0;
  }

  /** The kernel walks on, or the cache reads what it has listed, or the sweep goes on. */
  #dumpStep(): void {
    if (this.#sweeping) {
      this.#sweeping = !this.cache.sweep(1 + this.#random.below(10));
      return;
    }
    if (this.#dumpAt < 0) return;
    if (this.#random.oneIn(2) && this.#dumpAt < this.#tuples) {
      for (let i = this.#random.below(8); i >= 0; i--) {
        const flow = this.#kernel.get(this.#dumpAt);
        if (flow !== undefined) this.#dumped.push(asMessage(this.#dumpAt, flow));
        this.#dumpAt++;
      }
      return;
    }
    const listed = this.#dumped.shift();
    if (listed !== undefined) this.cache.dumped(listed, NOW);
    else if (this.#dumpAt >= this.#tuples) {
      this.#dumpAt = -1;
      this.#sweeping = true;
    }
  }

  #abandon(): void {
    if (this.#dumpAt < 0 && !this.#sweeping) return;
    this.cache.abandonDump();
    this.#dumped.length = 0;
    this.#sweeping = false;
    // What was lost before is still missing: the next dump follows at once.
    this.#readAll();
    this.cache.beginDump();
    this.#dumpAt = 0;
  }

  /** Publishes the oldest `count` rows as one batch to the peer: new, update, destroy. */
  #publish(count: number): void {
    const slots = Array.from({ length: count }, (_, i) => this.cache.pendingSlot(i));
    assert.equal(new Set(slots).size, count, "no row is pending twice");
    const fresh = slots.filter((slot) => isNew(this.cache, slot));
    const ended = slots.filter((slot) => isDead(this.cache, slot));
    const changed = slots.filter((slot) => !isNew(this.cache, slot) && !isDead(this.cache, slot));
    const displaced = new Set<number>();
    for (const slot of fresh) {
      const tuple = tupleOf(row(this.cache, slot));
      const holder = this.#peerTuples.get(tuple);
      if (holder !== undefined && holder !== slot) {
        this.#peer.delete(holder);
        displaced.add(holder);
      }
      this.#peerTuples.set(tuple, slot);
      this.#peer.set(slot, this.#describe(slot));
    }
    for (const slot of changed) {
      assert.ok(this.#peer.has(slot), "an update is of a flow that the peer knows");
      this.#peer.set(slot, this.#describe(slot));
    }
    for (const slot of ended) {
      const known = this.#peer.delete(slot);
      assert.ok(known || displaced.has(slot), "an ended flow was announced before");
      if (known) this.#peerTuples.delete(tupleOf(row(this.cache, slot)));
    }
    this.cache.settle(count, ++this.#stamp);
    for (const slot of ended) assert.equal(this.cache.table.isLive(slot), false);
    for (const slot of [...fresh, ...changed]) {
      if (!ended.includes(slot)) assert.equal(this.cache.stamp(slot), this.#stamp);
    }
  }

  #describe(slot: number): string {
    return describeRow(row(this.cache, slot), this.cache.table.rare.get(slot)?.helper);
  }
}

/** Names the differences only: the lists are long. */
function assertSame(actual: readonly string[], expected: readonly string[], where: string): void {
  const surplus = actual.filter((line) => !expected.includes(line)).slice(0, 3);
  const missing = expected.filter((line) => !actual.includes(line)).slice(0, 3);
  assert.deepEqual(
    { surplus, missing, count: actual.length },
    { surplus: [], missing: [], count: expected.length },
    where,
  );
}

function words(tuple: number, flow: KernelFlow): Uint32Array {
  const record = tcpRecord(tuple);
  record[W_ID] = flow.id;
  record[W_STATUS] = flow.status;
  record[W_MARK] = flow.mark;
  record[W_PROTOINFO] = flow.state;
  record[W_REPLY_SRC] = flow.replySource;
  record[W_HAS] = HAS_STATUS | HAS_MARK | HAS_ID | HAS_TIMEOUT | HAS_REPLY | HAS_PROTOINFO;
  return record;
}

function asMessage(tuple: number, flow: KernelFlow): DecodedFlow {
  const rare: RareAttributes | null = flow.helper === undefined ? null : { helper: flow.helper };
  return decodedFlow(words(tuple, flow), rare);
}

function tupleOf(record: Uint32Array): string {
  return `${record[W_ORIG_SRC]}/${record[W_ORIG_L4]}`;
}

function describeRow(record: Uint32Array, helper: string | undefined): string {
  const state = [W_ID, W_STATUS, W_MARK, W_PROTOINFO, W_REPLY_SRC].map((word) => record[word]);
  return `${tupleOf(record)} ${state.join(" ")} ${helper ?? "-"}`;
}

describe("InternalCache with events and dumps in any order", () => {
  for (let seed = 1; seed <= 20; seed++) {
    it(`agrees with kernel and peer (seed ${seed})`, () => {
      const simulation = new Simulation(seed, seed % 2 === 0 ? 12 : 150);
      for (let round = 0; round < 10; round++) {
        for (let i = 0; i < 2000; i++) simulation.step();
        simulation.finish();
      }
    });
  }
});
