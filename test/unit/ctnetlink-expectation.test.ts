import assert from "node:assert/strict";
import { test } from "node:test";
import { DecodeFailure } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { decodeExpectation } from "../../src/ctnetlink/expectation.js";
import { type Expectation, expectationToJson, setExpectationZone } from "../../src/flow/expectation.js";
import { AF_INET, AF_INET6, W_ZONE } from "../../src/flow/record.js";
import { attributesOf, be16, be32, ip4, ip6, nest, nla, payload, text, u8 } from "../support/netlink-attributes.js";

const TCP = 6;

function tuple(type: number, source: Buffer, destination: Buffer, sport: number, dport: number): Buffer {
  const first = source.length === 4 ? 1 : 3;
  return nest(
    type,
    nest(1, nla(first, source), nla(first + 1, destination)),
    nest(2, nla(1, u8(TCP)), nla(2, be16(sport)), nla(3, be16(dport))),
  );
}

const TUPLE = tuple(2, ip4("198.51.100.7"), ip4("203.0.113.1"), 0, 51210);
const MASK = tuple(3, ip4("255.255.255.255"), ip4("255.255.255.255"), 0, 65535);
const MASTER = tuple(1, ip4("10.0.0.12"), ip4("198.51.100.7"), 40000, 21);
const REST = [
  nest(10, nla(1, be32(1)), tuple(2, ip4("0.0.0.0"), ip4("0.0.0.0"), 51210, 0)),
  nla(4, be32(300)),
  nla(5, be32(77)),
  nla(8, be32(1)),
  nla(9, be32(2)),
  nla(6, text("ftp")),
  nla(11, text("nat-follow-master")),
];
const WHOLE = payload(AF_INET, TUPLE, MASK, MASTER, ...REST);

function decoded(bytes: Uint8Array): Expectation {
  const result = decodeExpectation(bytes, 0, bytes.length);
  if (typeof result === "number") assert.fail(`failure ${result}`);
  return result;
}

test("every attribute is read", () => {
  assert.deepEqual(expectationToJson(decoded(WHOLE)), {
    family: "ipv4",
    protocol: "tcp",
    tuple: { src: "198.51.100.7", dst: "203.0.113.1", sport: 0, dport: 51210 },
    mask: { src: "255.255.255.255", dst: "255.255.255.255", sport: 0, dport: 65535 },
    master: { family: "ipv4", protocol: "tcp", src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 21 },
    nat: { direction: "reply", tuple: { src: "0.0.0.0", dst: "0.0.0.0", sport: 51210, dport: 0 } },
    timeoutSeconds: 300,
    flags: ["PERMANENT"],
    class: 2,
    helper: "ftp",
    fn: "nat-follow-master",
    id: 77,
  });
});

test("a zone, which no kernel sends so far, is taken where it stands", () => {
  assert.equal(decoded(payload(AF_INET, TUPLE, MASK, MASTER, nla(7, be16(3)))).tuple[W_ZONE], 0x30003);
  assert.equal(decoded(WHOLE).tuple[W_ZONE], 0);
});

test("malformed messages are told apart", () => {
  const failure = (...attributes: Buffer[]): unknown => {
    const bytes = payload(AF_INET, ...attributes);
    return decodeExpectation(bytes, 0, bytes.length);
  };
  assert.equal(failure(MASK, MASTER), DecodeFailure.noOriginalTuple);
  assert.equal(failure(TUPLE, MASTER), DecodeFailure.badTuple);
  assert.equal(failure(TUPLE, MASK), DecodeFailure.badTuple);
  assert.equal(failure(nest(2, nest(1, nla(1, ip4("1.2.3.4"))))), DecodeFailure.badTuple);
  for (const type of [4, 5, 8, 9]) assert.equal(failure(nla(type, be16(1))), DecodeFailure.badAttributeLength);
  assert.equal(failure(nla(7, u8(1))), DecodeFailure.badAttributeLength);
  assert.equal(failure(nest(10, nla(1, be16(1)))), DecodeFailure.badAttributeLength);
  assert.equal(failure(nest(10, tuple(2, ip4("0.0.0.0"), ip4("0.0.0.0"), 1, 0).subarray(0, 20))), 3);
  assert.equal(decodeExpectation(payload(7, TUPLE), 0, 99), DecodeFailure.unknownFamily);
  assert.equal(decodeExpectation(WHOLE, 0, 3), DecodeFailure.truncated);
});

test("a message that is cut anywhere is a failure or lacks what came behind, and nothing beyond the cut is looked at", () => {
  for (let end = 0; end < WHOLE.length; end++) {
    const result = decodeExpectation(WHOLE, 0, end);
    assert.deepEqual(decodeExpectation(WHOLE.subarray(0, end), 0, WHOLE.length), result);
    if (typeof result !== "number") assert.ok(end >= payload(AF_INET, TUPLE, MASK, MASTER).length);
  }
});

test("a create says all that was read, but for timeout and id", () => {
  const batch = new RequestBatch(0);
  assert.ok(batch.createExpectation(decoded(WHOLE)));
  const bytes = Buffer.from(batch.bytes(0, 1));
  assert.equal(bytes.readUInt16LE(4), 2 << 8);
  assert.equal(bytes.readUInt16LE(6), 0x1 | 0x4 | 0x200 | 0x400);
  assert.equal(bytes[16], AF_INET);
  const attributes = attributesOf(bytes.subarray(20));
  assert.deepEqual(
    [...attributes.keys()].sort((a, b) => a - b),
    [1, 2, 3, 6, 8, 9, 10, 11],
  );
  const { id: _, ...rest } = expectationToJson(decoded(bytes.subarray(16)));
  assert.deepEqual({ ...rest, id: 77, timeoutSeconds: 300 }, expectationToJson(decoded(WHOLE)));
});

test("timeout, delete, dump and flush", () => {
  const expectation = decoded(WHOLE);
  setExpectationZone(expectation, 9);
  const batch = new RequestBatch(8192);
  batch.expectationTimeout(expectation, 12);
  batch.deleteExpectation(expectation, true);
  batch.deleteExpectation(expectation);
  batch.dumpExpectations(AF_INET6);
  batch.flushExpectations();
  const bytes = Buffer.from(batch.bytes(0, 1));
  const seen: [number, number, number[]][] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    const message = bytes.subarray(at, at + length);
    const keys = [...attributesOf(message.subarray(20)).keys()].sort((a, b) => a - b);
    seen.push([message.readUInt16LE(4), message.readUInt16LE(6) & ~4, keys]);
    at += (length + 3) & ~3;
  }
  assert.deepEqual(seen, [
    [0x200, 0x1, [1, 2, 3, 4, 7]],
    [0x202, 0x1, [2, 5, 7]],
    [0x202, 0x1, [2, 7]],
    [0x201, 0x301, []],
    [0x202, 0x1, []],
  ]);
  assert.equal(bytes.subarray(bytes.length - 40)[16], AF_INET6);
});

test("the longest expectation fits the room that is kept for a message", () => {
  const long = ip6(1, 2, 3, 4, 5, 6, 7, 8);
  const expectation = decoded(
    payload(
      AF_INET6,
      tuple(2, long, long, 1, 2),
      tuple(3, long, long, 1, 2),
      tuple(1, long, long, 1, 2),
      nest(10, nla(1, be32(1)), tuple(2, long, long, 1, 2)),
      nla(6, text("h".repeat(80))),
      nla(11, text("f".repeat(80))),
      nla(7, be16(5)),
    ),
  );
  assert.equal(expectation.helper?.length, 15);
  assert.equal(expectation.fn?.length, 31);
  const batch = new RequestBatch(0);
  assert.ok(batch.createExpectation(expectation));
  assert.ok(batch.length <= 768, `${batch.length} bytes`);
  assert.equal(batch.createExpectation(expectation), false, "full");
});
