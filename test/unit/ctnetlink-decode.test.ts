import assert from "node:assert/strict";
import { test } from "node:test";
import { DecodeFailure, decodeConntrack, decodeError } from "../../src/ctnetlink/decode.js";
import {
  DecodedFlow,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_UPDATED,
  W_ZONE,
} from "../../src/flow/record.js";
import { errnoName } from "../../src/os/errno.js";
import { be16, be32, be64, ip4, ip6, nest, nla, payload, portTuple, text, u8 } from "../support/netlink-attributes.js";

const ORIG = portTuple(1, "10.0.0.1", "10.0.0.2", 6, 1000, 80);
const REPLY = portTuple(2, "10.0.0.2", "10.0.0.1", 6, 80, 1000);

function decode(bytes: Uint8Array): DecodedFlow {
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(bytes, 0, bytes.length, flow), 0);
  return flow;
}

function failure(bytes: Uint8Array): number {
  return decodeConntrack(bytes, 0, bytes.length, new DecodedFlow());
}

test("an IPv4 TCP message fills the record", () => {
  const tcp = nest(1, nla(1, u8(3)), nla(2, u8(7)), nla(3, u8(9)), nla(4, u8(0x23), u8(0)), nla(5, u8(0x0b), u8(0x0f)));
  const { words, rare } = decode(
    payload(
      2,
      ORIG,
      REPLY,
      nla(3, be32(0xe)),
      nla(7, be32(600)),
      nla(8, be32(0xfffffffe)),
      nla(12, be32(77)),
      nest(4, tcp),
    ),
  );
  assert.deepEqual([...words.subarray(W_ORIG_SRC, W_ORIG_SRC + 4)], [0x0a000001, 0, 0, 0]);
  assert.deepEqual([...words.subarray(W_ORIG_DST, W_ORIG_DST + 4)], [0x0a000002, 0, 0, 0]);
  assert.deepEqual([...words.subarray(W_REPLY_SRC, W_REPLY_SRC + 4)], [0x0a000002, 0, 0, 0]);
  assert.deepEqual([...words.subarray(W_REPLY_DST, W_REPLY_DST + 4)], [0x0a000001, 0, 0, 0]);
  assert.equal(words[W_ORIG_L4], (1000 << 16) | 80);
  assert.equal(words[W_REPLY_L4], (80 << 16) | 1000);
  assert.equal(words[W_PROTO], (2 << 8) | 6);
  assert.equal(words[W_STATUS], 0xe);
  assert.equal(words[W_TIMEOUT], 600);
  assert.equal(words[W_MARK], 0xfffffffe);
  assert.equal(words[W_ID], 77);
  assert.equal(words[W_PROTOINFO], 3 | (7 << 8) | (9 << 16));
  assert.equal(words[W_PROTOINFO_B], 0x0f0b0023);
  assert.equal(words[W_HAS], HAS_REPLY | HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID | HAS_PROTOINFO);
  assert.equal(words[W_UPDATED], 0);
  assert.equal(words[W_CREATED], 0);
  assert.equal(rare, null);
});

test("the place of a message in its buffer does not matter", () => {
  const bytes = payload(2, ORIG, REPLY);
  const buffer = Buffer.concat([Buffer.alloc(7, 0xff), bytes, Buffer.alloc(9, 0xff)]);
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(buffer, 7, 7 + bytes.length, flow), 0);
  assert.deepEqual(flow.words, decode(bytes).words);
});

test("attributes of a tuple may come in any order and with flags", () => {
  const tuple = nest(
    1,
    nest(2, nla(3 | 0x4000, be16(80)), nla(2 | 0x4000, be16(1000)), nla(1, u8(6))),
    nest(1, nla(2, ip4("10.0.0.2")), nla(1, ip4("10.0.0.1"))),
  );
  assert.deepEqual(decode(payload(2, REPLY, tuple)).words, decode(payload(2, ORIG, REPLY)).words);
});

test("IPv6 addresses are four words", () => {
  const tuple = (type: number): Buffer =>
    nest(
      type,
      nest(1, nla(3, ip6(0xfd00, 1, 2, 3, 4, 5, 6, 7)), nla(4, ip6(0xfd00, 0, 0, 0, 0, 0, 0, 1))),
      nest(2, nla(1, u8(17)), nla(2, be16(5)), nla(3, be16(53))),
    );
  const { words } = decode(payload(10, tuple(1), tuple(2)));
  assert.deepEqual(
    [...words.subarray(W_ORIG_SRC, 8)],
    [0xfd000001, 0x00020003, 0x00040005, 0x00060007, 0xfd000000, 0, 0, 1],
  );
  assert.equal(words[W_PROTO], (10 << 8) | 17);
  assert.equal(words[W_ORIG_L4], (5 << 16) | 53);
});

test("ICMP and ICMPv6 are id, type and code; other protocols nothing", () => {
  const icmp = (id: number, ...layer4: Buffer[]): Buffer =>
    payload(2, nest(1, nest(1, nla(1, ip4("1.1.1.1")), nla(2, ip4("2.2.2.2"))), nest(2, nla(1, u8(id)), ...layer4)));
  assert.equal(decode(icmp(1, nla(4, be16(0x1234)), nla(5, u8(8)), nla(6, u8(1)))).words[W_ORIG_L4], 0x12340801);
  assert.equal(decode(icmp(58, nla(7, be16(0xffff)), nla(8, u8(128)), nla(9, u8(2)))).words[W_ORIG_L4], 0xffff8002);
  assert.equal(decode(icmp(89)).words[W_ORIG_L4], 0);
});

test("a zone is for both directions or for one", () => {
  assert.equal(decode(payload(2, ORIG, REPLY, nla(18, be16(0xfffe)))).words[W_ZONE], 0xfffefffe);
  const zoned = (type: number): Buffer => portTuple(type, "1.1.1.1", "2.2.2.2", 6, 1, 2, nla(3, be16(9)));
  assert.equal(decode(payload(2, zoned(1), REPLY)).words[W_ZONE], 9 << 16);
  assert.equal(decode(payload(2, ORIG, zoned(2))).words[W_ZONE], 9);
});

test("SCTP and DCCP protoinfo", () => {
  const sctp = decode(
    payload(2, ORIG, nest(4, nest(3, nla(1, u8(4)), nla(2, be32(0xdeadbeef)), nla(3, be32(1))))),
  ).words;
  assert.deepEqual([sctp[W_PROTOINFO], sctp[W_PROTOINFO_B], sctp[W_PROTOINFO_C]], [4, 0xdeadbeef, 1]);
  const handshake = nla(3, be64(0x0000_1234_9abc_def0n));
  const dccp = decode(payload(2, ORIG, nest(4, nest(2, nla(1, u8(5)), nla(2, u8(1)), nla(4), handshake)))).words;
  assert.deepEqual([dccp[W_PROTOINFO], dccp[W_PROTOINFO_B], dccp[W_PROTOINFO_C]], [5 | (1 << 8), 0x1234, 0x9abcdef0]);
});

test("counters are 64 bits wide, times whole microseconds", () => {
  const flow = decode(
    payload(
      2,
      ORIG,
      nest(9, nla(1, be64(3n)), nla(2, be64(0x1_0000_0001n))),
      nest(10, nla(1, be64(5n)), nla(5), nla(2, be64(2n ** 53n))),
      nest(20, nla(1, be64(1795248000123456789n)), nla(2, be64(1795248000999999999n))),
    ),
  );
  assert.deepEqual([...flow.counters], [3, 0x1_0000_0001, 5, 2 ** 53]);
  assert.deepEqual([...flow.timesMicros], [1795248000123456, 1795248000999999]);
  assert.equal(flow.words[W_HAS], HAS_COUNTERS | HAS_TIMES);
});

test("counters and times of an earlier message do not shine through", () => {
  const flow = new DecodedFlow();
  const first = payload(
    2,
    ORIG,
    nest(10, nla(1, be64(5n)), nla(2, be64(6n))),
    nest(20, nla(1, be64(1n)), nla(2, be64(9000n))),
  );
  decodeConntrack(first, 0, first.length, flow);
  const second = payload(2, ORIG, nest(9, nla(1, be64(1n)), nla(2, be64(2n))), nest(20, nla(1, be64(5000n))));
  decodeConntrack(second, 0, second.length, flow);
  assert.deepEqual([...flow.counters], [1, 2, 0, 0]);
  assert.deepEqual([...flow.timesMicros], [5, 0]);
});

test("rare attributes", () => {
  const three = (type: number, ...values: number[]): Buffer =>
    nest(type, ...values.map((value, i) => nla(i + 1, be32(value))));
  const { words, rare } = decode(
    payload(
      2,
      ORIG,
      nest(5, nla(1, text("ftp")), nla(2, u8(1))),
      nla(22, Buffer.alloc(16, 0x81)),
      nest(19, nla(1, text("system_u:x"))),
      three(15, 1, 2, 0xfffffffd),
      three(16, 4, 5, 6),
      three(24, 7, 8, 9),
      portTuple(14, "9.9.9.9", "8.8.8.8", 6, 5, 21),
    ),
  );
  const master = new Uint32Array(32);
  master.set([0x09090909], W_ORIG_SRC);
  master.set([0x08080808], W_ORIG_DST);
  master[W_ORIG_L4] = (5 << 16) | 21;
  master[W_PROTO] = (2 << 8) | 6;
  assert.deepEqual(rare, {
    helper: "ftp",
    labels: new Uint8Array(16).fill(0x81),
    secctx: "system_u:x",
    seqadjOrig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 0xfffffffd },
    seqadjReply: { correctionPos: 4, offsetBefore: 5, offsetAfter: 6 },
    synproxy: { isn: 7, its: 8, tsoff: 9 },
    master,
  });
  assert.equal(words[W_HAS], HAS_RARE);
});

test("the empty SYN proxy extension of flows that came by ctnetlink is no rare attribute", () => {
  const { words, rare } = decode(payload(2, ORIG, nest(24, nla(1, be32(0)), nla(2, be32(0)), nla(3, be32(0)))));
  assert.equal(rare, null);
  assert.equal(words[W_HAS], 0);
});

test("attributes that are not known are skipped", () => {
  assert.deepEqual(
    decode(payload(2, nla(27, be64(5n)), ORIG, nla(200, Buffer.alloc(33)))).words,
    decode(payload(2, ORIG)).words,
  );
});

test("what is malformed is named", () => {
  assert.equal(failure(Buffer.from([2, 0, 0])), DecodeFailure.truncated);
  assert.equal(failure(payload(7, ORIG)), DecodeFailure.unknownFamily);
  assert.equal(failure(payload(2, REPLY)), DecodeFailure.noOriginalTuple);
  assert.equal(failure(payload(2)), DecodeFailure.noOriginalTuple);
  assert.equal(failure(payload(10, ORIG)), DecodeFailure.badTuple);
  assert.equal(failure(payload(2, nest(1, nest(2, nla(1, u8(6)))))), DecodeFailure.badTuple);
  assert.equal(
    failure(payload(2, nest(1, nest(1, nla(1, ip4("1.1.1.1")), nla(2, ip4("1.1.1.1")))))),
    DecodeFailure.badTuple,
  );
  assert.equal(failure(payload(2, ORIG, nla(3, be16(1)))), DecodeFailure.badAttributeLength);
  assert.equal(failure(payload(2, ORIG, Buffer.from([3, 0, 3, 0]))), DecodeFailure.badAttributeLength);
  assert.equal(failure(payload(2, ORIG, Buffer.from([8, 0, 3, 0]))), DecodeFailure.badAttributeLength);
  assert.equal(failure(payload(2, ORIG, nla(22, Buffer.alloc(20)))), DecodeFailure.badAttributeLength);
  const udp = nest(2, nest(1, nla(1, ip4("1.1.1.1")), nla(2, ip4("1.1.1.1"))), nest(2, nla(1, u8(17))));
  assert.equal(failure(payload(2, ORIG, udp)), DecodeFailure.badTuple);
});

test("an end beyond the buffer is taken for its end", () => {
  const bytes = payload(2, ORIG);
  assert.equal(decodeConntrack(bytes, 0, bytes.length + 100, new DecodedFlow()), 0);
});

test("errors are positive numbers with names", () => {
  const error = Buffer.alloc(20);
  error.writeInt32LE(-17, 0);
  assert.equal(decodeError(error, 0, 20), 17);
  assert.equal(Object.is(decodeError(Buffer.alloc(4), 0, 4), 0), true);
  assert.equal(errnoName(decodeError(error, 0, 3)), "EBADMSG");
  assert.equal(errnoName(17), "EEXIST");
  assert.equal(errnoName(9999), "errno 9999");
});
