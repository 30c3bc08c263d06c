import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  decodeRare,
  decodeRecords,
  encodeFrame,
  encodeRare,
  FRAME_BYTES_MAX,
  FRAME_TYPES,
  type Frame,
  FrameDecoder,
  type FrameType,
  type RareJson,
} from "../../src/control/protocol.js";
import { RECORDS_PER_FRAME, RecordWriter } from "../../src/control/record-writer.js";
import { parseRequest } from "../../src/control/server.js";
import { type RareAttributes, RECORD_WORDS } from "../../src/flow/record.js";

test("a frame is drawn as documented", () => {
  assert.deepEqual([...encodeFrame("J", "{}")], [2, 0, 0, 0, 0x4a, 0x7b, 0x7d]);
  assert.deepEqual([...encodeFrame("E")], [0, 0, 0, 0, 0x45]);
  assert.throws(() => encodeFrame("R", new Uint8Array(FRAME_BYTES_MAX + 1)), { code: "MALFORMED" });
});

/** Frames put together without the encoder. */
function bytesOf(frames: readonly (readonly [FrameType, Uint8Array])[]): Uint8Array {
  return Uint8Array.from(
    frames.flatMap(([type, payload]) => [
      payload.length & 0xff,
      payload.length >> 8,
      0,
      0,
      type.charCodeAt(0),
      ...payload,
    ]),
  );
}

test("frames come out whole, wherever the bytes are cut", () => {
  const frame = fc.tuple(fc.constantFrom(...FRAME_TYPES), fc.uint8Array({ maxLength: 300 }));
  const cuts = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), cuts, (frames, sizes) => {
      const bytes = bytesOf(frames);
      const decoder = new FrameDecoder();
      const seen: Frame[] = [];
      for (let offset = 0, i = 0; offset < bytes.length; i++) {
        const size = sizes[i % sizes.length]!;
        seen.push(...decoder.push(bytes.subarray(offset, offset + size)));
        offset += size;
      }
      assert.deepEqual(
        seen.map(({ type, payload }) => [type, [...payload]]),
        frames.map(([type, payload]) => [type, [...payload]]),
      );
      assert.ok(decoder.atBoundary);
    }),
  );
});

test("a frame that is too long or of no known type is refused", () => {
  const long = Uint8Array.from([1, 0, 16, 0, 0x52]);
  assert.throws(() => [...new FrameDecoder().push(long)], { code: "MALFORMED" });
  assert.throws(() => [...new FrameDecoder().push(Uint8Array.from([0, 0, 0, 0, 0x5a]))], { code: "MALFORMED" });
  assert.throws(() => decodeRecords(new Uint8Array(127)), { code: "MALFORMED" });
});

test("rare attributes survive JSON", () => {
  const rare: RareAttributes = {
    helper: "ftp",
    labels: Uint8Array.from({ length: 16 }, (_, i) => i * 16),
    secctx: "system_u:object_r:unlabeled_t:s0",
    seqadjOrig: { correctionPos: 1, offsetBefore: -2, offsetAfter: 3 },
    synproxy: { isn: 4_000_000_000, its: 5, tsoff: 6 },
    master: Uint32Array.from({ length: RECORD_WORDS }, (_, i) => 0xffffffff - i),
  };
  assert.deepEqual(decodeRare(JSON.parse(JSON.stringify(encodeRare(rare))) as RareJson), rare);
  assert.deepEqual(decodeRare(encodeRare({})), {});
});

test("a dump keeps at most one frame, and rare attributes find their flows", async () => {
  const frames: [FrameType, Uint8Array | string][] = [];
  const writer = new RecordWriter((type, payload) => {
    frames.push([type, typeof payload === "string" ? payload : payload.slice()]);
    return Promise.resolve();
  });
  const words = new Uint32Array(2 * RECORD_WORDS);
  for (let i = 0; i < RECORDS_PER_FRAME + 3; i++) {
    words[RECORD_WORDS + 22] = i;
    if (!writer.write(words, RECORD_WORDS, i % 1000 === 1 ? { helper: `h${i}` } : null)) await writer.drain();
  }
  await writer.drain();
  await writer.drain();
  assert.deepEqual(
    frames.map(([type, payload]) => [type, payload.length / (type === "R" ? 128 : 1)]).filter(([type]) => type === "R"),
    [
      ["R", RECORDS_PER_FRAME],
      ["R", 3],
    ],
  );
  assert.equal(frames[1]?.[1], '[[1,{"helper":"h1"}],[1001,{"helper":"h1001"}],[2001,{"helper":"h2001"}]]');
  const last = decodeRecords(frames[2]?.[1] as Uint8Array<ArrayBuffer>);
  assert.equal(last[2 * RECORD_WORDS + 22], RECORDS_PER_FRAME + 2);
  assert.equal(writer.records, RECORDS_PER_FRAME + 3);
});

test("large rare attributes close a frame early, absurd ones are counted and left out", async () => {
  const sizes: number[] = [];
  const writer = new RecordWriter((type, payload) => {
    if (type === "A") sizes.push(payload.length);
    return Promise.resolve();
  });
  const words = new Uint32Array(RECORD_WORDS);
  for (let i = 0; i < 100; i++) {
    if (!writer.write(words, 0, { secctx: "x".repeat(20_000) })) await writer.drain();
  }
  writer.write(words, 0, { secctx: "x".repeat(100_000) });
  await writer.drain();
  assert.ok(sizes.length > 1 && sizes.every((size) => size < FRAME_BYTES_MAX), String(sizes));
  assert.equal(writer.rareDropped, 1);
});

test("writing on after the sink said it is full is a programmer's error", () => {
  const writer = new RecordWriter(() => Promise.resolve());
  const words = new Uint32Array(RECORD_WORDS);
  while (writer.write(words, 0, null));
  assert.throws(() => writer.write(words, 0, null), /await drain/);
});

test("requests are checked", () => {
  assert.deepEqual(parseRequest('{"command":"status","version":1}'), { command: "status", args: {} });
  assert.deepEqual(parseRequest('{"command":"dump","args":{"table":"kernel"},"version":1}'), {
    command: "dump",
    args: { table: "kernel" },
  });
  const refused = [
    "",
    "hello",
    "[]",
    "null",
    '"x"',
    '{"command":"status"}',
    '{"command":"status","args":{},"version":2}',
    '{"command":"reboot","args":{},"version":1}',
    '{"command":"dump","args":{"table":"all"},"version":1}',
    '{"command":"hook","args":{},"version":1}',
    '{"command":"status","args":{"x":1},"version":1}',
    '{"command":"status","args":{},"version":1,"x":1}',
    '{"command":"__proto__","args":{},"version":1}',
  ];
  for (const line of refused) assert.throws(() => parseRequest(line), { code: "MALFORMED" }, line);
});
