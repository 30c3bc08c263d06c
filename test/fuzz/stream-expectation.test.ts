import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BatchDecoder, BatchEncoder } from "../../src/stream/format/batch.js";
import { unpackExpectation } from "../../src/stream/format/expectation.js";
import { expectationArbitrary } from "../support/expectation-arbitrary.js";

const ENVELOPE = { node: "a", epoch: 1, number: 1, stamp: 1, wallMs: 1 };

test("what goes into a batch comes out, but for the id, which is the kernel's own", () => {
  const encoder = new BatchEncoder();
  const decoder = new BatchDecoder();
  fc.assert(
    fc.property(fc.array(expectationArbitrary, { maxLength: 8 }), fc.boolean(), (list, snapshot) => {
      for (const expectation of list)
        encoder.addExpectation(expectation, expectation.timeoutSeconds, 7, snapshot ? 99 : null);
      const payload = encoder.encode(ENVELOPE, snapshot ? { from: 0, to: 1 } : null);
      assert.deepEqual(decoder.decode(payload), ENVELOPE);
      const wanted = list.map(({ id: _, ...expectation }) => {
        return { ended: false, expectation, stamp: snapshot ? 99 : 0, createdSeconds: 7 };
      });
      assert.deepEqual(decoder.expectations, wanted);
      for (const expectation of list) encoder.addExpectationEnd(expectation);
      assert.deepEqual(decoder.decode(encoder.encode(ENVELOPE, null)), ENVELOPE);
      const names = decoder.expectations.map(({ ended, expectation }) => [ended, expectation.tuple, expectation.mask]);
      assert.deepEqual(
        names,
        list.map(({ tuple, mask }) => [true, tuple, mask]),
      );
    }),
  );
});

test("whatever stands in its place is an expectation or null, never an error", () => {
  const maps = fc.dictionary(
    fc.constantFrom("d", "p", "z", "t", "k", "m", "n", "s", "c", "g", "y", "h", "fn", "helper", "q"),
    fc.anything(),
  );
  fc.assert(
    fc.property(fc.oneof(fc.anything(), maps), (value) => {
      const result = unpackExpectation(value);
      assert.ok(result === null || result.expectation.tuple.length === 32);
    }),
    { numRuns: 2000 },
  );
});
