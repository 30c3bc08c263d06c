/**
 * The dedicated link is cut under load and heals. Flows that both sides touched meanwhile belong to who touched them last,
 * by real time, whatever the clocks say.
 *
 *   CHAOS_CUT_SECONDS   how long the link stays cut (8)
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { type FlowMap, markOf, testFlowKey, testFlowKeys } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const CUT_SECONDS = Number(process.env.CHAOS_CUT_SECONDS ?? 8);
const HOUR_MS = 3_600_000;
const WAIT_MS = 30_000;
const OPERATIONS_PER_SECOND = 1000;
/** Flows that both sides touch. */
const SHARED = 60;
const SHARED_FLOWS = 900;
const THIRD = SHARED_FLOWS / 3;

describe("partition", { skip: clusterObstacle(), timeout: 120_000 + 4 * CUT_SECONDS * 1000 }, () => {
  it("two nodes converge, and nothing newer was overwritten", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    await cutAndHeal(cluster, CUT_SECONDS);
  });

  it("three nodes with clocks an hour apart converge, and nothing newer was overwritten", async () => {
    // n1, which touches the second third first, is an hour ahead; n2, which touches it last, an hour behind.
    const clockOffsetMs = (number: number): number => (number === 1 ? HOUR_MS : number === 2 ? -HOUR_MS : 0);
    await using cluster = await Cluster.start({ nodes: 3, clockOffsetMs });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    const apart = (await n1.status()).epoch - (await n2.status()).epoch;
    assert.ok(apart > 1.9 * HOUR_MS, `the clocks are ${apart} ms apart`);
    await failOver(cluster);
  });

  it("three nodes, one of them cut off, converge", async () => {
    await using cluster = await Cluster.start({ nodes: 3 });
    await cutAndHeal(cluster, 1);
  });

  it("three nodes, both sides primary under load: each flow has one owner afterwards, the one that touched it last", async () => {
    await using cluster = await Cluster.start({ nodes: 3, purgeAfter: "500ms" });
    await splitBrain(cluster);
  });
});

/** n1 holds the shared flows; cut off, n2 takes them over, then n1 changes some and n2 others. Both are under load. */
async function cutAndHeal(cluster: Cluster, seconds: number): Promise<void> {
  const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
  await n1.apply({ type: "create", range: SHARED, from: 0, count: SHARED_FLOWS, mark: 1 });
  const all = testFlowKeys(SHARED, 0, SHARED_FLOWS);
  await waitFor("n2 holds the shared flows", WAIT_MS, async () => holds(await n2.table("external"), all, 1));
  await n1.cutLink();
  // As n2 becomes primary while n1, cut off, goes on.
  const { commit } = await n2.hook("primary");
  assert.deepEqual([commit?.committed, commit?.failed], [SHARED_FLOWS, {}]);
  for (const node of cluster.nodes) {
    const range = node.number;
    await node.startLoad({ seed: range, range, flowsMax: 2000, operationsPerSecond: OPERATIONS_PER_SECOND });
  }
  await assertStamped(n2, all, 1);
  await touch(n1, 0, THIRD, 3);
  await touch(n2, THIRD, THIRD, 4);
  await n1.loadGoesOn(OPERATIONS_PER_SECOND * seconds);
  await waitFor("n1 says that it is not in sync", WAIT_MS, async () => !(await n1.status()).inSync);
  await n1.healLink();
  for (const node of cluster.nodes) await node.loadGoesOn(OPERATIONS_PER_SECOND / 2);
  for (const node of cluster.nodes) await node.stopLoad();
  const owners = new Map(all.map((key, index) => [key, index < THIRD ? "n1" : "n2"]));
  await assertAgreement(cluster.nodes, { owner: (key) => owners.get(key) });
  await assertMarks(cluster, [
    ["n1", 0, 3],
    ["n2", THIRD, 4],
    ["n2", 2 * THIRD, 1],
  ]);
}

/** n2 commits all that it knows of n1, which goes on with the same flows; then n1 gives way. */
async function splitBrain(cluster: Cluster): Promise<void> {
  const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
  for (const node of cluster.nodes) {
    const range = node.number;
    await node.hook(node === n1 ? "primary" : "backup");
    await node.startLoad({ seed: range, range, flowsMax: 1000, operationsPerSecond: OPERATIONS_PER_SECOND });
  }
  await n1.loadGoesOn(OPERATIONS_PER_SECOND);
  await n1.cutLink();
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 4);
  const { commit } = await n2.hook("primary");
  assert.deepEqual(commit?.failed, {});
  await n2.loadGoesOn(OPERATIONS_PER_SECOND / 2);
  // What n1 touches from here on, it touches after n2 has claimed it.
  const lastMark = Math.max(...[...(await n1.kernel()).values()].map(markOf));
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 2);
  await n1.healLink();
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 2);
  for (const node of cluster.nodes) await node.stopLoad();
  await waitFor("all in sync", WAIT_MS, async () => {
    const statuses = await Promise.all(cluster.nodes.map((node) => node.status()));
    return statuses.every((status) => status.inSync);
  });
  const owned = await ownersBetween(n1, n2);
  const touchedLast = [...owned].filter(([, { mark }]) => mark > lastMark);
  assert.ok(touchedLast.length > 50, `n1 touched ${touchedLast.length} flows of n2 later: too few to prove anything`);
  assert.deepEqual(
    touchedLast.filter(([, { owner }]) => owner !== "n1"),
    [],
    "n2 owns flows that n1 touched later",
  );
  await assertAgreement(cluster.nodes, { owner: (key) => owned.get(key)?.owner });
  await n1.hook("backup");
  await waitFor("n1 has purged what n2 carries", WAIT_MS, async () => {
    const kernel = await n1.kernel();
    return [...owned].every(([key, { owner }]) => owner === "n1" || !kernel.has(key));
  });
  await assertAgreement(cluster.nodes, { owner: (key) => owned.get(key)?.owner });
}

/** Of the flows in both kernels: the one whose external cache lacks it owns it; and its mark in the kernel of `a`. */
async function ownersBetween(a: ClusterNode, b: ClusterNode): Promise<Map<string, { owner: string; mark: number }>> {
  const [kernelA, kernelB, externalA] = await Promise.all([a.kernel(), b.kernel(), a.table("external")]);
  const both = [...kernelA].filter(([key]) => kernelB.has(key));
  return new Map(
    both.map(([key, value]) => [key, { owner: externalA.has(key) ? b.name : a.name, mark: markOf(value) }]),
  );
}

/** Changes marks, and waits until that has a stamp: the moment that counts is when the daemon tells of it. */
async function touch(node: ClusterNode, from: number, count: number, mark: number): Promise<void> {
  await node.apply({ type: "update", range: SHARED, from, count, mark });
  await assertStamped(node, testFlowKeys(SHARED, from, from + count), mark);
}

/** A copy on the own broker or a peer's external cache would do too; the publisher's own word needs no link. */
async function assertStamped(node: ClusterNode, keys: readonly string[], mark: number): Promise<void> {
  await waitFor(`${node.name} knows mark ${mark}`, WAIT_MS, async () =>
    holds(await node.table("internal"), keys, mark),
  );
  const rows = await node.counter("journal", "rows");
  await waitFor(`${node.name} has written what waited`, WAIT_MS, async () => {
    return !node.loading || (await node.counter("journal", "rows")) > rows;
  });
}

function holds(flows: FlowMap, keys: readonly string[], mark: number): boolean {
  return keys.every((key) => flows.has(key) && markOf(flows.get(key)!) === mark);
}

/** For each third its owner and mark: in the owner's kernel and in every other node's external cache. */
async function assertMarks(cluster: Cluster, thirds: readonly (readonly [string, number, number])[]): Promise<void> {
  for (const [owner, from, mark] of thirds) {
    const keys = testFlowKeys(SHARED, from, from + THIRD);
    for (const node of cluster.nodes) {
      const flows = await (node.name === owner ? node.kernel() : node.table("external"));
      assert.ok(holds(flows, keys, mark), `${node.name} does not hold mark ${mark} of ${owner} from flow ${from} on`);
    }
  }
}

/** n1 → n2 → n3 → n1, each changing what it took over: the clocks must not decide who is right. */
async function failOver(cluster: Cluster): Promise<void> {
  const [n1, n2, n3] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
  await n1.apply({ type: "create", range: SHARED, from: 0, count: SHARED_FLOWS, mark: 1 });
  const keys = testFlowKeys(SHARED, 0, SHARED_FLOWS);
  await assertAgreement(cluster.nodes);
  let mark = 1;
  for (const [old, next] of [
    [n1, n2],
    [n2, n3],
    [n3, n1],
    [n1, n2],
  ] as const) {
    mark++;
    await old.hook("backup");
    await next.hook("primary");
    await next.apply({ type: "update", range: SHARED, from: 0, count: SHARED_FLOWS, mark });
    await assertAgreement(cluster.nodes, { owner: (key) => (keys.includes(key) ? next.name : undefined) });
    for (const node of cluster.nodes) {
      const flows = await (node === next ? node.kernel() : node.table("external"));
      assert.ok(holds(flows, keys, mark), `${node.name} does not hold what ${next.name} said last`);
    }
  }
  // The one with the slowest clock ends them: they are gone everywhere.
  await n2.apply({ type: "destroy", range: SHARED, from: 0, count: SHARED_FLOWS });
  for (const node of [n1, n3]) {
    await waitFor(`the flows gone from the external cache of ${node.name}`, WAIT_MS, async () => {
      const flows = await node.table("external");
      return !flows.has(testFlowKey(SHARED, 0)) && flows.size === 0;
    });
  }
}
