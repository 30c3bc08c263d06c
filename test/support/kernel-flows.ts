/** Flows for tests against the kernel. */
import type { Flow } from "../../src/flow/flow.js";

/** Arguments of `conntrack -I`: a flow of each protocol, and each translation that it can make. */
export const INSERTED: readonly string[] = [
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY,ASSURED -m 7",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 2 --dport 80 -t 600 --state SYN_SENT",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 3 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --src-nat 1.2.3.4:5555",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 4 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --dst-nat 1.2.3.5:8080",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 80 -t 600 --state CLOSE_WAIT -u SEEN_REPLY --src-nat 1.2.3.4 --dst-nat 1.2.3.5:8080",
  "-p tcp -s fd00::1 -d fd00::2 --sport 6 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY",
  "-p tcp -s fd00::1 -d fd00::2 --sport 7 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --src-nat fd00::9",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 8 --dport 53 -t 600",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 9 --dport 53 -t 600 -u SEEN_REPLY --src-nat 10.0.0.1:777",
  "-p udp -s fd00::1 -d fd00::2 --sport 10 --dport 53 -t 600 --dst-nat fd00::8",
  "-p udplite -s 10.0.0.1 -d 10.0.0.2 --sport 11 --dport 53 -t 600 --src-nat 5.5.5.5",
  "-p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 12 --dport 53 -t 600 --state ESTABLISHED --orig-vtag 7 --reply-vtag 8",
  "-p gre -s 10.0.0.1 -d 10.0.0.2 --srckey 0x11 --dstkey 0x22 -t 600 --src-nat 4.4.4.4",
  "-p 89 -s 10.0.0.1 -d 10.0.0.2 -t 600 --src-nat 6.6.6.6",
  "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 99 -t 600",
  "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 100 -t 600 --src-nat 3.3.3.3",
  "-p icmpv6 -s fd00::1 -d fd00::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 99 -t 600",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 13 --dport 53 -t 600 -w 4",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 14 --dport 53 -t 600 --orig-zone 4",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 15 --dport 53 -t 600 --reply-zone 4",
];

const TCP: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 21 },
  reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 21, dport: 1 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  state: "ESTABLISHED",
  tcp: { windowScaleOrig: 7, windowScaleReply: 9, flagsOrig: 3, flagsOrigMask: 0, flagsReply: 3, flagsReplyMask: 0 },
  timeoutSeconds: 600,
  mark: 3,
};
const DONE = ["SRC_NAT_DONE", "DST_NAT_DONE"];

/** A TCP flow to this port; `reply` where it is translated. */
export function tcp(dport: number, reply?: Flow["reply"]): Flow {
  const plain = { src: "10.0.0.2", dst: "10.0.0.1", sport: dport, dport: 1 };
  return { ...TCP, orig: { ...TCP.orig, dport }, reply: reply ?? plain };
}

function icmp(icmpId: number, reply: { src: string; dst: string; icmpId: number }, ...status: string[]): Flow {
  return {
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", icmpType: 8, icmpCode: 0, icmpId },
    reply: { ...reply, icmpType: 0, icmpCode: 0 },
    status: ["CONFIRMED", ...status, ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  };
}

/** Flows that conntrack(8) cannot make, each as the kernel must show it. */
export const KINDS: Record<string, Flow> = {
  "helper and labels": {
    ...TCP,
    status: [...TCP.status!, "HELPER"],
    helper: "ftp",
    labels: "20000000000000000000000000000080",
  },
  "a flow of a master": {
    ...tcp(2000),
    status: ["EXPECTED", ...TCP.status!],
    master: { family: "ipv4", protocol: "tcp", src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 21 },
  },
  "sequence adjustment": {
    ...tcp(2001),
    status: [...TCP.status!, "SEQ_ADJUST"],
    seqadj: {
      orig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 4294967293 },
      reply: { correctionPos: 4, offsetBefore: 5, offsetAfter: 6 },
    },
  },
  "SYN proxy": { ...tcp(2002), synproxy: { isn: 1, its: 2, tsoff: 3 } },
  "fixed timeout": { ...tcp(2003), status: [...TCP.status!, "FIXED_TIMEOUT"] },
  "SNAT of the port alone": {
    ...tcp(2004, { src: "10.0.0.2", dst: "10.0.0.1", sport: 2004, dport: 999 }),
    status: [...TCP.status!, "SRC_NAT", ...DONE],
  },
  "DNAT of the port alone": {
    ...tcp(2005, { src: "10.0.0.2", dst: "10.0.0.1", sport: 3128, dport: 1 }),
    status: [...TCP.status!, "DST_NAT", ...DONE],
  },
  "both, addresses and ports, in a zone": {
    ...tcp(2006, { src: "10.0.0.8", dst: "10.0.0.9", sport: 3128, dport: 777 }),
    status: [...TCP.status!, "SRC_NAT", "DST_NAT", ...DONE],
    zone: 9,
  },
  "both of IPv6": {
    ...TCP,
    family: "ipv6",
    orig: { src: "fd00::1", dst: "fd00::2", sport: 1, dport: 2 },
    reply: { src: "fd00::8", dst: "fd00::9", sport: 3128, dport: 777 },
    status: [...TCP.status!, "SRC_NAT", "DST_NAT", ...DONE],
  },
  "ICMP, address and id": icmp(5, { src: "10.0.0.2", dst: "9.9.9.9", icmpId: 77 }, "SRC_NAT"),
  "ICMP, the id alone": icmp(6, { src: "10.0.0.2", dst: "10.0.0.1", icmpId: 78 }, "SRC_NAT"),
  "ICMP, destination and id": icmp(7, { src: "10.0.0.3", dst: "10.0.0.1", icmpId: 79 }, "DST_NAT"),
  "GRE, address and key": {
    family: "ipv4",
    protocol: "gre",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", srcKey: 1, dstKey: 2 },
    reply: { src: "10.0.0.2", dst: "9.9.9.9", srcKey: 2, dstKey: 55 },
    status: ["CONFIRMED", "SRC_NAT", ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  },
  "SCTP with its tags": {
    family: "ipv4",
    protocol: "sctp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 2 },
    reply: { src: "10.0.0.2", dst: "9.9.9.9", sport: 2, dport: 1 },
    status: ["SEEN_REPLY", "CONFIRMED", "SRC_NAT", ...DONE],
    state: "ESTABLISHED",
    sctp: { vtagOrig: 1, vtagReply: 0xfffffffe },
    timeoutSeconds: 600,
    mark: 0,
  },
};

function six(protocol: string, number: number, reply: Partial<Flow["orig"]>, ...status: string[]): Flow {
  const orig = { src: "fd00::1", dst: "fd00::2", sport: 1, dport: number };
  return {
    family: "ipv6",
    protocol,
    orig,
    reply: { src: "fd00::2", dst: "fd00::1", sport: number, dport: 1, ...reply },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", ...status, ...DONE],
    ...(protocol === "tcp" ? { state: "ESTABLISHED", tcp: TCP.tcp! } : {}),
    timeoutSeconds: 600,
    mark: 0,
  };
}

function udplite(number: number, reply: Partial<Flow["orig"]>, ...status: string[]): Flow {
  const flow = six("udplite", number, {}, ...status);
  const orig = { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: number };
  return {
    ...flow,
    family: "ipv4",
    orig,
    reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: number, dport: 1, ...reply },
  };
}

function gre(number: number, reply: Partial<Flow["orig"]>, ...status: string[]): Flow {
  const { orig: _, reply: __, ...flow } = KINDS["GRE, address and key"]!;
  return {
    ...flow,
    orig: { src: "10.0.0.1", dst: "10.0.0.2", srcKey: number, dstKey: 2 },
    reply: { src: "10.0.0.2", dst: "10.0.0.1", srcKey: 2, dstKey: number, ...reply },
    status: status.length === 0 ? ["CONFIRMED"] : ["CONFIRMED", ...status, ...DONE],
  };
}

function icmpv6(icmpId: number, reply: { src: string; dst: string; icmpId: number }, ...status: string[]): Flow {
  return {
    family: "ipv6",
    protocol: "icmpv6",
    orig: { src: "fd00::1", dst: "fd00::2", icmpType: 128, icmpCode: 0, icmpId },
    reply: { ...reply, icmpType: 129, icmpCode: 0 },
    status: ["CONFIRMED", ...status, ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  };
}

/** What a commit has to carry beside `KINDS`: the other translations, keys, zones of one direction, extremes. */
export const MORE_KINDS: Record<string, Flow> = {
  "IPv6, SNAT of the address": six("tcp", 3001, { dst: "fd00::9" }, "SRC_NAT"),
  "IPv6, SNAT of address and port": six("tcp", 3002, { dst: "fd00::9", dport: 777 }, "SRC_NAT"),
  "IPv6, SNAT of the port alone": six("udp", 3003, { dport: 778 }, "SRC_NAT"),
  "IPv6, DNAT of the address": six("tcp", 3004, { src: "fd00::8" }, "DST_NAT"),
  "IPv6, DNAT of address and port": six("udp", 3005, { src: "fd00::8", sport: 8080 }, "DST_NAT"),
  "IPv6, both of UDPLite": six(
    "udplite",
    3006,
    { src: "fd00::8", sport: 1, dst: "fd00::9", dport: 2 },
    "SRC_NAT",
    "DST_NAT",
  ),
  "ICMPv6, address and id": icmpv6(5, { src: "fd00::2", dst: "fd00::9", icmpId: 77 }, "SRC_NAT"),
  "ICMPv6, the id alone": icmpv6(6, { src: "fd00::2", dst: "fd00::1", icmpId: 78 }, "SRC_NAT"),
  "ICMPv6, destination": icmpv6(7, { src: "fd00::3", dst: "fd00::1", icmpId: 7 }, "DST_NAT"),
  "ICMP, both": icmp(8, { src: "10.0.0.3", dst: "9.9.9.9", icmpId: 8 }, "SRC_NAT", "DST_NAT"),
  "UDPLite, SNAT of address and port": udplite(3101, { dst: "9.9.9.9", dport: 777 }, "SRC_NAT"),
  "UDPLite, SNAT of the port alone": udplite(3102, { dport: 778 }, "SRC_NAT"),
  "UDPLite, DNAT of address and port": udplite(3103, { src: "10.0.0.3", sport: 8080 }, "DST_NAT"),
  "GRE, the keys of PPTP": gre(0xfffe, {}),
  "GRE, DNAT of the address": gre(12, { src: "10.0.0.3" }, "DST_NAT"),
  "GRE, DNAT with the key": gre(13, { src: "10.0.0.3", srcKey: 99 }, "DST_NAT"),
  "GRE, both": gre(14, { src: "10.0.0.3", dst: "9.9.9.9" }, "SRC_NAT", "DST_NAT"),
  "SCTP, SNAT of address and port": {
    ...KINDS["SCTP with its tags"]!,
    orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 3 },
    reply: { src: "10.0.0.2", dst: "9.9.9.9", sport: 3, dport: 777 },
    state: "SHUTDOWN_SENT",
  },
  "no ports, both": {
    family: "ipv4",
    protocol: "50",
    orig: { src: "10.0.0.1", dst: "10.0.0.2" },
    reply: { src: "10.0.0.3", dst: "9.9.9.9" },
    status: ["CONFIRMED", "SRC_NAT", "DST_NAT", ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  },
  "a zone of the original direction, SNAT": {
    ...tcp(3201, { src: "10.0.0.2", dst: "9.9.9.9", sport: 3201, dport: 779 }),
    status: [...TCP.status!, "SRC_NAT", ...DONE],
    zoneOrig: 9,
  },
  "a zone of the reply direction, DNAT": {
    ...tcp(3202, { src: "10.0.0.3", dst: "10.0.0.1", sport: 8080, dport: 1 }),
    status: [...TCP.status!, "DST_NAT", ...DONE],
    zoneReply: 65535,
  },
  "a flow of a master in a zone": {
    ...tcp(3203),
    status: ["EXPECTED", ...TCP.status!],
    zone: 9,
    master: { family: "ipv4", protocol: "tcp", ...tcp(2006).orig },
  },
  "the same tuple in another zone": { ...tcp(3201), zone: 10 },
  "the largest numbers": {
    ...tcp(65535),
    mark: 0xffffffff,
    tcp: {
      windowScaleOrig: 14,
      windowScaleReply: 14,
      flagsOrig: 7,
      flagsOrigMask: 0,
      flagsReply: 3,
      flagsReplyMask: 0,
    },
    labels: "ffffffffffffffffffffffffffffffff",
    synproxy: { isn: 0xffffffff, its: 0xffffffff, tsoff: 0xffffffff },
  },
};
