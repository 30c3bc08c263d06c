import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConntrailError } from "../../src/errors.js";
import { type Flow, flowFromRecord, recordFromFlow } from "../../src/flow/flow.js";
import {
  AF_INET,
  AF_INET6,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  type RareAttributes,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TABLE_A,
  W_TIMEOUT,
  W_UPDATED,
  W_ZONE,
} from "../../src/flow/record.js";

const NAT_FLOW: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 443 },
  reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 443, dport: 61000 },
  nat: { src: { address: "203.0.113.1", port: 61000 } },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"],
  state: "ESTABLISHED",
  tcp: { windowScaleOrig: 7, windowScaleReply: 8, flagsOrig: 35, flagsOrigMask: 0, flagsReply: 3, flagsReplyMask: 255 },
  timeoutSeconds: 431999,
  mark: 4294967295,
  zone: 5,
  id: 1911451495,
  labels: "00000000000000000000000000000002",
  helper: "ftp",
  secctx: "system_u:object_r:unlabeled_t:s0",
  master: { family: "ipv4", protocol: "tcp", src: "10.0.0.12", dst: "198.51.100.7", sport: 39999, dport: 21, zone: 5 },
  seqadj: { orig: { correctionPos: 1, offsetBefore: -2, offsetAfter: 3 } },
  synproxy: { isn: 1, its: 2, tsoff: 3 },
  created: "2026-01-31T12:00:00Z",
  updated: "2026-01-31T12:00:05Z",
};

test("a flow with everything survives its record", () => {
  const { words, rare } = recordFromFlow(NAT_FLOW);
  assert.deepEqual(flowFromRecord(words, 0, rare), NAT_FLOW);
  assert.equal(words[W_ORIG_L4], 40000 * 0x10000 + 443);
  assert.equal(words[W_PROTOINFO], 3 | (7 << 8) | (8 << 16));
  assert.equal(words[W_ZONE], (5 << 16) | 5);
  assert.deepEqual(JSON.parse(JSON.stringify(flowFromRecord(words, 0, rare))), NAT_FLOW);
});

test("translation is read from the tuples", () => {
  const base = { family: "ipv4", protocol: "tcp" } as const;
  const orig = { src: "10.0.0.1", dst: "192.0.2.1", sport: 1, dport: 2 };
  const table: [Flow["reply"], Flow["nat"]][] = [
    [{ src: "192.0.2.1", dst: "10.0.0.1", sport: 2, dport: 1 }, undefined],
    [{ src: "192.0.2.1", dst: "10.0.0.1", sport: 2, dport: 9 }, { src: { address: "10.0.0.1", port: 9 } }],
    [{ src: "10.9.9.9", dst: "10.0.0.1", sport: 8080, dport: 1 }, { dst: { address: "10.9.9.9", port: 8080 } }],
    [
      { src: "10.9.9.9", dst: "203.0.113.1", sport: 2, dport: 1 },
      { src: { address: "203.0.113.1", port: 1 }, dst: { address: "10.9.9.9", port: 2 } },
    ],
    [undefined, undefined],
  ];
  for (const [reply, nat] of table) {
    const { words, rare } = recordFromFlow({ ...base, orig, ...(reply && { reply }) });
    assert.deepEqual(flowFromRecord(words, 0, rare).nat, nat);
  }
});

test("ICMP: the translated id belongs to the source", () => {
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "10.0.0.1", dst: "192.0.2.1", icmpType: 8, icmpCode: 0, icmpId: 7 },
    reply: { src: "192.0.2.1", dst: "203.0.113.1", icmpType: 0, icmpCode: 0, icmpId: 9 },
  });
  assert.deepEqual(flowFromRecord(words, 0, null).nat, { src: { address: "203.0.113.1", icmpId: 9 } });
});

test("zones: one for both directions, or one for each", () => {
  const orig = { src: "10.0.0.1", dst: "192.0.2.1" };
  for (const zones of [{}, { zone: 3 }, { zoneOrig: 3 }, { zoneReply: 65535 }, { zoneOrig: 65535, zoneReply: 1 }]) {
    const flow: Flow = { family: "ipv4", protocol: "89", orig, ...zones };
    assert.deepEqual(flowFromRecord(recordFromFlow(flow).words, 0, null), flow);
  }
});

test("what cannot be read is refused by name", () => {
  const good: Flow = {
    family: "ipv4",
    protocol: "udp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 2 },
  };
  const table: [Partial<Record<keyof Flow, unknown>>, RegExp][] = [
    [{ family: "ipv5" }, /family "ipv5"/],
    [{ protocol: "unknown" }, /protocol "unknown"/],
    [{ orig: { src: "::1", dst: "10.0.0.2" } }, /address "::1"/],
    [{ state: "ESTABLISHED" }, /state "ESTABLISHED"/],
    [{ status: ["ASURED"] }, /status "ASURED"/],
    [{ labels: "0g" }, /labels "0g"/],
    [{ created: "yesterday" }, /created "yesterday"/],
  ];
  for (const [change, message] of table) {
    assert.throws(
      () => recordFromFlow({ ...good, ...change } as Flow),
      (error) => error instanceof ConntrailError && error.code === "MALFORMED" && message.test(error.message),
    );
  }
});

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
/** Objects as the code makes them; fast-check's may lack a prototype. */
const PLAIN = { noNullPrototype: true } as const;
const HAS_TESTED = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID | HAS_PROTOINFO | HAS_REPLY;

/** A record that says nothing beyond its HAS bits, as a decoder leaves it. */
const record = fc
  .record({
    has: fc.integer({ min: 0, max: 0x1ff }).map((bits) => bits & HAS_TESTED),
    ipv6: fc.boolean(),
    protocol: fc.oneof(fc.constantFrom(1, 6, 17, 33, 47, 58, 132, 136), u8),
    fill: fc.array(u32, { minLength: RECORD_WORDS, maxLength: RECORD_WORDS }),
    state: fc.integer({ min: 0, max: 9 }),
    dccpHigh: u16,
    rare: fc.option(
      fc.record(
        {
          helper: fc.string({ minLength: 1, maxLength: 16 }),
          labels: fc.uint8Array({ minLength: 16, maxLength: 16 }),
          secctx: fc.string({ minLength: 1 }),
          seqadjOrig: fc.record({ correctionPos: u32, offsetBefore: fc.integer(), offsetAfter: fc.integer() }, PLAIN),
          seqadjReply: fc.record({ correctionPos: u32, offsetBefore: fc.integer(), offsetAfter: fc.integer() }, PLAIN),
          synproxy: fc.record({ isn: u32, its: u32, tsoff: u32 }, PLAIN),
        },
        { requiredKeys: [], ...PLAIN },
      ),
    ),
  })
  .map(({ has, ipv6, protocol, fill, state, dccpHigh, rare }) => {
    const words = Uint32Array.from(fill);
    const ported = [6, 17, 33, 132, 136, 1, 58, 47].includes(protocol);
    const stateful = [6, 33, 132].includes(protocol);
    words[W_PROTO] = ((ipv6 ? AF_INET6 : AF_INET) << 8) | protocol;
    if (!ipv6) for (const word of [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]) words[word] = 0;
    if (!ported) words[W_ORIG_L4] = words[W_REPLY_L4] = 0;
    if (!stateful) has &= ~HAS_PROTOINFO;
    const other: RareAttributes | null =
      rare !== null && Object.keys(rare).length > 0 ? (rare as RareAttributes) : null;
    if (other !== null) has |= HAS_RARE;
    words[W_HAS] = has;
    if (!(has & HAS_REPLY)) words.fill(0, W_REPLY_SRC, W_ORIG_L4).fill(0, W_REPLY_L4, W_REPLY_L4 + 1);
    if (!(has & HAS_STATUS)) words[W_STATUS] = 0;
    if (!(has & HAS_TIMEOUT)) words[W_TIMEOUT] = 0;
    if (!(has & HAS_MARK)) words[W_MARK] = 0;
    if (!(has & HAS_ID)) words[W_ID] = 0;
    if (!(has & HAS_PROTOINFO)) words.fill(0, W_PROTOINFO, W_PROTOINFO_C + 1);
    else if (protocol === 6) {
      words[W_PROTOINFO] = (words[W_PROTOINFO]! & 0x00ffff00) | state;
      words[W_PROTOINFO_C] = 0;
    } else if (protocol === 33) {
      words[W_PROTOINFO] = (words[W_PROTOINFO]! & 0xff00) | state;
      words[W_PROTOINFO_B] = dccpHigh;
    } else words[W_PROTOINFO] = state;
    words.fill(0, W_TABLE_A);
    return { words, rare: other };
  });

test("every record survives its flow object, at any base", () => {
  fc.assert(
    fc.property(record, fc.integer({ min: 0, max: 3 }), ({ words, rare }, slot) => {
      const slab = new Uint32Array(4 * RECORD_WORDS).fill(0xdeadbeef);
      slab.set(words, slot * RECORD_WORDS);
      const flow = flowFromRecord(slab, slot * RECORD_WORDS, rare);
      const back = recordFromFlow(JSON.parse(JSON.stringify(flow)) as Flow);
      assert.deepEqual(back.words, words);
      assert.deepEqual(back.rare, rare);
    }),
    { numRuns: 500 },
  );
});

test("times are seconds of the Unix epoch", () => {
  const { words } = recordFromFlow(NAT_FLOW);
  assert.equal(words[W_CREATED], Date.parse("2026-01-31T12:00:00Z") / 1000);
  assert.equal(words[W_UPDATED], words[W_CREATED]! + 5);
});
