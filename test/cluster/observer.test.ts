/** An observer, which follows and keeps all streams without a kernel side, and brokers that somebody else runs. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { signal } from "../../src/lab/leftover.js";
import { projectRoot, waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference, type FlowMap } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const LOAD = { flowsMax: 1000, operationsPerSecond: 1000 };
const OBSERVER = 3;
/** What needs a kernel. */
const REFUSED = [
  ["commit"],
  ["bulk"],
  ["purge"],
  ["hook", "primary"],
  ["hook", "backup"],
  ["resync", "kernel"],
  ["flush", "kernel"],
  ["flush", "internal"],
  ["dump", "kernel"],
  ["dump", "internal"],
];

describe("observer", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("keeps the streams of firewalls that are gone for good, and rebuilds from them", async () => {
    await using cluster = await Cluster.start({
      nodes: 3,
      configure: (number) =>
        number === OBSERVER ? ["mode: observer"] : [`peers: { n${3 - number}: 10.77.0.${3 - number} }`],
    });
    const observer = cluster.nodes[OBSERVER - 1]!;
    const firewalls = cluster.nodes.slice(0, 2);
    for (const node of firewalls) await node.startLoad({ seed: node.number, range: node.number, ...LOAD });
    for (const node of firewalls) await node.loadGoesOn(1500);
    await observer.kill9Both();
    await firewalls[0]!.loadGoesOn(500);
    observer.start();
    await observer.ready();
    for (const node of firewalls) await node.loadGoesOn(500);
    for (const node of firewalls) await node.stopLoad();
    await assertAgreement(firewalls);
    const flows = new Map<string, string>();
    for (const node of firewalls) for (const [key, value] of await node.table("internal")) flows.set(key, value);
    await assertHolds(observer, flows);
    for (const node of firewalls) await assertCopied(observer, node);
    await assertCommands(observer);

    for (const node of firewalls) await node.die();
    await waitFor("the observer sees that they are gone", WAIT_MS, async () => {
      const { inSync, peers } = await observer.status();
      return !inSync && peers.every(({ connected }) => !connected);
    });
    assert.equal((await observer.conntrail("status")).code, 1);
    await assertHolds(observer, flows);
    for (const end of ["kill9Both", "stop"] as const) {
      await observer[end]();
      observer.start();
      await observer.ready();
      await assertHolds(observer, flows);
    }
    const { stdout } = await observer.conntrail("dump", "external");
    assert.equal(stdout.trim().split("\n").length, flows.size);
  });
});

describe("external broker", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("is a nats-server of systemd with nats.conf; the daemon outlives its restarts", async () => {
    await using cluster = await Cluster.create({
      nodes: 2,
      configure: (number) => [
        `broker: { mode: external, servers: ["nats://10.77.0.${number}:4222"], max_age: 1h, max_bytes: 64MiB }`,
      ],
    });
    const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
    // The daemon may be first: it waits for its broker.
    a.start();
    for (const node of cluster.nodes) startServer(node);
    b.start();
    await cluster.ready();
    assert.equal((await a.status()).broker.mode, "external");
    await a.startLoad({ seed: 1, range: 1, ...LOAD });
    await a.loadGoesOn(500);
    for (const node of [b, a]) {
      const pid = node.brokerPid;
      signal(pid ?? 0, "SIGKILL");
      await waitFor("the server gone", WAIT_MS, () => node.brokerPid === null);
      await a.loadGoesOn(300);
      startServer(node);
      await a.loadGoesOn(300);
    }
    assert.equal(await b.stop(), 0);
    await a.loadGoesOn(300);
    b.start();
    await b.ready();
    await a.stopLoad();
    await assertAgreement(cluster.nodes);
    assert.notEqual(b.brokerPid, null, "the daemon has ended a broker that is not its own");
  });
});

/** nats.conf as it is delivered, with this node's name, address and store. */
function startServer(node: ClusterNode): void {
  const text = readFileSync(join(projectRoot(), "nats.conf"), "utf8");
  const adapted = text
    .replace('server_name: "fw1"', `server_name: "${node.name}"`)
    .replace('listen: "10.77.0.1:4222"', `listen: "${node.server}"`)
    .replace('store_dir: "/var/lib/conntrail"', `store_dir: "${node.store}"`);
  const file = join(node.directory, "nats.conf");
  writeFileSync(file, adapted);
  node.spawn("nats-server", "nats-server", "-c", file);
}

async function assertHolds(observer: ClusterNode, flows: FlowMap): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("the observer holds all flows", WAIT_MS, async () => {
    seen = difference("external cache of the observer", flows, await observer.table("external"));
    return seen === null;
  }).catch(() => assert.fail(`${seen}\n${observer.complaints().join("\n")}`));
}

/** Waits until the observer's copy holds every message of the stream from where it began, the begin mark of a snapshot. */
async function assertCopied(observer: ClusterNode, node: ClusterNode): Promise<void> {
  const name = `CT_${node.name}`;
  const stream = async (of: ClusterNode) => (await of.streams()).find((found) => found.name === name);
  const [first] = await observer.marks(node.name);
  const begin = (await node.marks()).find(({ epoch, number }) => epoch === first?.epoch && number === first.number);
  assert.ok(begin !== undefined, `the copy of ${name} begins with another message`);
  await waitFor(`${name} copied whole`, WAIT_MS, async () => {
    const { lastSequence = 0 } = (await stream(node)) ?? {};
    return (await stream(observer))?.messages === lastSequence - begin.sequence + 1;
  });
}

async function assertCommands(observer: ClusterNode): Promise<void> {
  for (const command of REFUSED) {
    const { code, stdout, stderr } = await observer.conntrail(...command);
    assert.deepEqual({ command, code, stdout }, { command, code: 1, stdout: "" });
    assert.match(stderr, /^conntrail: this node is an observer[^\n]*\n$/);
  }
  const status = await observer.conntrail("status", "--json");
  assert.equal(status.code, 0, status.stderr);
  assert.deepEqual(
    JSON.parse(status.stdout).peers.map((peer: { node: string }) => peer.node),
    ["n1", "n2"],
  );
  for (const command of [["stats"], ["stats", "--json"], ["resync", "peers"], ["status"]]) {
    const { code, stderr } = await observer.conntrail(...command);
    assert.equal(code, 0, `${command.join(" ")}: ${stderr}`);
  }
}
