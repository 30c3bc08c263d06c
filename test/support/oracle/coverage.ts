/** What the traffic must have left in the kernel's table, so that no comparison is about less than it seems. */
import type { Flow } from "../../../src/flow/flow.js";

/** TCP's states as packets leave them. */
const TCP_STATES = "SYN_SENT SYN_SENT2 SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE".split(" ");
const SCTP_STATES =
  "CLOSED COOKIE_WAIT COOKIE_ECHOED ESTABLISHED SHUTDOWN_SENT SHUTDOWN_RECD SHUTDOWN_ACK_SENT HEARTBEAT_SENT".split(
    " ",
  );
const PROTOCOLS = "tcp udp sctp udplite gre".split(" ");

const isReplied = ({ status }: Flow): boolean => status?.includes("SEEN_REPLY") === true;
const isIcmp = ({ protocol }: Flow): boolean => protocol.startsWith("icmp");
const isCall = ({ protocol, master, orig, nat }: Flow, translated: boolean): boolean =>
  protocol === "gre" &&
  master !== undefined &&
  orig.srcKey !== 0 &&
  orig.dstKey !== 0 &&
  (nat !== undefined) === translated;
const dport = ({ orig }: Flow): number => orig.dport ?? 0;
const port = ({ reply }: Flow): number => reply?.dport ?? 0;

const KINDS: readonly (readonly [string, (flow: Flow) => boolean])[] = [
  ...TCP_STATES.map(
    (state) => [`tcp ${state}`, (flow: Flow) => flow.protocol === "tcp" && flow.state === state] as const,
  ),
  ...SCTP_STATES.map(
    (state) => [`sctp ${state}`, (flow: Flow) => flow.protocol === "sctp" && flow.state === state] as const,
  ),
  ...PROTOCOLS.map(
    (protocol) => [`${protocol} replied`, (flow: Flow) => flow.protocol === protocol && isReplied(flow)] as const,
  ),
  ...PROTOCOLS.flatMap((protocol) => [
    [`${protocol} source NAT`, (flow: Flow) => flow.protocol === protocol && flow.nat?.src !== undefined] as const,
    [`${protocol} destination NAT`, (flow: Flow) => flow.protocol === protocol && flow.nat?.dst !== undefined] as const,
  ]),
  ["icmp replied", (flow) => isIcmp(flow) && isReplied(flow)],
  ["icmp source NAT", (flow) => isIcmp(flow) && flow.nat?.src !== undefined],
  ["icmp destination NAT", (flow) => isIcmp(flow) && flow.nat?.dst !== undefined],
  ["udp unreplied", (flow) => flow.protocol === "udp" && !isReplied(flow)],
  ["a protocol without a tracker", (flow) => /^\d+$/.test(flow.protocol) && isReplied(flow)],
  ["both NATs at once", ({ nat }) => nat?.src !== undefined && nat.dst !== undefined],
  ["destination port changed", (flow) => flow.nat?.dst?.port !== undefined && flow.nat.dst.port !== dport(flow)],
  ["a port of a range", (flow) => flow.nat?.src !== undefined && port(flow) >= 20_000 && port(flow) <= 20_999],
  ["a GRE key", ({ orig }) => (orig.dstKey ?? 0) !== 0],
  ["a zone of both directions", ({ zone }) => zone === 7],
  ["a zone of the original direction", ({ zoneOrig }) => zoneOrig === 8],
  ["a zone of the reply direction", ({ zoneReply }) => zoneReply === 9],
  ["a mark", ({ mark }) => mark === 0xfedcba98],
  ["labels", ({ labels }) => labels === "20000000000000000000000000000080"],
  ["synproxy", ({ synproxy, seqadj }) => synproxy !== undefined && seqadj !== undefined],
  ["a helper", ({ helper }) => helper === "ftp"],
  ["sequence numbers adjusted by a helper", ({ helper, seqadj }) => helper === "ftp" && seqadj !== undefined],
  ["GRE that PPTP's helper expected, IPv4 only", (flow) => flow.family === "ipv6" || isCall(flow, false)],
  ["the same translated, IPv4 only", (flow) => flow.family === "ipv6" || isCall(flow, true)],
  ["a flow that a helper expected", ({ master }) => master !== undefined],
];

/** The kinds of flows that are missing, family by family. */
export function missingKinds(flows: readonly Flow[]): string[] {
  return ["ipv4", "ipv6"].flatMap((family) => {
    const own = flows.filter((flow) => flow.family === family);
    return KINDS.filter(([, is]) => !own.some(is)).map(([kind]) => `${family} ${kind}`);
  });
}
