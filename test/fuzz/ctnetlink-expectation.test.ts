import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { decodeExpectation } from "../../src/ctnetlink/expectation.js";
import { type Expectation, expectationFromJson, expectationToJson } from "../../src/flow/expectation.js";
import { expectationArbitrary } from "../support/expectation-arbitrary.js";

function encoded(expectation: Expectation): Buffer {
  const batch = new RequestBatch(0);
  assert.ok(batch.createExpectation(expectation));
  return Buffer.from(batch.bytes(0, 1)).subarray(16);
}

test("what is encoded is decoded again, but for timeout and id, which a create does not carry", () => {
  fc.assert(
    fc.property(expectationArbitrary, (expectation) => {
      const bytes = encoded(expectation);
      const { id: _, ...same } = expectation;
      assert.deepEqual(decodeExpectation(bytes, 0, bytes.length), { ...same, timeoutSeconds: 0 });
    }),
  );
});

test("the object form and back", () => {
  fc.assert(
    fc.property(expectationArbitrary, (expectation) => {
      assert.deepEqual(expectationFromJson(expectationToJson(expectation)), expectation);
    }),
  );
});

test("bytes changed at random never throw and never lead out of the message", () => {
  const change = fc.record({ at: fc.nat(), value: fc.nat(255) });
  fc.assert(
    fc.property(expectationArbitrary, fc.array(change, { maxLength: 8 }), fc.nat(), (expectation, changes, cut) => {
      const bytes = encoded(expectation);
      for (const { at, value } of changes) bytes[at % bytes.length] = value;
      const end = cut % (bytes.length + 1);
      const alone = decodeExpectation(Uint8Array.from(bytes.subarray(0, end)), 0, end);
      assert.deepEqual(decodeExpectation(bytes, 0, end), alone);
    }),
    { numRuns: 1000 },
  );
});

test("bytes at random never throw", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      decodeExpectation(Uint8Array.from([2, 0, 0, 0, ...bytes]), 0, bytes.length + 4);
      decodeExpectation(bytes, 0, bytes.length);
    }),
  );
});
