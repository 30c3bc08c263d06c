/**
 * The distribution's example of a primary and a backup, which two of the seeds tell to copy: Debian's keepalived.conf and its
 * conntrackd.conf for FTFW, with the addresses of a node put in. The gateways have eth1 on the inside, eth0 on the outside and
 * eth2 as the dedicated link.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EXAMPLES, type FirewallFiles, type SeedFirewall } from "./firewall.js";
import type { HostPlan, NetworkPlan, SeedNetwork } from "./network.js";

/** The virtual addresses of the example, and its multicast group. */
const INSIDE_VIP = "192.168.0.100";
const OUTSIDE_VIP = "192.168.1.100";
export const GROUP = "225.0.0.50";

/** How the example's nodes speak to each other: its Multicast block as shipped, or the UDP block of its comments. */
export type ExampleLink = "Multicast" | "UDP";

const FIRST_LINK = "192.168.100.100";
const SECOND_LINK = "192.168.100.200";
/** advert_int is 3 and a backup waits for three of them and a skew. */
const ELECTION_MS = 30_000;

/** The address of node 1 or 2 on the dedicated link. */
export function linkAddress(node: 1 | 2): string {
  return node === 1 ? FIRST_LINK : SECOND_LINK;
}

/** The example's files for node 1 or 2. */
export function exampleFiles(node: 1 | 2, link: ExampleLink): Omit<FirewallFiles, "ruleset"> {
  return {
    conntrackd: exampleConntrackd(node, link),
    keepalived: readFileSync(join(EXAMPLES, "keepalived.conf"), "utf8"),
  };
}

/** The interfaces of node 1 or 2. */
export function exampleLinks(node: 1 | 2): HostPlan["links"] {
  return {
    eth0: { bridge: "outside", addresses: [`192.168.1.${node}/24`] },
    eth1: { bridge: "inside", addresses: [`192.168.0.${node}/24`] },
    eth2: { bridge: "sync", addresses: [`${linkAddress(node)}/24`] },
  };
}

/** A host on the inside and one on the outside, the inner one behind the virtual address. */
export function exampleHosts(inside: string, outside: string): NetworkPlan["hosts"] {
  return {
    [inside]: {
      links: { eth0: { bridge: "inside", addresses: ["192.168.0.3/24"] } },
      routes: [`default via ${INSIDE_VIP}`],
    },
    [outside]: { links: { eth0: { bridge: "outside", addresses: ["192.168.1.3/24"] } } },
  };
}

/** Starts keepalived on the first until it is primary, then on the second: both have one priority. */
export async function startExampleKeepalived(network: SeedNetwork, first: string, second: string): Promise<void> {
  network.firewall(first).startKeepalived();
  await waitHoldsExample(network.firewall(first));
  network.firewall(second).startKeepalived();
  await network.firewall(second).waitKeepalived(/\(VI_1\) Entering BACKUP STATE/, ELECTION_MS);
}

/** Resolves when a node holds both virtual addresses. */
export async function waitHoldsExample(firewall: SeedFirewall): Promise<void> {
  for (const address of [INSIDE_VIP, OUTSIDE_VIP]) await firewall.waitHolds(address, ELECTION_MS);
}

function exampleConntrackd(node: 1 | 2, link: ExampleLink): string {
  const other = node === 1 ? 2 : 1;
  const text = readFileSync(join(EXAMPLES, "ftfw", "conntrackd.conf"), "utf8")
    .replaceAll(FIRST_LINK, linkAddress(node))
    .replace("IPv4_address 192.168.0.1\n", `IPv4_address 192.168.0.${node}\n`)
    .replace("IPv4_address 192.168.1.1\n", `IPv4_address 192.168.1.${node}\n`);
  if (link === "Multicast") return text;
  return text.replace(
    /\n\tMulticast \{[\s\S]*?\n\t\}\n/,
    `
	UDP {
		IPv4_address ${linkAddress(node)}
		IPv4_Destination_Address ${linkAddress(other)}
		Port 3780
		Interface eth2
		SndSocketBuffer 1249280
		RcvSocketBuffer 1249280
		Checksum on
	}
`,
  );
}
