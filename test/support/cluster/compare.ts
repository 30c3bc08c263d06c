import assert from "node:assert/strict";
import { waitFor } from "../../../src/lab/process.js";
import type { LoadTruth } from "./agent-protocol.js";
import { difference, type FlowMap, flowText, markOf, rangeOf, testFlowKey } from "./flow-map.js";
import type { ClusterNode } from "./node.js";

const AGREE_TIMEOUT_MS = 30_000;

/** What to hold nodes against. */
export interface Agreement {
  /** What nodes that are gone for good had in their internal caches. */
  readonly gone?: ReadonlyMap<string, FlowMap>;
  /** Who owns a flow that is in more than one kernel: the name of the node that touched it last. Asked anew for each look. */
  readonly owners?: () => Promise<ReadonlyMap<string, string>>;
  readonly timeoutMs?: number;
}

/**
 * The first way in which nodes disagree, or null: each internal cache must equal its kernel, and each external cache the
 * internal caches of the others, every flow once, from the one that owns it.
 */
export async function disagreement(
  nodes: readonly ClusterNode[],
  { gone = new Map(), owners = async () => new Map() }: Agreement,
): Promise<string | null> {
  const views = await Promise.all(
    nodes.map(async (node) => {
      const [kernel, internal, external] = await Promise.all([
        node.kernel(),
        node.table("internal"),
        node.table("external"),
      ]);
      return { node, kernel, internal, external };
    }),
  );
  for (const { node, kernel, internal } of views) {
    const differs = difference(`internal cache of ${node.name} against its kernel`, kernel, internal);
    if (differs !== null) return differs;
  }
  const owner = await owners();
  const internals = [...gone, ...views.map(({ node, internal }) => [node.name, internal] as const)];
  for (const { node, external } of views) {
    const expected = expectedExternal(node.name, internals, owner);
    const differs = difference(`external cache of ${node.name} against the internal caches`, expected, external);
    if (differs !== null) return differs;
  }
  return null;
}

function expectedExternal(
  node: string,
  internals: readonly (readonly [string, FlowMap])[],
  owner: ReadonlyMap<string, string>,
): FlowMap {
  const expected: FlowMap = new Map();
  for (const [name, internal] of internals) {
    for (const [key, value] of internal) {
      if ((owner.get(key) ?? name) !== name || name === node) continue;
      assert.ok(!expected.has(key), `nobody says who owns ${flowText(key, value)}`);
      expected.set(key, value);
    }
  }
  return expected;
}

/** Waits until the nodes agree (`disagreement`) and say that they are in sync; fails with the first difference. */
export async function assertAgreement(nodes: readonly ClusterNode[], agreement: Agreement = {}): Promise<void> {
  const timeoutMs = agreement.timeoutMs ?? AGREE_TIMEOUT_MS;
  let seen: string | null = "nothing was compared";
  try {
    await waitFor("the nodes agree", timeoutMs, async () => {
      seen = await outOfSync(nodes, (agreement.gone?.size ?? 0) > 0);
      seen ??= await disagreement(nodes, agreement);
      return seen === null;
    });
  } catch (error) {
    const complaints = nodes.flatMap((node) => node.complaints().map((line) => `  ${node.name}: ${line}`));
    const said = complaints.length === 0 ? "" : `\ncomplaints:\n${complaints.join("\n")}`;
    assert.fail(`no agreement after ${timeoutMs / 1000} s (${String(error)}):\n${seen}${said}`);
  }
}

/** Nodes that miss a peer for good can never say that they are in sync. */
async function outOfSync(nodes: readonly ClusterNode[], peersGone: boolean): Promise<string | null> {
  if (peersGone) return null;
  for (const node of nodes) {
    const status = await node.status();
    if (!status.inSync) return `${node.name} is not in sync: ${JSON.stringify(status)}`;
  }
  return null;
}

/** Fails unless the node's kernel holds of a range just what the load left there: the load itself is held to account. */
export async function assertTruth(node: ClusterNode, range: number, truth: LoadTruth): Promise<void> {
  const kernel = await node.kernel();
  const expected = new Map([...truth.alive].map((index, at) => [testFlowKey(range, index), truth.marks[at]!]));
  const wrong = [...expected].filter(([key, mark]) => markOf(kernel.get(key) ?? "\0".repeat(12)) !== mark);
  assert.equal(wrong.length, 0, `the kernel of ${node.name} lacks ${wrong.length} of ${expected.size} flows`);
  const ranged = [...kernel.keys()].filter((key) => rangeOf(key) === range);
  assert.equal(ranged.length, expected.size, `the kernel of ${node.name} holds flows that the load has ended`);
}
