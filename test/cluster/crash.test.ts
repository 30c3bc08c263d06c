/**
 * kill -9 of daemons, brokers and both, under load: afterwards every external cache equals the internal caches of its owners,
 * and those their kernels. The moments and the victims are random, from a seed.
 *
 *   CHAOS_SEED     another seed; every test prints its own
 *   CHAOS_ROUNDS   so many times as many incidents (1)
 */
import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement, assertTruth } from "../support/cluster/compare.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { Random } from "../support/records.js";

const SEED = Number(process.env.CHAOS_SEED ?? 20_260);
const ROUNDS = Number(process.env.CHAOS_ROUNDS ?? 1);
const FLOWS_MAX = 3000;
/** Operations of the load on a victim between two steps of an incident. */
const OPERATIONS_MAX = 1200;

type Kill = "daemon" | "broker" | "both";

interface Incident {
  readonly kill: Kill;
  readonly victims: readonly ClusterNode[];
}

describe("crash", { skip: clusterObstacle(), timeout: 600_000 }, () => {
  it("two nodes: daemon, broker, both, on the active node and on the backup", async (t) => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [active, backup] = cluster.nodes as [ClusterNode, ClusterNode];
    const random = seeded(t, 2);
    const each = (["daemon", "broker", "both"] as const).flatMap((kill) => [
      { kill, victims: [active] },
      { kill, victims: [backup] },
    ]);
    await runIncidents(t, cluster, random, shuffled(random, repeated(each)), (node) => (node === active ? 3000 : 300));
  });

  it("three nodes, all active", async (t) => {
    await using cluster = await Cluster.start({ nodes: 3 });
    const random = seeded(t, 3);
    const incidents: Incident[] = (["daemon", "broker", "both"] as const).map((kill) => ({
      kill,
      victims: [random.pick(cluster.nodes)],
    }));
    incidents.push({ kill: "daemon", victims: shuffled(random, cluster.nodes).slice(0, 2) });
    incidents.push({ kill: "both", victims: cluster.nodes });
    await runIncidents(t, cluster, random, shuffled(random, repeated(incidents)), () => 1000);
  });

  it("five nodes, all active", async (t) => {
    await using cluster = await Cluster.start({ nodes: 5 });
    const random = seeded(t, 5);
    const incidents: Incident[] = (["daemon", "broker", "both"] as const).map((kill) => ({
      kill,
      victims: shuffled(random, cluster.nodes).slice(0, kill === "daemon" ? 2 : 1),
    }));
    await runIncidents(t, cluster, random, shuffled(random, repeated(incidents)), () => 400);
  });
});

function seeded(t: TestContext, nodes: number): Random {
  t.diagnostic(`seed ${SEED}`);
  return new Random(SEED + nodes);
}

function repeated<T>(list: readonly T[]): T[] {
  return Array.from({ length: ROUNDS }, () => list).flat();
}

function shuffled<T>(random: Random, list: readonly T[]): T[] {
  const left = [...list];
  return list.map(() => left.splice(random.below(left.length), 1)[0]!);
}

async function runIncidents(
  t: TestContext,
  cluster: Cluster,
  random: Random,
  incidents: readonly Incident[],
  operationsPerSecond: (node: ClusterNode) => number,
): Promise<void> {
  for (const [index, incident] of incidents.entries()) {
    const { kill, victims } = incident;
    const what = `${index + 1}: ${kill} of ${victims.map((node) => node.name).join(" and ")}`;
    const startedMs = performance.now();
    for (const node of cluster.nodes) {
      await node.startLoad({
        seed: random.word(),
        // A range of its own each time: what earlier incidents have left stays, as long-lived flows do.
        range: (index % 12) * 5 + node.number - 1,
        flowsMax: FLOWS_MAX,
        operationsPerSecond: operationsPerSecond(node),
      });
    }
    await cluster.nodes[0]!.loadGoesOn(random.below(OPERATIONS_MAX));
    await Promise.all(
      victims.map((node) => killAndRestart(node, kill, cluster.nodes[0]!, random.below(OPERATIONS_MAX))),
    );
    await cluster.nodes[0]!.loadGoesOn(random.below(OPERATIONS_MAX));
    const truths = await Promise.all(cluster.nodes.map((node) => node.stopLoad()));
    await assertAgreement(cluster.nodes).catch((error: unknown) => {
      throw new Error(`incident ${what}`, { cause: error });
    });
    for (const [at, node] of cluster.nodes.entries()) {
      assert.ok(truths[at]!.operations > 0, "the load did nothing");
      await assertTruth(node, (index % 12) * 5 + node.number - 1, truths[at]!);
    }
    t.diagnostic(`${what}: ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  }
}

/** The daemon starts a broker again that was killed; a daemon is started again after so many operations without it. */
async function killAndRestart(node: ClusterNode, kill: Kill, clock: ClusterNode, operations: number): Promise<void> {
  switch (kill) {
    case "broker":
      await node.kill9Broker();
      return;
    case "daemon":
      await node.kill9Daemon();
      break;
    case "both":
      await node.kill9Both();
      break;
  }
  await clock.loadGoesOn(operations);
  node.start();
  await node.ready();
}
