/** InternalCache between a kernel that changes, a dump that walks it and a peer that is told, in any order. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InternalCache } from "../../src/cache/internal.js";
import {
  type DecodedFlow,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  type RareAttributes,
  RECORD_WORDS,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTOINFO,
  W_REPLY_SRC,
  W_STATUS,
} from "../../src/flow/record.js";
import type { Claim } from "../../src/ownership/claim.js";
import { PUBLISH_DESTROY, PUBLISH_MOVED, PUBLISH_NEW, PUBLISH_UPDATE } from "../../src/ownership/state.js";
import { decodedFlow, Random, tcpRecord } from "../support/records.js";

const NOW = 1_800_000_000;

function row(cache: InternalCache, slot: number): Uint32Array {
  const base = cache.table.base(slot);
  return cache.table.slab(slot).slice(base, base + RECORD_WORDS);
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
 * A kernel table, its event socket, a dump on another socket and a peer, around one cache. Other nodes claim flows of it at
 * any time, and a dump may meet claims of flows that the cache does not know. Events come in their order,
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
  /** Tuples that another node claimed, and no event since: the last claim of each. */
  readonly #claims = new Map<string, Claim>();
  readonly tally = { moved: 0, unsaid: 0, takenBack: 0, takenInSuperseded: 0 };
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
    else if (what >= 98) this.#claim();
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
    const own: string[] = [];
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (!this.cache.isFlow(slot)) continue;
      cached.push(this.#describe(slot));
      if (!this.cache.isSuperseded(slot)) own.push(this.#describe(slot));
      const claimed = this.#claims.has(tupleOf(row(this.cache, slot)));
      assert.ok(!claimed || this.cache.isSuperseded(slot), "a claim holds until something happens to the flow here");
    }
    assertSame(cached, expected, `cache ${when}`);
    assertSame([...this.#peer.values()], own, `peer ${when}`);
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
    if (change === 0) flow.status |= this.#random.below(8);
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
    if (event.kind === "upsert") {
      const slot = this.cache.upsert(event.flow, NOW);
      assert.ok(!this.cache.isSuperseded(slot), "a local event is a claim");
      if (this.#claims.delete(tupleOf(event.flow.words))) this.tally.takenBack++;
    } else if (this.cache.destroy(event.flow, NOW) >= 0) this.#claims.delete(tupleOf(event.flow.words));
  }

  /** Another node claims a flow that the cache has; claims come in any order. */
  #claim(): void {
    const { table } = this.cache;
    if (table.slotsUsed === 0) return;
    const slot = this.#random.below(table.slotsUsed);
    if (!this.cache.isFlow(slot)) return;
    const owner = this.#owner();
    this.cache.supersede(slot, owner);
    const tuple = tupleOf(row(this.cache, slot));
    const known = this.#claims.get(tuple);
    if (known === undefined || known.stamp < owner.stamp) this.#claims.set(tuple, owner);
  }

  #owner(): Claim {
    return { node: this.#random.pick(["fw2", "fw3"]), stamp: this.#random.word() };
  }

  #takeDumped(listed: DecodedFlow): void {
    const claimed = this.#random.oneIn(4) ? this.#owner() : null;
    const carries = this.#random.oneIn(20);
    const tuple = tupleOf(listed.words);
    const before = this.cache.table.find(listed.words, 0);
    const slot = this.cache.dumped(listed, NOW, claimed, carries);
    if (slot === before || slot < 0) {
      if (slot >= 0 && !this.cache.isSuperseded(slot)) this.#claims.delete(tuple);
      return;
    }
    assert.equal(this.cache.isSuperseded(slot), claimed !== null && !carries, "of a flow that was not known");
    this.#claims.delete(tuple);
    if (claimed !== null && !carries) this.tally.takenInSuperseded++;
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
    if (listed !== undefined) this.#takeDumped(listed);
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
    const having = (bit: number): number[] => slots.filter((slot) => (this.cache.publication(slot) & bit) !== 0);
    const [fresh, changed, ended] = [having(PUBLISH_NEW), having(PUBLISH_UPDATE), having(PUBLISH_DESTROY)];
    const moved = having(PUBLISH_MOVED);
    const over = slots.filter((slot) => !this.cache.isFlow(slot));
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
    this.#publishMoved(moved, displaced);
    for (const slot of slots) {
      if (this.cache.publication(slot) !== 0) continue;
      this.tally.unsaid++;
      assert.ok(!this.#peer.has(slot), "nothing is left unsaid of a flow that the peer knows");
    }
    this.cache.settle(count, ++this.#stamp);
    for (const slot of over) assert.equal(this.cache.table.isLive(slot), false);
    for (const slot of [...fresh, ...changed]) {
      if (!ended.includes(slot)) assert.equal(this.cache.stamp(slot), this.#stamp);
    }
  }

  /** The peer gives up what is another node's now. */
  #publishMoved(moved: readonly number[], displaced: ReadonlySet<number>): void {
    for (const slot of moved) {
      this.tally.moved++;
      assert.notEqual(this.cache.newerOwner(slot), undefined);
      const known = this.#peer.delete(slot);
      assert.ok(known || displaced.has(slot), "only what was told is given up");
      const tuple = tupleOf(row(this.cache, slot));
      if (known) this.#peerTuples.delete(tuple);
      if (this.cache.isFlow(slot))
        assert.deepEqual(this.cache.newerOwner(slot), this.#claims.get(tuple), "to the newest");
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
      for (const [what, count] of Object.entries(simulation.tally)) assert.ok(count > 0, `${what} took place`);
    });
  }
});
