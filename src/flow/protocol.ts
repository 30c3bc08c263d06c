/**
 * Layer 4 protocols and their connection states: numbers as the kernel has them, names as conntrack(8) and conntrackd
 * print them. Numbers: linux/in.h. States: nf_conntrack_tcp.h, nf_conntrack_sctp.h, nf_conntrack_dccp.h.
 */

export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_DCCP = 33;
export const IPPROTO_GRE = 47;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_SCTP = 132;
export const IPPROTO_UDPLITE = 136;

/** The protocols that conntrackd prints by name; all others are "unknown" there. */
const NAME_BY_NUMBER: ReadonlyMap<number, string> = new Map([
  [IPPROTO_ICMP, "icmp"],
  [IPPROTO_TCP, "tcp"],
  [IPPROTO_UDP, "udp"],
  [IPPROTO_DCCP, "dccp"],
  [IPPROTO_GRE, "gre"],
  [IPPROTO_ICMPV6, "icmpv6"],
  [IPPROTO_SCTP, "sctp"],
  [IPPROTO_UDPLITE, "udplite"],
]);

/**
 * Names that are understood in configurations and on the command line, beyond those that are printed (/etc/protocols).
 */
const ALIASES: ReadonlyMap<string, number> = new Map([
  ["igmp", 2],
  ["ipencap", 4],
  ["ipip", 4],
  ["ipv6", 41],
  ["esp", 50],
  ["ah", 51],
  ["ipv6-icmp", IPPROTO_ICMPV6],
  ["icmp6", IPPROTO_ICMPV6],
  ["eigrp", 88],
  ["ospf", 89],
  ["pim", 103],
  ["vrrp", 112],
  ["l2tp", 115],
]);

const NUMBER_BY_NAME: ReadonlyMap<string, number> = new Map([
  ...[...NAME_BY_NUMBER].map(([number, name]) => [name, number] as const),
  ...ALIASES,
]);

/** Every name that `protocolNumber` understands. */
export const PROTOCOL_NAMES: readonly string[] = [...NUMBER_BY_NAME.keys()];

/** The name conntrackd prints: "tcp", "udp", ..., "unknown" for every protocol it has no name for. */
export function protocolName(protocol: number): string {
  return NAME_BY_NUMBER.get(protocol) ?? "unknown";
}

/**
 * A name that `protocolNumber` turns back into the same number: "tcp", or the decimal number where there is no name.
 */
export function protocolText(protocol: number): string {
  return NAME_BY_NUMBER.get(protocol) ?? String(protocol);
}

/** The number of a protocol given by name (any case) or as a number from 0 to 255; undefined for anything else. */
export function protocolNumber(text: string): number | undefined {
  const known = NUMBER_BY_NAME.get(text.toLowerCase());
  if (known !== undefined) return known;
  if (!/^\d{1,3}$/.test(text)) return undefined;
  const number = Number(text);
  return number <= 255 ? number : undefined;
}

/** True for the protocols whose layer 4 word is a source and a destination port. */
export function hasPorts(protocol: number): boolean {
  return (
    protocol === IPPROTO_TCP ||
    protocol === IPPROTO_UDP ||
    protocol === IPPROTO_UDPLITE ||
    protocol === IPPROTO_SCTP ||
    protocol === IPPROTO_DCCP
  );
}

/** True for ICMP and ICMPv6, whose layer 4 word is an id, a type and a code. */
export function isIcmp(protocol: number): boolean {
  return protocol === IPPROTO_ICMP || protocol === IPPROTO_ICMPV6;
}

/**
 * enum tcp_conntrack. Number 9 was LISTEN before Linux 2.6.31; it is SYN_SENT2 now, printed so, and read under both
 * names.
 */
export const TCP_STATES: readonly string[] = [
  "NONE",
  "SYN_SENT",
  "SYN_RECV",
  "ESTABLISHED",
  "FIN_WAIT",
  "CLOSE_WAIT",
  "LAST_ACK",
  "TIME_WAIT",
  "CLOSE",
  "SYN_SENT2",
];

/** enum sctp_conntrack. */
export const SCTP_STATES: readonly string[] = [
  "NONE",
  "CLOSED",
  "COOKIE_WAIT",
  "COOKIE_ECHOED",
  "ESTABLISHED",
  "SHUTDOWN_SENT",
  "SHUTDOWN_RECD",
  "SHUTDOWN_ACK_SENT",
  "HEARTBEAT_SENT",
  "HEARTBEAT_ACKED",
];

/** enum ct_dccp_states. */
export const DCCP_STATES: readonly string[] = [
  "NONE",
  "REQUEST",
  "RESPOND",
  "PARTOPEN",
  "OPEN",
  "CLOSEREQ",
  "CLOSING",
  "TIMEWAIT",
  "IGNORE",
  "INVALID",
];

/** The states of a protocol by number; undefined for protocols that have none. */
export function protocolStates(protocol: number): readonly string[] | undefined {
  switch (protocol) {
    case IPPROTO_TCP:
      return TCP_STATES;
    case IPPROTO_SCTP:
      return SCTP_STATES;
    case IPPROTO_DCCP:
      return DCCP_STATES;
    default:
      return undefined;
  }
}

/** The name of a state; "NONE" for a number that the protocol does not have, as conntrackd prints it. */
export function stateName(protocol: number, state: number): string {
  return protocolStates(protocol)?.[state] ?? "NONE";
}

/** The number of a state given by name, any case; undefined when the protocol has no such state. */
export function stateNumber(protocol: number, name: string): number | undefined {
  const upper = name.toUpperCase();
  if (protocol === IPPROTO_TCP && upper === "LISTEN") return TCP_STATES.indexOf("SYN_SENT2");
  const index = protocolStates(protocol)?.indexOf(upper) ?? -1;
  return index < 0 ? undefined : index;
}
