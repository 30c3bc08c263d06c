import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BatchDecoder, BatchEncoder } from "../../src/stream/format/batch.js";
import { isAfter } from "../../src/stream/format/envelope.js";
import { createEnvelopeReader, type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import { type Plain, readPlain, writePlain } from "../support/msgpack.js";

const ENVELOPE = { node: "fw-1", epoch: 3, number: 4, stamp: 2 ** 52 + 1, wallMs: 1_800_000_000_123 };

const MARKS: readonly Mark[] = [
  { type: "epoch", reason: "daemon started", previousEpoch: 0, previousNumber: 0 },
  { type: "epoch", reason: "daemon started", previousEpoch: 1_800_000_000_000, previousNumber: 2 ** 40 },
  { type: "snapshot-begin", id: 1_800_000_000_123, flows: 1_000_000 },
  { type: "snapshot-end", id: 0, flows: 0 },
  { type: "gap", reason: "event socket overrun" },
  { type: "gap", reason: "", events: 2 ** 40 },
  { type: "role", role: "primary" },
  { type: "role", role: "backup" },
  { type: "role", role: "fault" },
  { type: "commit", committed: 1, updated: 2, failed: 3, stale: 4, durationMs: 5.25 },
  {
    ...{ type: "commit", committed: 1, updated: 2, failed: 3, stale: 4, durationMs: 5.25 },
    ...{ cause: "hook", group: "lan", beganMs: 2 ** 41, skipped: 1, ahead: 480_000, repaired: 2 },
    ...{ reasons: { EEXIST: 2, "errno 99": 1 }, withoutMaster: 1, withoutHelper: 1, expectations: 3 },
  },
  { type: "stop" },
];

describe("MarkCodec", () => {
  const codec = new MarkCodec();

  for (const mark of MARKS) {
    it(`carries ${JSON.stringify(mark)}`, () => {
      const payload = codec.encode(ENVELOPE, mark, 2 ** 40);
      assert.deepEqual(codec.decode(payload), { envelope: ENVELOPE, mark, snapshotSequence: 2 ** 40, role: "unknown" });
      const keys = Object.keys(readPlain(payload) as object);
      assert.deepEqual(keys, ["v", "o", "e", "n", "h", "w", "k", "m", "s"], "plain msgpack, version first");
    });

    it(`carries the writer's role beside ${JSON.stringify(mark)}`, () => {
      const payload = codec.encode(ENVELOPE, mark, 7, "backup");
      assert.equal(codec.decode(payload)?.role, "backup");
      assert.equal((readPlain(payload) as Record<string, unknown>).r, "backup");
    });

    it(`refuses ${JSON.stringify(mark)} cut off at any byte`, () => {
      const payload = codec.encode(ENVELOPE, mark, 1);
      for (let end = 0; end < payload.length; end++) assert.equal(codec.decode(payload.subarray(0, end)), null);
    });
  }

  it("gives a mark of a kind that a later version writes its place, and nothing else", () => {
    const later = { type: "weather", rain: [1, 2] } as unknown as Mark;
    const decoded = codec.decode(codec.encode(ENVELOPE, later, 7));
    assert.deepEqual(decoded, { envelope: ENVELOPE, mark: { type: "unknown" }, snapshotSequence: 7, role: "unknown" });
  });

  const commit = { committed: 1, updated: 2, failed: 3, stale: 4, durationMs: 5 };
  const malformed: Plain[] = [
    null,
    [],
    "stop",
    {},
    { type: 5 },
    { type: "x".repeat(65) },
    { type: "epoch", reason: "x" },
    { type: "epoch", reason: "x", previousEpoch: 1 },
    { type: "epoch", reason: "x", previousNumber: 1 },
    { type: "epoch", reason: "x", previousEpoch: -1, previousNumber: 1 },
    { type: "epoch", reason: "x", previousEpoch: 1, previousNumber: 0.5 },
    { type: "epoch", reason: "x".repeat(257), previousEpoch: 1, previousNumber: 1 },
    { type: "snapshot-begin", id: 1 },
    { type: "snapshot-end", id: 1.5, flows: 1 },
    { type: "gap" },
    { type: "gap", reason: "x", events: "1" },
    { type: "gap", reason: "x", events: null },
    { type: "role", role: "king" },
    { type: "commit", ...commit, stale: -1 },
    { type: "commit", ...commit, durationMs: -1 },
    { type: "commit", ...commit, cause: "whim" },
    { type: "commit", ...commit, ahead: -1 },
    { type: "commit", ...commit, group: "x".repeat(65) },
    { type: "commit", ...commit, reasons: { EEXIST: 0.5 } },
    { type: "commit", ...commit, reasons: { ["x".repeat(33)]: 1 } },
    { type: "commit", ...commit, reasons: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`E${i}`, 1])) },
    { type: "commit", ...commit, durationMs: Number.NaN },
  ];
  for (const mark of malformed) {
    it(`refuses ${JSON.stringify(mark)?.slice(0, 60)}`, () => {
      const map = readPlain(codec.encode(ENVELOPE, { type: "stop" }, 0)) as { [key: string]: Plain };
      assert.notEqual(codec.decode(writePlain(map)), null);
      assert.equal(codec.decode(writePlain({ ...map, m: mark })), null);
    });
  }

  it("refuses a malformed envelope, sequence, kind or version", () => {
    const map = readPlain(codec.encode(ENVELOPE, { type: "stop" }, 0)) as { [key: string]: Plain };
    const wrong: Record<string, Plain> = { v: 2, o: 1, e: -1, n: "1", h: 0.5, w: null, k: "ev", s: -1 };
    for (const [key, value] of Object.entries(wrong)) {
      assert.equal(codec.decode(writePlain({ ...map, [key]: value })), null, key);
      const { [key]: _, ...without } = map;
      assert.equal(codec.decode(writePlain(without)), null, `without ${key}`);
    }
  });

  it("passes over keys of newer writers", () => {
    const map = readPlain(codec.encode(ENVELOPE, { type: "stop" }, 0)) as { [key: string]: Plain };
    const newer = writePlain({ ...map, zz: 1, m: { type: "stop", zz: [1] } });
    assert.deepEqual(codec.decode(newer)?.mark, { type: "stop" });
  });

  it("takes no batch for a mark, nor a mark for a batch", () => {
    assert.equal(codec.decode(new BatchEncoder().encode(ENVELOPE, null)), null);
    assert.equal(new BatchDecoder().decode(codec.encode(ENVELOPE, { type: "stop" }, 0)), null);
  });
});

describe("createEnvelopeReader", () => {
  it("reads the envelope of batches, chunks and marks, and null of anything else", () => {
    const read = createEnvelopeReader();
    assert.deepEqual(read(new BatchEncoder().encode(ENVELOPE, null)), ENVELOPE);
    assert.deepEqual(read(new BatchEncoder().encode(ENVELOPE, { from: 0, to: 5 })), ENVELOPE);
    const mark = new MarkCodec().encode(ENVELOPE, { type: "stop" }, 0);
    assert.deepEqual(read(mark), ENVELOPE);
    assert.equal(read(mark.subarray(1)), null);
    assert.equal(read(new Uint8Array(0)), null);
    assert.equal(read(writePlain({ v: 1 })), null);
    assert.equal(read(writePlain([1])), null);
  });

  it("refuses a stamp that would use up the numbers for all", () => {
    const read = createEnvelopeReader();
    const map = readPlain(new MarkCodec().encode(ENVELOPE, { type: "stop" }, 0)) as { [key: string]: Plain };
    const last = Number.MAX_SAFE_INTEGER - 2 ** 48;
    assert.equal(read(writePlain({ ...map, h: last }))?.stamp, last);
    for (const h of [last + 1, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER + 1]) {
      assert.equal(read(writePlain({ ...map, h })), null, String(h));
    }
  });
});

describe("isAfter", () => {
  it("orders places by epoch, then by number", () => {
    const places = [
      { epoch: 0, number: 0 },
      { epoch: 1, number: 5 },
      { epoch: 1, number: 6 },
      { epoch: 2, number: 1 },
    ];
    for (const [i, a] of places.entries()) {
      for (const [k, b] of places.entries()) assert.equal(isAfter(a, b), i > k, `${i} after ${k}`);
    }
  });
});
