/**
 * The seed "Firewall HA with conntrackd and keepalived": virtual addresses of IPv4 and IPv6, everything dropped that no rule
 * accepts, long downloads on two clients while keepalived is restarted on whichever firewall is active, five times in a row.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Namespace } from "../../src/lab/namespace.js";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, type Sessions, startEchoServer } from "../../src/lab/sessions.js";
import { Downloads, discChecksum } from "../support/seeds/downloads.js";
import { seedFile } from "../support/seeds/files.js";
import type { SeedFirewall } from "../support/seeds/firewall.js";
import { assertAlive, type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

const FAILOVERS = 5;
const VIRTUAL = ["10.15.7.100", "2001:db8:15:7::100", "172.16.10.100", "2001:db8:16:10::100"];
const SERVER4 = "10.15.7.33";
const SERVER6 = "2001:db8:15:7::33";
const CLIENTS = ["client1", "client2"];
const ELECTION_MS = 30_000;
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;
const DOWNLOAD_MS = 60_000;
/** CommitTimeout in its files. */
const COMMIT_TIMEOUT_S = 1_800;

function plan(): NetworkPlan {
  const client = (number: number): NetworkPlan["hosts"] => ({
    [`client${number}`]: {
      links: { eth0: { bridge: "lan", addresses: [`172.16.10.${number}/24`, `2001:db8:16:10::${number}/64`] } },
      routes: ["default via 172.16.10.100", "default via 2001:db8:16:10::100"],
    },
  });
  const firewall = (number: number): NetworkPlan["firewalls"] => ({
    [`fw${number}`]: {
      conntrackd: seedFile(`001/fw${number}/conntrackd.conf`),
      keepalived: ofToday(seedFile(`001/fw${number}/keepalived.conf`)),
      ruleset: [seedFile("001/ruleset.sh")],
      links: {
        eth0: { bridge: "internet", addresses: [`10.15.7.10${number}/24`, `2001:db8:15:7::10${number}/64`] },
        eth1: { bridge: "lan", addresses: [`172.16.10.10${number}/24`, `2001:db8:16:10::10${number}/64`] },
        eth2: { bridge: "sync", addresses: [`10.0.0.${number}/24`] },
      },
    },
  });
  return {
    hosts: {
      ...client(1),
      ...client(2),
      server: {
        links: { eth0: { bridge: "internet", addresses: [`${SERVER4}/24`, `${SERVER6}/64`] } },
        routes: ["2001:db8:16:10::/64 via 2001:db8:15:7::100"],
      },
    },
    firewalls: { ...firewall(1), ...firewall(2) },
  };
}

/** The text's keepalived let both families stand in one block; from 2.0 on, the family that VRRP does not speak has another. */
function ofToday(keepalived: string): string {
  return keepalived.replaceAll(/^ {8}(2001:.*)$/gm, "    }\n    virtual_ipaddress_excluded {\n        $1");
}

describe("seed 001, firewall HA", { skip: seedsObstacle(), timeout: 400_000 }, () => {
  it(`downloads on two clients come through ${FAILOVERS} forced failovers in a row`, async (t) => {
    await SeedNetwork.run(plan(), async (network) => {
      const firewalls = [network.firewall("fw1"), network.firewall("fw2")] as const;
      for (const firewall of firewalls) await firewall.startDaemon();
      for (const firewall of firewalls) firewall.startKeepalived();
      await waitActive(firewalls[0]);
      await Promise.all([...CLIENTS, "server"].map((name) => countResets(network.host(name))));
      const downloads = await startDownloads(network);
      const idle = await openIdleSession(network);

      for (let round = 0; round < FAILOVERS; round++) {
        const active = firewalls[round % 2]!;
        const next = firewalls[(round + 1) % 2]!;
        await waitReplicated(next);
        const startMs = performance.now();
        // `keepalived restart`, as the text's script has it.
        await active.stopKeepalived();
        active.startKeepalived();
        await waitActive(next);
        t.diagnostic(`failover ${round + 1}: ${(performance.now() - startMs).toFixed(0)} ms`);
        await assertCommitTimeout(next);
        await active.waitKeepalived(backups(Math.floor(round / 2) + 1), ELECTION_MS);
        assert.equal(downloads.ended, 0, "a download has ended too early to prove anything");
      }

      await idle.resume();
      await assertAlive(idle, 1, ALIVE_MS);
      const checksums = await downloads.finish(DOWNLOAD_MS);
      assert.deepEqual(checksums, Array(2 * CLIENTS.length).fill(discChecksum()));
      for (const name of [...CLIENTS, "server"]) assert.equal(await resets(network.host(name)), 0, `RSTs at ${name}`);
      for (const firewall of firewalls) assert.deepEqual(await firewall.complaints(), []);
    });
  });
});

async function waitActive(firewall: SeedFirewall): Promise<void> {
  for (const address of VIRTUAL) await firewall.waitHolds(address, ELECTION_MS);
}

/** Matches a log of keepalived in which it has become a backup so often after a restart. */
function backups(times: number): RegExp {
  return new RegExp(`(\\(E1\\) Entering BACKUP STATE[\\s\\S]*){${times + 1}}`);
}

/** Each client downloads by IPv4, translated, and by IPv6, routed. */
async function startDownloads(network: SeedNetwork): Promise<Downloads> {
  const downloads = new Downloads(network.host("server"), network.directory);
  network.adopt(downloads.server);
  for (const client of CLIENTS) {
    for (const host of [SERVER4, SERVER6]) await downloads.start(network.host(client), host);
  }
  for (const child of downloads.processes) network.adopt(child);
  return downloads;
}

/** The text's "other less intensive task": nothing is said on it, so that its timeout in the kernel stays as committed. */
async function openIdleSession(network: SeedNetwork): Promise<Sessions> {
  network.adopt(await startEchoServer(network.host("server"), network.directory, []));
  const sessions = await network.openSessions("client1", [{ name: "idle", host: SERVER4, port: ECHO_PORT, count: 1 }]);
  await sessions.pause();
  return sessions;
}

/** The downloads and the idle session are in the external cache. */
async function waitReplicated(firewall: SeedFirewall): Promise<void> {
  await waitFor(`${firewall.name} knows the connections`, REPLICATED_MS, async () => {
    const lines = (await firewall.lines("-e")).filter((line) => line.startsWith("tcp      6 ESTABLISHED"));
    return lines.filter((line) => /dport=(80|7007) /.test(line)).length === 2 * CLIENTS.length + 1;
  });
}

async function assertCommitTimeout(firewall: SeedFirewall): Promise<void> {
  await waitFor(`the idle session in the kernel of ${firewall.name}`, REPLICATED_MS, async () =>
    (await firewall.kernel()).some((line) => line.includes(`dport=${ECHO_PORT} `)),
  );
  const line = (await firewall.kernel()).find((entry) => entry.includes(`dport=${ECHO_PORT} `));
  const seconds = Number(/^tcp\s+6 (\d+) ESTABLISHED/.exec(line ?? "")?.[1]);
  assert.ok(seconds <= COMMIT_TIMEOUT_S && seconds > COMMIT_TIMEOUT_S - 60, line);
}

/** Counts the RSTs that reach a host. */
async function countResets(host: Namespace): Promise<void> {
  const rules = "add chain inet seeds input { type filter hook input priority 0; }";
  await host.exec(
    "nft",
    ["-f", "-"],
    `add table inet seeds\n${rules}\nadd rule inet seeds input tcp flags rst counter\n`,
  );
}

async function resets(host: Namespace): Promise<number> {
  return Number(/packets (\d+)/.exec(await host.exec("nft", ["list", "chain", "inet", "seeds", "input"]))?.[1]);
}
