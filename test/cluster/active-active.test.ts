/**
 * Two firewalls and two sync groups, each at home on another one: both carry traffic. Either dies and returns, with an empty
 * kernel as after a reboot, and takes its group back; the sessions of both groups live through all of it.
 */
import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { describe, it } from "node:test";
import type { Firewall } from "../../src/lab/firewall.js";
import { cachedFlows, establishedTo, type FlowView } from "../../src/lab/flow-view.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, echoTargets, type Sessions } from "../../src/lab/sessions.js";
import {
  END_HOST,
  ipv4,
  ipv6,
  LAN,
  ROUTED,
  SECOND_CLIENT_HOST,
  SYNC,
  VIRTUAL_HOST,
  WAN,
} from "../../src/lab/topology.js";

const READY_MS = 30_000;
const WAIT_MS = 30_000;
const PURGE_AFTER_S = 1;
const SECOND_VIRTUAL_HOST = VIRTUAL_HOST + 1;
const FIRST_SESSIONS = 12;
const SECOND_SESSIONS = 8;
const SESSIONS = FIRST_SESSIONS + SECOND_SESSIONS;
/** The second client's sessions use the second group's addresses. */
const SECOND = ipv4(LAN, SECOND_CLIENT_HOST);

describe("active-active", { skip: labObstacle() ?? false, timeout: 400_000 }, () => {
  for (const mode of ["inject", "cache"] as const) {
    it(`two sync groups in mode ${mode} survive the failure and the return of either firewall`, async () => {
      await using lab = await Lab.create({ firewalls: 2, advertSeconds: 1 });
      const [first, second] = lab.firewalls as unknown as [Firewall, Firewall];
      await prepare(lab, mode);
      await lab.startDaemons(READY_MS);
      for (const firewall of lab.firewalls) startKeepalived(firewall);
      await assertAtHome(lab);
      const sessions = await openSessions(lab);
      await assertEachOwnsItsGroup(first, second);
      for (const victim of [first, second]) {
        const other = victim === first ? second : first;
        await powerOff(victim);
        await waitFor(`${other.name} holds both groups`, WAIT_MS, () => holds(other, [1, 2]));
        await assertAlive(sessions, `${victim.name} died`);
        await boot(victim);
        await assertAtHome(lab);
        await assertAlive(sessions, `${victim.name} returned`);
        await assertPurged(lab, mode);
        await assertAlive(sessions, "after the purge");
      }
    });
  }
});

async function prepare(lab: Lab, mode: string): Promise<void> {
  for (const firewall of lab.firewalls) {
    appendFileSync(firewall.configFile, `mode: ${mode}\npurge: { after: ${PURGE_AFTER_S}s }\n`);
    const target = `${SECOND} ip daddr != ${ROUTED.ipv4}.0/24 snat ip to ${ipv4(WAN, SECOND_VIRTUAL_HOST)}`;
    await firewall.namespace.exec("nft", [
      "insert",
      "rule",
      "inet",
      "lab",
      "postrouting",
      "oifname",
      "wan0",
      "ip",
      "saddr",
      ...target.split(" "),
    ]);
  }
  await lab.topology.client.ip([
    `rule add from ${SECOND} lookup 101`,
    `route add default via ${ipv4(LAN, SECOND_VIRTUAL_HOST)} table 101`,
  ]);
  await lab.topology.server.ip([`route add ${SECOND}/32 via ${ipv4(WAN, SECOND_VIRTUAL_HOST)}`]);
}

function startKeepalived(firewall: Firewall): void {
  firewall.startKeepalived(firewall.conntrailHooks(), { groups: 2, firewalls: 2 });
}

async function openSessions(lab: Lab): Promise<Sessions> {
  const second = [ipv4(WAN, END_HOST), ipv4(ROUTED, END_HOST)].map((host) => ({
    name: `second group, ${host}`,
    host,
    port: ECHO_PORT,
    count: SECOND_SESSIONS / 2,
    local: { address: SECOND, port: 0 },
  }));
  return lab.openSessions([...echoTargets({ nat4: 3, nat6: 3, routed4: 3, routed6: 3 }), ...second], { ssh: false });
}

async function holds(firewall: Firewall, groups: readonly number[]): Promise<boolean> {
  for (const group of [1, 2]) if ((await firewall.isPrimary(group)) !== groups.includes(group)) return false;
  return true;
}

async function assertAtHome({ firewalls }: Lab): Promise<void> {
  await waitFor("each firewall holds its group", WAIT_MS, async () => {
    const [one, other] = await Promise.all(firewalls.map((firewall, index) => holds(firewall, [index + 1])));
    return one === true && other === true;
  });
}

/** Each firewall's own flows are those that pass it. */
async function assertEachOwnsItsGroup(first: Firewall, second: Firewall): Promise<void> {
  const ofSecond = (flow: FlowView): boolean => flow.orig.src === SECOND;
  await waitFor("each firewall owns its group's sessions", WAIT_MS, async () => {
    const [one, other] = await Promise.all([first, second].map((firewall) => cachedFlows(firewall, "internal")));
    const ownFirst = establishedTo(one!, [ECHO_PORT]);
    const ownSecond = establishedTo(other!, [ECHO_PORT]);
    return (
      ownFirst.length === FIRST_SESSIONS &&
      ownSecond.length === SECOND_SESSIONS &&
      !ownFirst.some(ofSecond) &&
      ownSecond.every(ofSecond)
    );
  });
}

/** Nobody says goodbye, and what the kernel knew is gone. */
async function powerOff(firewall: Firewall): Promise<void> {
  await firewall.namespace.ip(["link set lan0 down", "link set wan0 down", "link set sync0 down"]);
  firewall.keepalived?.kill();
  firewall.daemon?.kill();
  await Promise.all([firewall.keepalived?.exited, firewall.daemon?.exited]);
  const { namespace } = firewall;
  await waitFor(`${firewall.name} off`, WAIT_MS, () => namespace.pids().length === 0);
  for (const host of [VIRTUAL_HOST, SECOND_VIRTUAL_HOST]) {
    for (const [network, device] of [
      [LAN, "lan0"],
      [WAN, "wan0"],
    ] as const) {
      await namespace.ip([`addr del ${ipv4(network, host)}/32 dev ${device}`]).catch(() => undefined);
      await namespace.ip([`addr del ${ipv6(network, host)}/128 dev ${device}`]).catch(() => undefined);
    }
  }
  await firewall.run("conntrack", "-F");
}

/** As systemd does: the daemon first, keepalived when that is ready. */
async function boot(firewall: Firewall): Promise<void> {
  const host = 10 + firewall.number;
  await firewall.namespace.ip([
    "link set lan0 up",
    "link set wan0 up",
    "link set sync0 up",
    // A link that goes down takes the IPv6 addresses and routes with it.
    `addr replace ${ipv6(LAN, host)}/64 dev lan0 nodad`,
    `addr replace ${ipv6(WAN, host)}/64 dev wan0 nodad`,
    `route replace ${ROUTED.ipv4}.0/24 via ${ipv4(WAN, END_HOST)}`,
    `route replace ${ROUTED.ipv6}:/64 via ${ipv6(WAN, END_HOST)}`,
  ]);
  firewall.startDaemon();
  await firewall.waitReady(READY_MS);
  await waitFor(`${firewall.name} in sync`, WAIT_MS, async () => (await firewall.conntrail("status")).code === 0);
  startKeepalived(firewall);
}

async function assertAlive(sessions: Sessions, when: string): Promise<void> {
  await sessions.mark();
  const { answering, reasons, silentByTarget } = await sessions.settle(WAIT_MS);
  assert.deepEqual(
    { answering, reasons, silentByTarget },
    { answering: SESSIONS, reasons: [], silentByTarget: {} },
    when,
  );
}

/** A firewall that stepped down for one group and carries the other has purged nothing; it would have by now. */
async function assertPurged(lab: Lab, mode: string): Promise<void> {
  const sinceMs = performance.now();
  await waitFor("the time of a purge is over", WAIT_MS, () => performance.now() - sinceMs > PURGE_AFTER_S * 1500);
  for (const firewall of lab.firewalls) {
    const stats = JSON.parse((await firewall.conntrail("stats", "--json")).stdout);
    assert.equal(
      stats.commit.purged,
      0,
      `${firewall.name} has purged in mode ${mode}, on ${SYNC.ipv4}.${firewall.number}`,
    );
  }
}
