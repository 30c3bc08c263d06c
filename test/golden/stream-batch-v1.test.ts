/**
 * Messages of format version 1 as they lie in streams. Readers take these bytes for ever; the writer writes these very
 * bytes for as long as the version is 1. What is in them is spelled out below byte by byte, not taken from the codec.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { HAS_COUNTERS, HAS_TIMES, type RareAttributes, RECORD_WORDS } from "../../src/flow/record.js";
import { BatchDecoder, BatchEncoder, readNewRow, readUpdateRow } from "../../src/stream/format/batch.js";
import { type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import { type Plain, readPlain } from "../support/msgpack.js";

const ENVELOPE = {
  node: "fw-a",
  epoch: 1_800_000_000_123,
  number: 42,
  stamp: 910_000_000_000_001,
  wallMs: 1_800_000_001_000,
};
const ENVELOPE_MAP = { v: 1, o: "fw-a", e: 1_800_000_000_123, n: 42, h: 910_000_000_000_001, w: 1_800_000_001_000 };

function golden(name: string): Uint8Array {
  const text = readFileSync(join("test", "golden", "stream-batch-v1", `${name}.hex`), "utf8");
  return bytes(text);
}

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
}

function hexOf(payload: Uint8Array): string {
  return Buffer.from(payload).toString("hex");
}

/** A record from its words by number. */
function record(words: Record<number, number>): Uint32Array {
  const all = new Uint32Array(RECORD_WORDS);
  for (const [word, value] of Object.entries(words)) all[Number(word)] = value;
  return all;
}

/** 192.0.2.10:40000 to 198.51.100.1:443, TCP, established. */
const TCP = record({
  0: 0xc000020a,
  4: 0xc6336401,
  8: 0xc6336401,
  12: 0xc000020a,
  16: 0x9c4001bb,
  17: 0x01bb9c40,
  18: 0x0206,
  20: 0x018e,
  21: 432_000,
  24: 0x070803,
  25: 0x00230033,
  28: 1_800_000_000,
  29: 0x0117,
});

/** 10.0.0.5:5353 to 203.0.113.9:53, UDP, source translated to 192.0.2.1:61000, zone 7 on both sides, mark 0x2a. */
const UDP = record({
  0: 0x0a000005,
  4: 0xcb007109,
  8: 0xcb007109,
  12: 0xc0000201,
  16: 0x14e90035,
  17: 0x0035ee48,
  18: 0x0211,
  19: 0x00070007,
  20: 0x0198,
  21: 30,
  22: 0x2a,
  28: 1_800_000_000,
  29: 0x0107,
});

/** 2001:db8::1 to 2001:db8:1::2, SCTP 3868 to 3868, established, with its verification tags. */
const SCTP = record({
  0: 0x20010db8,
  3: 1,
  4: 0x20010db8,
  5: 0x00010000,
  7: 2,
  8: 0x20010db8,
  9: 0x00010000,
  11: 2,
  12: 0x20010db8,
  15: 1,
  16: 0x0f1c0f1c,
  17: 0x0f1c0f1c,
  18: 0x0a84,
  20: 0x000e,
  21: 210,
  24: 4,
  25: 0x11223344,
  26: 0x55667788,
  28: 1_800_000_000,
  29: 0x0117,
});

const MASTER = record({ 0: 0xc000020a, 4: 0xc6336401, 16: 0x9c400015, 18: 0x0206 });

const RARE: RareAttributes = {
  helper: "ftp",
  labels: bytes("01000000000000000000000000000080"),
  secctx: "system_u:object_r:unlabeled_t:s0",
  seqadjOrig: { correctionPos: 1000, offsetBefore: -5, offsetAfter: 7 },
  seqadjReply: { correctionPos: 4_000_000_000, offsetBefore: 0, offsetAfter: 0 },
  synproxy: { isn: 1, its: 2, tsoff: 3 },
  master: MASTER,
};

const RARE_MAP: Plain = {
  helper: "ftp",
  labels: bytes("01000000000000000000000000000080"),
  secctx: "system_u:object_r:unlabeled_t:s0",
  so: [1000, -5, 7],
  sr: [4_000_000_000, 0, 0],
  sp: [1, 2, 3],
  ma: Array.from(MASTER),
};

/** Both IPv4 flows as columns. */
const COLUMNS4 = {
  n: 2,
  f: bytes("05000000 06000100"),
  s: bytes("0a0200c0 0500000a"),
  d: bytes("016433c6 097100cb"),
  l: bytes("bb01409c 3500e914"),
  p: bytes("06 11"),
  z: bytes("00000000 07000700"),
  // 10.0.0.5 xor 192.0.2.1, and 53:5353 xor 53:61000.
  rd: bytes("00000000 040200ca"),
  rl: bytes("00000000 a1fa0000"),
};
const STATE4 = {
  S: bytes("8e01 9801"),
  t: bytes("80970600 1e000000"),
  i: bytes("03 00"),
  ws: bytes("78 00"),
  fl: bytes("3323 0000"),
  m: bytes("00000000 2a000000"),
};
const STATE6 = {
  S: bytes("0e00"),
  t: bytes("d2000000"),
  i: bytes("04"),
  b: bytes("44332211"),
  g: bytes("88776655"),
};
const COLUMNS6 = {
  n: 1,
  f: bytes("07000000"),
  s: bytes("b80d0120 00000000 00000000 01000000"),
  d: bytes("b80d0120 00000100 00000000 02000000"),
  l: bytes("1c0f1c0f"),
  p: bytes("84"),
};

function withoutAge(words: Uint32Array): Uint32Array {
  const copy = Uint32Array.from(words);
  copy[28] = 0;
  return copy;
}

function newRow(decoder: BatchDecoder, section: "new4" | "new6", row: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  readNewRow(decoder[section], row, words);
  return words;
}

describe("format version 1, events", () => {
  const end = {
    has: HAS_COUNTERS | HAS_TIMES,
    counters: Float64Array.of(10, 1500, 12, 2 ** 40),
    timesMicros: Float64Array.of(1_800_000_000_000_001, 1_800_000_000_500_000),
  };

  it("holds these bytes", () => {
    const expected = {
      ...ENVELOPE_MAP,
      k: "ev",
      n4: { ...COLUMNS4, ...STATE4 },
      n6: { ...COLUMNS6, ...STATE6 },
      u: { n: 2, f: bytes("05000000 07000000"), ...UPDATE_STATE },
      d: {
        n: 2,
        f: bytes("08000000 09000000"),
        i: bytes("03 04"),
        x: bytes("03 00"),
        po: bytes("0000000000002440 0000000000000000"),
        bo: bytes("0000000000709740 0000000000000000"),
        pr: bytes("0000000000002840 0000000000000000"),
        br: bytes("0000000000007042 0000000000000000"),
        t0: bytes("040062a25c941943 0000000000000000"),
        t1: bytes("808480a25c941943 0000000000000000"),
      },
      r: [
        [0, 0, RARE_MAP],
        [1, 0, { helper: "sip" }],
        [2, 1, { labels: bytes("ff000000000000000000000000000000") }],
      ],
    };
    const map = readPlain(golden("events"));
    assert.deepEqual(map, expected);
    assert.deepEqual(Object.keys(map as object), Object.keys(expected));
  });

  it("is read as these rows", () => {
    const decoder = new BatchDecoder();
    assert.deepEqual(decoder.decode(golden("events")), ENVELOPE);
    assert.equal(decoder.range, null);
    assert.deepEqual([...decoder.new4.flowId.subarray(0, 2)], [5, 0x10006]);
    assert.deepEqual(newRow(decoder, "new4", 0), withoutAge(TCP));
    assert.deepEqual(newRow(decoder, "new4", 1), withoutAge(UDP));
    assert.deepEqual(newRow(decoder, "new6", 0), withoutAge(SCTP));
    for (const [row, words] of [TCP, SCTP].entries()) {
      const read = Uint32Array.from(words);
      read.fill(0, 20, 27);
      readUpdateRow(decoder.updates, row, read, 0);
      assert.deepEqual(read, words);
    }
    const { destroys } = decoder;
    assert.deepEqual([...destroys.flowId.subarray(0, 2)], [8, 9]);
    assert.deepEqual([...destroys.measured.subarray(0, 2)], [3, 0]);
    const { packetsOriginal, bytesOriginal, packetsReply, bytesReply } = destroys;
    assert.deepEqual([packetsOriginal[0], bytesOriginal[0], packetsReply[0], bytesReply[0]], [...end.counters]);
    assert.deepEqual([destroys.startMicros[0], destroys.stopMicros[0]], [...end.timesMicros]);
    assert.deepEqual(decoder.rare, [
      new Map([[0, RARE]]),
      new Map([[0, { helper: "sip" }]]),
      new Map([[1, { labels: bytes("ff000000000000000000000000000000") }]]),
    ]);
  });

  it("is written as these bytes", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(5, TCP, 0, RARE, null);
    encoder.addNew(0x10006, UDP, 0, null, null);
    encoder.addNew(7, SCTP, 0, { helper: "sip" }, null);
    encoder.addUpdate(5, TCP, 0, null);
    encoder.addUpdate(7, SCTP, 0, { labels: bytes("ff000000000000000000000000000000") });
    encoder.addDestroy(8, TCP, 0, end);
    encoder.addDestroy(9, SCTP, 0, undefined);
    assert.equal(hexOf(encoder.encode(ENVELOPE, null)), hexOf(golden("events")));
  });
});

/** Updates of the TCP and the SCTP flow. */
const UPDATE_STATE = {
  S: bytes("8e01 0e00"),
  t: bytes("80970600 d2000000"),
  i: bytes("03 04"),
  ws: bytes("78 00"),
  fl: bytes("3323 0000"),
  b: bytes("00000000 44332211"),
  g: bytes("00000000 88776655"),
};

describe("format version 1, a snapshot chunk", () => {
  it("holds these bytes", () => {
    const expected = {
      ...ENVELOPE_MAP,
      k: "snap",
      a: 4,
      b: 0xffffffff,
      n4: { ...COLUMNS4, c: bytes("00d2496b 00d2496b"), h: bytes("f8fff6151fdd0943 000000000000f03f"), ...STATE4 },
      n6: { ...COLUMNS6, c: bytes("00d2496b"), h: bytes("0800f7151fdd0943"), ...STATE6 },
    };
    const map = readPlain(golden("snapshot"));
    assert.deepEqual(map, expected);
    assert.deepEqual(Object.keys(map as object), Object.keys(expected));
  });

  it("is read as these rows", () => {
    const decoder = new BatchDecoder();
    assert.deepEqual(decoder.decode(golden("snapshot")), ENVELOPE);
    assert.deepEqual(decoder.range, { from: 4, to: 0xffffffff });
    assert.deepEqual(newRow(decoder, "new4", 0), TCP);
    assert.deepEqual(newRow(decoder, "new4", 1), UDP);
    assert.deepEqual(newRow(decoder, "new6", 0), SCTP);
    assert.deepEqual([...decoder.new4.stamp.subarray(0, 2)], [909_999_999_999_999, 1]);
    assert.equal(decoder.new6.stamp[0], 910_000_000_000_001);
    assert.deepEqual([decoder.updates.rows, decoder.destroys.rows], [0, 0]);
  });

  it("is written as these bytes", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(5, TCP, 0, null, { stamp: 909_999_999_999_999 });
    encoder.addNew(0x10006, UDP, 0, null, { stamp: 1 });
    encoder.addNew(7, SCTP, 0, null, { stamp: 910_000_000_000_001 });
    assert.equal(hexOf(encoder.encode(ENVELOPE, { from: 4, to: 0xffffffff })), hexOf(golden("snapshot")));
  });
});

describe("format version 1, flows that moved", () => {
  it("holds these bytes", () => {
    const expected = {
      ...ENVELOPE_MAP,
      k: "ev",
      d: { n: 1, f: bytes("08000000"), i: bytes("03") },
      mv: {
        n: 3,
        f: bytes("05000000 06000100 07000000"),
        // 909999999999999, 910000000000001 and 1 as float64.
        h: bytes("f8fff6151fdd0943 0800f7151fdd0943 000000000000f03f"),
        o: bytes("00 01 00"),
      },
      mo: ["fw-b", "fw-c"],
    };
    const map = readPlain(golden("moved"));
    assert.deepEqual(map, expected);
    assert.deepEqual(Object.keys(map as object), Object.keys(expected));
  });

  it("is read as these rows", () => {
    const decoder = new BatchDecoder();
    assert.deepEqual(decoder.decode(golden("moved")), ENVELOPE);
    const { moved, movedTo } = decoder;
    assert.equal(moved.rows, 3);
    assert.deepEqual([...moved.flowId.subarray(0, 3)], [5, 0x10006, 7]);
    assert.deepEqual([...moved.stamp.subarray(0, 3)], [909_999_999_999_999, 910_000_000_000_001, 1]);
    assert.deepEqual([...moved.owner.subarray(0, 3)], [0, 1, 0]);
    assert.deepEqual(movedTo, ["fw-b", "fw-c"]);
    assert.deepEqual([decoder.new4.rows, decoder.new6.rows, decoder.updates.rows, decoder.destroys.rows], [0, 0, 0, 1]);
  });

  it("is written as these bytes", () => {
    const encoder = new BatchEncoder();
    encoder.addDestroy(8, TCP, 0, undefined);
    encoder.addMoved(5, "fw-b", 909_999_999_999_999);
    encoder.addMoved(0x10006, "fw-c", 910_000_000_000_001);
    encoder.addMoved(7, "fw-b", 1);
    assert.equal(hexOf(encoder.encode(ENVELOPE, null)), hexOf(golden("moved")));
  });
});

describe("format version 1, marks", () => {
  const marks: [string, Mark][] = [
    ["epoch", { type: "epoch", reason: "start", previousEpoch: 1_799_999_999_000, previousNumber: 9876 }],
    [
      "epoch-versions",
      {
        type: "epoch",
        reason: "start",
        previousEpoch: 1_799_999_999_000,
        previousNumber: 9876,
        writes: 1,
        reads: [1, 2],
      },
    ],
    ["snapshot-begin", { type: "snapshot-begin", id: 1_800_000_001_000, flows: 3 }],
    ["snapshot-end", { type: "snapshot-end", id: 1_800_000_001_000, flows: 4 }],
    ["gap", { type: "gap", reason: "event socket overrun" }],
    ["gap-counted", { type: "gap", reason: "messages dropped", events: 12_345 }],
    ["role", { type: "role", role: "primary" }],
    ["commit", { type: "commit", committed: 1000, updated: 20, failed: 3, stale: 1, durationMs: 12.5 }],
    ["stop", { type: "stop" }],
  ];
  for (const [name, mark] of marks) {
    it(`holds, reads and writes ${name}`, () => {
      const codec = new MarkCodec();
      const payload = golden(`mark-${name}`);
      assert.deepEqual(readPlain(payload), { ...ENVELOPE_MAP, k: "mark", m: mark, s: 70_000 });
      assert.deepEqual(codec.decode(payload), { envelope: ENVELOPE, mark, snapshotSequence: 70_000, role: "unknown" });
      assert.equal(hexOf(codec.encode(ENVELOPE, mark, 70_000)), hexOf(payload));
    });
  }
});
