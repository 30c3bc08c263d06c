/** The daemon's two other ways to its kernel: polling in place of events, and filters that the kernel applies. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference, type FlowMap, markOf } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const POLL = "netlink: { poll: 200ms }";

type Pair = readonly [ClusterNode, ClusterNode];

describe("the kernel side", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("polls: every change comes without events, a commit is owned at once, and a failover back works", async () => {
    await using cluster = await Cluster.start({ nodes: 2, configure: () => [POLL] });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    await a.hook("primary");
    await a.apply({ type: "create", range: 1, from: 0, count: 500, mark: 2 });
    await assertAgreement(pair);
    assert.equal((await b.table("external")).size, 500);
    await a.apply(
      { type: "update", range: 1, from: 0, count: 200, mark: 4 },
      { type: "destroy", range: 1, from: 100, count: 200 },
      { type: "create", range: 1, from: 150, count: 10, mark: 6 },
    );
    await assertAgreement(pair);
    await assertPolls(a);

    for (const [primary, backup, range] of [
      [b, a, 2],
      [a, b, 3],
    ] as const) {
      const before = await backup.kernel();
      const { commit } = await primary.hook("primary");
      assert.deepEqual(commit?.failed, {});
      assert.equal(difference("the kernel that took over", before, await primary.kernel()), null);
      // What a commit wrote is read after its answer.
      await waitFor("the committed flows its own", WAIT_MS, async () => (await primary.table("external")).size === 0);
      await backup.hook("backup");
      await primary.apply(
        { type: "create", range, from: 0, count: 50, mark: 2 },
        { type: "destroy", range: 1, from: (range - 2) * 50, count: 50 },
      );
      await waitFor("the other node has heard", WAIT_MS, async () => {
        const [own, heard] = [await primary.kernel(), await backup.table("external")];
        return difference("external cache", own, heard) === null;
      });
    }
    assert.equal(await a.stop(), 0, "the daemon did not end cleanly");
  });

  it("polls in mode inject: kernels agree, and what packets close on the other node is closed for both", async () => {
    const configure = (): readonly string[] => ["mode: inject", POLL];
    await using cluster = await Cluster.start({ nodes: 2, configure });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    await a.apply({ type: "create", range: 1, from: 0, count: 300, mark: 2 });
    await assertSameKernels(pair, 300);
    await a.apply(
      { type: "update", range: 1, from: 0, count: 100, mark: 4 },
      { type: "destroy", range: 1, from: 50, count: 100 },
    );
    await assertSameKernels(pair, 200);
    await b.apply({ type: "create", range: 2, from: 0, count: 100, mark: 2 });
    await assertSameKernels(pair, 300);
    // An odd mark closes TCP: here packets that pass the node which does not own the flows.
    await b.apply({ type: "update", range: 1, from: 0, count: 50, mark: 5 });
    await assertSameKernels(pair, 300);
    const closed = await a.exec("conntrack", "-L", "-p", "tcp", "--state", "CLOSE_WAIT");
    assert.ok(closed.includes("CLOSE_WAIT"), "the flows were opened again");
    const marks = [...(await a.kernel()).values()].map(markOf);
    assert.equal(marks.filter((mark) => mark === 5).length, 50, "what was changed there was changed back");
    await b.apply({ type: "destroy", range: 1, from: 0, count: 50 });
    await assertSameKernels(pair, 250);
    for (const node of pair) await assertPolls(node);
    assert.equal(await b.stop(), 0, "the daemon did not end cleanly");
  });

  it("filters in the kernel: what is not wanted does not reach the daemon; SIGHUP exchanges the filter", async () => {
    const filter = "filter: { protocols: [tcp], where: kernelspace }";
    await using cluster = await Cluster.start({ nodes: 2, configure: (number) => (number === 1 ? [filter] : []) });
    const pair = cluster.nodes as unknown as Pair;
    const [a, b] = pair;
    assert.ok((await a.counter("events", "filterInstructions")) > 0);
    await a.apply({ type: "create", range: 1, from: 0, count: 800, mark: 2 });
    // Of eight test flows six are TCP.
    await waitFor("the other node has TCP", WAIT_MS, async () => (await b.table("external")).size === 600);
    assert.equal(await a.counter("events", "eventsReceived"), 600);
    assert.equal(await a.counter("replicator", "filtered"), 0);

    const reload = (): void => void process.kill(a.daemon?.pid ?? assert.fail("no daemon"), "SIGHUP");
    const file = join(a.directory, "conntrail.yaml");
    const config = readFileSync(file, "utf8");
    writeFileSync(file, config.replace(filter, "filter: { protocols_ignore: [tcp], where: kernelspace }"));
    reload();
    await waitFor("the other node has the rest", WAIT_MS, async () => (await b.table("external")).size === 200);
    await a.apply({ type: "create", range: 2, from: 0, count: 80, mark: 2 });
    await waitFor("and what came since", WAIT_MS, async () => (await b.table("external")).size === 220);
    assert.equal(await a.counter("events", "eventsReceived"), 620);

    writeFileSync(file, config.replace(filter, ""));
    assert.deepEqual(await a.conntrail("reload"), {
      code: 0,
      stdout: "applied: filter.protocols filter.where\n",
      stderr: "",
    });
    await assertAgreement(pair);
    assert.equal(await a.counter("events", "filterInstructions"), 0);

    // A peer that nobody has heard of yet, a purge time, and what only a start can set.
    const more = config
      .replace(filter, "nice: 5")
      .replace(/^purge:.*$/m, "purge: { after: 7s }")
      .replace(/peers: \{ (.*) \}/, "peers: { $1, n9: 192.0.2.9 }");
    writeFileSync(file, more);
    const report = "applied: purge.after peers.n9\nneeds a restart: nice\n";
    const reloaded = await a.conntrail("reload");
    assert.deepEqual([reloaded.code, reloaded.stdout], [1, report]);
    const { peers } = JSON.parse((await a.conntrail("status", "--json")).stdout) as { peers: { node: string }[] };
    assert.deepEqual(
      peers.map(({ node }) => node),
      ["n2", "n9"],
    );
    assert.match((await a.conntrail("purge")).stdout, /^purge in 7 s/);
    writeFileSync(file, `${more}nonsense: 1\n`);
    assert.equal((await a.conntrail("reload")).code, 2);
  });
});

/** The daemon has read its kernel by polls, and by no event. */
async function assertPolls(node: ClusterNode): Promise<void> {
  assert.equal(await node.counter("events", "datagrams"), 0);
  assert.ok((await node.counter("replicator", "polls")) > 0);
  assert.equal(await node.counter("replicator", "pollsFailed"), 0);
}

async function assertSameKernels([a, b]: Pair, count: number): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("the kernels agree", WAIT_MS, async () => {
    const [one, other]: [FlowMap, FlowMap] = [await a.kernel(), await b.kernel()];
    seen = difference(`kernel of ${b.name} against that of ${a.name}`, one, other);
    if (seen === null && one.size !== count) seen = `${one.size} flows, expected ${count}`;
    return seen === null;
  }).catch(() => assert.fail(`${seen}\n${[...a.complaints(), ...b.complaints()].join("\n")}`));
}
