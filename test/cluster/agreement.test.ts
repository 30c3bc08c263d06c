import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { failOver } from "../../src/lab/failover.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { cachedFlows, type FlowView, flowText, isNated, kernelFlows } from "../../src/lab/flow-view.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { runOrThrow, waitFor } from "../../src/lab/process.js";
import { echoTargets } from "../../src/lab/sessions.js";
import { SYNC } from "../../src/lab/topology.js";

const READY_TIMEOUT_MS = 30_000;
const AGREE_TIMEOUT_MS = 30_000;
/** Each kind of flow is there still when a slow machine comes to compare. */
const LONG_TIMEOUTS = {
  "net.netfilter.nf_conntrack_udp_timeout": 120,
  "net.netfilter.nf_conntrack_icmp_timeout": 120,
  "net.netfilter.nf_conntrack_icmpv6_timeout": 120,
};
const PROTOCOLS = ["tcp", "udp", "icmp", "icmpv6"];

const obstacle = labObstacle();

describe("agreement", { skip: obstacle ?? false, timeout: 400_000 }, () => {
  it("of the primary's kernel, its internal cache and each backup's external cache, before and after a failover", async () => {
    await using lab = await Lab.create({ firewalls: 3, advertSeconds: 1 });
    for (const { namespace } of lab.firewalls) await namespace.sysctl(LONG_TIMEOUTS);
    await lab.startDaemons(READY_TIMEOUT_MS);
    const first = await lab.startKeepalived((firewall) => firewall.conntrailHooks());
    const sessions = await lab.openSessions(echoTargets({ nat4: 5, nat6: 5, routed4: 5, routed6: 5 }), { ssh: true });
    await sessions.datagrams(echoTargets({ nat4: 3, nat6: 3, routed4: 3, routed6: 3 }));
    await pingAll(lab);
    // Some connections end, so that states other than ESTABLISHED are compared as well.
    await sessions.close(2);
    await sessions.pause();
    assertVariety(await forwardedFlows(first));
    await assertAgreement(lab, first);

    await sessions.resume();
    const { to, report } = await failOver(lab, first, "cut", AGREE_TIMEOUT_MS);
    assert.equal(report.answering, report.sessions);
    await sessions.pause();
    await assertAgreement(lab, to);
  });
});

/** A few echo requests to each address of the server, from the client. */
async function pingAll(lab: Lab): Promise<void> {
  const targets = echoTargets({ nat4: 1, nat6: 1, routed4: 1, routed6: 1 });
  await Promise.all(
    targets.map((target) => lab.topology.client.exec("ping", ["-q", "-c", "2", "-i", "0.2", "-W", "5", target.host])),
  );
}

/** Waits until all tables tell the same, and shows the difference when they do not. */
async function assertAgreement(lab: Lab, primary: Firewall): Promise<void> {
  const tables = async (): Promise<Record<string, string[]>> => ({
    [`kernel of ${primary.name}`]: texts(await forwardedFlows(primary)),
    [`internal cache of ${primary.name}`]: texts(await cachedFlows(primary, "internal")),
    ...Object.fromEntries(
      await Promise.all(
        lab
          .backups(primary)
          .map(async (backup) => [`external cache of ${backup.name}`, texts(await cachedFlows(backup, "external"))]),
      ),
    ),
  });
  let seen = await tables();
  await waitFor("all tables tell the same", AGREE_TIMEOUT_MS, async () => {
    seen = await tables();
    const [first, ...others] = Object.values(seen).map((lines) => lines.join("\n"));
    return others.every((other) => other === first);
  }).catch(() => {
    const [first, ...others] = Object.entries(seen);
    for (const [name, lines] of others) assert.deepEqual(lines, first![1], `${name} differs from the ${first![0]}`);
  });
  assert.ok(Object.values(seen)[0]!.length > 0);
}

function texts(flows: readonly FlowView[]): string[] {
  return flows.map(flowText).sort();
}

/** The kernel's flows less those that the daemon's filter leaves out: other protocols, the firewall's own addresses, the dedicated link. */
async function forwardedFlows(firewall: Firewall): Promise<FlowView[]> {
  const addresses = await runOrThrow("ip", ["-n", firewall.namespace.name, "-o", "addr", "show"]);
  const own = new Set([...addresses.matchAll(/inet6? ([0-9a-f.:]+)\//g)].map((match) => match[1]));
  const ignored = (address: string): boolean => own.has(address) || address.startsWith(`${SYNC.ipv4}.`);
  const flows = await kernelFlows(firewall);
  return flows.filter(
    (flow) => PROTOCOLS.includes(flow.protocol) && !ignored(flow.orig.src) && !ignored(flow.reply.src),
  );
}

/** Without each kind of flow the comparison would prove less than it says. */
function assertVariety(flows: readonly FlowView[]): void {
  const kinds = new Set(
    flows.map((flow) => {
      const family = flow.orig.src.includes(":") ? "IPv6" : "IPv4";
      return `${flow.protocol} ${family} ${isNated(flow) ? "NATed" : "routed"}`;
    }),
  );
  assert.deepEqual([...kinds].sort(), [
    "icmp IPv4 NATed",
    "icmp IPv4 routed",
    "icmpv6 IPv6 NATed",
    "icmpv6 IPv6 routed",
    "tcp IPv4 NATed",
    "tcp IPv4 routed",
    "tcp IPv6 NATed",
    "tcp IPv6 routed",
    "udp IPv4 NATed",
    "udp IPv4 routed",
    "udp IPv6 NATed",
    "udp IPv6 routed",
  ]);
}
