/**
 * The dedicated link is cut under load and heals. Flows that both sides touched meanwhile belong to who touched them last,
 * by real time, whatever the clocks say.
 *
 *   CHAOS_CUT_SECONDS   how long the link stays cut (8; with more than two nodes 1)
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { type FlowMap, markOf, rangeOf, testFlowKey, testFlowKeys } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const CUT_SECONDS = Number(process.env.CHAOS_CUT_SECONDS ?? 8);
const MORE_CUT_SECONDS = Number(process.env.CHAOS_CUT_SECONDS ?? 1);
const HOUR_MS = 3_600_000;
const WAIT_MS = 30_000;
const OPERATIONS_PER_SECOND = 1000;
/** Flows that both sides touch. */
const SHARED = 60;
/** Ranges of single flows that are made to see something written. */
const PROBES = 40;
const SHARED_FLOWS = 900;
const THIRD = SHARED_FLOWS / 3;

describe("partition", { skip: clusterObstacle(), timeout: 400_000 + 4 * CUT_SECONDS * 1000 }, () => {
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

  for (const nodes of [3, 5]) {
    it(`${nodes} nodes, one of them cut off, converge`, async () => {
      await using cluster = await Cluster.start({ nodes });
      await cutAndHeal(cluster, MORE_CUT_SECONDS);
    });
  }

  it("flows that both sides made while they were apart belong to who touched them last", async () => {
    await using cluster = await Cluster.start({ nodes: 3 });
    await madeApart(cluster, false);
  });

  it("a snapshot of older flows, written while apart, takes none of the newer ones", async () => {
    await using cluster = await Cluster.start({ nodes: 3 });
    await madeApart(cluster, true);
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
  await assertAgreement(cluster.nodes, { owners: async () => owners });
  await assertMarks(cluster, [
    ["n1", 0, 3],
    ["n2", THIRD, 4],
    ["n2", 2 * THIRD, 1],
  ]);
}

/** Neither side hears the other: a flow is made on n1, then on n2, then changed on n1, then on n2; for each where it stops. */
async function madeApart(cluster: Cluster, snapshots: boolean): Promise<void> {
  const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
  await n1.cutLink();
  const steps: readonly (readonly [ClusterNode, "create" | "update"])[] = [
    [n1, "create"],
    [n2, "create"],
    [n1, "update"],
    [n2, "update"],
    [n1, "update"],
  ];
  const count = 100;
  for (const [step, [node, type]] of steps.entries()) {
    // The flows of group g are touched in steps 0 … g only.
    const from = step * count;
    await node.apply({ type, range: SHARED, from, count: steps.length * count - from, mark: step + 1 });
    await assertStamped(node, testFlowKeys(SHARED, from, steps.length * count), step + 1);
  }
  if (snapshots) {
    for (const node of [n2, n1]) await node.request("bulk", {});
  }
  await n1.healLink();
  const owners = new Map<string, string>();
  for (const [group, [node]] of steps.entries()) {
    for (const key of testFlowKeys(SHARED, group * count, (group + 1) * count)) owners.set(key, node.name);
  }
  await assertAgreement(cluster.nodes, { owners: async () => owners });
}

/** n2 commits all that it knows of n1, which goes on with the same flows; then n1 gives way. */
async function splitBrain(cluster: Cluster): Promise<void> {
  const [n1, n2, n3] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
  await n1.hook("primary");
  await n2.hook("backup");
  const load = { seed: 1, range: 1, flowsMax: 1000, operationsPerSecond: OPERATIONS_PER_SECOND };
  await n1.startLoad(load);
  await n2.startLoad({ ...load, range: 2 });
  await n1.loadGoesOn(OPERATIONS_PER_SECOND);
  await n1.cutLink();
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 4);
  const before = await n1.stopLoad();
  const { commit } = await n2.hook("primary");
  assert.deepEqual(commit?.failed, {});
  const committed = [...(await n2.kernel()).keys()].filter((key) => rangeOf(key) === 1);
  await assertStamped(n2, committed);
  await n1.startLoad({ ...load, seed: 2, goesOnFrom: before });
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 4);
  await n1.healLink();
  await n1.loadGoesOn(OPERATIONS_PER_SECOND / 4);
  const { touched, alive } = await n1.stopLoad();
  await n2.stopLoad();
  // A flow that both have had is of the one that touched it last. One that n1 has touched and ended is n2's where both fell
  // into one message, which says of the end alone; so of those it counts only that all nodes agree.
  const owners = new Map(committed.map((key) => [key, n2.name]));
  const isAlive = new Set(alive);
  const ended: string[] = [];
  for (const index of touched) {
    owners.set(testFlowKey(1, index), n1.name);
    if (!isAlive.has(index)) ended.push(testFlowKey(1, index));
  }
  const agreement = {
    owners: async () => {
      const third = await n3.table("external");
      for (const key of ended) owners.set(key, third.has(key) ? n2.name : n1.name);
      return owners;
    },
  };
  const contested = committed.filter((key) => owners.get(key) === n1.name).length;
  assert.ok(contested > 100 && committed.length - contested > 50, `${contested} of ${committed.length}: proves little`);
  await assertAgreement([n1, n2, n3], agreement);
  await n1.hook("backup");
  await waitFor("n1 has purged what n2 carries", WAIT_MS, async () => {
    const kernel = await n1.kernel();
    return committed.every((key) => owners.get(key) === n1.name || !kernel.has(key));
  });
  await assertAgreement([n1, n2, n3], agreement);
}

/** Changes marks, and waits until that has a stamp: the moment that counts is when the daemon tells of it. */
async function touch(node: ClusterNode, from: number, count: number, mark: number): Promise<void> {
  await node.apply({ type: "update", range: SHARED, from, count, mark });
  await assertStamped(node, testFlowKeys(SHARED, from, from + count), mark);
}

/** Resolves when the daemon has written down that it holds these flows: that is the moment that counts. */
async function assertStamped(node: ClusterNode, keys: readonly string[], mark?: number): Promise<void> {
  await waitFor(`${node.name} knows of it`, WAIT_MS, async () => holds(await node.table("internal"), keys, mark));
  // Whatever is written from now on is written with or after what waited; and a flow of its own makes it write.
  const rows = await node.counter("journal", "rows");
  await node.apply({ type: "create", range: PROBES + node.number, from: rows, count: 1 });
  await waitFor(`${node.name} writes it`, WAIT_MS, async () => (await node.counter("journal", "rows")) > rows);
}

/** True when all are there, with that mark if one is given. */
function holds(flows: FlowMap, keys: readonly string[], mark?: number): boolean {
  return keys.every((key) => flows.has(key) && (mark === undefined || markOf(flows.get(key)!) === mark));
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
    await assertAgreement(cluster.nodes, { owners: async () => new Map(keys.map((key) => [key, next.name])) });
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
