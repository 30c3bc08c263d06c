/**
 * Mode `inject`, between kernels: what one node's kernel does, the other's does, at once and without an echo. Flows are made over
 * ctnetlink here; test/cluster/asymmetric.test.ts has the packets.
 */
import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { difference, type FlowMap, markOf, rangeOf } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const FLOWS = 400;
const LOAD_FLOWS_MAX = 1000;
/** Half a second of quiet shows whether messages go round in a circle. */
const QUIET_MS = 500;
/** Generous for a busy machine; it is 2 to 4 ms on a quiet one. */
const LATENCY_MS_MAX = 100;
const INJECT = { publishInterval: "0", configure: () => ["mode: inject"] };

type Pair = readonly [ClusterNode, ClusterNode];

describe("inject", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("brings flows into the peer's kernel, follows their changes and removes them; nothing is echoed", async (t) => {
    await using cluster = await Cluster.start({ nodes: 2, ...INJECT });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    const before = await messagesOf(b);
    await a.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 2 });
    await a.exec(
      "conntrack",
      ..."-I -p icmp -s 10.9.0.1 -d 192.0.2.9 --icmp-type 8 --icmp-code 0 --icmp-id 77 -t 600 -m 5".split(" "),
    );
    await assertSameKernels(pair, FLOWS + 1);
    await a.apply({ type: "update", range: 1, from: 0, count: FLOWS, mark: 4 });
    await assertSameKernels(pair, FLOWS + 1);
    await a.apply({ type: "destroy", range: 1, from: 0, count: FLOWS / 2 });
    await assertSameKernels(pair, FLOWS / 2 + 1);
    assert.equal((await b.table("internal")).size, 0, "the backup takes injected flows for its own");
    assert.equal(await messagesOf(b), before, "the backup has published what it was told");
    await reportLatency(t, pair);
  });

  it("in both directions at once: the kernels agree and then nothing is said any more", async () => {
    await using cluster = await Cluster.start({ nodes: 2, ...INJECT });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    for (const [index, node] of pair.entries()) {
      await node.startLoad({ seed: index, range: index + 1, flowsMax: LOAD_FLOWS_MAX, operationsPerSecond: 1500 });
    }
    // The same flows on both: whoever touches one owns it.
    for (let round = 1; round <= 20; round++) {
      const [one, other] = round % 2 === 0 ? [a, b] : [b, a];
      await one.apply({ type: round === 1 ? "create" : "update", range: 3, from: 0, count: 50, mark: round * 2 });
      await waitFor("the other kernel has them", WAIT_MS, async () => (await countOf(other, 3, round * 2)) === 50, {
        intervalMs: 2,
      });
    }
    await b.loadGoesOn(1000);
    for (const node of pair) await node.stopLoad();
    await assertSameKernels(pair);
    const said = async (): Promise<number> => (await messagesOf(a)) + (await messagesOf(b));
    await quiet(said);
    for (const node of pair) assert.equal(await node.counter("inject", "failed"), 0);
    const own = new Map([...(await ownFlows(a)), ...(await ownFlows(b))]);
    assert.equal(difference("kernel against both internal caches", await a.kernel(), own), null);
  });

  for (const kill of ["stop", "kill9Both"] as const) {
    it(`flows that begin, change and end while the peer's daemon is down (${kill}): no ghost afterwards`, async () => {
      await using cluster = await Cluster.start({ nodes: 2, ...INJECT });
      const pair = cluster.nodes as unknown as Pair;
      const [a, b] = pair;
      await a.apply({ type: "create", range: 1, from: 0, count: 300, mark: 2 });
      await b.apply({ type: "create", range: 2, from: 0, count: 100, mark: 2 });
      await assertSameKernels(pair, 400);
      await a.startLoad({ seed: 7, range: 3, flowsMax: LOAD_FLOWS_MAX, operationsPerSecond: 1500 });
      await a.loadGoesOn(500);
      await b[kill]();
      await a.apply(
        { type: "destroy", range: 1, from: 0, count: 100 },
        { type: "update", range: 1, from: 100, count: 100, mark: 4 },
        { type: "create", range: 1, from: 300, count: 100, mark: 6 },
      );
      // As packets would that pass while nobody listens, and as expiry.
      await b.apply(
        { type: "destroy", range: 2, from: 0, count: 50 },
        { type: "create", range: 2, from: 100, count: 10, mark: 8 },
      );
      await a.loadGoesOn(500);
      b.start();
      await b.ready();
      await a.loadGoesOn(500);
      await a.stopLoad();
      await assertSameKernels(pair);
      const own = new Map([...(await ownFlows(a)), ...(await ownFlows(b))]);
      assert.equal(difference("kernel against both internal caches", await b.kernel(), own), null);
      assert.equal((await b.table("internal")).size, 60, "the restarted node has taken flows of its peer for its own");
    });
  }

  it("injected entries last while their owner is heard, run out while it is away, and come back with it", async () => {
    const configure = (): readonly string[] => ["mode: inject", "commit: { timeout: 4s }"];
    await using cluster = await Cluster.start({ nodes: 2, publishInterval: "0", configure });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    await a.apply({ type: "create", range: 1, from: 0, count: 50, mark: 2 });
    await assertSameKernels(pair, 50);
    await waitFor("every entry prolonged twice", WAIT_MS, async () => (await b.counter("inject", "renewed")) >= 100);
    assert.equal((await b.kernel()).size, 50);
    await a.cutLink();
    await waitFor("the entries gone", WAIT_MS, async () => (await b.kernel()).size === 0);
    assert.equal((await b.table("external")).size, 50);
    await a.healLink();
    await assertSameKernels(pair, 50);
  });

  it("the new primary claims what it carries: its old primary's return with an empty kernel ends nothing", async () => {
    await using cluster = await Cluster.start({ nodes: 2, ...INJECT });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    await a.hook("primary");
    await b.hook("backup");
    await a.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 2 });
    await assertSameKernels(pair, FLOWS);
    await a.kill9Both();
    await a.exec("conntrack", "-F");
    const { commit } = await b.hook("primary");
    assert.deepEqual([commit?.ahead, commit?.underWay], [FLOWS, true], "the hook does not wait for the claims");
    await waitFor("the claims are on record", WAIT_MS, async () => (await b.counter("takeover", "takeovers")) === 1);
    assert.equal(await b.counter("takeover", "lastUpdated"), FLOWS);
    assert.equal((await b.table("internal")).size, FLOWS);
    a.start();
    await cluster.ready();
    await assertSameKernels(pair, FLOWS);
  });
});

describe("mode cache with commit.ahead", { skip: clusterObstacle(), timeout: 200_000 }, () => {
  it("what has lived for a while is in the backup's kernel, the takeover writes the rest, and nothing is lost", async () => {
    const configure = (): readonly string[] => ["commit: { ahead: 1s }"];
    await using cluster = await Cluster.start({ nodes: 2, publishInterval: "0", configure });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    await a.hook("primary");
    await b.hook("backup");
    await a.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 2 });
    await assertSameKernels(pair, FLOWS);
    // Those that are over within the second never reach the backup's kernel.
    const injected = await b.counter("inject", "injected");
    await a.apply({ type: "create", range: 2, from: 0, count: 100, mark: 2 });
    await waitFor(
      "the short ones on the backup",
      WAIT_MS,
      async () => (await b.table("external")).size === FLOWS + 100,
      {
        intervalMs: 5,
      },
    );
    await a.apply({ type: "destroy", range: 2, from: 0, count: 100 });
    await waitFor("the short ones gone", WAIT_MS, async () => (await b.table("external")).size === FLOWS, {
      intervalMs: 5,
    });
    assert.equal(await b.counter("inject", "injected"), injected);
    await a.apply(
      { type: "update", range: 1, from: 0, count: 50, mark: 4 },
      { type: "destroy", range: 1, from: 50, count: 50 },
    );
    await assertSameKernels(pair, FLOWS - 50);

    await a.apply({ type: "create", range: 3, from: 0, count: 60, mark: 2 });
    await waitFor(
      "the young ones on the backup",
      WAIT_MS,
      async () => (await b.table("external")).size === FLOWS + 10,
      {
        intervalMs: 5,
      },
    );
    await a.kill9Both();
    await a.exec("conntrack", "-F");
    const { commit } = await b.hook("primary");
    assert.deepEqual([commit?.committed, commit?.ahead, commit?.failed, commit?.underWay], [60, FLOWS - 50, {}, true]);
    assert.equal((await b.kernel()).size, FLOWS + 10, "the hook returns when all are there");
    await waitFor("the claims are on record", WAIT_MS, async () => (await b.counter("takeover", "takeovers")) === 1);
    assert.equal((await b.table("internal")).size, FLOWS + 10);
    // The old primary returns with an empty kernel: it ends nothing, and is given what lives.
    a.start();
    await cluster.ready();
    await assertSameKernels(pair, FLOWS + 10);
    await b.apply({ type: "destroy", range: 3, from: 0, count: 60 });
    await assertSameKernels(pair, FLOWS - 50);
    assert.equal((await a.table("internal")).size, 0, "the backup takes what it was given for its own");
  });
});

/** The internal cache less what another node carries now. */
async function ownFlows(node: ClusterNode): Promise<FlowMap> {
  const external = await node.table("external");
  return new Map([...(await node.table("internal"))].filter(([key]) => !external.has(key)));
}

async function messagesOf(node: ClusterNode): Promise<number> {
  const stream = (await node.streams()).find(({ name }) => name === `CT_${node.name}`);
  assert.ok(stream !== undefined);
  return stream.lastSequence;
}

/** Waits until both kernels hold the same flows, and so many; fails with the first difference. */
async function assertSameKernels([a, b]: Pair, count?: number): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("the kernels agree", WAIT_MS, async () => {
    const [one, other] = [await a.kernel(), await b.kernel()];
    seen = difference(`kernel of ${b.name} against that of ${a.name}`, one, other);
    if (seen === null && count !== undefined && one.size !== count) seen = `${one.size} flows, expected ${count}`;
    return seen === null;
  }).catch(async () => {
    const inject = JSON.stringify([(await a.stats()).inject, (await b.stats()).inject]);
    assert.fail(`${seen}\n${inject}\n${[...a.complaints(), ...b.complaints()].join("\n")}`);
  });
}

/** Flows of a range with a mark. */
async function countOf(node: ClusterNode, range: number, mark: number): Promise<number> {
  const kernel = await node.kernel();
  return [...kernel].filter(([key, value]) => rangeOf(key) === range && markOf(value) === mark).length;
}

/** Waits until a number stays as it is for a while. */
async function quiet(count: () => Promise<number>): Promise<void> {
  let last = await count();
  let sinceMs = performance.now();
  await waitFor("the nodes have no more to say", WAIT_MS, async () => {
    const now = await count();
    if (now !== last) sinceMs = performance.now();
    last = now;
    return performance.now() - sinceMs > QUIET_MS;
  });
}

/** From the event in one kernel to that in the other, as conntrack(8) sees them. */
async function reportLatency(t: TestContext, [a, b]: Pair): Promise<void> {
  const listeners = [a, b].map((node) =>
    node.spawn("events", "stdbuf", "-oL", "conntrack", "-E", "-e", "NEW", "-p", "tcp", "-o", "timestamp"),
  );
  const times = listeners.map(() => new Map<string, number>());
  for (const [index, listener] of listeners.entries()) {
    listener.onLine((line) => {
      const match = /^\[(\d+\.\d+)\].*?(src=\S+ dst=\S+ sport=\d+ dport=\d+)/.exec(line);
      if (match !== null) times[index]!.set(match[2]!, Number(match[1]) * 1000);
    });
  }
  // The listeners say nothing when they listen, so flows are made until both have heard of one.
  let from = 0;
  await waitFor("both listeners hear", WAIT_MS, async () => {
    await a.apply({ type: "create", range: 5, from: from++ * 8, count: 1, mark: 2 });
    return times.every((heard) => heard.size > 0);
  });
  await a.startLoad({ seed: 11, range: 6, flowsMax: 20_000, operationsPerSecond: 1000 });
  await a.loadGoesOn(1000);
  await a.stopLoad();
  await waitFor("the last one injected", WAIT_MS, () => times[1]!.size + 20 > times[0]!.size);
  const latencies = [...times[1]!].flatMap(([flow, ms]) => (times[0]!.has(flow) ? [ms - times[0]!.get(flow)!] : []));
  latencies.sort((one, other) => one - other);
  const percentile = (share: number): number => latencies[Math.floor(latencies.length * share)]!;
  t.diagnostic(
    `${latencies.length} flows, injected after ${percentile(0.5).toFixed(1)} ms, p99 ${percentile(0.99).toFixed(1)} ms`,
  );
  assert.ok(percentile(0.5) < LATENCY_MS_MAX, `half of the flows took ${percentile(0.5)} ms and more`);
  for (const listener of listeners) listener.kill();
}
