/**
 * The seed "Active/Backup iptables tracking connexions between two gateways": Debian's example configuration with the addresses
 * of two gateways, its Multicast block as shipped and the UDP block of its comments. The lines of `-e` on the backup are counted
 * against those of `-i` on the active gateway.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, startEchoServer } from "../../src/lab/sessions.js";
import {
  type ExampleLink,
  exampleFiles,
  exampleHosts,
  exampleLinks,
  GROUP,
  linkAddress,
  startExampleKeepalived,
  waitHoldsExample,
} from "../support/seeds/example.js";
import { seedFile, textForm } from "../support/seeds/files.js";
import type { SeedFirewall } from "../support/seeds/firewall.js";
import { assertAlive, type NetworkPlan, SeedNetwork, seedsObstacle } from "../support/seeds/network.js";

const SERVER = "192.168.1.3";
/** As many as the text counts. */
const SESSIONS = 325;
const CLOSED = 225;
const REPLICATED_MS = 30_000;
const ALIVE_MS = 30_000;

function plan(link: ExampleLink): NetworkPlan {
  const gateway = (node: 1 | 2): NetworkPlan["firewalls"][string] => {
    const destination = link === "Multicast" ? GROUP : linkAddress(node);
    const variables = `IFCONN=eth2 IPCONN=${linkAddress(node === 1 ? 2 : 1)} TOCONN=${destination}`;
    return { ...exampleFiles(node, link), ruleset: [variables, seedFile("003/ruleset.sh")], links: exampleLinks(node) };
  };
  return { hosts: exampleHosts("client", "server"), firewalls: { gw01: gateway(1), gw02: gateway(2) } };
}

describe("seed 003, two gateways", { skip: seedsObstacle(), timeout: 400_000, concurrency: 2 }, () => {
  for (const link of ["Multicast", "UDP"] as const) {
    it(`with the ${link} block the backup's -e has as many lines as the -i of the active one`, async () => {
      await SeedNetwork.run(plan(link), (network) => countAndTakeOver(network, link));
    });
  }
});

async function countAndTakeOver(network: SeedNetwork, link: ExampleLink): Promise<void> {
  const [active, backup] = [network.firewall("gw01"), network.firewall("gw02")];
  await Promise.all([active.startService(), backup.startService()]);
  await startExampleKeepalived(network, "gw01", "gw02");
  network.adopt(await startEchoServer(network.host("server"), network.directory, []));
  const target = { name: "server", host: SERVER, port: ECHO_PORT, count: SESSIONS };
  const sessions = await network.openSessions("client", [target]);
  await sessions.pause();
  await waitEqual(active, backup, SESSIONS);

  await sessions.close(CLOSED);
  // Closed connections stay in the table for two minutes, in other states.
  await waitEqual(active, backup, SESSIONS);
  await waitFor("the closed ones are closed on the backup", REPLICATED_MS, async () => {
    const lines = await backup.lines("-e");
    return lines.filter((line) => line.includes("ESTABLISHED")).length === SESSIONS - CLOSED;
  });

  const form = textForm(seedFile("000/statistics.txt").replace("UDP traffic", `${link.replace("M", "m")} traffic`));
  for (const gateway of [active, backup]) {
    const { stdout } = await gateway.conntrackd("-s");
    assert.deepEqual(textForm(stdout.replace("device=eth2", "device=ens3")), form.slice(1));
  }

  assert.equal((await backup.conntrackd("-f", "external")).code, 0);
  await waitFor("an empty external cache", REPLICATED_MS, async () => (await count(backup, "-e")) === 0);
  assert.equal((await backup.conntrackd("-n")).code, 0);
  await waitEqual(active, backup, SESSIONS);

  await sessions.resume();
  await active.stopKeepalived();
  await waitHoldsExample(backup);
  await assertAlive(sessions, SESSIONS - CLOSED, ALIVE_MS);
  for (const gateway of [active, backup]) assert.deepEqual(await gateway.complaints(), []);
}

/** As the text does it: `conntrackd -e | wc -l`. */
async function count(firewall: SeedFirewall, option: "-i" | "-e"): Promise<number> {
  return Number((await firewall.run("sh", "-c", `conntrackd ${option} | wc -l`)).stdout);
}

async function waitEqual(active: SeedFirewall, backup: SeedFirewall, atLeast: number): Promise<void> {
  let counts: number[] = [];
  const equal = async (): Promise<boolean> => {
    counts = await Promise.all([count(active, "-i"), count(backup, "-e")]);
    return counts[0] === counts[1] && counts[0]! >= atLeast;
  };
  await waitFor("equal counts", REPLICATED_MS, equal).catch((error: unknown) => {
    throw new Error(`-i of the active one has ${counts[0]} lines, -e of the backup ${counts[1]}`, { cause: error });
  });
}
