/** More than the event socket, the broker or the store can take: capture goes on, memory stays bounded, and afterwards all agree. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 60_000;
const MIB = 1024 * 1024;
/** Messages that were on their way when the broker froze arrive in the end, though the daemon has dropped them meanwhile. */
const WINDOW = 3000;
/** What the daemon may grow by beyond what it has warmed up to: its ring of 64 MiB and as much again for garbage. */
const GROWTH_BYTES_MAX = 160 * MIB;

describe("overrun", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("of the event socket: no restart, no lost flow, no ghost, counted, and marked in the stream", async () => {
    await using cluster = await Cluster.start({ nodes: 3, netlinkBuffer: ["64KiB", "128KiB"] });
    const [n1] = cluster.nodes as [ClusterNode];
    const before = await n1.status();
    const pid = n1.daemon?.pid;
    await n1.apply({ type: "create", range: 1, from: 0, count: 3000, mark: 1 });
    await n1.apply(
      { type: "create", range: 2, from: 0, count: 20_000, mark: 1 },
      { type: "update", range: 2, from: 0, count: 10_000, mark: 2 },
      { type: "destroy", range: 2, from: 5000, count: 10_000 },
      { type: "create", range: 2, from: 5000, count: 3000, mark: 3 },
      { type: "destroy", range: 1, from: 0, count: 1500 },
    );
    await assertAgreement(cluster.nodes);
    assert.equal((await n1.kernel()).size, 14_500);
    assert.ok((await n1.counter("replicator", "overruns")) > 0, "nothing was overrun: the burst is too small");
    const gaps = (await n1.marks()).filter((mark) => mark.type === "gap" && mark.epoch === before.epoch);
    assert.ok(gaps.length > 0, "no gap mark in the stream");
    assert.match(gaps[0]!.reason, /overrun/);
    assert.equal((await n1.status()).epoch, before.epoch, "the daemon was restarted");
    assert.equal(n1.daemon?.pid, pid);
    assert.ok(n1.daemon?.running);
  });

  it("of a broker that hangs: status says so, the internal cache follows the kernel, and afterwards all agree", async (t) => {
    // Without pacing every few events are a message, so that the ring overflows too.
    await using cluster = await Cluster.start({ nodes: 2, publishInterval: "0" });
    const [n1] = cluster.nodes as [ClusterNode];
    const load = { seed: 1, range: 1, flowsMax: 4000, operationsPerSecond: 6000, batchMax: 2 };
    await n1.startLoad(load);
    await n1.loadGoesOn(6000);
    const bytes = n1.daemonBytes;
    n1.pauseBroker();
    await waitFor(
      "messages are lost",
      WAIT_MS,
      async () => (await n1.counter("publisher", "droppedMessages")) > WINDOW,
    );
    await n1.loadGoesOn(3000);
    const growth = n1.daemonBytes - bytes;
    t.diagnostic(`grew by ${(growth / MIB).toFixed(1)} MiB while the broker hung`);
    assert.ok(growth < GROWTH_BYTES_MAX, `grew by ${(growth / MIB).toFixed(1)} MiB`);
    const status = await n1.conntrail("status");
    assert.equal(status.code, 1, `status while the broker hangs: ${status.stdout}`);
    await n1.stopLoad();
    await assertCaptures(n1);
    n1.resumeBroker();
    await assertAgreement(cluster.nodes);
    assert.equal((await n1.conntrail("status")).code, 0);
    const gaps = (await n1.marks()).filter((mark) => mark.type === "gap");
    assert.ok(gaps.length > 0, "messages were dropped, but no gap mark is in the stream");
  });

  it("of a broker that hangs for a moment: nothing is lost, so no gap is marked", async () => {
    // A busy machine may keep the daemon from its event socket for a while, which is none of the broker's.
    await using cluster = await Cluster.start({ nodes: 2, netlinkBuffer: ["32MiB", "64MiB"] });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    for (const node of [n1, n2]) {
      await node.startLoad({ seed: node.number, range: node.number, flowsMax: 2000, operationsPerSecond: 2000 });
    }
    await n1.loadGoesOn(1000);
    n1.pauseBroker();
    await n1.loadGoesOn(3000);
    n1.resumeBroker();
    await n1.loadGoesOn(1000);
    for (const node of [n1, n2]) await node.stopLoad();
    await assertAgreement(cluster.nodes);
    assert.deepEqual(
      (await n1.marks()).filter((mark) => mark.type === "gap"),
      [],
    );
  });
});

/** The internal cache equals the kernel, whatever becomes of the stream. */
async function assertCaptures(node: ClusterNode): Promise<void> {
  let seen: string | null = "";
  await waitFor("capture goes on", WAIT_MS, async () => {
    seen = difference(`internal cache of ${node.name}`, await node.kernel(), await node.table("internal"));
    return seen === null;
  }).catch((error: unknown) => assert.fail(`${String(error)}: ${seen}`));
}
