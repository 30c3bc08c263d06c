/**
 * `broker.mode: shared`: two firewalls and an observer on a NATS cluster of three servers, of which one is killed under load, the
 * leader of a stream and another one. Nothing is lost and nothing is written twice.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { signal } from "../../src/lab/leftover.js";
import { type LineProcess, waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement, assertTruth } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const FIREWALLS = [1, 2];
const OBSERVER = 3;
const SERVERS = [4, 5, 6];
const LOAD = { flowsMax: 2000, operationsPerSecond: 1000 };

describe("shared broker", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("survives the loss of one of three servers under load, the stream's leader or another", async (t) => {
    await using cluster = await Cluster.create({ nodes: 6, configure, netlinkBuffer: ["32MiB", "64MiB"] });
    const servers = SERVERS.map((number) => cluster.nodes[number - 1]!);
    const firewalls = FIREWALLS.map((number) => cluster.nodes[number - 1]!);
    const observer = cluster.nodes[OBSERVER - 1]!;
    const nodes = [...firewalls, observer];
    for (const server of servers) startServer(server);
    for (const node of nodes) node.start();
    await cluster.ready(nodes);
    for (const stream of await servers[0]!.streams()) assert.equal(stream.replicas, 3, `replicas of ${stream.name}`);

    for (const [index, node] of firewalls.entries()) await node.startLoad({ seed: index, range: index, ...LOAD });
    for (const victimOf of ["leader", "follower"] as const) {
      const leader = await leaderOf(servers, "CT_n1");
      const victim = servers.find((server) => (server.name === leader) === (victimOf === "leader"))!;
      await firewalls[0]!.loadGoesOn(500);
      const startedMs = performance.now();
      signal(victim.brokerPid ?? 0, "SIGKILL");
      await waitFor("the server gone", WAIT_MS, () => victim.brokerPid === null);
      await firewalls[0]!.loadGoesOn(1000);
      await assertFollowed(firewalls, "without one server");
      t.diagnostic(
        `${victimOf} ${victim.name} killed: in sync again after ${Math.round(performance.now() - startedMs)} ms`,
      );
      startServer(victim);
      await firewalls[1]!.loadGoesOn(1000);
    }
    const truths = await Promise.all(firewalls.map((node) => node.stopLoad()));
    await assertAgreement(firewalls);
    for (const [index, node] of firewalls.entries()) await assertTruth(node, index, truths[index]!);
    await assertObserved(observer, firewalls);
    for (const node of firewalls) {
      assert.equal(await node.counter("publisher", "lostMessages"), 0);
      const marks = await servers[0]!.marks(node.name);
      assert.deepEqual(
        marks.filter(({ type }) => type === "gap"),
        [],
      );
    }
    for (const node of nodes) {
      for (const peer of firewalls)
        assert.equal(await node.counter(`reader.${peer.name}`, "holes"), 0, `${node.name} of ${peer.name}`);
    }

    await assertRestartGoesOn(firewalls[0]!, servers[0]!);
    await observer.kill9Daemon();
    observer.start();
    await observer.ready();
    await assertObserved(observer, firewalls);
  });
});

/** The configuration of a node, other than that of the cluster with a broker at each. */
function configure(number: number): readonly string[] {
  const peers = FIREWALLS.filter((peer) => peer !== number).map((peer) => `n${peer}: 10.77.0.${peer}`);
  const addresses = SERVERS.map((server) => `"nats://10.77.0.${server}:4222"`);
  return [
    `peers: { ${peers.join(", ")} }`,
    `broker: { mode: shared, servers: [${addresses.join(", ")}], max_age: 1h, max_bytes: 64MiB }`,
    ...(number === OBSERVER ? ["mode: observer"] : []),
  ];
}

function startServer(node: ClusterNode): LineProcess {
  const routes = SERVERS.filter((other) => other !== node.number).map((other) => `"nats://10.77.0.${other}:6222"`);
  const file = join(node.directory, "nats.conf");
  writeFileSync(
    file,
    `server_name: "${node.name}"
listen: "${node.address}:4222"
max_payload: 2097152
cluster { name: "shared", listen: "${node.address}:6222", routes: [${routes.join(", ")}] }
jetstream { store_dir: "${join(node.directory, "store")}", max_file_store: 536870912, max_memory_store: 67108864 }
`,
  );
  return node.spawn("nats-server", "nats-server", "-c", file);
}

async function leaderOf(servers: readonly ClusterNode[], stream: string): Promise<string> {
  return waitFor(`a leader of ${stream}`, WAIT_MS, async () => {
    const found = await servers[0]!.streams(servers.map(({ server }) => server).join(",")).catch(() => []);
    return found.find(({ name }) => name === stream)?.leader || undefined;
  });
}

/** Waits until each says that it is in sync, under load. */
async function assertFollowed(nodes: readonly ClusterNode[], when: string): Promise<void> {
  for (const node of nodes)
    await waitFor(`${node.name} in sync ${when}`, WAIT_MS, async () => (await node.status()).inSync);
}

async function assertObserved(observer: ClusterNode, firewalls: readonly ClusterNode[]): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("the observer has all flows", WAIT_MS, async () => {
    const internals = await Promise.all(firewalls.map((node) => node.table("internal")));
    const expected = new Map(internals.flatMap((table) => [...table]));
    seen = difference("external cache of the observer", expected, await observer.table("external"));
    return seen === null;
  }).catch(() => assert.fail(seen ?? ""));
}

/** A daemon that starts again takes its table over from the shared stream: no snapshot, its flow ids live on. */
async function assertRestartGoesOn(node: ClusterNode, server: ClusterNode): Promise<void> {
  await node.kill9Daemon();
  const before = await server.marks(node.name);
  node.start();
  await node.ready();
  const marks = (await server.marks(node.name)).slice(before.length);
  assert.deepEqual(
    marks.map(({ type, reason }) => [type, reason]),
    [["epoch", "start"]],
  );
}
