/** Requests that are limited to flows or expectations, and those that are answered before their work is done. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import type { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { BatchResult, DumpResult } from "../../src/ctnetlink/request-socket.js";
import { type Expectation, expectationFromJson } from "../../src/flow/expectation.js";
import { DecodedFlow } from "../../src/flow/record.js";
import { createHandlers, createObserverHandlers, type NodeParts } from "../../src/sync/handlers.js";
import type { Follower } from "../../src/sync/in/follower.js";
import type { FirewallNode } from "../../src/sync/node.js";
import { sampleExpectation, sampleRecord } from "../support/control-handlers.js";
import { waitUntil } from "../support/kernel-namespace.js";
import { EMPTY_KERNEL, firstStart, plainStream, testNode } from "../support/test-node.js";

const nowSeconds = Math.floor(Date.now() / 1000);
const IPCTNL_MSG_CT_DELETE = 2;
const IPCTNL_MSG_EXP_DELETE = 2;

/** A node with a flow and an expectation in each cache; `sent` is what its kernel was asked: `ct new`, `exp delete`, … */
class Node {
  readonly sent: string[] = [];
  readonly logged: string[] = [];
  readonly internal = new InternalCache(100);
  readonly external: ExternalCache;
  readonly parts: NodeParts;
  /** The kernel answers when this has resolved. */
  answers: Promise<void> = Promise.resolve();
  snapshots = 0;
  /** Ends the snapshot that is being written. */
  written: ((confirmed: boolean) => void) | null = null;
  /** Of the one follower. */
  exact: ((inTime: boolean) => void) | null = null;
  resyncs = 0;
  readonly #flow = new DecodedFlow();
  readonly #expected: Expectation;
  readonly #node: FirewallNode;

  constructor() {
    const log = pino({ level: "info" }, { write: (line: string) => this.logged.push(JSON.parse(line).msg as string) });
    this.#flow.words.set(sampleRecord(1));
    this.#expected = { ...expectationFromJson(sampleExpectation("kernel", 0)), master: sampleRecord(1) };
    const clock = { wallMs: () => nowSeconds * 1000 };
    const list = <T>(item: T, visit: (item: T) => void): DumpResult => {
      visit(item);
      return { count: 1, malformed: 0, interrupted: false };
    };
    this.#node = testNode(
      {
        kernel: {
          ...EMPTY_KERNEL,
          send: (batch) => this.#send(batch),
          dump: async (_options, visit) => list(this.#flow, visit),
          dumpExpectations: async (_options, visit) => list(this.#expected, visit),
        },
        past: firstStart(clock, this.internal),
        ownStream: plainStream({
          publish: () => 0,
          publishAcked: () => this.#publishAcked(),
          backlog: { bytes: 0 },
        }),
        clock,
        log,
      },
      { helpers: true },
    );
    this.external = this.#node.external;
    this.#fill();
    const follower = {
      node: "fw2",
      state: { connected: true },
      resync: () => this.resyncs++,
      exact: () =>
        new Promise<boolean>((resolve) => {
          this.exact = resolve;
        }),
    };
    this.parts = { ...this.#node, injects: false, followers: [follower as unknown as Follower] };
  }

  #fill(): void {
    this.internal.upsert(this.#flow, nowSeconds);
    this.internal.expectations.upsert(this.#expected, nowSeconds);
    const origin = this.external.origin("fw2");
    const theirs = sampleRecord(2);
    theirs[0]! ^= 1;
    this.external.upsert(origin, 0, theirs, null, 1);
    const expectation = expectationFromJson(sampleExpectation("kernel", 1));
    this.external.expectations.upsert(
      "fw2",
      { expectation, createdSeconds: nowSeconds, updatedSeconds: nowSeconds },
      1,
    );
  }

  get counters() {
    return this.#node.replicator.counters;
  }

  /** The first mark of a snapshot waits for `written`; the last one is confirmed at once. */
  async #publishAcked(): Promise<number | null> {
    if (this.written !== null) {
      this.written = null;
      return 1;
    }
    this.snapshots++;
    const isConfirmed = await new Promise<boolean>((resolve) => {
      this.written = resolve;
    });
    if (isConfirmed) return 1;
    this.written = null;
    return null;
  }

  async #send(batch: RequestBatch): Promise<BatchResult> {
    const bytes = batch.bytes(1, 1);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at < bytes.length; at += (view.getUint32(at, true) + 3) & ~3) {
      const type = view.getUint16(at + 4, true);
      const deletes = (type & 0xff) === (type >>> 8 === 2 ? IPCTNL_MSG_EXP_DELETE : IPCTNL_MSG_CT_DELETE);
      this.sent.push(`${type >>> 8 === 2 ? "exp" : "ct"} ${deletes ? "delete" : "new"}`);
    }
    await this.answers;
    return { sent: batch.count, errors: [], unknown: 0 };
  }
}

const quiet = (): void => {};
const refuse = (): never => {
  throw new Error("no test asks for a report");
};
const REPORTS = { status: refuse, stats: refuse };
const REHEARSAL = { run: refuse };

test("a commit of both, of flows, of expectations", async () => {
  for (const [only, sent] of [
    [undefined, ["ct new", "exp new", "exp new"]],
    ["ct", ["ct new"]],
    // The second sets its timeout.
    ["expect", ["exp new", "exp new"]],
  ] as const) {
    const node = new Node();
    const report = await createHandlers(node.parts, REPORTS, REHEARSAL).commit(quiet, only);
    assert.deepEqual(node.sent, sent, only);
    assert.equal(report.committed, only === "expect" ? 0 : 1);
    assert.equal(report.expectations?.committed, only === "ct" ? undefined : 1);
  }
});

test("a flush of the external cache leaves the books of mode inject alone", async () => {
  for (const injects of [false, true]) {
    const { parts } = new Node();
    const before = parts.external.table.size;
    for (const table of ["external", "caches"] as const) {
      const report = await createHandlers({ ...parts, injects }, REPORTS, REHEARSAL).flush(table);
      assert.equal(report.external, injects || table === "caches" ? 0 : before);
    }
    assert.equal(parts.external.table.size, injects ? before : 0);
  }
});

test("a flush of the kernel's flows, of its expectations, of both", async () => {
  for (const [only, sent] of [
    [undefined, ["ct delete", "exp delete"]],
    ["ct", ["ct delete"]],
    ["expect", ["exp delete"]],
  ] as const) {
    const node = new Node();
    const report = await createHandlers(node.parts, REPORTS, REHEARSAL).flush("kernel", only);
    assert.deepEqual(node.sent, sent, only);
    assert.equal(report.kernel, sent.length);
    assert.equal(node.counters.kernelFlushes, 1);
  }
});

test("a flush of the external cache waits for a commit that takes from it", async () => {
  const node = new Node();
  const handlers = createHandlers(node.parts, REPORTS, REHEARSAL);
  let answer = (): void => {};
  node.answers = new Promise((resolve) => {
    answer = resolve;
  });
  const commit = handlers.commit(quiet);
  const flush = handlers.flush("caches");
  await waitUntil(() => node.sent.length > 0, "the commit's request");
  assert.equal(node.external.table.size, 1);
  answer();
  assert.equal((await commit).expectations?.committed, 1);
  assert.deepEqual(await flush, { internal: 1, external: 1, kernel: null });
  assert.equal(node.external.table.size, 0);
});

test("a bulk that is not waited for is answered at once, goes on once, and says in the log how it went", async () => {
  const node = new Node();
  const handlers = createHandlers(node.parts, REPORTS, REHEARSAL);
  for (let i = 0; i < 3; i++) assert.deepEqual(await handlers.bulk(quiet, false), { flows: 1, durationMs: 0 });
  assert.equal(node.snapshots, 1);
  node.written?.(false);
  await waitUntil(() => node.logged.includes("bulk failed"), "word of the failure");
  await handlers.bulk(quiet, false);
  assert.equal(node.snapshots, 2);
  node.written?.(true);
  await waitUntil(() => node.logged.includes("bulk"), "word of the success");
});

test("a resync with the peers that is not waited for", async () => {
  for (const create of [createHandlers, createObserverHandlers]) {
    const node = new Node();
    const handlers = create(node.parts, REPORTS, REHEARSAL);
    const answer = { source: "peers", flows: 1, changed: 0, durationMs: 0 };
    assert.deepEqual(await handlers.resync("peers", quiet, false), answer);
    assert.deepEqual(await handlers.resync("peers", quiet, false), answer);
    assert.equal(node.resyncs, 1);
    node.exact?.(false);
    await waitUntil(() => node.logged.includes("resync peers failed"), "word of the failure");
  }
});
