/**
 * The vocabulary for a record's fields (layout: record.ts) and the questions that are asked of records everywhere.
 * `words` is any array of records, `base` the index of the record's first word in it.
 */
import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP } from "./protocol.js";
import {
  HAS_REPLY,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_ZONE,
} from "./record.js";

/** States of TCP that the program tests for: enum tcp_conntrack (nf_conntrack_tcp.h). All names are in protocol.ts. */
export const TCP_CONNTRACK_SYN_SENT = 1;
export const TCP_CONNTRACK_ESTABLISHED = 3;
export const TCP_CONNTRACK_FIN_WAIT = 4;
export const TCP_CONNTRACK_CLOSE_WAIT = 5;
export const TCP_CONNTRACK_LAST_ACK = 6;
export const TCP_CONNTRACK_TIME_WAIT = 7;
export const TCP_CONNTRACK_CLOSE = 8;

/** AF_INET or AF_INET6. */
export function familyOf(words: Uint32Array, base: number): number {
  return words[base + W_PROTO]! >>> 8;
}

/** The layer 4 protocol, IPPROTO_*. */
export function protocolOf(words: Uint32Array, base: number): number {
  return words[base + W_PROTO]! & 0xff;
}

/**
 * The state of TCP, SCTP or DCCP by number; 0 (NONE) for protocols without states, and where nobody has reported one.
 */
export function protocolStateOf(words: Uint32Array, base: number): number {
  return words[base + W_PROTOINFO]! & 0xff;
}

/** Zone of the original direction. */
export function zoneOrigOf(words: Uint32Array, base: number): number {
  return words[base + W_ZONE]! >>> 16;
}

/** Zone of the reply direction. */
export function zoneReplyOf(words: Uint32Array, base: number): number {
  return words[base + W_ZONE]! & 0xffff;
}

/** The word at W_PROTO. */
export function protoWord(family: number, protocol: number): number {
  return (family << 8) | protocol;
}

/** The word at W_ZONE, for an array of words: as a number it may be negative. */
export function zoneWord(orig: number, reply: number): number {
  return (orig << 16) | reply;
}

/** Type of ICMP in a layer 4 word; the code is in the lowest byte, the id in the upper half. */
export function icmpTypeOf(l4: number): number {
  return (l4 >>> 8) & 0xff;
}

/** True for TCP. */
export function isTcp(words: Uint32Array, base: number): boolean {
  return protocolOf(words, base) === IPPROTO_TCP;
}

/** True for TCP after ESTABLISHED: the connection is ending or over. */
export function isClosing(words: Uint32Array, base: number): boolean {
  return isTcp(words, base) && protocolStateOf(words, base) > TCP_CONNTRACK_ESTABLISHED;
}

/** True when two records have the same reply tuple: with the same original tuple, the same translation. */
export function sameReply(a: Uint32Array, baseA: number, b: Uint32Array, baseB: number): boolean {
  for (let i = W_REPLY_SRC; i < W_REPLY_DST + 4; i++) if (a[baseA + i] !== b[baseB + i]) return false;
  return a[baseA + W_REPLY_L4] === b[baseB + W_REPLY_L4];
}

/** True when the reply tuple is the original one turned round, so no address or port is translated. */
export function replyIsMirror(words: Uint32Array, base: number): boolean {
  for (let i = 0; i < 4; i++) {
    if (words[base + W_REPLY_SRC + i] !== words[base + W_ORIG_DST + i]) return false;
    if (words[base + W_REPLY_DST + i] !== words[base + W_ORIG_SRC + i]) return false;
  }
  return words[base + W_REPLY_L4] === mirrorL4(protocolOf(words, base), words[base + W_ORIG_L4]!);
}

/** True when both records have a reply tuple, and it is not the same. */
export function repliesDiffer(a: Uint32Array, baseA: number, b: Uint32Array, baseB: number): boolean {
  return (a[baseA + W_HAS]! & b[baseB + W_HAS]! & HAS_REPLY) !== 0 && !sameReply(a, baseA, b, baseB);
}

/**
 * True when two records of one original tuple are two connections: their translation differs, which never changes in a
 * connection's life, or TCP begins where it was open or over.
 */
export function isAnotherConnection(held: Uint32Array, heldBase: number, words: Uint32Array, base: number): boolean {
  if (repliesDiffer(held, heldBase, words, base)) return true;
  if (!isTcp(words, base)) return false;
  const state = protocolStateOf(held, heldBase);
  const begins = protocolStateOf(words, base) === TCP_CONNTRACK_SYN_SENT;
  return begins && state >= TCP_CONNTRACK_ESTABLISHED && state <= TCP_CONNTRACK_CLOSE;
}

/** The layer 4 word of the untranslated reply to `l4`. ICMP: same id, the type that answers, the same code. */
export function mirrorL4(protocol: number, l4: number): number {
  if (protocol === IPPROTO_ICMP) return icmpMirror(l4, ICMP_ANSWER);
  if (protocol === IPPROTO_ICMPV6) return icmpMirror(l4, ICMPV6_ANSWER);
  return ((l4 << 16) | (l4 >>> 16)) >>> 0;
}

function icmpMirror(l4: number, answers: ReadonlyMap<number, number>): number {
  const type = icmpTypeOf(l4);
  return ((l4 & 0xffff00ff) | ((answers.get(type) ?? type) << 8)) >>> 0;
}

/** invmap of nf_conntrack_proto_icmp.c. */
const ICMP_ANSWER: ReadonlyMap<number, number> = new Map([
  [8, 0],
  [0, 8],
  [13, 14],
  [14, 13],
  [15, 16],
  [16, 15],
  [17, 18],
  [18, 17],
]);

/** invmap of nf_conntrack_proto_icmpv6.c. */
const ICMPV6_ANSWER: ReadonlyMap<number, number> = new Map([
  [128, 129],
  [129, 128],
  [139, 140],
  [140, 139],
]);
