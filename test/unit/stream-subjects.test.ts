import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { kindOfSubject, MESSAGE_KINDS, streamName, streamSubjects, subject } from "../../src/stream/format/subjects.js";
import { parseDelivery } from "../../src/stream/pull-consumer.js";

describe("subjects", () => {
  it("are named after the node and the kind, both ways", () => {
    assert.equal(streamName("fw1"), "CT_fw1");
    assert.equal(streamSubjects("fw1"), "ct.fw1.>");
    for (const kind of MESSAGE_KINDS) assert.equal(kindOfSubject(subject("fw1", kind)), kind);
    assert.equal(kindOfSubject("ct.fw1.other"), null);
    assert.equal(kindOfSubject(""), null);
  });
});

describe("delivery", () => {
  it("is read from the short and the long reply subject", () => {
    const wanted = { stream: "CT_a", consumer: "c", sequence: 5, delivered: 3, timeMs: 1_700_000_000_000, pending: 9 };
    assert.deepEqual(parseDelivery("$JS.ACK.CT_a.c.1.5.3.1700000000000000000.9"), wanted);
    assert.deepEqual(parseDelivery("$JS.ACK.dom.acc.CT_a.c.1.5.3.1700000000000000000.9"), wanted);
    assert.deepEqual(parseDelivery("$JS.ACK.dom.acc.CT_a.c.1.5.3.1700000000000000000.9.rnd"), wanted);
  });

  it("is null for anything else", () => {
    for (const reply of ["$JS.ACK.", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.a.b.1.0.1.1.1", "x".repeat(100)]) {
      assert.equal(parseDelivery(reply), null);
    }
  });
});
