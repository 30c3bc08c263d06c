/**
 * What a reader of the seed "Firewall HA with conntrackd and keepalived" runs: two groups of three virtual addresses (LAN, DMZ,
 * Internet), each node the master of one, both busy at the same time. With DisableExternalCache Off, and with On, which he could not get
 * to work. One script serves both groups, so nothing tells the daemon which of them has moved.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, type Sessions, startEchoServer } from "../../src/lab/sessions.js";
import { startSsh } from "../../src/lab/ssh.js";
import { lineLike, seedFile } from "../support/seeds/files.js";
import { type SeedFirewall, WITH_CONNTRACKD } from "../support/seeds/firewall.js";
import { type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

/** The networks in the order of their interfaces. The groups' virtual addresses are .100 and .200. */
const NETWORKS = [
  { name: "LAN", bridge: "lan", prefix: "172.16.10" },
  { name: "DMZ", bridge: "dmz", prefix: "172.16.20" },
  { name: "INT", bridge: "internet", prefix: "10.15.7" },
];
const SERVER = "10.15.7.33";
const TO_INTERNET = 6;
const TO_DMZ = 4;
/** Sessions of each group; the first has one of ssh beside them. */
const SESSIONS = TO_INTERNET + TO_DMZ;
const ELECTION_MS = 30_000;
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;
/** PurgeTimeout in its files is 5 s. */
const PURGED_MS = 6_000;

const SSH = lineLike(
  "tcp      6 ESTABLISHED src=172.16.10.1 dst=10.15.7.33 sport=48070 dport=22 src=10.15.7.33 dst=10.15.7.100 sport=22 dport=48070 [ASSURED] mark=0 [active since 46s]",
  "48070",
);

type ExternalCache = "On" | "Off";

function plan(disabled: ExternalCache): NetworkPlan {
  const host = (network: string, prefix: string, group: number): NetworkPlan["hosts"] => ({
    [`${network}${group}`]: {
      links: { eth0: { bridge: network, addresses: [`${prefix}.${group}/24`] } },
      routes: [`default via ${prefix}.${group}00`],
    },
  });
  const node = (number: number): NetworkPlan["firewalls"] => ({
    [`node${number}`]: {
      conntrackd: conntrackdConf(number, disabled),
      keepalived: keepalivedConf(number),
      ruleset: [seedFile("001/groups.sh")],
      links: {
        ...Object.fromEntries(
          NETWORKS.map(({ bridge, prefix }, device) => [
            `eth${device}`,
            { bridge, addresses: [`${prefix}.10${number}/24`] },
          ]),
        ),
        eth3: { bridge: "sync", addresses: [`10.0.0.${number}/24`] },
      },
    },
  });
  return {
    hosts: {
      ...host("lan", "172.16.10", 1),
      ...host("lan", "172.16.10", 2),
      ...host("dmz", "172.16.20", 1),
      ...host("dmz", "172.16.20", 2),
      server: { links: { eth0: { bridge: "internet", addresses: [`${SERVER}/24`] } } },
    },
    firewalls: { ...node(1), ...node(2) },
  };
}

/** The text's file with the reader's interfaces and addresses. */
function conntrackdConf(number: number, disabled: ExternalCache): string {
  const own = NETWORKS.flatMap(({ prefix }) => [100, 200, 101, 102].map((host) => `IPv4_address ${prefix}.${host}`));
  return seedFile(`001/fw${number}/conntrackd.conf`)
    .replace("DisableExternalCache Off", `DisableExternalCache ${disabled}`)
    .replace("Interface eth2", "Interface eth3")
    .replace(/IPv4_address 172\.16\.10\.100[\s\S]*?(?=\n {8}\})/, own.join("\n            "));
}

/** The text's keepalived.conf twice, each node the master of one group and, other than there, taking it back when it returns. */
function keepalivedConf(number: number): string {
  const groups = [1, 2].map((group) => {
    const names = NETWORKS.map(({ name }) => `${name}${group}`);
    const notify = ["master primary", "backup backup", "fault fault"].map((words) => {
      const [state, argument] = words.split(" ");
      return `    notify_${state} "/etc/conntrackd/primary-backup.sh ${argument}"`;
    });
    const instances = NETWORKS.map(
      ({ prefix }, device) => `vrrp_instance ${names[device]} {
    interface eth${device}
    state BACKUP
    virtual_router_id ${60 + 10 * group + device}
    priority ${group === number ? 100 : 50}
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass zzzz
    }
    virtual_ipaddress {
        ${prefix}.${group}00/24 dev eth${device}
    }
    garp_master_delay 1
}
`,
    );
    return `vrrp_sync_group G${group} {
    group {
        ${names.join("\n        ")}
    }
${notify.join("\n")}
}

${instances.join("\n")}`;
  });
  return groups.join("\n");
}

describe("seed 001, a reader's two groups", { skip: seedsObstacle(), timeout: 400_000, concurrency: 2 }, () => {
  for (const disabled of ["Off", "On"] as const) {
    it(`with DisableExternalCache ${disabled} the sessions of both groups live through the failover of either node`, async () => {
      await SeedNetwork.run(plan(disabled), (network) => failOverEach(network, disabled));
    });
  }
});

async function failOverEach(network: SeedNetwork, disabled: ExternalCache): Promise<void> {
  const nodes = [network.firewall("node1"), network.firewall("node2")] as const;
  for (const node of nodes) await node.startDaemon();
  for (const node of nodes) node.startKeepalived();
  await waitHome(nodes);
  const sessions = await openSessions(network);
  for (const [index, node] of nodes.entries()) {
    const other = nodes[1 - index]!;
    await waitReplicated(other, index + 1, disabled);
    await node.stopKeepalived();
    await waitGroups(other, [1, 2]);
    await assertAlive(sessions, `${node.name} has failed`);
    if (index === 0) await other.waitLine("-i", SSH, REPLICATED_MS);
    node.startKeepalived();
    await waitHome(nodes);
    await assertAlive(sessions, `${node.name} is back`);
    // conntrackd itself fails from here on: it empties the kernel of what the other group carries, too.
    if (WITH_CONNTRACKD) return;
    // Said nothing meanwhile, so that what spares the sessions is not their packets but where they are translated to.
    for (const group of sessions) await group.pause();
    const sinceMs = performance.now();
    await waitFor("the time of a purge is over", ALIVE_MS, () => performance.now() - sinceMs > PURGED_MS);
    for (const group of sessions) await group.resume();
    await assertAlive(sessions, `after the purge that the return of ${node.name} brings about`);
  }
  for (const node of nodes) assert.deepEqual(await node.complaints(), []);
}

/** The sessions of each group, held by the group's host in the LAN: to the Internet, translated, and to the DMZ, routed. */
async function openSessions(network: SeedNetwork): Promise<Sessions[]> {
  for (const name of ["server", "dmz1", "dmz2"]) {
    network.adopt(await startEchoServer(network.host(name), network.directory, []));
  }
  const service = await startSsh(network.host("server"), SERVER, network.directory, 22);
  network.adopt(service.process);
  return Promise.all(
    [1, 2].map((group) => {
      const targets = [
        { name: `Internet by group ${group}`, host: SERVER, port: ECHO_PORT, count: TO_INTERNET },
        { name: `DMZ by group ${group}`, host: `172.16.20.${group}`, port: ECHO_PORT, count: TO_DMZ },
      ];
      const ssh = group === 1 ? service.clientArguments : [];
      return network.openSessions(`lan${group}`, targets, ssh, `sessions${group}.log`);
    }),
  );
}

/** True when a node has the virtual addresses of these groups and of no other. */
async function hasGroups(node: SeedFirewall, groups: readonly number[]): Promise<boolean> {
  for (const { prefix } of NETWORKS) {
    for (const group of [1, 2]) {
      if ((await node.holds(`${prefix}.${group}00`)) !== groups.includes(group)) return false;
    }
  }
  return true;
}

async function waitGroups(node: SeedFirewall, groups: readonly number[]): Promise<void> {
  await waitFor(`${node.name} is master of ${groups}`, ELECTION_MS, () => hasGroups(node, groups));
}

async function waitHome(nodes: readonly SeedFirewall[]): Promise<void> {
  for (const [index, node] of nodes.entries()) await waitGroups(node, [index + 1]);
}

/** The other group's sessions are in the external cache, or in this kernel already: by injection, or since an earlier failover. */
async function waitReplicated(node: SeedFirewall, group: number, disabled: ExternalCache): Promise<void> {
  const wanted = group === 1 ? SESSIONS + 1 : SESSIONS;
  await waitFor(`${node.name} knows the sessions of group ${group}`, REPLICATED_MS, async () => {
    const lines = [...(await node.kernel()), ...(disabled === "On" ? [] : await node.lines("-e"))];
    const own = lines.filter((line) => line.includes("ESTABLISHED") && line.includes(` src=172.16.10.${group} `));
    return own.filter((line) => new RegExp(` dport=(22|${ECHO_PORT}) `).test(line)).length >= wanted;
  });
}

async function assertAlive(sessions: readonly Sessions[], when: string): Promise<void> {
  const reports = await Promise.all(
    sessions.map(async (group) => {
      await group.mark();
      const { answering, reasons, silentByTarget } = await group.settle(ALIVE_MS);
      return { answering, reasons, silentByTarget };
    }),
  );
  const alive = { reasons: [], silentByTarget: {} };
  assert.deepEqual(
    reports,
    [
      { answering: SESSIONS + 1, ...alive },
      { answering: SESSIONS, ...alive },
    ],
    when,
  );
}
