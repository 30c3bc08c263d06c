/** Nodes that list no peers find each other by multicast on the dedicated link, and know each other from then on. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { PeerStatus } from "../../src/control/protocol.js";
import { waitFor } from "../../src/lab/process.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import { difference } from "../support/cluster/flow-map.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { temporaryDirectory } from "../support/nats-server.js";

const FOUND_MS = 30_000;
const GROUP = "225.0.0.50";
const PORT = 3780;
const DISCOVER = ["peers: {}", `discover: { group: ${GROUP}, port: ${PORT}, interface: sync0 }`];
/** So many datagrams of noise, up to a kilobyte each: they fit a socket's buffer. */
const NOISE = 60;
/** Sends each argument from the third on, or noise where there is none, to a group at a port. */
const SENDER = `
const [group, port, source, ...texts] = process.argv.slice(1);
const socket = require("node:dgram").createSocket("udp4");
socket.bind(0, source, async () => {
  socket.setMulticastInterface(source);
  const noise = Array.from({ length: ${NOISE} }, (_, i) => require("node:crypto").randomBytes(i * 17));
  for (const bytes of texts.length > 0 ? texts : noise) {
    await new Promise((resolve) => socket.send(bytes, Number(port), group, resolve));
  }
  socket.close();
});`;

describe("discover", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("three nodes find each other; one that restarts commits what a dead one carried", async (t) => {
    await using cluster = await Cluster.start({ nodes: 3, configure: () => DISCOVER });
    const [first, second, third] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    const startedMs = performance.now();
    await assertFound(cluster.nodes);
    t.diagnostic(`all found ${Math.round(performance.now() - startedMs)} ms after the last was ready`);
    for (const node of cluster.nodes) await node.apply(create(node, 500));
    await assertAgreement(cluster.nodes);
    const text = await first.conntrail("status");
    assert.match(text.stdout, /n2\s+10\.77\.0\.2 \(discovered\)\s+yes\s+yes/);
    assert.equal(await first.counter("discovery", "peersFound"), 2);
    assert.ok((await first.counter("discovery", "announcementsSent")) > 0);

    const gone = new Map([[third.name, await third.table("internal")]]);
    await third.die();
    await second.kill9Both();
    second.start();
    await second.ready();
    const known = (await second.status()).peers.map(({ node, connected }) => [node, node === "n3" && connected]);
    assert.deepEqual(known.sort(), [
      ["n1", false],
      ["n3", false],
    ]);
    await assertAgreement([first, second], { gone });
    const { commit } = await second.hook("primary");
    assert.equal(commit?.committed, 1000);
    assert.equal(await second.counter("discovery", "peersFound"), 0, "it knew them from before");
  });

  it("a hook during the time in which a peer is found does not fail, and its commit is whole", async () => {
    await using cluster = await Cluster.create({ nodes: 2, configure: () => DISCOVER });
    const [first, second] = cluster.nodes as [ClusterNode, ClusterNode];
    first.start();
    await first.ready();
    await first.apply(create(first, 2000));
    second.start();
    await second.ready();
    const found = assertFound(cluster.nodes);
    let hooks = 0;
    do {
      await second.hook("backup");
      hooks++;
    } while (!(await followed(second)));
    await found;
    assert.ok(hooks > 0);
    await assertAgreement(cluster.nodes);
    assert.equal((await second.hook("primary")).commit?.committed, 2000);
  });

  it("mode inject: what a peer has when it is found goes into this kernel", async () => {
    await using cluster = await Cluster.create({ nodes: 2, configure: () => [...DISCOVER, "mode: inject"] });
    const [first, second] = cluster.nodes as [ClusterNode, ClusterNode];
    first.start();
    await first.ready();
    await first.apply(create(first, 300));
    second.start();
    await assertFound(cluster.nodes);
    await waitFor("the flows of the first in the second's kernel", FOUND_MS, async () => {
      return difference("kernels", await first.kernel(), await second.kernel()) === null;
    });
  });

  it("an observer finds the firewalls, and they do not follow it", async () => {
    await using cluster = await Cluster.start({
      nodes: 3,
      configure: (number) => (number === 3 ? [...DISCOVER, "mode: observer"] : DISCOVER),
    });
    const [first, second, observer] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    await assertFound([first, second]);
    await waitFor("the observer follows both", FOUND_MS, async () => {
      const { inSync, peers } = await observer.status();
      return inSync && peers.length === 2;
    });
    await first.apply(create(first, 100));
    await second.apply(create(second, 100));
    await waitFor("their flows", FOUND_MS, async () => (await observer.status()).external.flows === 200);
    assert.equal((await first.status()).peers.length, 1);
    assert.equal(await observer.counter("discovery", "announcementsSent"), 0);
  });

  it("another cluster, noise and lies are counted and change nothing", async () => {
    await using cluster = await Cluster.start({
      nodes: 3,
      configure: (number) => (number === 3 ? [...DISCOVER, "cluster: other"] : DISCOVER),
    });
    const [first, second, foreign] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    await assertFound([first, second]);
    for (const node of cluster.nodes) {
      await waitFor(
        `${node.name} hears the other cluster`,
        FOUND_MS,
        async () => (await node.counter("discovery", "foreign")) > 2,
      );
    }
    assert.equal((await foreign.status()).peers.length, 0);
    // Where its broker was slow to answer, the peer was refused at first.
    const before = await first.counter("discovery", "refused");
    const refusedBefore = logged(first, "an announcement was refused").length;

    const lie = (node: string, address: string, port = 4222): string =>
      JSON.stringify({ conntrail: 1, cluster: "chaos", node, address, port });
    await foreign.exec("ip", "addr", "add", "10.77.0.33/24", "dev", "sync0");
    await send(foreign, foreign.address);
    await send(
      foreign,
      foreign.address,
      lie("n9", "10.77.0.9"),
      lie("n2", foreign.address),
      lie("n1", foreign.address),
    );
    await send(foreign, foreign.address, lie("n3", foreign.address, 4333), "{", "{}", lie("n3", "10.77.0.3%sync0"));
    await send(foreign, "10.77.0.33", lie("n8", "10.77.0.33"));
    await waitFor("all of it is counted", FOUND_MS, async () => {
      const { malformed, refused } = (await first.stats()).discovery ?? {};
      return malformed === NOISE + 3 && refused === before + 5;
    });
    const peers = (await first.status()).peers.map(({ node, address }) => [node, address]);
    assert.deepEqual(peers, [["n2", "10.77.0.2"]]);
    const refusals = logged(first, "an announcement was refused").slice(refusedBefore);
    const reasons = refusals.map(({ reason }) => String(reason));
    assert.equal(reasons.length, 5);
    assert.ok(reasons.some((reason) => reason.startsWith("n8 at 10.77.0.33 announces itself, but no connection")));
    assert.ok(reasons.some((reason) => reason.startsWith("n2 announces 10.77.0.3, known is n2 at 10.77.0.2: ")));
    await second.apply(create(second, 100));
    await assertAgreement([first, second]);
  });

  it("with tls, who has no certificate of the cluster's authority is no peer, whatever he announces", async (t) => {
    const missing = opensslMissing();
    if (missing !== false) return t.skip(missing);
    await using directory = await temporaryDirectory();
    await using cluster = await Cluster.start({
      nodes: 3,
      configure: (number) => {
        const authority = number === 3 ? "another" : "authority";
        const { ca, cert, key } = makeCertificate(directory.path, authority, `n${number}`, `DNS:n${number}`);
        return [...DISCOVER, `tls: { ca: ${ca}, cert: ${cert}, key: ${key} }`];
      },
    });
    const [first, second] = cluster.nodes as [ClusterNode, ClusterNode];
    await assertFound([first, second]);
    await waitFor("the third is refused", FOUND_MS, async () => (await first.counter("discovery", "refused")) > 1);
    const forged = { conntrail: 1, cluster: "chaos", node: "n9", address: "10.77.0.3", port: 4222 };
    await send(cluster.nodes[2]!, "10.77.0.3", JSON.stringify(forged));
    await first.apply(create(first, 100));
    await assertAgreement([first, second]);
    for (const node of cluster.nodes) assert.equal((await node.status()).peers.length, node.number === 3 ? 0 : 1);
    const reasons = logged(first, "an announcement was refused").map(({ reason }) => String(reason));
    // Without asking any broker: nobody it trusts has signed these.
    assert.deepEqual(reasons.sort(), [
      "n3 announces 10.77.0.3, but its certificate is not of this authority",
      "n9 announces 10.77.0.3, but it is not signed",
    ]);
  });

  it("a broker without the node's stream is no peer, and a flood of announcements costs little", async () => {
    await using cluster = await Cluster.start({
      nodes: 3,
      configure: (number) => (number === 3 ? ["peers: {}"] : DISCOVER),
    });
    const [first, second, stranger] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    await assertFound([first, second]);
    const lie = (node: string, address: string): string =>
      JSON.stringify({ conntrail: 1, cluster: "chaos", node, address, port: 4222 });
    // Its broker answers, and has the stream of n3 only.
    await send(stranger, stranger.address, lie("n7", stranger.address));
    const reasons = (): string[] => logged(first, "an announcement was refused").map(({ reason }) => String(reason));
    await waitFor("the refusal", FOUND_MS, () =>
      reasons().some((reason) => /^n7 at .* no stream of that name/.test(reason)),
    );
    assert.doesNotMatch(readFileSync(join(first.store, "discovered.json"), "utf8"), /n7/);
    const flood = Array.from({ length: 2000 }, (_, i) => lie(`x${i}`, stranger.address));
    await send(stranger, stranger.address, ...flood);
    await waitFor("some are not looked at", FOUND_MS, async () => (await first.counter("discovery", "ignored")) > 0);
    assert.equal((await first.status()).peers.length, 1);
    assert.ok((await first.counter("discovery", "refused")) < 100);
    await second.apply(create(second, 100));
    await assertAgreement([first, second]);
    assert.equal(await first.counter("discovery", "reopened"), 0);
  });

  it("peers are found when the link was down, or has been replaced by another", async () => {
    await using cluster = await Cluster.create({ nodes: 3, configure: () => DISCOVER });
    const [first, second, third] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    for (const node of [first, second]) node.start();
    await assertFound([first, second]);

    await first.exec("ip", "link", "set", "sync0", "down");
    await waitFor("sending fails", FOUND_MS, async () => (await first.counter("discovery", "sendFailed")) > 0);
    await first.exec("ip", "link", "set", "sync0", "up");
    await second.cutLink();
    await second.healLink();
    // The group that was joined on it goes with the interface.
    await first.exec("ip", "link", "delete", "sync0");
    await waitFor(
      "the sockets are made anew",
      FOUND_MS,
      async () => (await first.counter("discovery", "reopened")) > 0,
    );
    await first.link();
    third.start();
    await assertFound(cluster.nodes, 2 * FOUND_MS);
    await third.apply(create(third, 100));
    await assertAgreement(cluster.nodes);
  });

  it("IPv6: a link-local group, on the interface that has listen", async () => {
    const address = (number: number): string => `fd00:77::${number}`;
    await using cluster = await Cluster.create({
      nodes: 2,
      configure: (number) => [
        "peers: {}",
        `listen: ${address(number)}`,
        `discover: { group: "ff02::1:50", port: ${PORT} }`,
      ],
    });
    for (const node of cluster.nodes) {
      await node.exec("ip", "addr", "add", `${address(node.number)}/64`, "dev", "sync0", "nodad");
      node.start();
    }
    await assertFound(cluster.nodes);
    for (const node of cluster.nodes) await node.apply(create(node, 100));
    await assertAgreement(cluster.nodes);
    assert.deepEqual(
      (await cluster.nodes[0]!.status()).peers.map((peer) => peer.address),
      ["fd00:77::2"],
    );
  });

  it("a peer that has moved is followed when the file of those discovered says so", async () => {
    await using cluster = await Cluster.start({ nodes: 2, configure: () => DISCOVER });
    const [first, second] = cluster.nodes as [ClusterNode, ClusterNode];
    await assertFound(cluster.nodes);
    await first.stop();
    const file = join(first.store, "discovered.json");
    writeFileSync(file, readFileSync(file, "utf8").replace("10.77.0.2", "10.77.0.22"));
    first.start();
    await first.ready();
    await waitFor(
      "the announcement is refused",
      FOUND_MS,
      async () => (await first.counter("discovery", "refused")) > 0,
    );
    const [{ reason }] = logged(first, "an announcement was refused") as [{ reason: string }];
    assert.match(reason, /stop the daemon, take n2 out of discovered\.json in broker\.store, start it$/);
    await first.stop();
    writeFileSync(file, readFileSync(file, "utf8").replace(/"peers":\[.*\]/, '"peers":[]'));
    first.start();
    await assertFound(cluster.nodes);
    await second.apply(create(second, 100));
    await assertAgreement(cluster.nodes);
  });
});

function create(node: ClusterNode, count: number) {
  return { type: "create", range: node.number, from: 0, count, mark: node.number } as const;
}

/** Waits until every node follows all the others. */
async function assertFound(nodes: readonly ClusterNode[], timeoutMs = FOUND_MS): Promise<void> {
  await Promise.all(nodes.map((node) => node.ready()));
  for (const node of nodes) {
    const others = nodes.filter((other) => other !== node).map((other) => other.name);
    let peers: readonly PeerStatus[] = [];
    await waitFor(`${node.name} follows ${others.join(" and ")}`, timeoutMs, async () => {
      peers = (await node.status()).peers;
      return peers.every(({ inSync }) => inSync) && peers.length === others.length;
    });
    assert.deepEqual(peers.map((peer) => peer.node).sort(), others);
    assert.ok(peers.every((peer) => peer.discovered));
  }
}

async function followed(node: ClusterNode): Promise<boolean> {
  return (await node.status()).peers.some(({ inSync }) => inSync);
}

/** Datagrams to the group, from an address of the node. */
async function send(from: ClusterNode, source: string, ...texts: string[]): Promise<void> {
  await from.exec(process.execPath, "-e", SENDER, GROUP, String(PORT), source, ...texts);
}

function logged(node: ClusterNode, message: string): Record<string, unknown>[] {
  const entries = (node.daemon?.lines ?? []).filter((line) => line.startsWith("{"));
  return entries.map((line) => JSON.parse(line) as Record<string, unknown>).filter(({ msg }) => msg === message);
}
