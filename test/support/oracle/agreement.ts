/** Holds conntrackd, conntrail and the kernel against each other; each function gives the first difference, or null. */
import { IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_WINDOW_SCALE } from "../../../src/ctnetlink/constants.js";
import { TCP_FLAGS_CARRIED } from "../../../src/ctnetlink/protoinfo.js";
import type { Flow } from "../../../src/flow/flow.js";
import type { ClusterNode } from "../cluster/node.js";
import { dumpLines, flowLines, kernelLines, listDifference } from "./compare.js";
import type { ConntrackdClient } from "./conntrackd.js";
import {
  COMMIT_DIFFERENCES,
  type CommitDifference,
  EXTERNAL_DIFFERENCES,
  type LineDifference,
  XML_DIFFERENCES,
} from "./known-differences.js";
import { type KernelTables, kernelTables, type OracleNode } from "./oracle.js";

/** What only says when something was looked at. */
const WHEN = ["timeoutSeconds", "created", "updated"] as const;
/** What a flow has anew in another kernel. */
const OWN_TO_A_KERNEL = [...WHEN, "id"] as const;
/** The kernel says so of flows that its ruleset has looked at; of translated ones in any case. */
const WORKED_OUT_BY_KERNEL = ["SRC_NAT_DONE", "DST_NAT_DONE"];

/** The node that sees the traffic: what both say of it line for line, and what its kernel says. */
export async function internalDifference({ node, conntrackd, dropIn, kernel }: OracleNode): Promise<string | null> {
  const { client } = conntrackd;
  const theirs = dumpLines(await client.ask("-i"));
  const theirExpectations = dumpLines(await client.ask("-i", "exp"));
  const xml = common(dumpLines(await dropIn.ask("-i", "-x")), XML_DIFFERENCES);
  const differs =
    listDifference("-i", theirs, dumpLines(await dropIn.ask("-i"))) ??
    listDifference("dump internal", theirs, dumpLines(await dump(node))) ??
    listDifference("-i -x", dumpLines(await client.ask("-i", "-x")), xml) ??
    listDifference("-i exp", theirExpectations, dumpLines(await dropIn.ask("-i", "exp")));
  if (differs !== null) return differs;
  const cached = JSON.parse(await dump(node, "--format", "json")) as Flow[];
  const inKernel = await kernelTables(node, kernel);
  return (
    listDifference("-i against conntrack -L", inKernel.lines, kernelLines(theirs)) ??
    listDifference("-i exp against conntrack -L expect", inKernel.expectations, theirExpectations) ??
    listDifference(
      "the internal cache against the kernel in every attribute",
      flowLines(inKernel.flows, WHEN),
      flowLines(cached, WHEN),
    )
  );
}

/** What a node that has nothing of its own says of its peer: conntrackd, and conntrail in its place. */
export interface ExternalDumps {
  readonly theirs: Readonly<Record<"text" | "xml" | "expectations", string>>;
  readonly ours: ExternalDumps["theirs"];
}

/** Asks both. */
export async function externalDumps({ conntrackd, dropIn }: OracleNode): Promise<ExternalDumps> {
  const askAll = async (client: ConntrackdClient): Promise<ExternalDumps["theirs"]> => ({
    text: await client.ask("-e"),
    xml: await client.ask("-e", "-x"),
    expectations: await client.ask("-e", "exp"),
  });
  return { theirs: await askAll(conntrackd.client), ours: await askAll(dropIn) };
}

/** How they differ; each line counts once. */
export function externalDifference(
  { theirs, ours }: ExternalDumps,
  differences: readonly LineDifference[] = EXTERNAL_DIFFERENCES,
): string | null {
  const once = (text: string, more: readonly LineDifference[] = []): string[] => [
    ...new Set(common(dumpLines(text), [...differences, ...more])),
  ];
  return (
    listDifference("-e", once(theirs.text), once(ours.text)) ??
    listDifference("-e -x", once(theirs.xml), once(ours.xml, XML_DIFFERENCES)) ??
    listDifference("-e exp", dumpLines(theirs.expectations), dumpLines(ours.expectations))
  );
}

/** What a commit by conntrail gave a kernel, against the owner's: all, but for what a node cannot take over. */
export function takeoverDifference(
  owner: KernelTables,
  committed: KernelTables,
  { windowTracking = false } = {},
): string | null {
  const lines = (flows: readonly Flow[]): string[] =>
    flowLines(
      flows.map((flow) => takenOver(flow, windowTracking)),
      OWN_TO_A_KERNEL,
    );
  return (
    listDifference("committed by conntrail", lines(owner.flows), lines(committed.flows)) ??
    listDifference("committed by conntrail, conntrack -L", owner.lines, committed.lines) ??
    listDifference("committed by conntrail, conntrack -L expect", owner.expectations, committed.expectations)
  );
}

/** What conntrackd's commit gave a kernel, against conntrail's. */
export function commitDifference(
  byConntrackd: KernelTables,
  byConntrail: KernelTables,
  differences: readonly CommitDifference[] = COMMIT_DIFFERENCES,
): string | null {
  const left = (flows: readonly Flow[]): string[] => flowLines(common(flows, differences), OWN_TO_A_KERNEL);
  const what = "committed by conntrail against conntrackd";
  return (
    listDifference(what, left(byConntrackd.flows), left(byConntrail.flows)) ??
    listDifference(`${what}, expectations`, byConntrackd.expectations, byConntrail.expectations)
  );
}

/** Those of the differences without which all the others would not do: the rest describe nothing any more. */
export function idle<T extends { readonly why: string }>(
  differences: readonly T[],
  differs: (others: readonly T[]) => string | null,
): string[] {
  return differences
    .filter((difference) => differs(differences.filter((other) => other !== difference)) === null)
    .map(({ why }) => why);
}

/** A flow as another node's commit makes it. */
function takenOver(flow: Flow, windowTracking: boolean): Flow {
  const taken = { ...flow };
  if (flow.status !== undefined) taken.status = flow.status.filter((name) => !WORKED_OUT_BY_KERNEL.includes(name));
  if (flow.tcp !== undefined) {
    const liberal = windowTracking ? 0 : IP_CT_TCP_FLAG_BE_LIBERAL;
    const flags = (value: number): number => (value & TCP_FLAGS_CARRIED) | liberal;
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

function common<T>(entries: readonly T[], differences: readonly { common: (entry: T) => T | null }[]): T[] {
  return entries.flatMap((entry) => {
    let left: T | null = entry;
    for (const difference of differences) left = left === null ? null : difference.common(left);
    return left === null ? [] : [left];
  });
}
