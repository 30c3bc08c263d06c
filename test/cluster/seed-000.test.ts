/**
 * The seed "High Availability with Keepalived and conntrackd": two firewalls, SNAT to a virtual address, one ssh session
 * that lives through the end of keepalived on the first. All files are those of the text.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { startSsh } from "../../src/lab/ssh.js";
import { lineLike, ruleCommands, seedFile, textForm } from "../support/seeds/files.js";
import { assertAlive, type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

const INSIDE_VIP = "10.0.0.3";
const OUTSIDE_VIP = "192.168.255.250";
const ELECTION_MS = 30_000;
/** PollSecs is 5 in its files. */
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;

/** As the text prints the ssh session, but for its source port and its age. */
const INTERNAL = lineLike(
  "tcp      6 ESTABLISHED src=10.0.0.10 dst=192.168.255.33 sport=48070 dport=22 src=192.168.255.33 dst=192.168.255.250 sport=22 dport=48070 [ASSURED] mark=0 [active since 46s]",
  "48070",
);
const EXTERNAL = lineLike(
  "tcp      6 ESTABLISHED src=10.0.0.10 dst=192.168.255.33 sport=48070 dport=22 [ASSURED] mark=0 [active since 185s]",
  "48070",
);

function plan(): NetworkPlan {
  const firewall = (name: string, sync: number, inside: number, outside: number): NetworkPlan["firewalls"] => ({
    [name]: {
      conntrackd: seedFile(`000/${name}/conntrackd.conf`),
      keepalived: seedFile(`000/${name}/keepalived.conf`),
      ruleset: ruleCommands(seedFile("000/iptables.rules")),
      links: {
        ens2: { bridge: "outside", addresses: [`192.168.255.${outside}/24`] },
        ens3: { bridge: "sync", addresses: [`172.30.16.${sync}/24`] },
        ens4: { bridge: "inside", addresses: [`10.0.0.${inside}/24`] },
      },
    },
  });
  return {
    hosts: {
      client: {
        links: { eth0: { bridge: "inside", addresses: ["10.0.0.10/24"] } },
        routes: [`default via ${INSIDE_VIP}`],
      },
      server: { links: { eth0: { bridge: "outside", addresses: ["192.168.255.33/24"] } } },
    },
    firewalls: { ...firewall("fw-1", 1, 1, 11), ...firewall("fw-2", 2, 2, 22) },
  };
}

describe("seed 000, keepalived and conntrackd", { skip: seedsObstacle(), timeout: 400_000 }, () => {
  it("an ssh session through SNAT lives on when keepalived ends, and the dumps are those of the text", async () => {
    await SeedNetwork.run(plan(), async (network) => {
      const [first, second] = [network.firewall("fw-1"), network.firewall("fw-2")];
      await Promise.all([first.startService(), second.startService()]);
      for (const firewall of [first, second]) firewall.startKeepalived();
      await first.waitHolds(INSIDE_VIP, ELECTION_MS);
      await first.waitHolds(OUTSIDE_VIP, ELECTION_MS);
      const addresses = (await first.run("ip", "-4", "addr", "list", "ens2")).stdout;
      assert.match(addresses, /inet 192\.168\.255\.250\/24 scope global secondary ens2/);

      const ssh = await startSsh(network.host("server"), "192.168.255.33", network.directory, 22);
      network.adopt(ssh.process);
      const sessions = await network.openSessions("client", [], ssh.clientArguments);

      await first.waitLine("-i", INTERNAL, REPLICATED_MS);
      assert.deepEqual((await second.lines("-i")).filter(isSsh), []);
      await second.waitLine("-e", EXTERNAL, REPLICATED_MS);
      const [, ...text] = textForm(seedFile("000/statistics.txt"));
      assert.deepEqual(textForm((await first.conntrackd("-s")).stdout), text);
      assert.deepEqual(textForm((await second.conntrackd("-s")).stdout), text);

      // Its rules accept what has no state: words said before the commit would be answered by a RST. The text's session is idle.
      await sessions.pause();
      await first.stopKeepalived();
      await second.waitHolds(OUTSIDE_VIP, ELECTION_MS);
      await second.waitHolds(INSIDE_VIP, ELECTION_MS);
      await second.waitLine("-i", INTERNAL, REPLICATED_MS);
      await sessions.resume();
      await assertAlive(sessions, 1, ALIVE_MS);
      for (const firewall of [first, second]) assert.deepEqual(await firewall.complaints(), []);
    });
  });
});

function isSsh(line: string): boolean {
  return line.includes("dport=22 ");
}
