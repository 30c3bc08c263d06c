/**
 * The seed "Building a fault-tolerant firewall system with virtual machines": a filter in the kernel that lets TCP, SCTP and DCCP
 * pass, IPv6's loopback ignored, a service that ends through `conntrackd -k`. Its files lost braces, values and addresses in the
 * copying: as printed they are refused, with the line; 002/fw-1 and 002/fw-2 are what they must have been.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { projectRoot, waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, startEchoServer } from "../../src/lab/sessions.js";
import { exampleHosts, exampleLinks, startExampleKeepalived, waitHoldsExample } from "../support/seeds/example.js";
import { seedFile } from "../support/seeds/files.js";
import type { SeedFirewall } from "../support/seeds/firewall.js";
import { assertAlive, type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

const SERVER = "192.168.1.3";
const SESSIONS = 10;
const DATAGRAMS = 20;
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;

/** The text has no ruleset. The rule for IPv6 has the kernel track it. */
const RULESET = `
iptables -P INPUT DROP
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -p vrrp -j ACCEPT
iptables -A INPUT -i eth2 -j ACCEPT
iptables -A FORWARD -m state --state INVALID -j DROP
iptables -t nat -A POSTROUTING -o eth0 -s 192.168.0.0/24 -j SNAT --to-source 192.168.1.100
ip6tables -A INPUT -m state --state ESTABLISHED -j ACCEPT
`;

/** A connection of the firewall with itself by IPv6. */
const CONNECT_LOOPBACK = `
  const net = require("node:net");
  const server = net.createServer((socket) => socket.end()).listen(0, "::1", () =>
    net.connect(server.address().port, "::1").resume().on("close", () => server.close()));
`;

function plan(): NetworkPlan {
  const firewall = (node: 1 | 2): NetworkPlan["firewalls"] => ({
    [`fw-${node}`]: {
      conntrackd: seedFile(`002/fw-${node}/conntrackd.conf`),
      keepalived: seedFile("002/keepalived.conf"),
      ruleset: [RULESET],
      links: exampleLinks(node),
    },
  });
  return { hosts: exampleHosts("client", "server"), firewalls: { ...firewall(1), ...firewall(2) } };
}

describe("seed 002, virtual machines", { skip: seedsObstacle(), timeout: 400_000 }, () => {
  it("refuses the file as printed; repaired, it filters in the kernel, takes over and ends through -k", async () => {
    await SeedNetwork.run(plan(), async (network) => {
      const [first, second] = [network.firewall("fw-1"), network.firewall("fw-2")];
      await assertRefused(first);
      await Promise.all([first.startService(), second.startService()]);
      await startExampleKeepalived(network, "fw-1", "fw-2");
      network.adopt(await startEchoServer(network.host("server"), network.directory, [SERVER]));
      const target = { name: "server", host: SERVER, port: ECHO_PORT };
      const sessions = await network.openSessions("client", [{ ...target, count: SESSIONS }]);
      await waitFor("the sessions in -e of fw-2", REPLICATED_MS, async () => {
        return (await second.lines("-e")).length === SESSIONS;
      });

      await sessions.pause();
      await assertKernelFilter(network, first, () => sessions.datagrams([{ ...target, count: DATAGRAMS }]));
      await sessions.resume();

      await first.stopKeepalived();
      await waitHoldsExample(second);
      await assertAlive(sessions, SESSIONS, ALIVE_MS);

      for (const firewall of [first, second]) {
        assert.deepEqual(await firewall.complaints(), []);
        await assertStops(firewall);
      }
    });
  });
});

/** As printed it has no-break spaces for blanks, and a brace is missing before the seventh line. */
async function assertRefused(firewall: SeedFirewall): Promise<void> {
  const file = join(projectRoot(), "test", "support", "seeds", "002", "conntrackd-as-printed.conf");
  const printed = await firewall.run("conntrackd", "-C", file);
  assert.equal(printed.code, 1);
  assert.match(printed.stderr, /line \(2\)|as-printed\.conf:(2|7):\d+: /);

  const copy = "/run/as-printed.conf";
  await firewall.run("sh", "-c", `sed 's/\\xc2\\xa0/ /g' ${file} >${copy}`);
  const blank = await firewall.run("conntrackd", "-C", copy);
  assert.equal(blank.code, 1);
  assert.match(blank.stderr, /line \(7\)|as-printed\.conf:7:5: /);
}

/** UDP, ICMP and IPv6's loopback pass the firewall's kernel and never reach the daemon. */
async function assertKernelFilter(
  network: SeedNetwork,
  firewall: SeedFirewall,
  sendDatagrams: () => Promise<void>,
): Promise<void> {
  const tcp = await firewall.lines("-i");
  assert.equal(tcp.length, SESSIONS);
  const received = await eventsReceived(firewall);
  await sendDatagrams();
  await network.host("client").exec("ping", ["-c", "1", "-W", "2", SERVER]);
  assert.equal((await firewall.run(process.execPath, "-e", CONNECT_LOOPBACK)).code, 0);
  const kernel = [...(await firewall.kernel()), ...(await firewall.kernel("ipv6"))];
  assert.ok(kernel.filter((line) => line.startsWith("udp")).length >= DATAGRAMS);
  assert.ok(kernel.some((line) => line.startsWith("icmp")));
  assert.ok(kernel.some((line) => line.startsWith("tcp") && line.includes("src=::1 ")));
  // What comes last is seen last: when the daemon knows of this session, it has been told of all that went before.
  await network.openSessions("client", [{ name: "server", host: SERVER, port: ECHO_PORT, count: 1 }], [], "later.log");
  await waitFor("one more session", REPLICATED_MS, async () => (await firewall.lines("-i")).length > SESSIONS);
  const lines = await firewall.lines("-i");
  assert.equal(lines.length, SESSIONS + 1, lines.join("\n"));
  assert.ok(lines.every((line) => line.startsWith("tcp ") && !line.includes("::1")));
  assert.ok(
    (await eventsReceived(firewall)) - received < DATAGRAMS,
    "the daemon is told of what its filter leaves out",
  );
}

async function eventsReceived(firewall: SeedFirewall): Promise<number> {
  const { stdout } = await firewall.conntrackd("-s", "runtime");
  return Number(/events received:\s+(\d+)/.exec(stdout)?.[1]);
}

/** The unit's ExecStop. */
async function assertStops(firewall: SeedFirewall): Promise<void> {
  const present = async (): Promise<string> =>
    (await firewall.run("sh", "-c", "ls /var/lock/conntrack.lock /var/run/conntrackd.ctl")).stdout;
  assert.equal(await present(), "/var/lock/conntrack.lock\n/var/run/conntrackd.ctl\n");
  assert.equal((await firewall.run("/usr/sbin/conntrackd", "-k")).code, 0);
  assert.equal(await firewall.serviceEnds(), 0);
  assert.equal(await present(), "");
  assert.equal((await firewall.run("/usr/sbin/conntrackd", "-k")).code, 1);
}
