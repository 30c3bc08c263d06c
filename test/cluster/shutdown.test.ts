/** SIGTERM leaves nothing behind, and what starts again goes on where it was. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const STOP_MS_MAX = 5000;
const RESTART_MS_MAX = 5000;

describe("shutdown", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("SIGTERM under load leaves no process, no socket, and no consumer on any broker; a restart is quick", async (t) => {
    await using cluster = await Cluster.start({ nodes: 3 });
    const [n1, n2, n3] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    for (const node of cluster.nodes) {
      const range = node.number;
      await node.startLoad({ seed: range, range, flowsMax: 3000, operationsPerSecond: 1500 });
    }
    await n2.loadGoesOn(1500);
    // Without followers there are no consumers at all, so whatever is left after two nodes ended was left behind.
    assert.ok((await consumers(n1)).length > 0, "n1 has no consumers: this proves nothing");
    const stopsMs: number[] = [];
    const restartsMs: number[] = [];
    for (const node of [n2, n3]) {
      const startedMs = performance.now();
      assert.equal(await node.stop(), 0, `${node.name}: ${node.complaints().join("\n")}`);
      stopsMs.push(performance.now() - startedMs);
      assert.deepEqual(node.processes(), []);
      assert.equal(existsSync(node.control), false, "the control socket is still there");
    }
    const left = await consumers(n1);
    assert.deepEqual(left, [], "consumers are left on the broker of n1");
    for (const node of [n2, n3]) {
      await node.loadGoesOn(500);
      const startedMs = performance.now();
      node.start();
      await node.ready();
      restartsMs.push(performance.now() - startedMs);
    }
    const text = (times: readonly number[]): string => `${times.map((ms) => ms.toFixed(0)).join(" and ")} ms`;
    t.diagnostic(`ended in ${text(stopsMs)}, ready again after ${text(restartsMs)}`);
    assert.ok(Math.max(...stopsMs) < STOP_MS_MAX, text(stopsMs));
    assert.ok(Math.max(...restartsMs) < RESTART_MS_MAX, text(restartsMs));
    for (const node of cluster.nodes) await node.stopLoad();
    await assertAgreement(cluster.nodes);
    // Started again while its peers ran: what they had of its readers has gone too, or is in use again.
    await waitFor("one consumer per follower on n1", WAIT_MS, async () => (await consumers(n1)).length === 2);
  });

  it("a restart tells the peers of the difference only, and takes nothing from them", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.apply({ type: "create", range: 1, from: 0, count: 5000, mark: 1 });
    await assertAgreement(cluster.nodes);
    assert.equal(await n1.stop(), 0);
    await n1.apply({ type: "destroy", range: 1, from: 0, count: 10 }, { type: "create", range: 2, from: 0, count: 10 });
    await n1.apply({ type: "update", range: 1, from: 100, count: 10, mark: 9 });
    const { destroyed, created } = (await n2.stats()).external as Record<string, number>;
    n1.start();
    await n1.ready();
    await assertAgreement(cluster.nodes);
    const after = (await n2.stats()).external as Record<string, number>;
    assert.equal(after.destroyed! - destroyed!, 10);
    assert.equal(after.created! - created!, 10);
    const rows = await n1.counter("journal", "rows");
    assert.ok(rows < 100, `${rows} rows were published for 30 that differ`);
  });
});

async function consumers(node: ClusterNode): Promise<string[]> {
  return (await node.streams()).flatMap((stream) => stream.consumers.map((name) => `${stream.name}: ${name}`));
}
