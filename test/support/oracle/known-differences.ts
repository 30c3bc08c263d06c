/**
 * Where conntrackd and conntrail differ and are meant to: each entry turns what conntrail says into what conntrackd says, and
 * says why. The oracle test takes no other difference.
 */
import type { Flow } from "../../../src/flow/flow.js";
import { IPPROTO_SCTP, SCTP_STATES, stateNumber, TCP_STATES } from "../../../src/flow/protocol.js";

/** A difference in a line of a dump. */
export interface LineDifference {
  readonly why: string;
  /** The line without what the other may not have. Applied to both sides, but for XML_DIFFERENCES. */
  readonly asConntrackd: (line: string) => string;
}

const SCTP_XML_STATE = /(protoname="sctp".*<state>)([^<]*)(<)/;

/** `-i -x` and `-e -x`, conntrail's own lines only. */
export const XML_DIFFERENCES: readonly LineDifference[] = [
  {
    why: "conntrackd's XML takes the names of SCTP's states out of TCP's table",
    asConntrackd: (line) =>
      line.replace(SCTP_XML_STATE, (_, before: string, state: string, after: string) => {
        return `${before}${TCP_STATES[stateNumber(IPPROTO_SCTP, state) ?? SCTP_STATES.length]}${after}`;
      }),
  },
];

/** `-e` and `-e -x`: what conntrackd's messages do not carry. */
export const EXTERNAL_DIFFERENCES: readonly LineDifference[] = [
  {
    why: "conntrackd sends no keys of GRE",
    asConntrackd: (line) => line.replace(/((?:src|dst)key[=>])0x[0-9a-f]+/g, "$10x0"),
  },
  {
    why: "conntrackd sends no ports of UDPLite",
    asConntrackd: (line) => (/^udplite |"udplite"/.test(line) ? line.replace(/([sd]port[=>])\d+/g, "$10") : line),
  },
  {
    why: "conntrackd sends no zone of one direction",
    asConntrackd: (line) =>
      line.replace(/ zone-(orig|reply)=\d+/g, "").replace(/<zone>\d+<\/zone>(?=<\/meta><meta)/g, ""),
  },
  {
    why: "conntrackd has a mark of 0 only when the kernel has said so; the stream carries the number alone",
    asConntrackd: (line) => line.replace(/ mark=0(?= |$)|<mark>0<\/mark>/, ""),
  },
];

/**
 * Of a line what conntrackd's external cache surely has, if anything: of protocols whose keys or ports it loses several flows
 * become one, of which the last to change is seen; and one with ports made up is not found again when it changes or ends.
 */
export function distinctPart(line: string): string | null {
  if (/^dccp |"dccp"/.test(line)) return null;
  if (/^(gre|udplite) /.test(line)) return line.replace(/( dst=\S+).*$/, "$1");
  return /"(gre|udplite)"/.test(line) ? line.replace(/<\/layer4>.*$/, "") : line;
}

/** A difference in what a commit leaves in the kernel. */
export interface CommitDifference {
  readonly why: string;
  /** What is left of the flow to be compared. Applied to both sides. */
  readonly carried: (flow: Flow) => Flow;
}

/** What conntrackd's commit loses, and conntrail's does not. */
export const COMMIT_DIFFERENCES: readonly CommitDifference[] = [
  {
    why: "conntrackd sends no zone of one direction",
    carried: ({ zoneOrig: _, zoneReply: __, ...flow }) => flow,
  },
  {
    why: "conntrackd sends the verification tags of SCTP, and commits others",
    carried: ({ sctp: _, ...flow }) => flow,
  },
  {
    why: "conntrackd sends translated ports of TCP and UDP only: for SCTP and the ids of ICMP the kernel chooses",
    carried: (flow) => (PORT_CHOSEN_BY_KERNEL.includes(flow.protocol) ? withoutTranslatedPort(flow) : flow),
  },
  {
    why: "the kernel sends no event of what a helper adds to sequence numbers, and conntrackd does not ask",
    carried: (flow) => (flow.helper === undefined ? flow : withoutSequenceAdjustment(flow)),
  },
  {
    why: "conntrackd sends window scales only with TCPWindowTracking, and sets TCP's flags by itself",
    carried: ({ tcp: _, ...flow }) => flow,
  },
];

const PORT_CHOSEN_BY_KERNEL = ["sctp", "icmp", "icmpv6"];

/**
 * Protocols of which conntrackd loses what tells flows apart: it commits some of them, and some clash. Of GRE it sends no keys,
 * of UDPLite no ports, of DCCP made-up ones where the kernel does not track it.
 */
export const INDISTINCT_PROTOCOLS: readonly string[] = ["gre", "udplite", "dccp"];

/** Of its master conntrackd sends the ports and nothing else: a flow of any other master is not taken by the kernel. */
export function hasLostMaster({ master }: Flow): boolean {
  return master !== undefined && !MASTERS_CARRIED.includes(master.protocol);
}

const MASTERS_CARRIED = ["tcp", "udp", "sctp"];

function withoutSequenceAdjustment({ seqadj: _, status, ...flow }: Flow): Flow {
  return { ...flow, ...(status === undefined ? {} : { status: status.filter((name) => name !== "SEQ_ADJUST") }) };
}

/** The addresses of the reply only, and nothing of whether anything is translated. */
function withoutTranslatedPort({ nat: _, reply, status, ...flow }: Flow): Flow {
  return {
    ...flow,
    ...(reply === undefined ? {} : { reply: { src: reply.src, dst: reply.dst } }),
    ...(status === undefined ? {} : { status: status.filter((name) => !/^(SRC|DST)_NAT/.test(name)) }),
  };
}
