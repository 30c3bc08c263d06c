/** What the soak calls a loss, and what it must not call one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { W_ID, W_ORIG_SRC, W_PROTOINFO, W_REPLY_L4 } from "../../src/flow/record.js";
import { TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_FIN_WAIT } from "../../src/flow/record-fields.js";
import { compareTables, type FlowTable, flowTable } from "../soak/flow-table.js";
import { tcpRecord } from "../support/records.js";

const FLOWS = 5;

/** Flows 0 to 4; `change` gets a copy of each record, and false leaves the flow out. */
function table(change: (words: Uint32Array, index: number) => boolean = () => true): FlowTable {
  const flows: FlowTable = new Map();
  for (let index = 0; index < FLOWS; index++) {
    const words = tcpRecord(index).slice();
    words[W_ID] = 100 + index;
    words[W_PROTOINFO] = TCP_CONNTRACK_ESTABLISHED;
    if (change(words, index)) flowTable(words, flows);
  }
  return flows;
}

const none: FlowTable = new Map();
const closing = (words: Uint32Array, index: number): boolean => {
  if (index === 2) words[W_PROTOINFO] = TCP_CONNTRACK_FIN_WAIT;
  return true;
};

test("all held: nothing is lost", () => {
  const { compared, losses } = compareTables({ before: table(), after: table(), external: table(), kernel: none });
  assert.deepEqual({ compared, losses }, { compared: FLOWS, losses: [] });
});

test("a flow that both reads of the kernel have and nobody holds is lost", () => {
  const external = table((_, index) => index !== 3);
  const { losses } = compareTables({ before: table(), after: table(), external, kernel: none });
  assert.equal(losses.length, 1);
  assert.equal(losses[0]?.why, "missing");
});

test("a flow that began or ended between the reads counts for nothing, nor one whose tuple was used again", () => {
  const without = table((_, index) => index !== 3);
  const again = table((words, index) => {
    if (index === 3) words[W_ID] = 999;
    return true;
  });
  for (const [before, after] of [
    [table(), without],
    [without, table()],
    [table(), again],
  ] as const) {
    const { compared, losses } = compareTables({ before, after, external: without, kernel: none });
    assert.deepEqual({ compared, losses }, { compared: FLOWS - 1, losses: [] });
  }
});

test("a flow that is held in a state that the kernel had left is lost, unless it left that state meanwhile", () => {
  const old = compareTables({ before: table(closing), after: table(closing), external: table(), kernel: none });
  assert.match(old.losses[0]?.why ?? "", /^held as/);
  const changing = compareTables({ before: table(), after: table(closing), external: table(), kernel: none });
  assert.deepEqual(changing.losses, []);
});

test("a flow with another translation is another flow", () => {
  const other = table((words, index) => {
    if (index === 1) words[W_REPLY_L4]! ^= 1;
    return true;
  });
  const { losses } = compareTables({ before: table(), after: table(), external: other, kernel: none });
  assert.equal(losses.length, 1);
});

test("what the node's own kernel still has is not lost, and is counted", () => {
  const external = table((_, index) => index > 1);
  const { inOwnKernel, losses } = compareTables({ before: table(), after: table(), external, kernel: table() });
  assert.deepEqual({ inOwnKernel, losses }, { inOwnKernel: 2, losses: [] });
});

test("flows of the dedicated link are left out, as its configuration leaves them out", () => {
  const all = table((words, index) => {
    if (index === 0) words[W_ORIG_SRC] = 0x0a4d0001;
    return true;
  });
  assert.equal(all.size, FLOWS - 1);
});
