/** The faults of a soak: the same for the same seed, and all kinds come up. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { drawFault, FAULT_KINDS, type Fault, faultText } from "../soak/fault-plan.js";
import { POISONS, poisonedMessage } from "../soak/poison.js";
import { Random } from "../support/records.js";

function plan(seed: number): Fault[] {
  const random = new Random(seed);
  return Array.from({ length: 300 }, () => drawFault(random, FAULT_KINDS));
}

test("a seed draws the same faults again, another one draws others", () => {
  assert.deepEqual(plan(1), plan(1));
  assert.notDeepEqual(plan(1), plan(2));
});

test("every kind comes up, bounded, and has words", () => {
  const faults = plan(1);
  assert.deepEqual(new Set(faults.map(({ kind }) => kind)), new Set(FAULT_KINDS));
  for (const fault of faults) {
    assert.match(faultText(fault, "fw1"), new RegExp(`^${fault.kind} fw\\d: `));
    assert.ok(!("holdMs" in fault) || fault.holdMs < 15_000);
  }
});

test("only the kinds that were asked for", () => {
  const random = new Random(1);
  for (let i = 0; i < 100; i++) assert.equal(drawFault(random, ["cut"]).kind, "cut");
});

test("each poison is a message", () => {
  const random = new Random(1);
  for (const poison of POISONS) assert.ok(poisonedMessage(poison, "fw1", random).payload.length > 0);
});
