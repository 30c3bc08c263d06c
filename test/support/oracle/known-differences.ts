/**
 * Where conntrackd and conntrail differ and are meant to: each entry leaves of what either says what both must say alike, and
 * says why. The oracle test takes no other difference, and fails when one of these has no effect any more.
 */
import { IP_CT_TCP_FLAG_BE_LIBERAL } from "../../../src/ctnetlink/constants.js";
import type { Flow, TcpInfo } from "../../../src/flow/flow.js";
import { IPPROTO_SCTP, SCTP_STATES, stateNumber, TCP_STATES } from "../../../src/flow/protocol.js";

/** A difference in a line of a dump. */
export interface LineDifference {
  readonly why: string;
  /** What is left of a line; null: nothing. Applied to both sides, but for those that say otherwise. */
  readonly common: (line: string) => string | null;
}

/** A difference in what a commit leaves in the kernel. */
export interface CommitDifference {
  readonly why: string;
  /** What is left of a flow, null: nothing. Applied to both sides. */
  readonly common: (flow: Flow) => Flow | null;
}

const SCTP_XML_STATE = /(protoname="sctp".*<state>)([^<]*)(<)/;

/** `-i -x` and `-e -x`, applied to conntrail's lines only: those of conntrackd come out. */
export const XML_DIFFERENCES: readonly LineDifference[] = [
  {
    why: "conntrackd's XML takes the names of SCTP's states out of TCP's table",
    common: (line) =>
      line.replace(SCTP_XML_STATE, (_, before: string, state: string, after: string) => {
        return `${before}${TCP_STATES[stateNumber(IPPROTO_SCTP, state) ?? SCTP_STATES.length]}${after}`;
      }),
  },
];

/** `-e` and `-e -x`: what conntrackd's messages do not carry. */
export const EXTERNAL_DIFFERENCES: readonly LineDifference[] = [
  {
    why: "conntrackd sends no keys of GRE: flows become one, which shows the state of any",
    common: (line) => (/^gre |"gre"/.test(line) ? addressesOf(line) : line),
  },
  {
    why: "conntrackd sends no ports of UDPLite: flows become one, which shows the state of any",
    common: (line) => (/^udplite |"udplite"/.test(line) ? addressesOf(line) : line),
  },
  {
    why: "where the kernel does not track DCCP, conntrackd makes ports up and does not find the flow again when it changes or ends",
    common: (line) => (/^dccp |"dccp"/.test(line) ? null : line),
  },
  {
    why: "conntrackd sends no zone of one direction",
    common: (line) => line.replace(/ zone-(orig|reply)=\d+/g, "").replace(/<zone>\d+<\/zone>(?=<\/meta><meta)/g, ""),
  },
  {
    why: "conntrackd has a mark of 0 only when the kernel has said so; the stream carries the number alone",
    common: (line) => line.replace(/ mark=0(?= |$)|<mark>0<\/mark>/, ""),
  },
];

/** What conntrackd's commit loses, and conntrail's does not. */
export const COMMIT_DIFFERENCES: readonly CommitDifference[] = [
  {
    why: "conntrackd sends no keys of GRE, no ports of UDPLite and wrong ones of DCCP: it commits some such flows, and some clash",
    common: (flow) => (["gre", "udplite", "dccp"].includes(flow.protocol) ? null : flow),
  },
  {
    why: "conntrackd sends the ports of a master and nothing else: the kernel takes no flow of any other master",
    common: (flow) => (["tcp", "udp", "sctp"].includes(flow.master?.protocol ?? "tcp") ? flow : null),
  },
  {
    why: "conntrackd sends no zone of one direction",
    common: ({ zoneOrig: _, zoneReply: __, ...flow }) => flow,
  },
  {
    why: "conntrackd sends the verification tags of SCTP, and commits others",
    common: ({ sctp: _, ...flow }) => flow,
  },
  {
    why: "conntrackd sends translated ports of TCP and UDP only: for SCTP and the ids of ICMP the kernel chooses",
    common: (flow) => (["sctp", "icmp", "icmpv6"].includes(flow.protocol) ? withoutTranslatedPort(flow) : flow),
  },
  {
    why: "the kernel sends no event of what a helper adds to sequence numbers, and conntrackd does not ask",
    common: (flow) => (flow.helper === undefined ? flow : withoutSequenceAdjustment(flow)),
  },
  {
    why: "conntrackd leaves TCP's window scales and flags at 0 in the kernel, with TCPWindowTracking too; without it sets BE_LIBERAL",
    common: ({ tcp, ...flow }) => (tcp === undefined ? flow : { ...flow, tcp: liberalOnly(tcp) }),
  },
];

/** Of TCP's attributes whether its windows are watched. */
function liberalOnly({ flagsOrig, flagsReply }: TcpInfo): TcpInfo {
  const [orig, reply] = [flagsOrig & IP_CT_TCP_FLAG_BE_LIBERAL, flagsReply & IP_CT_TCP_FLAG_BE_LIBERAL];
  const nothing = { windowScaleOrig: 0, windowScaleReply: 0, flagsOrigMask: 0, flagsReplyMask: 0 };
  return { ...nothing, flagsOrig: orig, flagsReply: reply };
}

function addressesOf(line: string): string {
  return line.replace(/( dst=\S+).*$/, "$1").replace(/<layer4 .*$/, "");
}

/** The addresses of the reply only, and nothing of whether anything is translated. */
function withoutTranslatedPort({ nat: _, reply, status, ...flow }: Flow): Flow {
  return {
    ...flow,
    ...(reply === undefined ? {} : { reply: { src: reply.src, dst: reply.dst } }),
    ...(status === undefined ? {} : { status: status.filter((name) => !/^(SRC|DST)_NAT/.test(name)) }),
  };
}

function withoutSequenceAdjustment({ seqadj: _, status, ...flow }: Flow): Flow {
  return { ...flow, ...(status === undefined ? {} : { status: status.filter((name) => name !== "SEQ_ADJUST") }) };
}
