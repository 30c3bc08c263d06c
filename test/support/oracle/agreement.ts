/** Holds conntrackd, conntrail and the kernel against each other; each function gives the first difference, or null. */
import { IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_WINDOW_SCALE } from "../../../src/ctnetlink/constants.js";
import { TCP_FLAGS_CARRIED } from "../../../src/ctnetlink/protoinfo.js";
import type { Flow } from "../../../src/flow/flow.js";
import type { ClusterNode } from "../cluster/node.js";
import { dumpLines, expectationLines, flowLines, kernelLines, listDifference } from "./compare.js";
import {
  COMMIT_DIFFERENCES,
  distinctPart,
  EXTERNAL_DIFFERENCES,
  hasLostMaster,
  INDISTINCT_PROTOCOLS,
  type LineDifference,
  XML_DIFFERENCES,
} from "./known-differences.js";
import { kernelFlows, type OracleNode } from "./oracle.js";

/** What only says when something was looked at. */
const WHEN = ["timeoutSeconds", "created", "updated"] as const;
/** What a flow has anew in another kernel. */
const OWN_TO_A_KERNEL = [...WHEN, "id"] as const;
/** The kernel says so of flows that its ruleset has looked at; of translated ones in any case. */
const WORKED_OUT_BY_KERNEL = ["SRC_NAT_DONE", "DST_NAT_DONE"];

/** The node that sees the traffic: what both say of it line for line, and what its kernel says. */
export async function internalDifference({ node, conntrackd, dropIn, kernel }: OracleNode): Promise<string | null> {
  const theirs = dumpLines(await conntrackd.client.ask("-i"));
  const theirExpectations = dumpLines(await conntrackd.client.ask("-i", "exp"));
  const xml = dumpLines(await dropIn.ask("-i", "-x"));
  const differs =
    listDifference("-i", theirs, dumpLines(await dropIn.ask("-i"))) ??
    listDifference("dump internal", theirs, dumpLines(await dump(node))) ??
    listDifference("-i -x", dumpLines(await conntrackd.client.ask("-i", "-x")), asConntrackd(xml, XML_DIFFERENCES)) ??
    listDifference("-i exp", theirExpectations, dumpLines(await dropIn.ask("-i", "exp")));
  if (differs !== null) return differs;
  const expected: string[] = [];
  for (const family of ["ipv4", "ipv6"]) {
    expected.push(...expectationLines(await node.exec("conntrack", "-L", "expect", "-f", family)));
  }
  const cached = JSON.parse(await dump(node, "--format", "json")) as Flow[];
  return (
    listDifference("-i against conntrack -L", kernelLines(await node.exec("conntrack", "-L")), kernelLines(theirs)) ??
    listDifference("-i exp against conntrack -L expect", expected, theirExpectations) ??
    listDifference(
      "the internal cache against the kernel in every attribute",
      flowLines(await kernelFlows(kernel), WHEN),
      flowLines(cached, WHEN),
    )
  );
}

/** The other node: what both have there of the first, each line once, and of flows that conntrackd cannot tell apart what it can. */
export async function externalDifference({ conntrackd, dropIn }: OracleNode): Promise<string | null> {
  const distinct = (text: string, differences: readonly LineDifference[] = []): string[] => {
    const lines = asConntrackd(dumpLines(text), [...EXTERNAL_DIFFERENCES, ...differences]);
    return [...new Set(lines.map(distinctPart).filter((line) => line !== null))];
  };
  const { client } = conntrackd;
  return (
    listDifference("-e", distinct(await client.ask("-e")), distinct(await dropIn.ask("-e"))) ??
    listDifference(
      "-e -x",
      distinct(await client.ask("-e", "-x")),
      distinct(await dropIn.ask("-e", "-x"), XML_DIFFERENCES),
    ) ??
    listDifference("-e exp", dumpLines(await client.ask("-e", "exp")), dumpLines(await dropIn.ask("-e", "exp")))
  );
}

/** What a commit gave a kernel of the owner's flows: all, but for what a node cannot take over. */
export function committedDifference(owned: readonly Flow[], committed: readonly Flow[]): string | null {
  const lines = (flows: readonly Flow[]): string[] => flowLines(flows.map(takenOver), OWN_TO_A_KERNEL);
  return listDifference("committed by conntrail", lines(owned), lines(committed));
}

/** What conntrackd's commit gave a kernel, against conntrail's. */
export function commitDifference(byConntrackd: readonly Flow[], byConntrail: readonly Flow[]): string | null {
  const isComparable = (flow: Flow): boolean => !INDISTINCT_PROTOCOLS.includes(flow.protocol) && !hasLostMaster(flow);
  const carried = (flows: readonly Flow[]): string[] =>
    flowLines(
      flows.map((flow) => COMMIT_DIFFERENCES.reduce((rest, difference) => difference.carried(rest), flow)),
      OWN_TO_A_KERNEL,
    );
  return listDifference(
    "committed by conntrail against conntrackd",
    carried(byConntrackd.filter(isComparable)),
    carried(byConntrail.filter(isComparable)),
  );
}

/** A flow as another node's commit makes it. */
function takenOver(flow: Flow): Flow {
  const taken = { ...flow };
  if (flow.status !== undefined) taken.status = flow.status.filter((name) => !WORKED_OUT_BY_KERNEL.includes(name));
  if (flow.tcp !== undefined) {
    const flags = (value: number): number => (value & TCP_FLAGS_CARRIED) | IP_CT_TCP_FLAG_BE_LIBERAL;
    taken.tcp = { ...flow.tcp, flagsOrig: flags(flow.tcp.flagsOrig), flagsReply: flags(flow.tcp.flagsReply) };
    // The kernel takes window scales of both directions or of none, and has one while a SYN waits for its answer.
    if (flow.state === "SYN_SENT") taken.tcp.flagsReply |= flow.tcp.flagsOrig & IP_CT_TCP_FLAG_WINDOW_SCALE;
  }
  return taken;
}

async function dump(node: ClusterNode, ...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.conntrail("dump", "internal", ...args);
  if (code !== 0) throw new Error(`conntrail dump internal: exit ${code}: ${stderr.trim()}`);
  return stdout;
}

function asConntrackd(lines: readonly string[], differences: readonly LineDifference[]): string[] {
  return lines.map((line) => differences.reduce((text, difference) => difference.asConntrackd(text), line));
}
