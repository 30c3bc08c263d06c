import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { NFGENMSG_LEN, NLMSG_HDRLEN } from "../../src/ctnetlink/constants.js";
import { decodeConntrack, decodeError } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import {
  AF_INET6,
  DecodedFlow,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  type RareAttributes,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_ZONE,
} from "../../src/flow/record.js";
import { type ArbitraryFlow, flowArbitrary } from "../support/flow-arbitrary.js";
import { attributesOf } from "../support/netlink-attributes.js";

const TIMEOUT = 4321;

function encode(flow: ArbitraryFlow, liberal: boolean): Buffer {
  const batch = new RequestBatch(4096);
  assert.equal(batch.create(flow.words, 0, flow.rare, { timeoutSeconds: TIMEOUT, liberal }), true);
  return Buffer.from(batch.bytes(0, 1)).subarray(NLMSG_HDRLEN);
}

function decoded(bytes: Uint8Array): DecodedFlow {
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(bytes, 0, bytes.length, flow), 0);
  return flow;
}

/** What nf_nat_setup_info() makes of the request: destination first, then source, each to exactly one place. */
function applyNat(bytes: Uint8Array, words: Uint32Array): void {
  const attributes = attributesOf(bytes.subarray(NFGENMSG_LEN));
  for (const [type, address, shift] of [
    [13, W_REPLY_SRC, 16],
    [6, W_REPLY_DST, 0],
  ] as const) {
    const range = attributes.get(type);
    if (range === undefined) continue;
    const inside = attributesOf(range);
    const target = words[W_PROTO]! >>> 8 === AF_INET6 ? inside.get(4)! : inside.get(1)!;
    for (let i = 0; i < target.length; i += 4) words[address + i / 4] = target.readUInt32BE(i);
    const layer4 = inside.get(3);
    if (layer4 === undefined) continue;
    const port = attributesOf(layer4).get(1)!.readUInt16BE(0);
    // ICMP has its one id in the upper half in both cases.
    const at = [1, 58].includes(words[W_PROTO]! & 0xff) ? 16 : shift;
    words[W_REPLY_L4] = (words[W_REPLY_L4]! & ~(0xffff << at)) | (port << at);
  }
}

/** The record that must come back: what the kernel takes, and nothing that is its own affair. */
function expected(flow: ArbitraryFlow, liberal: boolean): { words: Uint32Array; rare: RareAttributes | null } {
  const words = flow.words.slice();
  const tcp = (words[W_PROTO]! & 0xff) === 6;
  let has = HAS_REPLY | HAS_STATUS | HAS_TIMEOUT | (words[W_MARK] === 0 ? 0 : HAS_MARK);
  words[W_ID] = 0;
  words[W_TIMEOUT] = TIMEOUT;
  words[W_STATUS] = (words[W_STATUS]! & 0x2406) | 8;
  if (words[W_HAS]! & HAS_PROTOINFO) {
    has |= HAS_PROTOINFO;
    if (tcp) {
      // A SYN's window scale is taken only beside one of the answer.
      const scaled = (words[W_PROTOINFO]! & 0xff) === 1 ? (words[W_PROTOINFO_B]! & 1) << 16 : 0;
      const flags = (words[W_PROTOINFO_B]! & 0x000f000f) | scaled;
      words[W_PROTOINFO_B] = flags | (liberal ? 0x00080008 : 0) | 0x0f000f00;
    }
  } else if (tcp && liberal) {
    has |= HAS_PROTOINFO;
    words[W_PROTOINFO_B] = 0x08080808;
  }
  const { secctx, ...carried } = flow.rare ?? {};
  const rare = Object.keys(carried).length === 0 ? null : carried;
  words[W_HAS] = has | (rare === null ? 0 : HAS_RARE);
  return { words, rare };
}

test("a created flow decodes to what was encoded", () => {
  fc.assert(
    fc.property(flowArbitrary(), fc.boolean(), (flow, liberal) => {
      const bytes = encode(flow, liberal);
      const back = decoded(bytes);
      applyNat(bytes, back.words);
      const want = expected(flow, liberal);
      assert.equal(String(back.words), String(want.words));
      assert.deepEqual(back.rare, want.rare);
    }),
    { numRuns: 1000 },
  );
});

test("delete, get and update name the flow that was meant", () => {
  fc.assert(
    fc.property(flowArbitrary(), fc.integer({ min: 0, max: 2 }), (flow, kind) => {
      const batch = new RequestBatch(4096);
      if (kind === 0) batch.delete(flow.words, 0, true);
      else if (kind === 1) batch.get(flow.words, 0);
      else batch.update(flow.words, 0, flow.rare, { timeoutSeconds: TIMEOUT, liberal: true });
      const { words } = decoded(batch.bytes(0, 1).subarray(NLMSG_HDRLEN));
      assert.deepEqual([...words.subarray(0, 8)], [...flow.words.subarray(0, 8)]);
      assert.equal(words[W_ORIG_L4], flow.words[W_ORIG_L4]);
      assert.equal(words[W_PROTO], flow.words[W_PROTO]);
      const zone = flow.words[W_ZONE]!;
      // A zone of the reply direction alone is none for the original tuple.
      assert.equal(words[W_ZONE]! >>> 16, zone >>> 16);
      if (kind === 0) assert.equal(words[W_ID], flow.words[W_ID]);
    }),
  );
});

/** Decodes the same range in three buffers that differ around it: any look beyond it would show. */
function decodeAmidPoison(bytes: Uint8Array): void {
  const results = [0x00, 0xff, 0x04].map((poison) => {
    const buffer = new Uint8Array(bytes.length + 128).fill(poison);
    buffer.set(bytes, 64);
    const flow = new DecodedFlow();
    const failure = decodeConntrack(buffer, 64, 64 + bytes.length, flow);
    if (failure !== 0) return String(failure);
    return `${flow.words} ${flow.counters} ${flow.timesMicros} ${JSON.stringify(flow.rare)}`;
  });
  assert.equal(results[1], results[0]);
  assert.equal(results[2], results[0]);
}

test("any bytes: no throw, no look outside", () => {
  const random = fc.uint8Array({ maxLength: 600 });
  const plausible = fc
    .tuple(fc.constantFrom(2, 10), fc.array(fc.tuple(fc.nat(30), fc.boolean(), fc.uint8Array({ maxLength: 40 }))))
    .map(([family, attributes]) => plausibleMessage(family, attributes));
  fc.assert(fc.property(random, decodeAmidPoison), { numRuns: 1000 });
  fc.assert(fc.property(plausible, decodeAmidPoison), { numRuns: 1000 });
});

function plausibleMessage(family: number, attributes: [number, boolean, Uint8Array][]): Uint8Array {
  const parts = [Buffer.from([family, 0, 0, 0])];
  for (const [type, nested, body] of attributes) {
    const padded = Buffer.alloc((body.length + 7) & ~3);
    padded.writeUInt16LE(body.length + 4, 0);
    padded.writeUInt16LE(type | (nested ? 0x8000 : 0), 2);
    padded.set(body, 4);
    parts.push(padded);
  }
  return Buffer.concat(parts);
}

test("cut at every offset: no throw, no look outside", () => {
  fc.assert(
    fc.property(flowArbitrary(), (flow) => {
      const bytes = encode(flow, true);
      for (let length = 0; length <= bytes.length; length++) decodeAmidPoison(bytes.subarray(0, length));
    }),
    { numRuns: 20 },
  );
});

test("flipped bits: no throw, no look outside", () => {
  fc.assert(
    fc.property(flowArbitrary(), fc.array(fc.nat(), { minLength: 1, maxLength: 8 }), (flow, flips) => {
      const bytes = encode(flow, true);
      for (const flip of flips) {
        const bit = flip % (bytes.length * 8);
        bytes[bit >> 3] = bytes[bit >> 3]! ^ (1 << (bit & 7));
      }
      decodeAmidPoison(bytes);
    }),
    { numRuns: 1000 },
  );
});

test("an error of any bytes is a number", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 24 }), (bytes) => {
      assert.equal(Number.isInteger(decodeError(bytes, 0, bytes.length)), true);
    }),
  );
});

test("the rarest and longest record fits into the room of one message", () => {
  fc.assert(
    fc.property(flowArbitrary(), (flow) => {
      assert.ok(encode(flow, true).length < 640);
    }),
    { numRuns: 1000 },
  );
});
