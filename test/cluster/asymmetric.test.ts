/**
 * Mode `inject` with packets: what clients send goes through one firewall, what servers answer through the other. Both drop
 * what has no state (tcp_loose is 0), so an answer passes only where the peer's flow was injected.
 */
import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { describe, it } from "node:test";
import type { Firewall } from "../../src/lab/firewall.js";
import { cachedFlows, establishedTo, flowText, kernelFlows } from "../../src/lab/flow-view.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, echoTargets } from "../../src/lab/sessions.js";
import { cidr4, cidr6, FIREWALL_HOST_BASE, ipv4, ipv6, LAN, VIRTUAL_HOST, WAN } from "../../src/lab/topology.js";

const READY_MS = 30_000;
const WAIT_MS = 30_000;
const TARGETS = echoTargets({ nat4: 4, nat6: 3, routed4: 3, routed6: 3 });
const SESSIONS = 13;
/** A datagram each fifth of a second until one comes back: the first answer may overtake the state. */
const UDP_ECHO = `exec 3<>/dev/udp/$0/${ECHO_PORT}; for i in {1..25}; do echo x >&3; read -r -N 1 -t 0.2 -u 3 && exit 0; done; exit 1`;

describe("asymmetric paths", { skip: labObstacle() ?? false, timeout: 400_000 }, () => {
  it("work in mode inject: TCP, UDP and ICMP, translated or not, also while either daemon restarts", async () => {
    await using lab = await Lab.create({ firewalls: 2 });
    const [out, back] = await start(lab);
    const sessions = await lab.openSessions(TARGETS, { ssh: false });
    for (const { host } of TARGETS) {
      await lab.topology.client.exec("bash", ["-c", UDP_ECHO, host]);
      const answers = await lab.topology.client.exec("ping", ["-c", "10", "-i", "0.2", "-W", "1", host]);
      assert.match(answers, / ([5-9]|10) received/, `ping ${host}`);
    }
    await assertSameFlows([out, back]);
    for (const firewall of [out, back]) {
      await firewall.daemon?.stop();
      firewall.startDaemon();
      await firewall.waitReady(READY_MS);
      await sessions.mark();
      const { answering } = await sessions.settle(WAIT_MS);
      assert.equal(answering, SESSIONS, `after a restart of ${firewall.name}`);
    }
    await assertSameFlows([out, back]);
    await sessions.close(SESSIONS);
    await waitFor("closed on both", WAIT_MS, async () => {
      const flows = await Promise.all([out, back].map(kernelFlows));
      return flows.every((table) => establishedTo(table, [ECHO_PORT]).length === 0);
    });
  });

  it("a flow that packets keep alive on one firewall survives its end on the other, which gets it back", async () => {
    await using lab = await Lab.create({ firewalls: 2 });
    const [first, second] = await start(lab);
    await route(lab, first, first);
    const sessions = await lab.openSessions(TARGETS, { ssh: false });
    await assertSameFlows([first, second]);
    assert.equal(establishedTo(await cachedFlows(second, "internal"), [ECHO_PORT]).length, 0);
    // All goes the other way now. Packets of established connections cause no event, so `second` does not own them.
    await route(lab, second, second);
    await sessions.mark();
    assert.equal((await sessions.settle(WAIT_MS)).answering, SESSIONS);
    assert.equal(establishedTo(await cachedFlows(second, "internal"), [ECHO_PORT]).length, 0);
    await first.run("conntrack", "-F");
    await waitFor("the flows claimed", WAIT_MS, async () => {
      return establishedTo(await cachedFlows(second, "internal"), [ECHO_PORT]).length === SESSIONS;
    });
    await assertSameFlows([first, second]);
    await sessions.mark();
    assert.equal((await sessions.settle(WAIT_MS)).answering, SESSIONS);
    await route(lab, first, second);
    await sessions.mark();
    assert.equal((await sessions.settle(WAIT_MS)).answering, SESSIONS);
  });
});

/** Daemons in mode inject; what clients send goes through the first firewall, what comes back through the second. */
async function start(lab: Lab): Promise<[Firewall, Firewall]> {
  const [out, back] = lab.firewalls as unknown as [Firewall, Firewall];
  for (const firewall of lab.firewalls) {
    appendFileSync(firewall.configFile, "mode: inject\npublish: { interval: 0 }\n");
  }
  await lab.startDaemons(READY_MS);
  await route(lab, out, back);
  return [out, back];
}

/** Which firewall the client's packets take, and which those of the server. Translated addresses live on the latter. */
async function route(lab: Lab, out: Firewall, back: Firewall): Promise<void> {
  const { client, server } = lab.topology;
  const host = ({ number }: Firewall): number => FIREWALL_HOST_BASE + number;
  await client.ip([
    `route replace default via ${ipv4(LAN, host(out))}`,
    `route replace default via ${ipv6(LAN, host(out))}`,
  ]);
  for (const firewall of lab.firewalls) {
    const change = firewall === back ? "replace" : "del";
    const addresses = [
      `addr ${change} ${ipv4(WAN, VIRTUAL_HOST)}/32 dev wan0`,
      `addr ${change} ${ipv6(WAN, VIRTUAL_HOST)}/128 dev wan0`,
    ];
    for (const line of addresses) await firewall.namespace.ip([line]).catch(() => undefined);
  }
  await server.ip([
    `route replace ${cidr4(LAN)} via ${ipv4(WAN, host(back))}`,
    `route replace ${cidr6(LAN)} via ${ipv6(WAN, host(back))}`,
    "neigh flush all",
  ]);
}

/** Waits until both kernels hold the same open connections, all of them. */
async function assertSameFlows(firewalls: readonly Firewall[]): Promise<void> {
  const flows = async (firewall: Firewall): Promise<string[]> =>
    establishedTo(await kernelFlows(firewall), [ECHO_PORT])
      .map(flowText)
      .sort();
  let seen: string[][] = [];
  await waitFor("both kernels hold the same", WAIT_MS, async () => {
    seen = await Promise.all(firewalls.map(flows));
    return seen[0]!.length === SESSIONS && seen[0]!.join("\n") === seen[1]!.join("\n");
  }).catch(() => assert.deepEqual(seen[1], seen[0]));
  assert.equal(seen[0]!.length, SESSIONS);
}
