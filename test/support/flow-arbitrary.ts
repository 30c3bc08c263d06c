/** fast-check arbitraries of records such as a kernel could hold: every protocol, both families, every kind of NAT. */
import * as fc from "fast-check";
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
  W_ZONE,
} from "../../src/flow/record.js";
import { mirrorL4 } from "../../src/flow/record-fields.js";

const ICMP = 1;
const TCP = 6;
const UDP = 17;
const DCCP = 33;
const GRE = 47;
const ICMPV6 = 58;
const SCTP = 132;
const UDPLITE = 136;
const IPS_SRC_NAT = 0x10;
const IPS_DST_NAT = 0x20;

/** A record with its rare attributes. */
export interface ArbitraryFlow {
  words: Uint32Array;
  rare: RareAttributes | null;
}

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });

function address(family: number): fc.Arbitrary<number[]> {
  return family === AF_INET ? u32.map((word) => [word, 0, 0, 0]) : fc.tuple(u32, u32, u32, u32);
}

function protocol(family: number): fc.Arbitrary<number> {
  const other = u8.filter((number) => ![ICMP, ICMPV6].includes(number));
  const icmp = family === AF_INET ? ICMP : ICMPV6;
  return fc.oneof(fc.constantFrom(TCP, UDP, UDPLITE, SCTP, DCCP, GRE, icmp), other);
}

/** The layer 4 word of an original tuple; ICMP types are those that have an answer. */
function layer4(number: number): fc.Arbitrary<number> {
  switch (number) {
    case ICMP:
      return fc.tuple(u16, fc.constantFrom(8, 13, 15, 17), u8).map(([id, type, code]) => icmpWord(id, type, code));
    case ICMPV6:
      return fc.tuple(u16, fc.constantFrom(128, 139), u8).map(([id, type, code]) => icmpWord(id, type, code));
    case TCP:
    case UDP:
    case UDPLITE:
    case SCTP:
    case DCCP:
    case GRE:
      return u32;
    default:
      return fc.constant(0);
  }
}

function icmpWord(id: number, type: number, code: number): number {
  return ((id << 16) | (type << 8) | code) >>> 0;
}

/** What a reply tuple is made of: null keeps the untranslated value. */
interface Translation {
  source: number[] | null;
  destination: number[] | null;
  sourcePort: number | null;
  destinationPort: number | null;
}

function translation(family: number): fc.Arbitrary<Translation> {
  const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(value, { nil: null });
  return fc.oneof(
    fc.constant({ source: null, destination: null, sourcePort: null, destinationPort: null }),
    fc.record({
      source: maybe(address(family)),
      destination: maybe(address(family)),
      sourcePort: maybe(u16),
      destinationPort: maybe(u16),
    }),
  );
}

function writeReply(words: Uint32Array, number: number, nat: Translation): void {
  words.set(nat.destination ?? words.subarray(W_ORIG_DST, W_ORIG_DST + 4), W_REPLY_SRC);
  words.set(nat.source ?? words.subarray(W_ORIG_SRC, W_ORIG_SRC + 4), W_REPLY_DST);
  let l4 = mirrorL4(number, words[W_ORIG_L4]!);
  if (number === ICMP || number === ICMPV6) {
    if (nat.sourcePort !== null) l4 = (nat.sourcePort << 16) | (l4 & 0xffff);
  } else if ([TCP, UDP, UDPLITE, SCTP, DCCP, GRE].includes(number)) {
    if (nat.destinationPort !== null) l4 = (nat.destinationPort << 16) | (l4 & 0xffff);
    if (nat.sourcePort !== null) l4 = (l4 & 0xffff0000) | nat.sourcePort;
  }
  words[W_REPLY_L4] = l4;
  if (nat.source !== null || nat.sourcePort !== null) words[W_STATUS] = words[W_STATUS]! | IPS_SRC_NAT;
  if (nat.destination !== null || nat.destinationPort !== null) words[W_STATUS] = words[W_STATUS]! | IPS_DST_NAT;
}

/** Words 24 to 26, or null for a protocol that has none. */
function protoinfo(number: number): fc.Arbitrary<[number, number, number] | null> {
  switch (number) {
    case TCP:
      return fc
        .tuple(fc.integer({ min: 0, max: 9 }), u8, u8, u8, u8)
        .map(([state, orig, reply, flags, back]) => [
          state | (orig << 8) | (reply << 16),
          (flags | (back << 16)) >>> 0,
          0,
        ]);
    case SCTP:
      return fc.tuple(fc.integer({ min: 0, max: 9 }), u32, u32);
    case DCCP:
      return fc
        .tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 1 }), u32, u32)
        .map(([state, role, high, low]) => [state | (role << 8), high, low]);
    default:
      return fc.constant(null);
  }
}

/** A kernel's zone: one id, for both directions or for one. */
const zone = fc.oneof(
  fc.constant(0),
  u16.map((id) => id * 0x10001),
  u16.map((id) => (id << 16) >>> 0),
  u16,
);

const labels = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .filter((bytes) => bytes.some((value) => value !== 0))
  .map((bytes) => Uint8Array.from(bytes));

/** Built once: making one takes milliseconds. */
const helper = fc.stringMatching(/^[a-zA-Z0-9._-]{1,15}$/);
const secctx = fc.stringMatching(/^[a-z_:]{1,40}$/);

/** Plain objects, so that they compare equal with decoded ones. */
const PLAIN = { noNullPrototype: true } as const;

const seqadj = fc.record({ correctionPos: u32, offsetBefore: u32, offsetAfter: u32 }, PLAIN);

function master(family: number): fc.Arbitrary<Uint32Array> {
  return fc
    .tuple(address(family), address(family), u32)
    .map(([source, destination, ports]) => masterWords(family, source, destination, ports));
}

function masterWords(family: number, source: number[], destination: number[], ports: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  words.set(source, W_ORIG_SRC);
  words.set(destination, W_ORIG_DST);
  words[W_ORIG_L4] = ports;
  words[W_PROTO] = (family << 8) | TCP;
  return words;
}

function rareAttributes(family: number): fc.Arbitrary<RareAttributes | null> {
  const attributes = fc.record(
    {
      helper,
      labels,
      secctx,
      seqadjOrig: seqadj,
      seqadjReply: seqadj,
      synproxy: fc
        .record({ isn: u32, its: u32, tsoff: u32 }, PLAIN)
        .filter(({ isn, its, tsoff }) => (isn | its | tsoff) !== 0),
      master: master(family),
    },
    { ...PLAIN, requiredKeys: [] },
  );
  return fc
    .option(attributes, { nil: null })
    .map((rare) => (rare === null || Object.keys(rare).length === 0 ? null : rare));
}

/** A whole record: HAS_REPLY, HAS_STATUS, HAS_TIMEOUT, HAS_MARK and HAS_ID always, the others where they apply. */
export function flowArbitrary(): fc.Arbitrary<ArbitraryFlow> {
  return fc
    .constantFrom(AF_INET, AF_INET6)
    .chain((family) => protocol(family).map((number) => ({ family, number })))
    .chain(({ family, number }) =>
      fc
        .record({
          source: address(family),
          destination: address(family),
          l4: layer4(number),
          nat: translation(family),
          info: protoinfo(number),
          hasInfo: fc.boolean(),
          rare: rareAttributes(family),
          status: u16.map((bits) => bits & ~(IPS_SRC_NAT | IPS_DST_NAT)),
          words: fc.record({ zone, timeout: u32, mark: fc.oneof(fc.constant(0), u32), id: u32 }),
        })
        .map((parts) => {
          const words = new Uint32Array(RECORD_WORDS);
          let has = HAS_REPLY | HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID;
          words[W_PROTO] = (family << 8) | number;
          words.set(parts.source, W_ORIG_SRC);
          words.set(parts.destination, W_ORIG_DST);
          words[W_ORIG_L4] = parts.l4;
          words[W_STATUS] = parts.status;
          writeReply(words, number, parts.nat);
          words[W_ZONE] = parts.words.zone;
          words[W_TIMEOUT] = parts.words.timeout;
          words[W_MARK] = parts.words.mark;
          words[W_ID] = parts.words.id;
          if (parts.info !== null && parts.hasInfo) {
            words[W_PROTOINFO] = parts.info[0];
            words[W_PROTOINFO_B] = parts.info[1];
            words[W_PROTOINFO_C] = parts.info[2];
            has |= HAS_PROTOINFO;
          }
          if (parts.rare !== null) has |= HAS_RARE;
          words[W_HAS] = has;
          return { words, rare: parts.rare };
        }),
    );
}
