/** What a commit writes first, and what it repairs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import type { CommitReport } from "../../src/control/protocol.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { BatchResult } from "../../src/ctnetlink/request-socket.js";
import { recordFromFlow } from "../../src/flow/flow.js";
import { type DecodedFlow, W_ORIG_L4, W_UPDATED } from "../../src/flow/record.js";
import type { CommitKernel } from "../../src/sync/ports/kernel.js";
import { commitExternal } from "../../src/sync/takeover/commit.js";
import { requestsOf, SimKernel } from "../support/sim-kernel.js";

const NOW_SECONDS = 1_800_000_000;
const EAGAIN = 11;

/** A UDP flow of 10.0.0.1 from this port, translated to a port of 203.0.113.1. */
function flow(port: number, { translated = port, replied = true, quietSeconds = 0 } = {}): Uint32Array {
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "udp",
    orig: { src: "10.0.0.1", dst: "198.51.100.7", sport: port, dport: 53 },
    reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 53, dport: translated },
    status: replied ? ["SEEN_REPLY", "CONFIRMED"] : ["CONFIRMED"],
    timeoutSeconds: 600,
  });
  words[W_UPDATED] = NOW_SECONDS - quietSeconds;
  return words;
}

/** The entry of a packet of the other side that reached a kernel without the flow. */
function strayReply(port: number, replied = false): Uint32Array {
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "udp",
    orig: { src: "198.51.100.7", dst: "203.0.113.1", sport: 53, dport: port },
    reply: { src: "203.0.113.1", dst: "198.51.100.7", sport: port, dport: 53 },
    status: replied ? ["SEEN_REPLY", "CONFIRMED"] : ["CONFIRMED"],
    timeoutSeconds: 30,
  });
  return words;
}

class Kernel implements CommitKernel {
  readonly sim = new SimKernel(0);
  readonly created: number[] = [];
  /** How often the kernel wants a request of a helper once more. */
  again = 0;

  async send(batch: RequestBatch): Promise<BatchResult> {
    const requests = requestsOf(batch.bytes(1, 1));
    const errors: BatchResult["errors"] = [];
    for (const [index, request] of requests.entries()) {
      const asksAgain = request.type === "create" && request.flow.rare?.helper !== undefined && this.again-- > 0;
      const errno = asksAgain ? EAGAIN : this.sim.request(request, 1).errno;
      if (request.type === "create" && errno === 0) this.created.push(request.flow.words[W_ORIG_L4]! >>> 16);
      if (errno !== 0) errors.push({ index, errno });
    }
    return { sent: requests.length, errors, unknown: 0 };
  }

  async get(words: Uint32Array, base: number): Promise<DecodedFlow | null> {
    const batch = new RequestBatch(0);
    batch.get(words, base);
    return this.sim.request(requestsOf(batch.bytes(1, 1))[0]!, 1).flow;
  }
}

function cacheOf(flows: readonly Uint32Array[], rare: { helper: string } | null = null): ExternalCache {
  const external = new ExternalCache(20_000);
  const origin = external.origin("fw2");
  for (const [id, words] of flows.entries()) external.upsert(origin, id, words, rare, 1);
  return external;
}

function commit(kernel: Kernel, external: ExternalCache): Promise<CommitReport> {
  const options = { timeoutSeconds: null, liberal: true, nowSeconds: NOW_SECONDS };
  return commitExternal(
    external,
    kernel,
    () => false,
    options,
    () => undefined,
  );
}

test("the most recently active flows come first, those that are long quiet last", async () => {
  const kernel = new Kernel();
  const quiet = [500, 3, 0, 100_000, 3, 4096, 7];
  const report = await commit(kernel, cacheOf(quiet.map((quietSeconds, i) => flow(i + 1, { quietSeconds }))));
  assert.equal(report.committed, quiet.length);
  assert.deepEqual(kernel.created, [3, 2, 5, 7, 1, 4, 6]);
});

test("a flow that comes while the commit sorts or writes is committed too", async () => {
  const kernel = new Kernel();
  const external = cacheOf(Array.from({ length: 3000 }, (_, i) => flow(i + 1)));
  const origin = external.origin("fw2");
  const send = kernel.send.bind(kernel);
  let came = false;
  kernel.send = async (batch) => {
    if (!came) external.upsert(origin, 9000, flow(9000), null, 1);
    came = true;
    return send(batch);
  };
  assert.equal((await commit(kernel, external)).committed, 3001);
});

test("an entry without a reply that holds a flow's reply tuple is removed, and the flow committed", async () => {
  const kernel = new Kernel();
  assert.ok(kernel.sim.create(strayReply(1)));
  const report = await commit(kernel, cacheOf([flow(1), flow(2)]));
  assert.deepEqual([report.committed, report.repaired, report.failed], [2, 1, {}]);
  assert.equal(kernel.sim.flows.size, 2);
});

test("a connection that has begun on the translated port and has no reply yet makes room too", async () => {
  const kernel = new Kernel();
  assert.ok(kernel.sim.create(flow(77, { translated: 1, replied: false })));
  const report = await commit(kernel, cacheOf([flow(1)]));
  assert.deepEqual([report.committed, report.repaired, report.failed], [1, 1, {}]);
});

test("an entry that was answered stays, and the flow counts as failed", async () => {
  for (const held of [strayReply(1, true), flow(77, { translated: 1 })]) {
    const kernel = new Kernel();
    assert.ok(kernel.sim.create(held));
    const report = await commit(kernel, cacheOf([flow(1), flow(2)]));
    assert.deepEqual([report.committed, report.repaired, report.failed], [1, undefined, { EEXIST: 1 }]);
  }
});

test("a flow whose helper the kernel loads first is asked for once more, and only once", async () => {
  const kernel = new Kernel();
  kernel.again = 1;
  const external = cacheOf([flow(1)], { helper: "ftp" });
  assert.deepEqual((await commit(kernel, external)).failed, {});
  const stubborn = new Kernel();
  stubborn.again = 9;
  assert.deepEqual((await commit(stubborn, external)).failed, { EAGAIN: 1 });
  assert.equal(stubborn.again, 7);
});
