/** Expectations through journal and applier, and the commit of what came out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import { EVENT_DESTROY, EVENT_NEW, EVENT_UPDATE } from "../../src/ctnetlink/event-socket.js";
import { decodeExpectation } from "../../src/ctnetlink/expectation.js";
import type { BatchResult, DumpResult } from "../../src/ctnetlink/request-socket.js";
import type { HybridClock } from "../../src/flow/clock.js";
import {
  type Expectation,
  expectationFromJson,
  expectationKey,
  expectationToJson,
} from "../../src/flow/expectation.js";
import { recordFromFlow } from "../../src/flow/flow.js";
import {
  DecodedFlow,
  HAS_ID,
  type RareAttributes,
  W_CREATED,
  W_HAS,
  W_ID,
  W_ORIG_L4,
  W_TIMEOUT,
  W_UPDATED,
  W_ZONE,
} from "../../src/flow/record.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import { Applier } from "../../src/sync/in/applier.js";
import type { Journal } from "../../src/sync/out/journal.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import { SequenceWatch } from "../../src/sync/out/sequence-watch.js";
import type { HelperNames } from "../../src/sync/ports/kernel.js";
import { commitExternal } from "../../src/sync/takeover/commit.js";
import { commitExpectations } from "../../src/sync/takeover/expectation-commit.js";
import { sampleExpectation } from "../support/control-handlers.js";
import { EMPTY_KERNEL, firstStart, plainStream, testNode } from "../support/test-node.js";

const log = pino({ level: "silent" });
const ENOENT = 2;
const EEXIST = 17;
const EOPNOTSUPP = 95;
let nowMs = 1_769_860_800_000;
const clock = { wallMs: () => nowMs };
const nowSeconds = (): number => Math.floor(nowMs / 1000);

/** The flow of the sample expectations' master. */
function master(zone = 0): DecodedFlow {
  const flow = new DecodedFlow();
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "tcp",
    orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40_000, dport: 21 },
    reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 21, dport: 40_000 },
    status: ["SEEN_REPLY", "CONFIRMED"],
    state: "ESTABLISHED",
    timeoutSeconds: 1000,
    zone,
  });
  flow.words.set(words);
  flow.rare = { helper: "ftp" };
  return flow;
}

function sample(number: number, timeoutSeconds = 300): Expectation {
  return { ...expectationFromJson(sampleExpectation("kernel", number)), timeoutSeconds, id: 5000 + number };
}

/** One node's way out; `messages` is its stream. */
class Node {
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly messages: { kind: MessageKind; payload: Uint8Array }[] = [];
  readonly hybridClock: HybridClock;
  readonly journal: Journal;
  readonly replicator: Replicator;
  /** What a dump of its kernel lists. */
  flows: DecodedFlow[] = [];
  expected: Expectation[] = [];

  #list<T>(items: readonly T[], visit: (item: T) => void): DumpResult {
    for (const item of items) visit(item);
    return { count: items.length, malformed: 0, interrupted: false };
  }

  constructor(name: string, helpers: HelperNames | null = true) {
    const publish = (kind: MessageKind, _number: number, payload: Uint8Array): number =>
      this.messages.push({ kind, payload: payload.slice() });
    const kernel = {
      ...EMPTY_KERNEL,
      portId: 7,
      dump: async (_options: object, visit: (flow: DecodedFlow) => void) => this.#list(this.flows, visit),
      dumpExpectations: async (_options: object, visit: (expectation: Expectation) => void) =>
        this.#list(this.expected, visit),
    };
    const past = firstStart(clock, new InternalCache(1000));
    const sink = { publish, publishAcked: async (...message: Parameters<typeof publish>) => publish(...message) };
    const ownStream = plainStream({ ...sink, backlog: { bytes: 0 } });
    const node = testNode({ kernel, past, ownStream, clock }, { node: name, helpers });
    this.internal = past.internal;
    this.hybridClock = past.hybridClock;
    this.external = node.external;
    this.journal = node.journal;
    this.replicator = node.replicator;
  }

  /** What this node applies of another; `seen` messages are passed over. */
  reader(of: Node, name: string): () => void {
    const local = {
      node: "",
      internal: this.internal,
      sinceStamp: 0,
    };
    const applier = new Applier({ node: name, external: this.external, local, hybridClock: this.hybridClock, log });
    let seen = 0;
    return () => {
      for (; seen < of.messages.length; seen++) assert.ok(applier.apply(of.messages[seen]!, nowMs));
    };
  }
}

test("new, ended and snapshots arrive, with what is left of the time", async () => {
  const a = new Node("a");
  const b = new Node("b");
  const read = b.reader(a, "a");
  a.replicator.onEvent(EVENT_NEW, master(), 0);
  for (const number of [1, 2]) a.replicator.onExpectation(EVENT_NEW, sample(number), 0);
  a.journal.writePending();
  nowMs += 10_000;
  a.replicator.onExpectation(EVENT_DESTROY, sample(1), 0);
  a.journal.writePending();
  read();
  const rows = [...b.external.expectations.rows()];
  const { id: _, ...wanted } = expectationToJson(sample(2));
  assert.deepEqual(
    rows.map((row) => expectationToJson(row.expectation)),
    [wanted],
  );
  assert.equal(rows[0]!.owner, "a");

  const late = new Node("c");
  const lateRead = late.reader(a, "a");
  await a.journal.writeSnapshot(new AbortController().signal);
  late.external.expectations.upsert(
    "a",
    { expectation: sample(9), createdSeconds: 0, updatedSeconds: nowSeconds() },
    1,
  );
  a.messages.splice(0, 2);
  lateRead();
  const [row] = late.external.expectations.rows();
  assert.equal(late.external.expectations.size, 1);
  assert.equal(expectationKey(row!.expectation), expectationKey(sample(2)));
  assert.equal(row!.expectation.timeoutSeconds, 290);
  assert.equal(nowSeconds() - row!.createdSeconds, 10);
});

test("an expectation that ends while its master has yet to be read has ended, whatever a peer has said", () => {
  for (const zone of [0, 9]) {
    for (const moves of [false, true]) {
      const a = new Node("a");
      const b = new Node("b");
      const read = b.reader(a, "a");
      a.replicator.onEvent(EVENT_NEW, master(zone), 0);
      a.replicator.onExpectation(EVENT_NEW, sample(1), 0);
      a.journal.writePending();
      read();
      assert.equal(b.external.expectations.size, 1);
      // A commit writes both. The kernel reports the expectation, and its master only with the dump that follows.
      b.replicator.onExpectation(EVENT_NEW, sample(1), 7);
      // A packet of the master, meanwhile, makes it this node's own.
      if (moves) b.replicator.onEvent(EVENT_UPDATE, master(zone), 0);
      b.replicator.onExpectation(EVENT_DESTROY, sample(1), 0);
      const sizes = [b.external.expectations.size, b.internal.expectations.size];
      assert.deepEqual(sizes, [0, 0], `zone ${zone}, ${moves}`);
    }
  }
});

test("polls bring expectations as events would: new ones are this node's own, those that are gone have ended", async () => {
  const a = new Node("a");
  const b = new Node("b");
  const [readA, readB] = [b.reader(a, "a"), a.reader(b, "b")];
  const keys = (rows: Iterable<{ expectation: Expectation }>): string[] =>
    [...rows].map(({ expectation }) => expectationKey(expectation)).sort();
  const keysOf = (...numbers: number[]): string[] => numbers.map((number) => expectationKey(sample(number))).sort();
  const poll = async (node: Node, ...numbers: number[]): Promise<void> => {
    node.flows = [master()];
    node.expected = numbers.map((number) => sample(number));
    assert.equal(await node.replicator.pollKernel(), true);
    readA();
    readB();
  };
  await poll(a, 1, 2);
  assert.deepEqual(keys(b.external.expectations.rows()), keysOf(1, 2));
  const told = a.messages.length;
  await poll(a, 1, 2);
  assert.equal(a.messages.length, told, "the same as before is no news");
  await poll(b, 2);
  assert.deepEqual(
    [keys(a.external.expectations.rows()), keys(b.external.expectations.rows())],
    [keysOf(2), keysOf(1)],
  );
  await poll(a, 3);
  assert.deepEqual(keys(b.external.expectations.rows()), keysOf(3));
  assert.deepEqual(keys(a.external.expectations.rows()), keysOf(2));
});

test("more expectations than a message holds are told in several, as events and in a snapshot", async () => {
  const a = new Node("a");
  const b = new Node("b");
  const read = b.reader(a, "a");
  a.replicator.onEvent(EVENT_NEW, master(), 0);
  for (let number = 0; number < 600; number++) a.replicator.onExpectation(EVENT_NEW, sample(number), 0);
  a.journal.writePending();
  assert.equal(a.messages.length, 3);
  await a.journal.writeSnapshot(new AbortController().signal);
  read();
  assert.equal(b.external.expectations.size, 600);
  assert.equal(b.external.expectations.counters.sweptBySnapshot, 0);
});

test("only chosen helpers, and only expectations of flows that are replicated; the zone is the master's", () => {
  const a = new Node("a", ["sip"]);
  a.replicator.onEvent(EVENT_NEW, master(), 0);
  a.replicator.onExpectation(EVENT_NEW, sample(1), 0);
  assert.equal(a.internal.expectations.size, 0);
  const b = new Node("b", ["ftp"]);
  b.replicator.onExpectation(EVENT_NEW, sample(1), 0);
  assert.equal(b.internal.expectations.size, 0);
  assert.equal(b.replicator.counters.expectationsFiltered, 1);
  b.replicator.onEvent(EVENT_NEW, master(3), 0);
  const [row] = b.internal.expectations.rows();
  assert.equal(row!.expectation.tuple[W_ZONE], 0x30003);
});

test("a reload begins and ends the replication of expectations", async () => {
  const a = new Node("a", null);
  a.flows = [master()];
  a.expected = [sample(1)];
  a.replicator.onEvent(EVENT_NEW, master(), 0);
  a.replicator.onExpectation(EVENT_NEW, sample(2), 0);
  assert.equal(a.internal.expectations.size, 0);
  for (const [helpers, size] of [
    [["ftp"], 1],
    [null, 0],
    [true, 1],
  ] as const) {
    a.replicator.setHelpers(helpers);
    assert.equal(await a.replicator.resyncKernel(), true);
    assert.equal(a.internal.expectations.size, size);
  }
});

test("a helper is chosen by the beginning of its name, as in conntrackd: it has its port in it where that is another", () => {
  for (const [chosen, helper, taken] of [
    ["sip", "sip-5061", 1],
    ["SIP", "sip", 1],
    ["sip-5061", "sip", 0],
    ["ftp", "tftp", 0],
  ] as const) {
    const node = new Node("a", [chosen]);
    node.replicator.onEvent(EVENT_NEW, master(), 0);
    node.replicator.onExpectation(EVENT_NEW, { ...sample(1), helper }, 0);
    assert.equal(node.internal.expectations.size, taken, `${chosen} ${helper}`);
  }
});

test("what a flow's first packet makes its helper expect is told before the flow, and waits for it", () => {
  const a = new Node("a");
  for (const number of [1, 2]) a.replicator.onExpectation(EVENT_NEW, sample(number), 0);
  a.replicator.onExpectation(EVENT_DESTROY, sample(1), 0);
  const other = master();
  other.words[W_ORIG_L4]! ^= 0x10000;
  a.replicator.onEvent(EVENT_NEW, other, 0);
  assert.equal(a.internal.expectations.size, 0);
  a.replicator.onEvent(EVENT_NEW, master(3), 0);
  const [row, ...more] = a.internal.expectations.rows();
  assert.deepEqual(more, []);
  assert.equal(row!.expectation.id, 5002);
  assert.equal(row!.expectation.tuple[W_ZONE], 0x30003);
  // Once only, and as many as are kept.
  a.replicator.onExpectation(EVENT_DESTROY, row!.expectation, 0);
  a.replicator.onEvent(EVENT_NEW, master(3), 0);
  assert.equal(a.internal.expectations.size, 0);
  const b = new Node("b");
  for (let number = 0; number < 300; number++) b.replicator.onExpectation(EVENT_NEW, sample(number), 0);
  b.replicator.onEvent(EVENT_NEW, master(), 0);
  assert.equal(b.internal.expectations.size, 256);
});

test("a peer's newer claim supersedes the own one; the own event after that takes it back", () => {
  const a = new Node("a");
  const b = new Node("b");
  const readA = b.reader(a, "a");
  const readB = a.reader(b, "b");
  for (const node of [a, b]) node.replicator.onEvent(EVENT_NEW, master(), 0);
  a.replicator.onExpectation(EVENT_NEW, sample(1), 0);
  a.journal.writePending();
  readA();
  nowMs += 1000;
  // What b commits comes back as an event of its own kernel.
  b.replicator.onExpectation(EVENT_NEW, sample(1), 7);
  assert.equal(b.external.expectations.size, 0);
  b.journal.writePending();
  readB();
  assert.equal(a.internal.expectations.superseded(false).length, 1);
  assert.equal(a.external.expectations.size, 1);
  b.replicator.onExpectation(EVENT_DESTROY, sample(1), 0);
  b.journal.writePending();
  readB();
  assert.equal(a.internal.expectations.superseded(true).length, 1);
  nowMs += 1000;
  a.replicator.onExpectation(EVENT_NEW, sample(1), 0);
  a.journal.writePending();
  readA();
  assert.equal(b.external.expectations.size, 1);
});

test("a lookup of the master brings the sequence adjustment, which no event tells of", () => {
  const a = new Node("a");
  const flow = master();
  flow.words[W_HAS]! |= HAS_ID;
  flow.words[W_ID] = 77;
  a.replicator.onEvent(EVENT_NEW, flow, 0);
  a.journal.writePending();
  const looked = master();
  looked.words.set(flow.words);
  looked.words[W_TIMEOUT] = 300;
  assert.equal(a.internal.refresh(looked, nowSeconds()), false, "nothing new");
  const seqadjOrig = { correctionPos: 5, offsetBefore: 0, offsetAfter: 2 };
  looked.rare = { helper: "ftp", seqadjOrig };
  looked.words[W_ID] = 78;
  assert.equal(a.internal.refresh(looked, nowSeconds()), false, "another flow");
  looked.words[W_ID] = 77;
  assert.equal(a.internal.refresh(looked, nowSeconds()), true);
  const slot = a.internal.table.find(flow.words, 0);
  assert.deepEqual(a.internal.table.rare.get(slot), { helper: "ftp", seqadjOrig });
  assert.equal(a.internal.table.slab(slot)[a.internal.table.base(slot) + W_TIMEOUT], 1000);
  assert.equal(a.journal.writePending(), 1);
  a.internal.supersede(slot, { node: "b", stamp: Number.MAX_SAFE_INTEGER });
  assert.equal(a.internal.refresh(master(), nowSeconds()), false, "a peer's");
});

test("masters are looked up once each, a moment after their helper expected something", async () => {
  const asked: Uint32Array[] = [];
  const found: DecodedFlow[] = [];
  let settle: () => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const watch = new SequenceWatch({
    lookUp: async (words) => {
      asked.push(words);
      if (asked.length === 1) throw new Error("busy");
      if (asked.length === 2) return null;
      return master();
    },
    found: (flow) => {
      found.push(flow);
      settle();
    },
    log,
  });
  const masters = [1, 2, 3].map((port) => {
    const { words } = master();
    words[W_ORIG_L4] = port;
    return words;
  });
  for (const words of [...masters, ...masters]) watch.note(words);
  await done;
  assert.deepEqual([asked.length, found.length], [3, 1]);
  watch.stop();
  watch.note(masters[0]!);
  assert.deepEqual(watch.counters, { mastersLookedUp: 3, mastersDropped: 0 });
});

/** Answers as the kernel does to the requests of a commit. */
class Kernel {
  readonly expected = new Map<string, Expectation>();
  readonly refuses = new Map<string, number>();
  readonly timeouts: number[] = [];
  readonly flows: (RareAttributes | null)[] = [];
  readonly get = EMPTY_KERNEL.get;
  masters = false;
  helpers = false;

  async send(batch: RequestBatch): Promise<BatchResult> {
    const bytes = batch.bytes(1, 1);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const errors: BatchResult["errors"] = [];
    let index = 0;
    for (let at = 0; at < bytes.length; index++) {
      const length = view.getUint32(at, true);
      const type = view.getUint16(at + 4, true);
      const creates = (view.getUint16(at + 6, true) & 0x400) !== 0;
      const errno =
        type >>> 8 === 2
          ? this.#expectation(bytes, at + 16, at + length, type & 0xff, creates)
          : this.#flow(bytes, at + 16, at + length);
      if (errno !== 0) errors.push({ index, errno });
      at += (length + 3) & ~3;
    }
    return { sent: batch.count, errors, unknown: 0 };
  }

  #flow(bytes: Uint8Array, start: number, end: number): number {
    const flow = new DecodedFlow();
    assert.equal(decodeConntrack(bytes, start, end, flow), 0);
    if (flow.rare?.helper !== undefined && !this.helpers) return EOPNOTSUPP;
    if (flow.rare?.master !== undefined && !this.masters) return ENOENT;
    this.flows.push(flow.rare);
    return 0;
  }

  #expectation(bytes: Uint8Array, start: number, end: number, type: number, creates: boolean): number {
    const decoded = decodeExpectation(bytes, start, end);
    if (typeof decoded === "number") {
      // A delete names the tuple only.
      assert.equal(type, 2);
      const [first] = this.expected.keys();
      return first !== undefined && this.expected.delete(first) ? 0 : ENOENT;
    }
    const key = expectationKey(decoded);
    const refusal = this.refuses.get(key);
    if (creates) {
      if (refusal !== undefined) return refusal;
      if (this.expected.has(key)) return EEXIST;
      this.expected.set(key, decoded);
      return 0;
    }
    this.timeouts.push(decoded.timeoutSeconds);
    return this.expected.has(key) ? 0 : ENOENT;
  }
}

test("a commit creates what has time left, replaces what is there, and counts what the kernel refuses", async () => {
  const { expectations } = new ExternalCache(10);
  for (const [number, timeout] of [
    [1, 300],
    [2, 100],
    [3, 5],
    [4, 300],
  ] as const) {
    const row = { expectation: sample(number, timeout), createdSeconds: 0, updatedSeconds: nowSeconds() - 10 };
    expectations.upsert("a", row, 1);
  }
  const kernel = new Kernel();
  kernel.expected.set(expectationKey(sample(2)), sample(2));
  kernel.refuses.set(expectationKey(sample(4)), ENOENT);
  assert.deepEqual(await commitExpectations(expectations, kernel, nowSeconds()), {
    committed: 2,
    failed: { ENOENT: 1 },
  });
  assert.deepEqual(kernel.timeouts, [290, 90]);
  assert.deepEqual([...kernel.expected.keys()].sort(), [1, 2].map((n) => expectationKey(sample(n))).sort());
  assert.equal(expectations.counters.expired, 1);
});

test("a flow goes in without the master or the helper that the kernel lacks, and is counted", async () => {
  const commit = async (masters: boolean, helpers: boolean) => {
    const external = new ExternalCache(10);
    const { words } = master();
    words[W_UPDATED] = nowSeconds();
    words[W_CREATED] = nowSeconds();
    external.upsert(external.origin("a"), 1, words, { helper: "ftp" }, 1);
    words[W_ORIG_L4]!++;
    const rare = {
      master: master().words.slice(),
      helper: "ftp",
      seqadjOrig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 3 },
    };
    external.upsert(external.origin("a"), 2, words, rare, 1);
    const kernel = new Kernel();
    kernel.masters = masters;
    kernel.helpers = helpers;
    const options = { timeoutSeconds: null, liberal: true, nowSeconds: nowSeconds() };
    const { committed, failed, withoutMaster, withoutHelper } = await commitExternal(
      external,
      kernel,
      () => true,
      options,
      () => undefined,
    );
    const related = kernel.flows.at(-1);
    assert.deepEqual(related?.seqadjOrig, rare.seqadjOrig);
    assert.equal(external.table.rare.size, 2, "the cache keeps what its owner says");
    return [
      committed,
      failed,
      withoutMaster,
      withoutHelper,
      Object.keys(related ?? {})
        .sort()
        .join(),
    ];
  };
  assert.deepEqual(await commit(true, true), [2, {}, undefined, undefined, "helper,master,seqadjOrig"]);
  assert.deepEqual(await commit(false, true), [2, {}, 1, undefined, "helper,seqadjOrig"]);
  assert.deepEqual(await commit(true, false), [2, {}, undefined, 2, "master,seqadjOrig"]);
  assert.deepEqual(await commit(false, false), [2, {}, 1, 2, "seqadjOrig"]);
});
