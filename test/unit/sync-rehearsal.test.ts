/** A rehearsal between two nodes: what one asks, and what the other answers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import type { RehearsalReport } from "../../src/control/protocol.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { BatchResult } from "../../src/ctnetlink/request-socket.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { DecodedFlow, W_ID, W_MARK } from "../../src/flow/record.js";
import { decodeCheckAnswer, encodeCheckAnswer } from "../../src/stream/format/flow-check.js";
import { FORMAT_1, FORMATS } from "../../src/stream/format/versions.js";
import { FlowCheck } from "../../src/sync/rehearsal/flow-check.js";
import { Rehearsal } from "../../src/sync/rehearsal/rehearsal.js";
import { KINDS, tcp } from "../support/kernel-flows.js";
import { requestsOf } from "../support/sim-kernel.js";
import { EMPTY_KERNEL } from "../support/test-node.js";

const ENOENT = 2;
const EOPNOTSUPP = 95;

/** The node that works, whose kernel has these flows, and a backup that has read of them what `read` says. */
class Pair {
  readonly internal = new InternalCache(100_000);
  readonly kernel: DecodedFlow[] = [];
  readonly external = new ExternalCache(100_000);
  readonly helpersAsked: string[] = [];
  room: number | null = 1000;
  knowsHelpers = true;
  filter: (words: Uint32Array, base: number) => boolean = () => true;
  /** Called before each check. */
  meanwhile: () => void = () => undefined;
  asked = 0;
  readonly check = new FlowCheck({
    internal: new InternalCache(10),
    external: this.external,
    kernel: { send: (batch) => this.#send(batch) },
    needed: () => this.external.table.size,
    room: () => this.room,
    formats: FORMATS,
  });
  readonly rehearsal = new Rehearsal({
    node: "fw1",
    internal: this.internal,
    kernel: {
      ...EMPTY_KERNEL,
      dump: async (_options, visit) => {
        for (const flow of this.kernel) visit(flow);
        return { count: this.kernel.length, malformed: 0, interrupted: false };
      },
      get: async (words, base) => this.kernel.find((flow) => same(flow.words, words.subarray(base))) ?? null,
    },
    peers: () => [{ node: "fw2", check: (payload) => this.#answer(payload) }],
    keeps: () => this.filter,
    catchUp: async () => undefined,
    format: () => FORMAT_1,
    envelope: () => ({ node: "fw1", epoch: 1, number: 7, stamp: 99, wallMs: 1_800_000_000_000 }),
    signal: new AbortController().signal,
  });

  constructor(flows: readonly Flow[]) {
    for (const [id, flow] of flows.entries()) {
      const decoded = new DecodedFlow();
      const { words, rare } = recordFromFlow(flow);
      decoded.words.set(words);
      decoded.words[W_ID] = id + 1;
      decoded.rare = rare;
      this.kernel.push(decoded);
      this.internal.upsert(decoded, 0);
    }
  }

  /** The backup reads of the flow number `at`. */
  read(at: number, change: (words: Uint32Array) => void = () => undefined): void {
    const { words, rare } = this.kernel[at]!;
    const copy = words.slice();
    change(copy);
    this.external.upsert(this.external.origin("fw1"), at, copy, rare, 1);
  }

  async #answer(payload: Uint8Array): Promise<string> {
    this.asked++;
    this.meanwhile();
    const answer = await this.check.answer(payload);
    assert.ok(answer !== null, "it is a check");
    return encodeCheckAnswer(answer);
  }

  async #send(batch: RequestBatch): Promise<BatchResult> {
    const [request] = requestsOf(batch.bytes(1, 1));
    assert.equal(request?.type, "create");
    assert.ok(request.flow.rare?.master !== undefined, "what is asked for can never be created");
    this.helpersAsked.push(request.flow.rare.helper ?? "");
    return { sent: 1, errors: [{ index: 0, errno: this.knowsHelpers ? ENOENT : EOPNOTSUPP }], unknown: 0 };
  }

  run(): Promise<RehearsalReport> {
    return this.rehearsal.run(() => undefined);
  }
}

function same(a: Uint32Array, b: Uint32Array): boolean {
  for (let i = 0; i < 20; i++) if (a[i] !== b[i] && !(i >= 8 && i < 16) && i !== 17) return false;
  return true;
}

test("a backup that has read all loses nothing, many flows at a time", async () => {
  const pair = new Pair(Array.from({ length: 2500 }, (_, i) => tcp(i + 1)));
  for (let at = 0; at < 2500; at++) pair.read(at);
  pair.room = 2500;
  const { loses, flows, peers } = await pair.run();
  assert.deepEqual([loses, flows, pair.asked], [false, 2500, 3]);
  const [fw2] = peers;
  assert.deepEqual([fw2?.checked, fw2?.missing, fw2?.differing, fw2?.overLimit, fw2?.error], [2500, 0, 0, 0, null]);
});

test("what is missing, differs, or has no room is counted, with examples", async () => {
  const pair = new Pair([tcp(1), tcp(2), tcp(3), tcp(4)]);
  pair.read(0);
  pair.read(1, (words) => {
    words[W_MARK] = 99;
  });
  pair.read(3);
  pair.room = 2;
  const { loses, peers } = await pair.run();
  const [fw2] = peers;
  assert.deepEqual([loses, fw2?.missing, fw2?.differing, fw2?.overLimit], [true, 1, 1, 1]);
  assert.match(fw2?.examples.missing.join("\n") ?? "", /^tcp .*dport=3 /);
  assert.match(fw2?.examples.differing.join("\n") ?? "", /^tcp .*dport=2 /);
  assert.equal(fw2?.checked, 4);
});

test("what arrives or is over while it is asked for does not count", async () => {
  const pair = new Pair([tcp(1), tcp(2)]);
  pair.meanwhile = () => {
    if (pair.asked !== 2) return;
    pair.read(0);
  };
  const ends = pair.kernel[1]!;
  setTimeout(() => {
    pair.kernel.pop();
    pair.internal.destroy(ends, 0);
  }, 10);
  const { loses, peers } = await pair.run();
  assert.deepEqual([loses, peers[0]?.missing, peers[0]?.checked], [false, 0, 2]);
  assert.deepEqual(peers[0]?.examples.missing, []);
});

test("a helper that the backup's kernel lacks: asked once for each, and nothing is created", async () => {
  const helped = KINDS["helper and labels"]!;
  const flows = [1, 2, 3].map((sport) => ({ ...helped, orig: { ...helped.orig, sport } }));
  for (const knows of [true, false]) {
    const pair = new Pair(flows as Flow[]);
    pair.knowsHelpers = knows;
    for (const at of [0, 1, 2]) pair.read(at);
    const { loses, peers } = await pair.run();
    assert.deepEqual([loses, peers[0]?.withoutHelper], [!knows, knows ? 0 : 3]);
    assert.deepEqual(pair.helpersAsked, ["ftp"]);
  }
});

test("flows that the filter leaves out are counted apart, those that another node carries not at all", async () => {
  const pair = new Pair([tcp(1), tcp(2), tcp(3)]);
  pair.read(0);
  pair.filter = (words) => !same(words, pair.kernel[1]!.words);
  pair.internal.supersede(pair.internal.table.find(pair.kernel[2]!.words, 0), { node: "fw2", stamp: 2 ** 50 });
  const { loses, flows, filtered } = await pair.run();
  assert.deepEqual([loses, flows, filtered], [false, 1, 1]);
});

test("a peer that does not answer, or with nonsense, is a reason of its own", async () => {
  const pair = new Pair([tcp(1)]);
  pair.meanwhile = () => {
    throw new Error("its broker is away");
  };
  const { loses, peers } = await pair.run();
  assert.deepEqual([loses, peers[0]?.error], [true, "its broker is away"]);
  assert.equal(await pair.check.answer(Buffer.from("no batch")), null);
  const sound = { missing: [1], differing: [], withoutHelper: [], room: null, needed: 5 };
  assert.deepEqual(decodeCheckAnswer(encodeCheckAnswer(sound)), { conntrail: 1, ...sound });
  for (const text of ["", "[]", "{}", encodeCheckAnswer({ ...sound, missing: [1024] }), "null"]) {
    assert.equal(decodeCheckAnswer(text), null, text);
  }
});
