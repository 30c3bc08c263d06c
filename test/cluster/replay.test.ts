/**
 * How long a restarted node needs until its external cache is whole, from its own broker alone: the peer is gone.
 *
 *   CHAOS_REPLAY_FLOWS   flows of the peer (50,000)
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const FLOWS = Number(process.env.CHAOS_REPLAY_FLOWS ?? 50_000);
const REPLAY_MS_MAX = 15_000;

describe("replay", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it(`rebuilds ${FLOWS} flows of a dead peer and as many of its own`, async (t) => {
    await using cluster = await Cluster.start({ nodes: 2, maxBytes: "512MiB" });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await n2.apply({ type: "create", range: 2, from: 0, count: FLOWS, mark: 1 });
    await n1.apply({ type: "update", range: 1, from: 0, count: FLOWS, mark: 2 });
    await assertAgreement(cluster.nodes);
    const external = await n2.table("external");
    const own = await n2.table("internal");
    assert.equal(external.size, FLOWS);
    await n1.die();
    await n2.kill9Both();
    const startedMs = performance.now();
    n2.start();
    await n2.ready();
    const readyMs = performance.now() - startedMs;
    await waitFor("the external cache is whole", REPLAY_MS_MAX, async () => {
      return (await n2.status()).external.flows === FLOWS;
    });
    const wholeMs = performance.now() - startedMs;
    t.diagnostic(`${FLOWS} flows of a peer and ${FLOWS} own ones: ready after ${readyMs.toFixed(0)} ms`);
    t.diagnostic(`external cache whole after ${wholeMs.toFixed(0)} ms`);
    assert.ok(wholeMs < REPLAY_MS_MAX, `took ${wholeMs.toFixed(0)} ms`);
    assert.equal(difference("external cache after the restart", external, await n2.table("external")), null);
    assert.equal(difference("internal cache after the restart", own, await n2.table("internal")), null);
  });
});
