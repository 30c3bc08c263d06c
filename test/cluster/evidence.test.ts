/** "In sync" is evidence: each way in which it once was said while something would have been lost, on real daemons and brokers. */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, it } from "node:test";
import { stampOfMs } from "../../src/flow/clock.js";
import { signal } from "../../src/lab/leftover.js";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { testFlowKeys } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";
import { DAMAGES, tear } from "../support/torn-store.js";

const WAIT_MS = 30_000;
const FLOWS = 500;
const FIRST_STARTS = 3;
/** Longer than a message takes on a busy machine, and shorter than evidence may be old. */
const AT_ONCE_MS = 2000;

/** Resolves when a node says that it is not in sync, for this reason; what `status` exits with then is 1. */
async function refuses(node: ClusterNode, reason: RegExp): Promise<void> {
  let seen = "";
  await waitFor(`${node.name} not in sync: ${reason}`, WAIT_MS, async () => {
    const status = await node.status();
    seen = JSON.stringify([status.reason, status.peers.map((peer) => peer.reason)]);
    return !status.inSync && reason.test(seen);
  }).catch((error: unknown) => {
    throw new Error(`it says ${seen}`, { cause: error });
  });
  assert.equal((await node.conntrail("status")).code, 1);
}

async function inSync(...nodes: readonly ClusterNode[]): Promise<void> {
  for (const node of nodes) {
    let seen = "";
    await waitFor(`${node.name} in sync`, WAIT_MS, async () => {
      const { code, stdout } = await node.conntrail("status");
      seen = stdout;
      return code === 0;
    }).catch((error: unknown) => {
      throw new Error(`it says ${seen}`, { cause: error });
    });
  }
}

/** Resolves when `status --json` has these warnings and no other, and `status` prints each. */
async function warns(node: ClusterNode, warnings: readonly RegExp[]): Promise<void> {
  let seen: readonly string[] = [];
  await waitFor(`${node.name} warns of ${warnings}`, WAIT_MS, async () => {
    seen = (await node.status()).warnings;
    return seen.length === warnings.length && warnings.every((each, index) => each.test(seen[index] ?? ""));
  }).catch((error: unknown) => {
    throw new Error(`it warns of ${JSON.stringify(seen)}`, { cause: error });
  });
  const { stdout } = await node.conntrail("status");
  for (const each of warnings) {
    const anywhere = new RegExp(each.source.replace(/^\^|\$$/g, ""));
    assert.match(stdout, anywhere);
  }
}

/** Changes lines of a node's configuration. */
function configure(node: ClusterNode, from: RegExp, to: string): void {
  const text = readFileSync(node.configFile, "utf8");
  assert.match(text, from);
  writeFileSync(node.configFile, text.replace(from, to));
}

describe("in sync", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("not while the peer's daemon stands still, though its broker answers", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await inSync(n1, n2);
    const pid = n2.daemon?.pid ?? 0;
    assert.ok(pid > 0);
    signal(pid, "SIGSTOP");
    try {
      await refuses(n1, /its daemon has been silent for \d+ s/);
    } finally {
      signal(pid, "SIGCONT");
    }
    await inSync(n1, n2);
  });

  it("from its first start on: what begins then is on the peer at once", async () => {
    await using cluster = await Cluster.create({ nodes: 2, keys: true });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    for (let index = 0; index < FIRST_STARTS; index++) {
      const flow = { range: 1, from: index, count: 1 };
      const [key = ""] = testFlowKeys(1, index, index + 1);
      n2.start();
      if (index > 0) await n2.ready();
      n1.start();
      await n1.ready();
      await waitFor("a takeover by n2 to lose nothing", WAIT_MS, async () => {
        const { inSync: isInSync, peers } = await n1.status();
        return isInSync && peers[0]?.couldTakeOver === true;
      });
      await n1.apply({ type: "create", ...flow, mark: 1 });
      await waitFor("the flow on n2", AT_ONCE_MS, async () => (await n2.table("external")).has(key), { intervalMs: 5 });
      await n1.apply({ type: "destroy", ...flow });
      for (const node of cluster.nodes) {
        await node.kill9Both();
        node.wipeStore();
      }
    }
  });

  it("not with a node of another cluster, nor with one that has another name", async () => {
    await using cluster = await Cluster.create({
      nodes: 3,
      configure: (number) =>
        number === 2 ? ["cluster: other"] : number === 3 ? ["node: n2", "peers: { n1: 10.77.0.1 }"] : [],
    });
    const [n1] = cluster.nodes as [ClusterNode];
    for (const node of cluster.nodes) node.start();
    await n1.ready();
    await cluster.nodes[2]?.ready();
    await refuses(n1, /10\.\S+ belongs to the cluster other, not chaos/);
    await refuses(n1, /10\.\S+ is node n2, not n3/);
  });

  it("not when two nodes have one name", async () => {
    await using cluster = await Cluster.create({
      nodes: 2,
      configure: (number) => (number === 2 ? ["node: n1", "peers: { n2: 10.77.0.1 }"] : []),
    });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    configure(n2, /10\.77\.0\.1/, n1.address);
    for (const node of cluster.nodes) node.start();
    for (const node of cluster.nodes) await node.ready();
    await refuses(n1, /is also called n1: give each node a name of its own/);
    await refuses(n2, /is also called n1: give each node a name of its own/);
  });

  it("not when a cache is full: on the node itself and on its peer", async () => {
    await using cluster = await Cluster.start({
      nodes: 2,
      configure: (number) => (number === 1 ? ["cache: { limit: 1000 }"] : []),
    });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n2.apply({ type: "create", range: 2, from: 0, count: 3000, mark: 1 });
    await refuses(n1, /of its flows found no room/);
    await warns(n2, [/^n1 would lose flows of this node if it took over now: conntrail status there says why$/]);
    await inSync(n2);
    await n1.apply({ type: "create", range: 1, from: 0, count: 3000, mark: 1 });
    await refuses(n1, /the cache is full: \d+ flows are not replicated/);
    await refuses(n2, /its cache is full: \d+ of its flows are not replicated/);
  });

  it("not while the peer's disk is full, which is called that", async () => {
    const MIB = 1024 * 1024;
    await using cluster = await Cluster.start({ nodes: 2, storeBytes: 24 * MIB });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.startLoad({ seed: 1, range: 2, flowsMax: 2000, operationsPerSecond: 2000 });
    const filler = n1.fillStore();
    await refuses(n1, /this node cannot publish: the disk of broker.store \S+ is full/);
    // nats-server 2.9 switches JetStream off then, and is started again and again.
    await refuses(n2, /cannot publish: the disk of broker.store \S+ is full|does not answer/);
    rmSync(filler);
    await n1.stopLoad();
    await assertAgreement(cluster.nodes, { timeoutMs: 60_000 });
  });

  for (const damage of DAMAGES) {
    it(`a store torn by a power cut heals by itself: ${damage}, in the own stream and in the copy`, async () => {
      await using cluster = await Cluster.start({ nodes: 2 });
      const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
      for (const node of cluster.nodes) {
        await node.apply({ type: "create", range: node.number, from: 0, count: FLOWS, mark: 1 });
      }
      await assertAgreement(cluster.nodes);
      await n1.kill9Both();
      tear(n1.store, "CT_n1", damage);
      tear(n1.store, "CT_n2", damage);
      await n1.apply({ type: "create", range: 1, from: FLOWS, count: FLOWS, mark: 1 });
      n1.start();
      await n1.ready();
      await n1.apply({ type: "create", range: 1, from: 2 * FLOWS, count: FLOWS, mark: 1 });
      await assertAgreement(cluster.nodes);
      await inSync(n1, n2);
    });
  }

  it("warns of two primaries of one group and of clocks far apart", async () => {
    await using cluster = await Cluster.start({
      nodes: 2,
      clockOffsetMs: (number) => (number === 2 ? 3_600_000 : 0),
    });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await warns(n1, [/^the clock of n2 is 3[56]\d\d\.\d s ahead of this node's$/]);
    await warns(n2, [/^the clock of n1 is 3[56]\d\d\.\d s behind this node's$/]);
    const clocks = /^the clock of/;
    await n1.hook("primary");
    await n2.hook("primary");
    await warns(n1, [/^this node and n2 are both primary$/, clocks]);
    await warns(n2, [/^this node and n1 are both primary$/, clocks]);
    await n2.hook("backup");
    await warns(n1, [clocks]);
    for (const [node, group] of [
      [n1, "lan"],
      [n1, "wan"],
      [n2, "lan"],
    ] as const) {
      assert.equal((await node.conntrail("hook", "primary", "--group", group)).code, 0);
    }
    await warns(n1, [/^this node and n2 are both primary for the group lan$/, clocks]);
    assert.equal((await n2.conntrail("hook", "fault", "--group", "lan")).code, 0);
    await warns(n1, [clocks]);
  });

  it("warns where no peers are configured", async () => {
    await using cluster = await Cluster.create({ nodes: 1 });
    const [n1] = cluster.nodes as [ClusterNode];
    n1.start();
    await n1.ready();
    await warns(n1, [/^no peers are configured: nothing is replicated to this node$/]);
  });

  it("a peer with a new store and a clock that is behind is read anew, also into the copy", async () => {
    let offsetMs = 0;
    await using cluster = await Cluster.start({
      nodes: 2,
      clockOffsetMs: (number) => (number === 2 ? offsetMs : 0),
    });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n2.apply({ type: "create", range: 2, from: 0, count: FLOWS, mark: 1 });
    await assertAgreement(cluster.nodes);
    await n2.stop();
    rmSync(n2.store, { recursive: true });
    offsetMs = -3_600_000;
    await n2.apply({ type: "destroy", range: 2, from: 0, count: 100 });
    n2.start();
    await n2.ready();
    await n2.apply({ type: "create", range: 2, from: FLOWS, count: FLOWS, mark: 1 });
    await assertAgreement(cluster.nodes);
    await inSync(n1, n2);
    await n1.kill9Both();
    n1.start();
    await n1.ready();
    await assertAgreement(cluster.nodes);
    await inSync(n1, n2);
  });

  it("an epoch that lies an hour ahead costs that message: the stream is read anew behind it", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await assertAgreement(cluster.nodes);
    const { kind, payload } = written("n1", Date.now() + 3_600_000, {});
    await n1.storeMessage("n1", kind, payload);
    // It is in sync again within two seconds, and `status` may come too late: the log tells that it was not.
    await n2.daemon!.waitForLine("the earlier epoch to be noticed", WAIT_MS, (line) =>
      line.includes("the peer's epochs begin anew; reading it anew") ? true : undefined,
    );
    await n1.apply({ type: "create", range: 1, from: FLOWS, count: FLOWS, mark: 1 });
    await inSync(n1, n2);
    await assertAgreement(cluster.nodes);
  });

  it("one poisoned message costs that message, also after restarts, and is said", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n1.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await assertAgreement(cluster.nodes);
    const future = stampOfMs(Date.now()) + 2 ** 50;
    const poison: Record<string, () => WrittenMessage> = {
      "a stamp in the future": () => written("n1", Date.now(), { stamp: future }),
      "another node": () => written("n9", Date.now(), {}),
      "an epoch in the future": () => written("n1", Number.MAX_SAFE_INTEGER - 1, {}),
    };
    let refused = 0;
    for (const [what, write] of Object.entries(poison)) {
      refused++;
      const { kind, payload } = write();
      await n1.storeMessage("n1", kind, payload);
      // It may be in sync again within a second: the log and the counter tell that it was not.
      await waitFor(`${what} is refused`, WAIT_MS, async () => (await n2.stats())["reader.n1"]?.refused === refused);
      // A snapshot heals it; nothing of the poison stays.
      await inSync(n1, n2);
      await n1.apply({ type: "create", range: 1, from: FLOWS, count: 10, mark: 1 });
      await assertAgreement(cluster.nodes);
      await n1.apply({ type: "destroy", range: 1, from: FLOWS, count: 10 });
      await assertAgreement(cluster.nodes);
    }
    for (const node of [n2, n1]) {
      await node.kill9Daemon();
      node.start();
      await node.ready();
      await assertAgreement(cluster.nodes);
    }
    // The copy alone, too, has what came behind the poison.
    await n1.storeMessage("n1", "ev", written("n9", Date.now(), {}).payload);
    await waitFor(
      "another node is refused again",
      WAIT_MS,
      async () => ((await n2.stats())["reader.n1"]?.refused ?? 0) > 0,
    );
    await n1.apply({ type: "create", range: 1, from: FLOWS, count: 10, mark: 1 });
    await assertAgreement(cluster.nodes);
    await inSync(n1, n2);
    await n1.kill9Daemon();
    await n2.kill9Daemon();
    n2.start();
    await n2.ready();
    assert.equal((await n2.table("external")).size, FLOWS + 10);
  });
});

/** A message as somebody else could write it into a node's stream. */
function written(node: string, epoch: number, { stamp }: { stamp?: number }): WrittenMessage {
  const writer = new StreamWriter(node);
  writer.epoch = epoch;
  writer.number = 1_000_000;
  writer.stamp = stamp ?? stampOfMs(Date.now());
  writer.wallMs = Date.now();
  return writer.events((batch) => batch.addNew(77, tcpRecord(77), 0, null, null));
}
