/** What may happen to a store: wiped, cut short, a stream deleted under the running daemon, what a peer needs trimmed away. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import type { ClusterNode } from "../support/cluster/node.js";

const FLOWS = 2000;
const WAIT_MS = 30_000;

describe("damage to the store", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("wiped while the node is down: nothing is lost on either side", async () => {
    await using cluster = await loadedCluster(2);
    const [victim, other] = cluster.nodes as [ClusterNode, ClusterNode];
    await whileDown(victim, other, () => victim.wipeStore());
    await assertAgreement(cluster.nodes);
  });

  it("cut short by a byte, a message, most of it, in the own stream and in the copy", async () => {
    await using cluster = await loadedCluster(2);
    const [victim, other] = cluster.nodes as [ClusterNode, ClusterNode];
    for (const bytes of [1, 700, 40_000, 10_000_000]) {
      await whileDown(victim, other, () => {
        assert.ok(victim.truncateStream("CT_n1", bytes) > 0);
        assert.ok(victim.truncateStream("CT_n2", bytes) > 0);
      });
      await assertAgreement(cluster.nodes).catch((error: unknown) => {
        throw new Error(`${bytes} bytes cut off both streams of n1: ${String(error)}`, { cause: error });
      });
    }
  });

  it("a stream deleted under the running daemon: the own one, and the copy of a peer's", async () => {
    await using cluster = await loadedCluster(2);
    const [victim, other] = cluster.nodes as [ClusterNode, ClusterNode];
    for (const name of ["CT_n1", "CT_n2"]) {
      await startLoads(victim, other);
      await victim.loadGoesOn(300);
      await victim.deleteStream(name);
      await victim.loadGoesOn(300);
      await stopLoads(victim, other);
      await assertAgreement(cluster.nodes).catch((error: unknown) => {
        throw new Error(`${name} deleted from the broker of n1`, { cause: error });
      });
      await waitFor(`${name} back on the broker of n1`, WAIT_MS, async () =>
        (await victim.streams()).some((stream) => stream.name === name && stream.messages > 0),
      );
    }
  });

  it("what a peer had yet to read is trimmed away while it is cut off", async () => {
    await using cluster = await loadedCluster(2, "16MiB");
    const [writer, reader] = cluster.nodes as [ClusterNode, ClusterNode];
    const own = async () => (await writer.streams()).find((stream) => stream.name === "CT_n1")!;
    const { lastSequence } = await own();
    await reader.cutLink();
    await startLoads(writer, reader);
    await waitFor("the stream is trimmed beyond what the peer has read", WAIT_MS * 2, async () => {
      await writer.request("bulk", {});
      return (await own()).firstSequence > lastSequence + 1;
    });
    await stopLoads(writer, reader);
    await reader.healLink();
    await assertAgreement(cluster.nodes);
    // And the node whose own stream it is finds its way in what is left.
    await writer.kill9Daemon();
    await reader.apply({ type: "create", range: 12, from: 0, count: 100 });
    writer.start();
    await writer.ready();
    await assertAgreement(cluster.nodes);
  });
});

/** Nodes with flows that stay, in agreement. */
async function loadedCluster(nodes: number, maxBytes = "64MiB"): Promise<Cluster> {
  const cluster = await Cluster.start({ nodes, maxBytes });
  try {
    for (const node of cluster.nodes) {
      await node.apply({ type: "create", range: node.number, from: 0, count: FLOWS, mark: 1 });
    }
    await assertAgreement(cluster.nodes);
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

/** Kills the victim under load, does the damage, and starts it again when both kernels have gone on without it. */
async function whileDown(victim: ClusterNode, other: ClusterNode, damage: () => void): Promise<void> {
  await startLoads(victim, other);
  await victim.loadGoesOn(500);
  await victim.kill9Both();
  damage();
  await victim.loadGoesOn(500);
  victim.start();
  await victim.ready();
  await stopLoads(victim, other);
}

let loads = 0;

/** Each time in ranges of their own. */
async function startLoads(...nodes: readonly ClusterNode[]): Promise<void> {
  loads++;
  for (const node of nodes) {
    const range = 20 + ((loads * 2 + node.number) % 40);
    await node.startLoad({ seed: loads, range, flowsMax: 1500, operationsPerSecond: 1500 });
  }
}

async function stopLoads(...nodes: readonly ClusterNode[]): Promise<void> {
  for (const node of nodes) await node.stopLoad();
}
