/** What must survive a takeover when more than one thing goes wrong, or when it happens three times in a row. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference, type FlowMap, markOf, rangeOf, testFlowKey } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
/** The range of the flows that move from node to node. */
const MOVING = 1;
const FLOWS = 2000;

describe("takeover", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  for (const nodes of [2, 3, 5]) {
    it(`${nodes} nodes: the primary dies, the backup's daemon is killed too before it commits`, async () => {
      await using cluster = await Cluster.start({ nodes });
      const [primary, backup, ...others] = cluster.nodes as [ClusterNode, ClusterNode, ...ClusterNode[]];
      await primary.hook("primary");
      await primary.apply({ type: "create", range: MOVING, from: 0, count: FLOWS, mark: 1 });
      await assertAgreement(cluster.nodes);
      const steady = await primary.kernel();
      await primary.startLoad({ seed: nodes, range: MOVING + 1, flowsMax: 2000, operationsPerSecond: 2000 });
      await primary.loadGoesOn(1000);
      await primary.die();
      const left = await settled(backup, "external");
      await backup.kill9Both();
      backup.start();
      await backup.ready();
      const { commit } = await backup.hook("primary");
      assert.deepEqual(commit?.failed, {});
      assert.equal(
        difference("kernel of the new primary against its external cache before", left, await backup.kernel()),
        null,
      );
      // The load's last milliseconds may be lost with the primary, but nothing that was there before.
      const kept = new Map([...left].filter(([key]) => rangeOf(key) === MOVING));
      assert.equal(difference("flows from before the load", steady, kept), null);
      assert.ok(left.size > steady.size, "nothing of the load was replicated");
      await assertAgreement([backup, ...others], { gone: new Map([[primary.name, new Map()]]) });
    });
  }

  it("a node that nothing happens to still tells that its flows have moved; rehearsal and record of that", async () => {
    await using cluster = await Cluster.start({ nodes: 2, keys: true });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.apply({ type: "create", range: MOVING, from: 0, count: 10, mark: 1 });
    await assertAgreement(cluster.nodes);
    const rows = await n1.counter("journal", "rows");
    // What a takeover by n2 would lose: nothing, and then what n2 does not know.
    assert.deepEqual(
      (await n1.request("rehearse", {})).peers.map(({ checked, missing, differing, error }) => [
        checked,
        missing,
        differing,
        error,
      ]),
      [[10, 0, 0, null]],
    );
    assert.equal((await n1.conntrail("rehearse")).code, 0);
    await n1.cutLink();
    const cut = await n1.request("rehearse", {});
    assert.deepEqual([cut.loses, cut.peers[0]?.checked], [true, 0], "what is not known counts as lost");
    await n1.healLink();
    await n2.request("flush", { table: "external" });
    await waitFor(
      "n1 reaches n2 again",
      WAIT_MS,
      async () => (await n1.request("rehearse", {})).peers[0]?.error === null,
    );
    const { code, stdout } = await n1.conntrail("rehearse");
    assert.equal(code, 1);
    assert.match(stdout, /\nn2 +10 +10 +0 +0 +0 +something\n\nn2 does not have\n {2}(tcp|udp) /);
    await n2.request("resync", { source: "peers" });
    assert.equal((await n2.request("commit", {})).committed, 10);
    await waitFor("n1 tells that 10 flows have moved", WAIT_MS, async () => {
      return (await n1.counter("journal", "rows")) === rows + 10;
    });
    // Both nodes have the takeover on record, one of them in its copy.
    for (const node of cluster.nodes) {
      const found = async () => JSON.parse((await node.conntrail("takeovers", "--json")).stdout).takeovers;
      await waitFor(`${node.name} knows of the takeover`, WAIT_MS, async () => (await found()).length === 1);
      const [{ cause, committed, failed, node: by, reasons }] = await found();
      assert.deepEqual([by, cause, committed, failed, reasons], ["n2", "command", 10, 0, {}]);
    }
  });

  for (const nodes of [3, 5]) {
    it(`${nodes} nodes: 1 → 2 → 3 → 1 with flows ending in between, each purged soon after it moved`, async () => {
      await failOverInTurn(nodes, "1500ms", true);
    });
  }

  it("1 → 2 → 3 → 1 with flows ending in between, none purged: old entries stay in the kernels of backups", async () => {
    await failOverInTurn(3, "1h", false);
  });
});

/** The table once it no longer changes. */
async function settled(node: ClusterNode, table: "internal" | "external"): Promise<FlowMap> {
  let last = await node.table(table);
  return waitFor(`the ${table} cache of ${node.name} at rest`, WAIT_MS, async () => {
    const now = await node.table(table);
    const changed = difference("", last, now);
    last = now;
    return changed === null ? now : undefined;
  });
}

/** What must be there, kept by the test: flow number to mark. */
type Alive = Map<number, number>;

async function failOverInTurn(nodes: number, purgeAfter: string, purged: boolean): Promise<void> {
  await using cluster = await Cluster.start({ nodes, purgeAfter });
  const [n1, n2, n3] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
  const alive: Alive = new Map();
  let primary = n1;
  await n1.hook("primary");
  for (const node of cluster.nodes.slice(1)) await node.hook("backup");
  await create(primary, alive, 0, 1000, 1);
  await assertMoved(cluster.nodes, primary, alive);
  let mark = 1;
  for (const next of [n2, n3, n1, n2]) {
    // Some end, some start, some change on the old primary; the same again on the new one after the move.
    for (const stage of ["before", "after"] as const) {
      mark++;
      if (stage === "after") {
        await primary.hook("backup");
        const { commit } = await next.hook("primary");
        assert.deepEqual(commit?.failed, {}, `commit of ${next.name}`);
        primary = next;
      }
      await destroy(primary, alive, 60);
      await create(primary, alive, mark * 2000, 100, mark);
      await update(primary, alive, 50, mark);
      await assertMoved(cluster.nodes, primary, alive);
    }
    if (!purged) continue;
    for (const node of cluster.nodes) {
      if (node === primary) continue;
      await waitFor(`the purge of ${node.name}`, WAIT_MS, async () => (await node.kernel()).size === 0);
    }
    await assertMoved(cluster.nodes, primary, alive);
  }
}

async function create(node: ClusterNode, alive: Alive, from: number, count: number, mark: number): Promise<void> {
  await node.apply({ type: "create", range: MOVING, from, count, mark });
  for (let index = from; index < from + count; index++) alive.set(index, mark);
}

/** Ends the oldest: those that have moved most often. */
async function destroy(node: ClusterNode, alive: Alive, count: number): Promise<void> {
  const ending = [...alive.keys()].slice(0, count);
  await node.apply(...ending.map((from) => ({ type: "destroy" as const, range: MOVING, from, count: 1 })));
  for (const index of ending) alive.delete(index);
}

async function update(node: ClusterNode, alive: Alive, count: number, mark: number): Promise<void> {
  const changing = [...alive.keys()].slice(count, 2 * count);
  await node.apply(...changing.map((from) => ({ type: "update" as const, range: MOVING, from, count: 1, mark })));
  for (const index of changing) alive.set(index, mark);
}

/** The primary's kernel and internal cache, and every other external cache, hold just what is alive, as it is now. */
async function assertMoved(nodes: readonly ClusterNode[], primary: ClusterNode, alive: Alive): Promise<void> {
  const expected: Map<string, number> = new Map();
  for (const [index, mark] of alive) expected.set(testFlowKey(MOVING, index), mark);
  const wrong = (flows: FlowMap): string | null => {
    const closed = [...flows.keys()].filter((key) => !expected.has(key)).length;
    const lost = [...expected.keys()].filter((key) => !flows.has(key)).length;
    const old = [...flows].filter(([key, value]) => expected.has(key) && expected.get(key) !== markOf(value)).length;
    return closed + lost + old === 0 ? null : `${closed} closed flows, ${lost} lost, ${old} of an older state`;
  };
  let seen = "";
  const check = async (): Promise<boolean> => {
    for (const node of nodes) {
      const isPrimary = node === primary;
      const tables = isPrimary
        ? { kernel: await node.kernel(), "internal cache": await node.table("internal") }
        : { "external cache": await node.table("external") };
      for (const [name, flows] of Object.entries(tables)) {
        const found = wrong(flows);
        if (found === null) continue;
        seen = `${name} of ${node.name} (primary is ${primary.name}): ${found}`;
        return false;
      }
    }
    // Whoever takes over next has nothing to take from itself.
    seen = `external cache of the primary ${primary.name} is not empty`;
    return (await primary.table("external")).size === 0;
  };
  await waitFor("what is alive is everywhere, and nothing else", WAIT_MS, check).catch((error: unknown) => {
    assert.fail(`${String(error)}: ${seen}`);
  });
}
