/**
 * Community ID version 1, the hash of a connection's two ends that Zeek, Suricata, Elastic and Wireshark compute too: "1:" and
 * base64 of SHA-1 over seed, the smaller end's address, the other's, protocol, a zero, and the ports in that order. It is computed
 * from the original tuple, before translation. https://github.com/corelight/community-id-spec
 */
import * as crypto from "node:crypto";
import { hasPorts, IPPROTO_DCCP, IPPROTO_ICMP, IPPROTO_UDPLITE, isIcmp } from "../../flow/protocol.js";
import { AF_INET6, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC } from "../../flow/record.js";
import { familyOf, icmpTypeOf, protocolOf } from "../../flow/record-fields.js";

const SEED = 0;
/** Words that are hashed for IPv6 with ports. */
const WORDS_MAX = 1 + 8 + 1;
/** "1:", 27 digits and the padding. */
export const COMMUNITY_ID_LENGTH = 2 + 28;
const BASE64 = Uint8Array.from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", (digit) =>
  digit.charCodeAt(0),
);

/** Types that are request and answer, as Zeek pairs them. Every other type is one-way, and its code is the second port. */
const ICMP_COUNTERPART: ReadonlyMap<number, number> = pairs([8, 0], [13, 14], [15, 16], [17, 18], [10, 9]);
const ICMPV6_COUNTERPART: ReadonlyMap<number, number> = pairs(
  [128, 129],
  [130, 131],
  [133, 134],
  [135, 136],
  [139, 140],
  [144, 145],
);

/** The two ports of a connection, as Zeek and Community ID define them: for ICMP the type, and its counterpart or code. */
export interface PortPair {
  readonly source: number;
  readonly destination: number;
  /** ICMP of a type that has no answer. Its two ends are never swapped. */
  readonly oneWay: boolean;
}

/** The ports of the original direction; null for a protocol without ports. */
export function portPair(words: Uint32Array, base: number): PortPair | null {
  const protocol = protocolOf(words, base);
  const l4 = words[base + W_ORIG_L4]!;
  if (hasPorts(protocol)) return { source: l4 >>> 16, destination: l4 & 0xffff, oneWay: false };
  if (!isIcmp(protocol)) return null;
  const type = icmpTypeOf(l4);
  const counterpart = (protocol === IPPROTO_ICMP ? ICMP_COUNTERPART : ICMPV6_COUNTERPART).get(type);
  return { source: type, destination: counterpart ?? l4 & 0xff, oneWay: counterpart === undefined };
}

/** Computes the Community ID of the record at `base`. */
export type CommunityIdOf = (words: Uint32Array, base: number) => string;

/** The Community ID of the record at `base`. Use `createCommunityId` for many. */
export function communityId(words: Uint32Array, base: number): string {
  return createCommunityId()(words, base);
}

/** Makes a function that computes Community IDs. It has a buffer of its own, because allocating costs as much as hashing. */
export function createCommunityId(): CommunityIdOf {
  const message = new Uint32Array(WORDS_MAX);
  const view = new DataView(new ArrayBuffer(4 * WORDS_MAX));
  return (words, base) => {
    const count = putCommunityMessage(message, 0, 1, words, base);
    for (let i = 0; i < count; i++) view.setUint32(4 * i, message[i]!);
    return `1:${sha1(new Uint8Array(view.buffer, 0, 4 * count))}`;
  };
}

/** Writes the words that are hashed for the record at `base`, from `at` on and `step` words apart. Returns how many those are. */
export function putCommunityMessage(
  out: Uint32Array,
  at: number,
  step: number,
  words: Uint32Array,
  base: number,
): number {
  const protocol = protocolOf(words, base);
  const width = familyOf(words, base) === AF_INET6 ? 4 : 1;
  const ports = hashedPorts(protocol, words, base);
  const swap = ports?.oneWay !== true && !inOrder(words, base, width, ports);
  const first = base + (swap ? W_ORIG_DST : W_ORIG_SRC);
  const second = base + (swap ? W_ORIG_SRC : W_ORIG_DST);
  // The seed has 16 bits, so everything behind it is shifted by half a word.
  let carry = SEED;
  for (let i = 0; i < 2 * width; i++) {
    const word = words[i < width ? first + i : second + i - width]!;
    out[at + i * step] = (carry << 16) | (word >>> 16);
    carry = word & 0xffff;
  }
  out[at + 2 * width * step] = (carry << 16) | (protocol << 8);
  if (ports === null) return 2 * width + 1;
  const { source, destination } = ports;
  out[at + (2 * width + 1) * step] = swap ? (destination << 16) | source : (source << 16) | destination;
  return 2 * width + 2;
}

/** Writes "1:" and base64 of a hash, given as its five words, as COMMUNITY_ID_LENGTH character codes. */
export function putCommunityId(
  codes: Uint8Array,
  at: number,
  a: number,
  b: number,
  c: number,
  d: number,
  e: number,
): void {
  codes[at] = 0x31;
  codes[at + 1] = 0x3a;
  putDigits(codes, at + 2, a >>> 8);
  putDigits(codes, at + 6, (a << 16) | (b >>> 16));
  putDigits(codes, at + 10, (b << 8) | (c >>> 24));
  putDigits(codes, at + 14, c);
  putDigits(codes, at + 18, d >>> 8);
  putDigits(codes, at + 22, (d << 16) | (e >>> 16));
  putDigits(codes, at + 26, e << 8);
  codes[at + 29] = 0x3d;
}

/** Writes four digits for the lower 24 bits. */
function putDigits(codes: Uint8Array, at: number, bits: number): void {
  codes[at] = BASE64[(bits >>> 18) & 63]!;
  codes[at + 1] = BASE64[(bits >>> 12) & 63]!;
  codes[at + 2] = BASE64[(bits >>> 6) & 63]!;
  codes[at + 3] = BASE64[bits & 63]!;
}

/** In one call, which takes half the time, where Node.js has that (20.12). */
function sha1(bytes: Uint8Array): string {
  if (typeof crypto.hash === "function") return crypto.hash("sha1", bytes, "base64");
  return crypto.createHash("sha1").update(bytes).digest("base64");
}

/** The specification has ports for TCP, UDP, SCTP and ICMP only. For all other protocols just the addresses are hashed. */
function hashedPorts(protocol: number, words: Uint32Array, base: number): PortPair | null {
  return protocol === IPPROTO_UDPLITE || protocol === IPPROTO_DCCP ? null : portPair(words, base);
}

/** True when the source is the smaller end. Equal addresses are ordered by their ports. */
function inOrder(words: Uint32Array, base: number, width: number, ports: PortPair | null): boolean {
  for (let i = 0; i < width; i++) {
    const difference = words[base + W_ORIG_SRC + i]! - words[base + W_ORIG_DST + i]!;
    if (difference !== 0) return difference < 0;
  }
  return ports === null || ports.source <= ports.destination;
}

function pairs(...list: readonly (readonly [number, number])[]): ReadonlyMap<number, number> {
  return new Map(list.flatMap(([a, b]) => [[a, b] as const, [b, a] as const]));
}
