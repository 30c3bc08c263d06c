/**
 * The seed "conntrackd test case": two desktops, two firewalls that hold virtual addresses in turn, the ruleset of the text and
 * an ssh session from A to B. Without replicated state the takeover must break it, with it must live on. The text leaves
 * the configuration files to the distribution's example.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { SessionReport } from "../../src/lab/session-protocol.js";
import type { Sessions } from "../../src/lab/sessions.js";
import { type SshService, startSsh } from "../../src/lab/ssh.js";
import {
  exampleFiles,
  exampleHosts,
  exampleLinks,
  startExampleKeepalived,
  waitHoldsExample,
} from "../support/seeds/example.js";
import { lineLike, seedFile } from "../support/seeds/files.js";
import type { FirewallFiles, SeedFirewall } from "../support/seeds/firewall.js";
import { type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

const B = "192.168.1.3";
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;
/** Long enough for TCP to have sent again several times. */
const DEAD_MS = 3_000;

/** The text's line with its addresses put right (it has B's where the virtual ones are), and with conntrackd's blanks. */
const INTERNAL = lineLike(
  "tcp      6 ESTABLISHED src=192.168.0.3 dst=192.168.1.3 sport=51356 dport=22 src=192.168.1.3 dst=192.168.1.100 sport=22 dport=51356 [ASSURED] mark=0 [active since 5s]",
  "51356",
);
/** Of what is in the external cache, later conntrackds than the text's print the original direction only. */
const EXTERNAL = lineLike(
  "tcp      6 ESTABLISHED src=192.168.0.3 dst=192.168.1.3 sport=51356 dport=22 [ASSURED] mark=0 [active since 2s]",
  "51356",
);

function plan(change: (files: Omit<FirewallFiles, "ruleset">) => Omit<FirewallFiles, "ruleset">): NetworkPlan {
  const ruleset = seedFile("004/ruleset.txt")
    .trim()
    .split("\n")
    .map((line) => line.replace(/^\[\d\] iptables/, "iptables -w"));
  return {
    hosts: exampleHosts("A", "B"),
    firewalls: {
      FW1: { ...change(exampleFiles(1, "UDP")), ruleset, links: exampleLinks(1) },
      FW2: { ...change(exampleFiles(2, "UDP")), ruleset, links: exampleLinks(2) },
    },
  };
}

describe("seed 004, the test case", { skip: seedsObstacle(), timeout: 400_000, concurrency: 2 }, () => {
  it("without replicated state a takeover breaks the session, and its packets are logged as invalid", async () => {
    const silent = plan((files) => ({ ...files, keepalived: files.keepalived.replaceAll(/^\s*notify_.*$/gm, "") }));
    await SeedNetwork.run(silent, async (network) => {
      await startExampleKeepalived(network, "FW1", "FW2");
      const ssh = await startSshd(network);
      const sessions = await openSsh(network, ssh);
      const report = await takeOver(network, sessions, DEAD_MS);
      assert.equal(report.answering, 0, "the session goes on through a firewall that cannot know it");
      assert.ok((await loggedAsInvalid(network.firewall("FW2"))) > 0);
      await assert.doesNotReject(openSsh(network, ssh), "what is missing is the state, not the way");
    });
  });

  it("with it the session lives on", async () => {
    await SeedNetwork.run(
      plan((files) => files),
      async (network) => {
        // The script that keepalived calls starts the daemons: nobody else does here.
        await startExampleKeepalived(network, "FW1", "FW2");
        const [first, second] = [network.firewall("FW1"), network.firewall("FW2")];
        await Promise.all([first.waitService(), second.waitService()]);
        const sessions = await openSsh(network, await startSshd(network));
        await first.waitLine("-i", INTERNAL, REPLICATED_MS);
        await second.waitLine("-e", EXTERNAL, REPLICATED_MS);
        const report = await takeOver(network, sessions, ALIVE_MS, () =>
          second.waitLine("-i", INTERNAL, REPLICATED_MS),
        );
        assert.deepEqual(
          { answering: report.answering, reasons: report.reasons },
          { answering: 1, reasons: [] },
          "the session does not go on",
        );
      },
    );
  });
});

async function startSshd(network: SeedNetwork): Promise<SshService> {
  const ssh = await startSsh(network.host("B"), B, network.directory, 22);
  network.adopt(ssh.process);
  return ssh;
}

async function openSsh(network: SeedNetwork, ssh: SshService): Promise<Sessions> {
  return network.openSessions("A", [], ssh.clientArguments);
}

/**
 * FW1 fails and FW2 takes over. The session is idle meanwhile: the ruleset lets in what has no state, so that the firewall itself
 * would answer to B with a RST.
 */
async function takeOver(
  network: SeedNetwork,
  sessions: Sessions,
  timeoutMs: number,
  done: () => Promise<void> = async () => {},
): Promise<SessionReport> {
  await sessions.pause();
  await network.firewall("FW1").cut(["eth0", "eth1", "eth2"]);
  const second = network.firewall("FW2");
  await waitHoldsExample(second);
  await done();
  await sessions.resume();
  await sessions.mark();
  return sessions.settle(timeoutMs);
}

/** Packets that rule [5] of the text has logged. */
async function loggedAsInvalid(firewall: SeedFirewall): Promise<number> {
  const { stdout } = await firewall.run("iptables", "-w", "-vxnL", "FORWARD");
  const rule = stdout.split("\n").find((line) => line.includes("LOG"));
  return Number(rule?.trim().split(/\s+/)[0] ?? 0);
}
