/** Seeded random flow records, valid in the sense of `src/flow/record.ts`, and what the batch codec keeps of them. */
import {
  AF_INET,
  AF_INET6,
  DecodedFlow,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  type RareAttributes,
  RECORD_WORDS,
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

/** mulberry32: the same numbers for the same seed, everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An unsigned 32-bit word. */
  word(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.word() / 2 ** 32) * limit);
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

const ICMP = 1;
const TCP = 6;
const UDP = 17;
const DCCP = 33;
const GRE = 47;
const ESP = 50;
const ICMPV6 = 58;
const SCTP = 132;
const UDPLITE = 136;

/** Protocols of the generator, by family. */
export const PROTOCOLS4: readonly number[] = [ICMP, TCP, UDP, DCCP, GRE, ESP, SCTP, UDPLITE];
export const PROTOCOLS6: readonly number[] = [TCP, UDP, DCCP, GRE, ESP, ICMPV6, SCTP, UDPLITE];

/** Protocols with a CTA_PROTOINFO. */
export function hasProtocolInfo(protocol: number): boolean {
  return protocol === TCP || protocol === DCCP || protocol === SCTP;
}

/** ICMP and ICMPv6: type of the question, type of the answer. */
const ICMP_PAIRS: readonly (readonly [number, number])[] = [
  [8, 0],
  [13, 14],
  [15, 16],
  [17, 18],
];
const ICMPV6_PAIRS: readonly (readonly [number, number])[] = [
  [128, 129],
  [139, 140],
];

/** A valid record; the words that a table or a node owns (23, 27, 30, 31) are filled with noise. */
export function randomRecord(random: Random, family: number, protocol: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  const width = family === AF_INET ? 1 : 4;
  for (let i = 0; i < width; i++) {
    words[W_ORIG_SRC + i] = random.word();
    words[W_ORIG_DST + i] = random.word();
    words[W_REPLY_SRC + i] = words[W_ORIG_DST + i]!;
    words[W_REPLY_DST + i] = words[W_ORIG_SRC + i]!;
  }
  writeLayer4(random, protocol, words);
  if (random.oneIn(3)) {
    // Destination translation, source translation with or without another port.
    const word = random.below(width);
    if (random.oneIn(2)) words[W_REPLY_SRC + word] = random.word();
    if (random.oneIn(2)) words[W_REPLY_DST + word] = random.word();
    if (random.oneIn(2) && protocol !== ESP) words[W_REPLY_L4] = (words[W_REPLY_L4]! ^ random.below(0x10000)) >>> 0;
  }
  words[W_PROTO] = (family << 8) | protocol;
  words[W_ZONE] = random.oneIn(4) ? random.word() : 0;
  words[W_STATUS] = random.below(0x10000);
  words[W_TIMEOUT] = random.below(432_001);
  words[W_MARK] = random.oneIn(3) ? random.word() : 0;
  words[W_ID] = random.word();
  writeProtocolInfo(random, protocol, words);
  words[W_UPDATED] = random.word();
  words[W_CREATED] = random.word();
  words[W_HAS] =
    HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID | HAS_REPLY | (hasProtocolInfo(protocol) ? HAS_PROTOINFO : 0);
  words[30] = random.word();
  words[31] = random.word();
  return words;
}

function writeLayer4(random: Random, protocol: number, words: Uint32Array): void {
  if (protocol === ESP) return;
  if (protocol === ICMP || protocol === ICMPV6) {
    const [type, answer] = random.pick(protocol === ICMP ? ICMP_PAIRS : ICMPV6_PAIRS);
    const id = random.below(0x10000);
    words[W_ORIG_L4] = ((id << 16) | (type << 8)) >>> 0;
    words[W_REPLY_L4] = ((id << 16) | (answer << 8)) >>> 0;
    return;
  }
  const a = random.below(0x10000);
  const b = random.below(0x10000);
  words[W_ORIG_L4] = ((a << 16) | b) >>> 0;
  words[W_REPLY_L4] = ((b << 16) | a) >>> 0;
}

function writeProtocolInfo(random: Random, protocol: number, words: Uint32Array): void {
  if (protocol === TCP) {
    words[W_PROTOINFO] = random.below(15) | (random.below(15) << 8) | (random.below(15) << 16);
    words[W_PROTOINFO_B] = random.word();
  } else if (protocol === SCTP) {
    words[W_PROTOINFO] = random.below(10);
    words[W_PROTOINFO_B] = random.word();
    words[W_PROTOINFO_C] = random.word();
  } else if (protocol === DCCP) {
    words[W_PROTOINFO] = random.below(10) | (random.below(3) << 8);
    words[W_PROTOINFO_B] = random.below(0x10000);
    words[W_PROTOINFO_C] = random.word();
  }
}

/** A record of any family and protocol. */
export function anyRecord(random: Random): Uint32Array {
  const family = random.oneIn(2) ? AF_INET : AF_INET6;
  return randomRecord(random, family, random.pick(family === AF_INET ? PROTOCOLS4 : PROTOCOLS6));
}

/** Rare attributes: each there or not. */
export function randomRare(random: Random): RareAttributes {
  const rare: RareAttributes = {};
  const words = (): [number, number, number] => [random.word(), random.word() | 0, random.word()];
  if (random.oneIn(2)) rare.helper = random.pick(["ftp", "sip", "h323", "tftp", "ftp-21000"]);
  if (random.oneIn(2)) rare.labels = Uint8Array.from({ length: 16 }, () => random.below(256));
  if (random.oneIn(3)) rare.secctx = `system_u:object_r:http_t:s0-s0:c${random.below(1024)}`;
  if (random.oneIn(3)) rare.seqadjOrig = adjustment(words());
  if (random.oneIn(3)) rare.seqadjReply = adjustment(words());
  if (random.oneIn(3)) rare.synproxy = { isn: random.word(), its: random.word(), tsoff: random.word() };
  if (random.oneIn(3)) {
    rare.master = new Uint32Array(RECORD_WORDS);
    for (const i of [0, 4, 16]) rare.master[i] = random.word();
    rare.master[W_PROTO] = (AF_INET << 8) | TCP;
  }
  return rare;
}

function adjustment([correctionPos, offsetBefore, offsetAfter]: [number, number, number]) {
  return { correctionPos, offsetBefore, offsetAfter };
}

/** The words of a `new` row that the wire carries; the rest is zero. */
export function carriedByNew(words: Uint32Array, withAge: boolean): Uint32Array {
  const carried = Uint32Array.from(words);
  const protocol = words[W_PROTO]! & 0xff;
  for (const i of [W_ID, W_UPDATED, 30, 31]) carried[i] = 0;
  if (!withAge) carried[W_CREATED] = 0;
  // The masks of TCP flags are of use in requests only.
  if (protocol === TCP) carried[W_PROTOINFO_B] = carried[W_PROTOINFO_B]! & 0x00ff00ff;
  // Of DCCP a state of 0 stands for none: only a kernel that does not track it leaves a flow in it.
  const hasInfo = hasProtocolInfo(protocol) && (protocol !== DCCP || (carried[W_PROTOINFO]! & 0xff) !== 0);
  carried[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_REPLY | (hasInfo ? HAS_PROTOINFO : 0);
  return carried;
}

/** An IPv4 TCP flow that is one of its kind per `index`: 10.x.x.x:port to 192.0.2.1:443, not translated. */
export function tcpRecord(index: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  const port = 1024 + (index % 60_000);
  words[W_ORIG_SRC] = (0x0a000000 + Math.floor(index / 60_000)) >>> 0;
  words[W_ORIG_DST] = 0xc0000201;
  words[W_REPLY_SRC] = words[W_ORIG_DST]!;
  words[W_REPLY_DST] = words[W_ORIG_SRC]!;
  words[W_ORIG_L4] = ((port << 16) | 443) >>> 0;
  words[W_REPLY_L4] = ((443 << 16) | port) >>> 0;
  words[W_PROTO] = (AF_INET << 8) | TCP;
  words[W_STATUS] = 0x18e;
  words[W_TIMEOUT] = 432_000;
  words[W_PROTOINFO] = 3 | (7 << 8) | (7 << 16);
  words[W_PROTOINFO_B] = 0x23 | (0x23 << 16);
  words[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_REPLY | HAS_PROTOINFO;
  return words;
}

/** A decoded message with these words. */
export function decodedFlow(words: Uint32Array, rare: RareAttributes | null = null): DecodedFlow {
  const flow = new DecodedFlow();
  flow.words.set(words);
  flow.rare = rare;
  return flow;
}
