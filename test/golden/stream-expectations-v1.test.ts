/** Expectations in messages of format version 1, as they lie in streams: see stream-batch-v1.test.ts. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type ExpectationJson, expectationFromJson } from "../../src/flow/expectation.js";
import { BatchDecoder, BatchEncoder } from "../../src/stream/format/batch.js";
import { readPlain } from "../support/msgpack.js";

const ENVELOPE = {
  node: "fw-a",
  epoch: 1_800_000_000_123,
  number: 42,
  stamp: 910_000_000_000_001,
  wallMs: 1_800_000_001_000,
};
const ENVELOPE_MAP = { v: 1, o: "fw-a", e: 1_800_000_000_123, n: 42, h: 910_000_000_000_001, w: 1_800_000_001_000 };

const FTP: ExpectationJson = {
  family: "ipv4",
  protocol: "tcp",
  tuple: { src: "198.51.100.7", dst: "203.0.113.1", sport: 0, dport: 51_210 },
  mask: { src: "255.255.255.255", dst: "255.255.255.255", sport: 0, dport: 65_535 },
  master: { family: "ipv4", protocol: "tcp", src: "10.0.0.12", dst: "198.51.100.7", sport: 40_000, dport: 21 },
  nat: { direction: "reply", tuple: { src: "0.0.0.0", dst: "0.0.0.0", sport: 51_210, dport: 0 } },
  timeoutSeconds: 290,
  class: 0,
  helper: "ftp",
  fn: "nat-follow-master",
};

const RTP: ExpectationJson = {
  family: "ipv6",
  protocol: "udp",
  tuple: { src: "::", dst: "2001:db8::2", sport: 0, dport: 5004 },
  mask: { src: "::", dst: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", sport: 0, dport: 65_535 },
  master: { family: "ipv6", protocol: "udp", src: "2001:db8::2", dst: "2001:db8::9", sport: 5060, dport: 5060 },
  zone: 7,
  timeoutSeconds: 180,
  flags: ["PERMANENT"],
  class: 1,
  helper: "sip",
};

const FTP_MAP = {
  p: 0x0206,
  t: [0xc6336407, 0xcb007101, 51_210],
  k: [0xffffffff, 0xffffffff, 65_535],
  m: [6, 0x0a00000c, 0xc6336407, (40_000 * 65_536 + 21) % 2 ** 32],
  s: 290,
  c: 1_800_000_000,
  n: [1, 6, 0, 0, 51_210 * 65_536],
  helper: "ftp",
  fn: "nat-follow-master",
};
const RTP_MAP = {
  p: 0x0a11,
  t: [0, 0, 0, 0, 0x20010db8, 0, 0, 2, 5004],
  k: [0, 0, 0, 0, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 65_535],
  z: 7,
  m: [17, 0x20010db8, 0, 0, 2, 0x20010db8, 0, 0, 9, 5060 * 65_536 + 5060],
  s: 180,
  c: 1_799_999_000,
  h: 909_000_000_000_000,
  g: 1,
  y: 1,
  helper: "sip",
};
const RTP_END_MAP = { d: 1, p: RTP_MAP.p, t: RTP_MAP.t, k: RTP_MAP.k, z: 7 };

function golden(name: string): Buffer {
  return Buffer.from(
    readFileSync(join("test", "golden", "stream-batch-v1", `${name}.hex`), "utf8").replace(/\s/g, ""),
    "hex",
  );
}

function events(): Uint8Array {
  const encoder = new BatchEncoder();
  encoder.addExpectation(expectationFromJson(FTP), 290, 1_800_000_000, null);
  encoder.addExpectationEnd(expectationFromJson(RTP));
  return encoder.encode(ENVELOPE, null);
}

function snapshot(): Uint8Array {
  const encoder = new BatchEncoder();
  encoder.addExpectation(expectationFromJson(RTP), 180, 1_799_999_000, 909_000_000_000_000);
  return encoder.encode(ENVELOPE, { from: 0, to: 0xffffffff });
}

test("the writer writes these bytes", () => {
  assert.equal(Buffer.from(events()).toString("hex"), golden("expectations").toString("hex"));
  assert.equal(Buffer.from(snapshot()).toString("hex"), golden("expectations-snapshot").toString("hex"));
});

test("they are what the format says", () => {
  assert.deepEqual(readPlain(golden("expectations")), { ...ENVELOPE_MAP, k: "ev", x: [FTP_MAP, RTP_END_MAP] });
  const chunk = { ...ENVELOPE_MAP, k: "snap", a: 0, b: 0xffffffff, x: [RTP_MAP] };
  assert.deepEqual(readPlain(golden("expectations-snapshot")), chunk);
});

test("the reader reads them", () => {
  const decoder = new BatchDecoder();
  assert.deepEqual(decoder.decode(golden("expectations")), ENVELOPE);
  const [ftp, end] = decoder.expectations;
  assert.deepEqual(ftp, {
    ended: false,
    expectation: expectationFromJson(FTP),
    stamp: 0,
    createdSeconds: 1_800_000_000,
  });
  assert.equal(end?.ended, true);
  assert.deepEqual(end?.expectation.tuple, expectationFromJson(RTP).tuple);
  assert.deepEqual(decoder.decode(golden("expectations-snapshot")), ENVELOPE);
  const [rtp] = decoder.expectations;
  assert.deepEqual(rtp, {
    ended: false,
    expectation: expectationFromJson(RTP),
    stamp: 909_000_000_000_000,
    createdSeconds: 1_799_999_000,
  });
});
