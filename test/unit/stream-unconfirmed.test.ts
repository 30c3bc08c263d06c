import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { UnconfirmedRing } from "../../src/stream/unconfirmed.js";

describe("unconfirmed ring", () => {
  it("behaves as a bounded list, whatever is done to it", () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant("push" as const), bytes: fc.nat(40) }),
      fc.record({ do: fc.constantFrom("shift" as const, "send" as const, "unsend" as const), bytes: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const ring = new UnconfirmedRing(5, 100);
        const model: { number: number; bytes: number }[] = [];
        let sent = 0;
        let number = 0;
        for (const { do: what, bytes } of steps) {
          if (what === "push") {
            while (ring.isFullFor(bytes)) {
              assert.equal(ring.shift()?.number, model.shift()?.number);
              sent = Math.max(0, sent - 1);
            }
            ring.push({ kind: "ev", number: ++number, payload: new Uint8Array(bytes), origin: null });
            model.push({ number, bytes });
          } else if (what === "shift") {
            assert.equal(ring.shift()?.number, model.shift()?.number);
            sent = Math.max(0, sent - 1);
          } else if (what === "send") {
            assert.equal(ring.sendNext()?.number, model[sent]?.number);
            sent = Math.min(model.length, sent + 1);
          } else {
            ring.unsend();
            sent = 0;
          }
          const sum = (list: typeof model) => list.reduce((total, entry) => total + entry.bytes, 0);
          assert.deepEqual(
            [ring.count, ring.bytes, ring.sent, ring.sentBytes],
            [model.length, sum(model), sent, sum(model.slice(0, sent))],
          );
          assert.ok(ring.count <= 5 && (ring.bytes <= 100 || ring.count === 1));
        }
      }),
    );
  });
});
