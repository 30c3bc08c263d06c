/**
 * `broker.mode: shared`: two firewalls and an observer on a NATS cluster of three servers. With a nats-server that is new
 * enough for it, each has the account that `conntrail keys permissions` gives it. One server is killed under load, the leader of a stream and another one. Nothing is
 * lost and nothing is written twice.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { signal } from "../../src/lab/leftover.js";
import { type LineProcess, waitFor } from "../../src/lab/process.js";
import { sharedAccounts } from "../../src/stream/broker/access.js";
import { newNkeySeed, publicNkey } from "../../src/stream/broker/nkey.js";
import type { StreamView } from "../support/cluster/agent-protocol.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement, assertTruth } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { natsServerHole, natsServerMissing } from "../support/nats-server.js";

const WAIT_MS = 30_000;
const FIREWALLS = [1, 2];
const OBSERVER = 3;
const SERVERS = [4, 5, 6];
/** Before, imports between accounts did not outlive the loss of a server, and JetStream's API had a hole. */
const HAS_ACCOUNTS = natsServerMissing() === false && natsServerHole("CVE-2025-30215") === false;
const LOAD = { flowsMax: 2000, operationsPerSecond: 1000 };

describe("shared broker", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("survives the loss of one of three servers under load, the stream's leader or another", async (t) => {
    await using cluster = await Cluster.create({ nodes: 6, configure, netlinkBuffer: ["32MiB", "64MiB"] });
    const servers = SERVERS.map((number) => cluster.nodes[number - 1]!);
    const firewalls = FIREWALLS.map((number) => cluster.nodes[number - 1]!);
    const observer = cluster.nodes[OBSERVER - 1]!;
    const nodes = [...firewalls, observer];
    const accounts = makeAccounts(nodes);
    for (const server of servers) startServer(server, accounts);
    for (const node of nodes) node.start();
    await cluster.ready(nodes);
    for (const node of firewalls) {
      assert.equal((await streamOf(node, servers))?.replicas, 3);
    }

    for (const [index, node] of firewalls.entries()) await node.startLoad({ seed: index, range: index, ...LOAD });
    for (const victimOf of ["leader", "follower"] as const) {
      const leader = await leaderOf(servers, firewalls[0]!);
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
      startServer(victim, accounts);
      await firewalls[1]!.loadGoesOn(1000);
    }
    const truths = await Promise.all(firewalls.map((node) => node.stopLoad()));
    await assertAgreement(firewalls);
    for (const [index, node] of firewalls.entries()) await assertTruth(node, index, truths[index]!);
    await assertObserved(observer, firewalls);
    for (const node of firewalls) {
      assert.equal(await node.counter("publisher", "lostMessages"), 0);
      const marks = await marksOf(node, servers[0]!);
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
    await assertReadOfTheDead(observer, firewalls);
  });
});

/** The configuration of a node, other than that of the cluster with a broker at each. */
function configure(number: number): readonly string[] {
  const peers = FIREWALLS.filter((peer) => peer !== number).map((peer) => `n${peer}: 10.77.0.${peer}`);
  const addresses = SERVERS.map((server) => `"nats://10.77.0.${server}:4222"`);
  return [
    `peers: { ${peers.join(", ")} }`,
    `broker: { mode: shared, servers: [${addresses.join(", ")}], max_age: 1h, max_bytes: 64MiB${HAS_ACCOUNTS ? ", login: { nkey: login.nkey }" : ""} }`,
    ...(number === OBSERVER ? ["mode: observer"] : []),
  ];
}

function newKey(path: string): string {
  writeFileSync(path, newNkeySeed(), { mode: 0o600 });
  return publicNkey(path);
}

/** The accounts of the nodes, each with a user of its name for the test besides; each node gets its key. */
function makeAccounts(nodes: readonly ClusterNode[]): string {
  if (!HAS_ACCOUNTS) return "";
  const members = nodes.map(({ name, number, directory }) => ({
    node: name,
    isObserver: number === OBSERVER,
    nkey: newKey(join(directory, "login.nkey")),
  }));
  const accounts = sharedAccounts("chaos", members, { bytesMax: 64 * 1024 ** 2, replicas: 3 });
  const more = accounts.replace(
    /^("conntrail_(\w+)@chaos": [\s\S]*?"users": \[)/gm,
    (text, _, name) => `${text} { user: "${name}", password: "${name}" },`,
  );
  return `accounts {
  SYS { users: [ { user: "system", password: "system" } ] }
  ${more}
}
system_account: SYS
`;
}

function startServer(node: ClusterNode, accounts: string): LineProcess {
  const routes = SERVERS.filter((other) => other !== node.number).map((other) => `"nats://10.77.0.${other}:6222"`);
  const file = join(node.directory, "nats.conf");
  writeFileSync(
    file,
    `server_name: "${node.name}"
listen: "${node.address}:4222"
max_payload: 2097152
cluster { name: "shared", listen: "${node.address}:6222", routes: [${routes.join(", ")}] }
jetstream { store_dir: "${join(node.directory, "store")}", max_file_store: 536870912, max_memory_store: 67108864 }
${accounts}`,
  );
  return node.spawn("nats-server", "nats-server", "-c", file);
}

async function leaderOf(servers: readonly ClusterNode[], node: ClusterNode): Promise<string> {
  return waitFor(`a leader of the stream of ${node.name}`, WAIT_MS, async () => {
    return (await streamOf(node, servers).catch(() => undefined))?.leader || undefined;
  });
}

async function streamOf(node: ClusterNode, servers: readonly ClusterNode[]): Promise<StreamView | undefined> {
  const streams = await servers[0]!.streams(at(node, servers));
  return streams.find(({ name }) => name === `CT_${node.name}@chaos`);
}

function marksOf(node: ClusterNode, server: ClusterNode): ReturnType<ClusterNode["marks"]> {
  return server.marks(`${node.name}@chaos`, at(node, [server]));
}

/** Servers for the test's own connection: as a user of the account of a node, where it has one. */
function at({ name }: ClusterNode, servers: readonly ClusterNode[]): string {
  return `${HAS_ACCOUNTS ? `${name}/` : ""}${servers.map(({ server }) => server).join(",")}`;
}

/** Waits until each says that it is in sync, under load. */
async function assertFollowed(nodes: readonly ClusterNode[], when: string): Promise<void> {
  for (const node of nodes)
    await waitFor(`${node.name} in sync ${when}`, WAIT_MS, async () => (await node.status()).inSync).catch(async () =>
      assert.fail(`${node.name} is not in sync ${when}: ${(await node.conntrail("status")).stdout}`),
    );
}

async function assertObserved(observer: ClusterNode, firewalls: readonly ClusterNode[]): Promise<void> {
  await assertHolds(observer, async () => {
    const internals = await Promise.all(firewalls.map((node) => node.table("internal")));
    return new Map(internals.flatMap((table) => [...table]));
  });
}

async function assertHolds(observer: ClusterNode, expected: () => ReturnType<ClusterNode["table"]>): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("the observer has all flows", WAIT_MS, async () => {
    const table = await observer.table("external").catch(() => null);
    if (table === null) return false;
    seen = difference("external cache of the observer", await expected(), table);
    return seen === null;
  }).catch(() => assert.fail(seen ?? ""));
}

/** An observer that starts again while the daemon of a firewall is dead has its flows all the same; history has them too. */
async function assertReadOfTheDead(observer: ClusterNode, firewalls: readonly ClusterNode[]): Promise<void> {
  const [living, dead] = [firewalls[0]!, firewalls[1]!];
  const held = await dead.table("internal");
  await dead.kill9Daemon();
  await observer.kill9Daemon();
  observer.start();
  await assertHolds(observer, async () => new Map([...(await living.table("internal")), ...held]));
  const { stdout, stderr } = await observer.conntrail("history", "--since", "-1h", "--format", "json");
  for (const { name } of firewalls)
    assert.match(stdout, new RegExp(`"${name}"`), `connections of ${name}: ${stdout.slice(0, 2000)} ${stderr}`);
}

/** A daemon that starts again takes its table over from the shared stream: no snapshot, its flow ids live on. */
async function assertRestartGoesOn(node: ClusterNode, server: ClusterNode): Promise<void> {
  await node.kill9Daemon();
  const before = await marksOf(node, server);
  node.start();
  await node.ready();
  const marks = (await marksOf(node, server)).slice(before.length);
  assert.deepEqual(
    marks.map(({ type, reason }) => [type, reason]),
    [["epoch", "start"]],
  );
}
