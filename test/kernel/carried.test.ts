/**
 * What of a flow reaches another node's kernel: created in the kernel of one, told by its events or found by a dump,
 * through batches and the external cache, committed into the kernel of another, and there field by field the same.
 *
 * Not carried, because no kernel takes it (ctnetlink_create_conntrack()): counters, start time, security context.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { INSERTED, KINDS, MORE_KINDS } from "../support/kernel-flows.js";
import { kernelAvailable, waitUntil } from "../support/kernel-namespace.js";
import { KernelNode } from "../support/kernel-node.js";

const skip = kernelAvailable() ?? false;
/** With it the kernel keeps labels, and translates. */
const RULES =
  "add table inet t; add chain inet t labels { type filter hook forward priority 0; }; " +
  "add rule inet t labels ct label 5 accept; add chain inet t nat { type nat hook postrouting priority 100; }";
const WITHIN_SECONDS = 3;

async function pair(): Promise<[KernelNode, KernelNode]> {
  const nodes: [KernelNode, KernelNode] = [await KernelNode.create("fw1"), await KernelNode.create("fw2")];
  for (const { namespace } of nodes) await namespace.nft(RULES);
  nodes[1].follow(nodes[0]);
  return nodes;
}

async function create(node: KernelNode, flows: readonly Flow[]): Promise<void> {
  const batch = new RequestBatch();
  for (const flow of flows) {
    const { words, rare } = recordFromFlow(flow);
    assert.ok(batch.create(words, 0, rare, { timeoutSeconds: flow.timeoutSeconds ?? 600, liberal: false }));
  }
  const { errors } = await node.requests.send(batch);
  assert.deepEqual(
    errors.map(({ index, errno }) => [flows[index], errno]),
    [],
  );
}

/** Compares two kernels' tables: all but the ids, and the timeouts to some seconds. */
function same(found: readonly Flow[], expected: readonly Flow[]): void {
  assert.equal(found.length, expected.length);
  for (const [i, { id: _, timeoutSeconds = 0, ...flow }] of found.entries()) {
    const { id: __, timeoutSeconds: wanted = 0, ...other } = expected[i]!;
    assert.deepEqual(flow, other);
    const age = wanted - timeoutSeconds;
    assert.ok(age >= -1 && age <= WITHIN_SECONDS, `${timeoutSeconds} s of ${wanted} s: ${JSON.stringify(flow)}`);
  }
}

const MADE = [...Object.values(KINDS), ...Object.values(MORE_KINDS)];

for (const way of ["events", "a dump"] as const) {
  test(`each kind of flow, by ${way}`, { skip }, async () => {
    const [from, to] = await pair();
    await using _from = from;
    await using _to = to;
    if (way === "events") from.listen();
    await create(from, MADE);
    for (const line of INSERTED) await from.namespace.conntrack("-I", ...line.split(" "));
    if (way === "a dump") assert.equal(await from.replicator.resyncKernel(), true);
    const expected = await from.dump();
    assert.equal(expected.length, MADE.length + INSERTED.length);
    await waitUntil(() => to.external.table.size === expected.length, "the other node has heard of all");
    const report = await to.commit();
    assert.deepEqual(report.failed, {});
    assert.deepEqual([report.withoutMaster, report.withoutHelper], [undefined, undefined]);
    same(await to.dump(), expected);
  });
}
