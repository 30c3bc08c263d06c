/** The network around firewall A: addresses, ruleset, wiring. B has the ruleset and no traffic of its own. */
import { readdirSync } from "node:fs";
import type { Namespace } from "../../../src/lab/namespace.js";
import {
  buildEndHost,
  END_HOST,
  ipv4,
  ipv6,
  LAN,
  prepareFirewall,
  VIRTUAL_HOST,
  veth,
  WAN,
} from "../../../src/lab/topology.js";
import { inNamespace } from "../kernel-namespace.js";

/** What the firewall makes of a source address. */
export const SOURCES = {
  plain: END_HOST,
  /** Its text is shorter than that of the address that takes its place, so that FTP's lines grow. */
  masquerade: 2,
  snat: 103,
  /** Two of them, which use the same ports and share the range. */
  portRange: 104,
  portRangeToo: 105,
} as const;

/** What the firewall makes of a destination address, by its last number; `plain` is the server's own. */
export const DESTINATIONS = { plain: 0, dnat: 1, dnatPort: 2, dnatAndSnat: 3 } as const;

/** Names of SOURCES and DESTINATIONS. */
export type SourceKind = keyof typeof SOURCES;
export type DestinationKind = keyof typeof DESTINATIONS;

/** Ports that the ruleset knows. */
export const PORTS = {
  service: 5000,
  /** DNATed to `service`. */
  front: 80,
  ftp: 21,
  tftp: 69,
  pptp: 1723,
  synproxy: 8080,
  zone: 6001,
  zoneOriginal: 6002,
  zoneReply: 6003,
  label: 6010,
  mark: 6011,
  /** Hosts do not answer here: hand-made TCP has it to itself. */
  quietFirst: 7000,
  quietLast: 7099,
} as const;

const SNAT_HOST = 5;
const BOTH_HOST = 6;
const TRANSLATED = { ipv4: "192.0.2", ipv6: "fd00:40:" };
const DAY_SECONDS = 86_400;

/** The address of the client from which the firewall does so. */
export function sourceAddress(kind: SourceKind, family: 4 | 6): string {
  return family === 4 ? ipv4(LAN, SOURCES[kind]) : ipv6(LAN, SOURCES[kind]);
}

/** The address at which the client reaches the server so. */
export function destinationAddress(kind: DestinationKind, family: 4 | 6): string {
  if (kind === "plain") return serverAddress(family);
  return family === 4 ? ipv4(TRANSLATED, DESTINATIONS[kind]) : ipv6(TRANSLATED, DESTINATIONS[kind]);
}

/** The server's own address. */
export function serverAddress(family: 4 | 6): string {
  return family === 4 ? ipv4(WAN, END_HOST) : ipv6(WAN, END_HOST);
}

/** The ruleset of both firewalls. */
export function oracleRuleset(): string {
  const dnat = (kind: DestinationKind): string[] => {
    const match = kind === "dnatPort" ? `meta l4proto { tcp, udp, udplite, sctp } th dport ${PORTS.front} ` : "";
    const port = kind === "dnatPort" ? `:${PORTS.service}` : "";
    return [
      `ip daddr ${destinationAddress(kind, 4)} ${match}dnat ip to ${serverAddress(4)}${port}`,
      `ip6 daddr ${destinationAddress(kind, 6)} ${match}dnat ip6 to ${port === "" ? serverAddress(6) : `[${serverAddress(6)}]${port}`}`,
    ];
  };
  const snat = (kind: SourceKind, to4: string, to6: string): string[] => [
    `ip saddr ${sourceAddress(kind, 4)} ${to4}`,
    `ip6 saddr ${sourceAddress(kind, 6)} ${to6}`,
  ];
  const [snat4, snat6] = [`snat ip to ${ipv4(WAN, SNAT_HOST)}`, `snat ip6 to ${ipv6(WAN, SNAT_HOST)}`];
  const ports = "meta l4proto { tcp, udp, udplite, sctp }";
  const range4 = `${ports} ${snat4}:20000-20999`;
  const range6 = `${ports} snat ip6 to [${ipv6(WAN, SNAT_HOST)}]:20000-20999`;
  const chain = (name: string, type: string, rules: readonly string[]): string =>
    `  chain ${name} {\n    type ${type}; policy accept;\n    ${rules.join("\n    ")}\n  }`;
  return `
table inet oracle {
  ct helper ftp { type "ftp" protocol tcp; }
  ct helper pptp { type "pptp" protocol tcp; l3proto ip; }
  ct helper tftp { type "tftp" protocol udp; }
${chain("raw", "filter hook prerouting priority raw", [
  `udp dport ${PORTS.zone} ct zone set 7`,
  `udp sport ${PORTS.zone} ct zone set 7`,
  `udp dport ${PORTS.zoneOriginal} ct original zone set 8`,
  `iifname "wan0" udp sport ${PORTS.zoneReply} ct reply zone set 9`,
  `iifname "lan0" udp dport ${PORTS.zoneReply} ct reply zone set 9`,
  `iifname "lan0" tcp dport ${PORTS.synproxy} tcp flags syn / fin,syn,rst,ack notrack`,
])}
${chain("forward", "filter hook forward priority filter", [
  `tcp dport ${PORTS.ftp} ct helper set "ftp"`,
  `ip protocol tcp tcp dport ${PORTS.pptp} ct helper set "pptp"`,
  `udp dport ${PORTS.tftp} ct helper set "tftp"`,
  `tcp dport ${PORTS.synproxy} ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm`,
  `udp dport ${PORTS.label} ct label set 5`,
  `udp dport ${PORTS.label} ct label set 127`,
  `udp dport { ${PORTS.mark}, ${PORTS.label} } ct mark set 0xfedcba98`,
])}
${chain("dstnat", "nat hook prerouting priority dstnat", [...dnat("dnat"), ...dnat("dnatPort"), ...dnat("dnatAndSnat")])}
${chain("srcnat", "nat hook postrouting priority srcnat", [
  `ct original ip daddr ${destinationAddress("dnatAndSnat", 4)} snat ip to ${ipv4(WAN, BOTH_HOST)}`,
  `ct original ip6 daddr ${destinationAddress("dnatAndSnat", 6)} snat ip6 to ${ipv6(WAN, BOTH_HOST)}`,
  ...snat("masquerade", "masquerade", "masquerade"),
  ...snat("snat", snat4, snat6),
  ...snat("portRange", range4, range6),
  ...snat("portRangeToo", range4, range6),
])}
}
`;
}

/** Wires client and server to A, and loads the ruleset on A and B. */
export async function buildNetwork(client: Namespace, server: Namespace, a: Namespace, b: Namespace): Promise<void> {
  await Promise.all([prepareFirewall(a), prepareFirewall(b), buildEndHost(client), buildEndHost(server)]);
  await client.ip([veth(client, "eth0", a, "lan0")]);
  await server.ip([veth(server, "eth0", a, "wan0")]);
  await Promise.all([
    addressHost(client, LAN, Object.values(SOURCES)),
    addressHost(server, WAN, [END_HOST]),
    addressA(a),
  ]);
  await Promise.all([a, b].map((firewall) => readyFirewall(firewall)));
}

async function addressHost(host: Namespace, network: typeof LAN, hosts: readonly number[]): Promise<void> {
  await host.ip([
    "link set eth0 up",
    ...hosts.flatMap((number) => [
      `addr add ${ipv4(network, number)}/24 dev eth0`,
      `addr add ${ipv6(network, number)}/64 dev eth0 nodad`,
    ]),
    `route add default via ${ipv4(network, VIRTUAL_HOST)}`,
    `route add default via ${ipv6(network, VIRTUAL_HOST)}`,
  ]);
  const quiet = `${PORTS.quietFirst}-${PORTS.quietLast}`;
  const drops = `tcp dport ${quiet} drop\ntcp sport ${quiet} drop`;
  await host.exec(
    "nft",
    ["-f", "-"],
    `table inet quiet {\nchain in {\ntype filter hook input priority 0;\n${drops}\n}\n}`,
  );
}

async function addressA(a: Namespace): Promise<void> {
  const addresses = (device: string, network: typeof LAN, hosts: readonly number[]): string[] =>
    hosts.flatMap((host) => [
      `addr add ${ipv4(network, host)}/24 dev ${device}`,
      `addr add ${ipv6(network, host)}/64 dev ${device} nodad`,
    ]);
  await a.ip([
    "link set lan0 up",
    "link set wan0 up",
    ...addresses("lan0", LAN, [VIRTUAL_HOST]),
    ...addresses("wan0", WAN, [VIRTUAL_HOST, SNAT_HOST, BOTH_HOST]),
  ]);
}

async function readyFirewall(firewall: Namespace): Promise<void> {
  await firewall.exec("nft", ["-f", "-"], oracleRuleset());
  const keys = inNamespace(firewall.name, () => readdirSync("/proc/sys/net/netfilter"));
  // Nothing may end by itself while tables are compared.
  const timeouts = keys.filter((key) => /^nf_conntrack_\w+_timeout/.test(key));
  await firewall.sysctl({
    ...Object.fromEntries(timeouts.map((key) => [`net.netfilter.${key}`, DAY_SECONDS])),
    "net.netfilter.nf_conntrack_tcp_loose": 0,
    // With it the kernel finds every right checksum of UDPLite wrong: it puts UDP's protocol number into the pseudo header.
    "net.netfilter.nf_conntrack_checksum": 0,
  });
}
