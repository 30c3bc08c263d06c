import { Namespace } from "./namespace.js";
import { runOrThrow } from "./process.js";

/** The addresses of one network: /24 in IPv4 and /64 in IPv6, hosts by their last number. */
export interface Network {
  readonly ipv4: string;
  readonly ipv6: string;
}

/** Where clients live; its virtual address is their default route. */
export const LAN: Network = { ipv4: "10.10.0", ipv6: "fd00:10:" };
/** Where servers live; connections from the LAN are source NATed to its virtual address. */
export const WAN: Network = { ipv4: "203.0.113", ipv6: "fd00:20:" };
/** Behind the server host, reached without NAT. */
export const ROUTED: Network = { ipv4: "198.51.100", ipv6: "fd00:30:" };
/** The dedicated link between the firewalls. */
export const SYNC: Network = { ipv4: "10.77.0", ipv6: "fd00:77:" };

/** Host number of the virtual addresses in their networks. */
export const VIRTUAL_HOST = 1;
/** Host number of client and server in their networks. */
export const END_HOST = 100;
/** A second IPv4 address of the client: two sources with the same port make source NAT translate a port. */
export const SECOND_CLIENT_HOST = 101;
/** Firewall n (from 1) has host number 10 + n on LAN and WAN, and n on the dedicated link. */
export const FIREWALL_HOST_BASE = 10;
export const FIREWALLS_MAX = 9;

/** `host` of `network` as an IPv4 address. */
export function ipv4(network: Network, host: number): string {
  return `${network.ipv4}.${host}`;
}

/** `host` of `network` as an IPv6 address, the digits read as hexadecimal. */
export function ipv6(network: Network, host: number): string {
  return `${network.ipv6}:${host}`;
}

/** IPv4 prefix of a network. */
export function cidr4(network: Network): string {
  return `${network.ipv4}.0/24`;
}

/** IPv6 prefix of a network. */
export function cidr6(network: Network): string {
  return `${network.ipv6}:/64`;
}

/** The namespaces of a laboratory: a switch with three bridges, a client, a server, and the firewalls in order. */
export interface Topology {
  readonly switch: Namespace;
  readonly client: Namespace;
  readonly server: Namespace;
  readonly firewalls: readonly Namespace[];
}

/** Names the namespaces of a laboratory without making them. */
export function planTopology(id: string, firewalls: number): Topology {
  const namespace = (name: string): Namespace => new Namespace(`ctl${id}-${name}`);
  return {
    switch: namespace("switch"),
    client: namespace("client"),
    server: namespace("server"),
    firewalls: Array.from({ length: firewalls }, (_, index) => namespace(`fw${index + 1}`)),
  };
}

/** Every namespace of a topology. */
export function namespacesOf(topology: Topology): Namespace[] {
  return [topology.switch, topology.client, topology.server, ...topology.firewalls];
}

/** Makes the namespaces, bridges, veth pairs, addresses and routes, but no rulesets. */
export async function buildTopology(topology: Topology): Promise<void> {
  await Promise.all(namespacesOf(topology).map((namespace) => namespace.create()));
  await Promise.all([
    buildSwitch(topology.switch, ["lan", "wan", "sync"]),
    buildEndHost(topology.client),
    buildEndHost(topology.server),
    ...topology.firewalls.map(prepareFirewall),
  ]);
  // Both ends are created inside their namespaces, so no name ever appears in the machine's own.
  const pairs = [
    veth(topology.switch, "client", topology.client, "eth0"),
    veth(topology.switch, "server", topology.server, "eth0"),
  ];
  topology.firewalls.forEach((firewall, index) => {
    for (const network of ["lan", "wan", "sync"]) {
      pairs.push(veth(topology.switch, `fw${index + 1}-${network}`, firewall, `${network}0`));
    }
  });
  await runOrThrow("ip", ["-batch", "-"], `${pairs.join("\n")}\n`);
  await connectSwitch(topology);
  await addressClient(topology.client);
  await addressServer(topology.server);
  await Promise.all(topology.firewalls.map((firewall, index) => addressFirewall(firewall, index + 1)));
}

/** The line of an ip-batch that links two namespaces by a pair of devices. */
export function veth(left: Namespace, leftName: string, right: Namespace, rightName: string): string {
  return `link add ${leftName} netns ${left.name} type veth peer name ${rightName} netns ${right.name}`;
}

/** Makes the bridges of a laboratory's switch. */
export async function buildSwitch(namespace: Namespace, bridges: readonly string[]): Promise<void> {
  await namespace.sysctl({ "net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1 });
  await namespace.ip(
    bridges.flatMap((name) => [
      // Snooping would block VRRP's multicast until a querier speaks, and there is none.
      `link add ${name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
      `link set ${name} up`,
    ]),
  );
  for (const family of ["iptables", "ip6tables", "arptables"]) {
    // Without the bridge module there is no such key, and bridged frames pass no netfilter hook anyway.
    await namespace.sysctl({ [`net.bridge.bridge-nf-call-${family}`]: 0 }).catch(() => {});
  }
}

/** Prepares the namespace of an end host. */
export async function buildEndHost(namespace: Namespace): Promise<void> {
  await namespace.sysctl({ ...QUIET_IPV6 });
  await namespace.ip(["link set lo up"]);
}

/** Without these an address is unusable during duplicate address detection, a second or two. */
const QUIET_IPV6 = {
  "net.ipv6.conf.all.accept_dad": 0,
  "net.ipv6.conf.default.accept_dad": 0,
  "net.ipv6.conf.all.accept_ra": 0,
  "net.ipv6.conf.default.accept_ra": 0,
} as const;

/** Prepares the namespace of a host that forwards. */
export async function prepareFirewall(namespace: Namespace): Promise<void> {
  await namespace.sysctl({
    ...QUIET_IPV6,
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv6.conf.default.forwarding": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
  });
  await namespace.ip(["link set lo up"]);
}

async function connectSwitch(topology: Topology): Promise<void> {
  const ports = [
    ["client", "lan"],
    ["server", "wan"],
    ...topology.firewalls.flatMap((_, index) => ["lan", "wan", "sync"].map((name) => [`fw${index + 1}-${name}`, name])),
  ];
  await topology.switch.ip(ports.map(([port, bridge]) => `link set ${port} master ${bridge} up`));
}

async function addressClient(client: Namespace): Promise<void> {
  await client.ip([
    "link set eth0 up",
    `addr add ${ipv4(LAN, END_HOST)}/24 dev eth0`,
    `addr add ${ipv4(LAN, SECOND_CLIENT_HOST)}/24 dev eth0`,
    `addr add ${ipv6(LAN, END_HOST)}/64 dev eth0 nodad`,
    `route add default via ${ipv4(LAN, VIRTUAL_HOST)}`,
    `route add default via ${ipv6(LAN, VIRTUAL_HOST)}`,
  ]);
}

async function addressServer(server: Namespace): Promise<void> {
  await server.ip([
    "link set eth0 up",
    `addr add ${ipv4(WAN, END_HOST)}/24 dev eth0`,
    `addr add ${ipv6(WAN, END_HOST)}/64 dev eth0 nodad`,
    `addr add ${ipv4(ROUTED, END_HOST)}/32 dev lo`,
    `addr add ${ipv6(ROUTED, END_HOST)}/128 dev lo nodad`,
    `route add ${cidr4(LAN)} via ${ipv4(WAN, VIRTUAL_HOST)}`,
    `route add ${cidr6(LAN)} via ${ipv6(WAN, VIRTUAL_HOST)}`,
  ]);
}

async function addressFirewall(firewall: Namespace, number: number): Promise<void> {
  const host = FIREWALL_HOST_BASE + number;
  await firewall.ip([
    "link set lan0 up",
    "link set wan0 up",
    "link set sync0 up",
    `addr add ${ipv4(LAN, host)}/24 dev lan0`,
    `addr add ${ipv6(LAN, host)}/64 dev lan0 nodad`,
    `addr add ${ipv4(WAN, host)}/24 dev wan0`,
    `addr add ${ipv6(WAN, host)}/64 dev wan0 nodad`,
    `addr add ${ipv4(SYNC, number)}/24 dev sync0`,
    `route add ${cidr4(ROUTED)} via ${ipv4(WAN, END_HOST)}`,
    `route add ${cidr6(ROUTED)} via ${ipv6(WAN, END_HOST)}`,
  ]);
}
