/** The disk under the store is full: capture goes on, status says so, and once there is room again all agree. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 60_000;
const MIB = 1024 * 1024;

describe("full disk", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("capture goes on, status says so, and afterwards all agree", async () => {
    await using cluster = await Cluster.start({ nodes: 2, storeBytes: 24 * MIB });
    const [n1] = cluster.nodes as [ClusterNode];
    await n1.apply({ type: "create", range: 1, from: 0, count: 2000, mark: 1 });
    await assertAgreement(cluster.nodes);
    await n1.startLoad({ seed: 1, range: 2, flowsMax: 3000, operationsPerSecond: 3000 });
    const { pid } = n1.daemon!;
    const filler = n1.fillStore();
    await waitFor(
      "status says that something is wrong",
      WAIT_MS,
      async () => (await n1.conntrail("status")).code === 1,
    );
    await n1.loadGoesOn(3000);
    assert.ok(n1.daemonBytes < 400 * MIB);
    await n1.stopLoad();
    await waitFor("the internal cache follows the kernel", WAIT_MS, async () => {
      return difference("internal", await n1.kernel(), await n1.table("internal")) === null;
    });
    rmSync(filler);
    await assertAgreement(cluster.nodes, { timeoutMs: WAIT_MS });
    assert.equal((await n1.conntrail("status")).code, 0);
    assert.equal(n1.daemon?.pid, pid);
  });

  it("a copy that met the full disk is whole again when there is room, though the own stream is quiet", async () => {
    await using cluster = await Cluster.start({ nodes: 2, storeBytes: 24 * MIB });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n2.apply({ type: "create", range: 2, from: 0, count: 2000, mark: 1 });
    await assertAgreement(cluster.nodes);
    const filler = n1.fillStore();
    await n2.startLoad({ seed: 1, range: 3, flowsMax: 2000, operationsPerSecond: 2000 });
    const reason = async (): Promise<string> => (await n1.status()).peers[0]?.reason ?? "";
    await waitFor("the copy cannot be written", WAIT_MS, async () =>
      /its copy on this node cannot/.test(await reason()),
    );
    await n2.stopLoad();
    rmSync(filler);
    await waitFor("the copy is written again", WAIT_MS, async () => (await n1.conntrail("status")).code === 0);
    await assertAgreement(cluster.nodes, { timeoutMs: WAIT_MS });
  });
});
