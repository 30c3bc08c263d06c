/**
 * Decodes and encodes the tuples of a conntrack message, and the NAT attributes that express a translated reply tuple.
 *
 *     CTA_TUPLE_*  { CTA_TUPLE_IP { SRC, DST }, CTA_TUPLE_PROTO { NUM, and by protocol }, CTA_TUPLE_ZONE? }
 *
 * By protocol: source and destination port (TCP, UDP, UDPLite, SCTP, DCCP; the kernel names the keys of GRE so too),
 * id, type and code (ICMP, ICMPv6), nothing (all others).
 */
import { hasPorts, IPPROTO_GRE, IPPROTO_ICMP, IPPROTO_ICMPV6, isIcmp } from "../flow/protocol.js";
import {
  AF_INET,
  AF_INET6,
  HAS_REPLY,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
} from "../flow/record.js";
import { familyOf, mirrorL4, protocolOf, replyIsMirror } from "../flow/record-fields.js";
import { IPS_DST_NAT, IPS_SRC_NAT } from "../flow/status.js";
import { type AttributeWriter, readHost16, readHost32, readNet16, readNet32 } from "./attributes.js";
import {
  CTA_IP_V4_DST,
  CTA_IP_V4_SRC,
  CTA_IP_V6_DST,
  CTA_IP_V6_SRC,
  CTA_NAT_DST,
  CTA_NAT_PROTO,
  CTA_NAT_SRC,
  CTA_NAT_V4_MINIP,
  CTA_NAT_V6_MINIP,
  CTA_PROTO_DST_PORT,
  CTA_PROTO_ICMP_CODE,
  CTA_PROTO_ICMP_ID,
  CTA_PROTO_ICMP_TYPE,
  CTA_PROTO_ICMPV6_CODE,
  CTA_PROTO_ICMPV6_ID,
  CTA_PROTO_ICMPV6_TYPE,
  CTA_PROTO_NUM,
  CTA_PROTO_SRC_PORT,
  CTA_PROTONAT_PORT_MIN,
  CTA_TUPLE_IP,
  CTA_TUPLE_PROTO,
  CTA_TUPLE_ZONE,
  NLA_TYPE_MASK,
} from "./constants.js";

/** What `decodeTuple` gives for an attribute of the wrong length, and for a tuple without addresses or protocol. */
export const TUPLE_BAD_LENGTH = -1;
export const TUPLE_INCOMPLETE = -2;

/** The protocol number in a result of `decodeTuple` that is not negative. */
export function protocolOfTuple(result: number): number {
  return result & 0xff;
}

/** The zone of the tuple in a result of `decodeTuple` that is not negative. */
export function zoneOfTuple(result: number): number {
  return result >>> 8;
}

const HAS_ADDRESSES = 1;
const HAS_PROTOCOL = 2;

/**
 * Decodes the nest between `at` and `end`: addresses into `words[address]` (source) and `words[address + 4]`
 * (destination), layer 4 into `words[l4]`, which must be 0 before. The result is the protocol number | the tuple's
 * zone << 8, two numbers in one so that a tuple allocates nothing, or one of TUPLE_*, which are negative.
 */
export function decodeTuple(
  bytes: Uint8Array,
  at: number,
  end: number,
  family: number,
  words: Uint32Array,
  address: number,
  l4: number,
): number {
  if (end - at === PLAIN_LENGTH && family === AF_INET && isPlain(bytes, at)) {
    words[address] = readNet32(bytes, at + 8);
    words[address + 4] = readNet32(bytes, at + 16);
    words[l4] = (readNet16(bytes, at + 36) << 16) | readNet16(bytes, at + 44);
    return bytes[at + 28]!;
  }
  let has = 0;
  let zone = 0;
  let protocol = 0;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    const stop = at + length;
    if (length < 4 || stop > end) return TUPLE_BAD_LENGTH;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_TUPLE_IP: {
        const result = decodeAddresses(bytes, at + 4, stop, family, words, address);
        if (result < 0) return result;
        has |= HAS_ADDRESSES;
        break;
      }
      case CTA_TUPLE_PROTO:
        protocol = decodeLayer4(bytes, at + 4, stop, words, l4);
        if (protocol < 0) return protocol;
        has |= HAS_PROTOCOL;
        break;
      case CTA_TUPLE_ZONE:
        if (length < 6) return TUPLE_BAD_LENGTH;
        zone = readNet16(bytes, at + 4);
        break;
    }
    at += (length + 3) & ~3;
  }
  return has === (HAS_ADDRESSES | HAS_PROTOCOL) ? protocol | (zone << 8) : TUPLE_INCOMPLETE;
}

/** Bytes of an IPv4 tuple with ports and without a zone, as the kernel writes it. */
const PLAIN_LENGTH = 48;

/**
 * True when the seven attribute headers are where the kernel puts them in the most frequent kind of tuple, 48 bytes
 * long. Its fields can then be read at fixed offsets: walking the two tuples is half the cost of a message.
 */
function isPlain(bytes: Uint8Array, at: number): boolean {
  return (
    readHost32(bytes, at) === 0x80010014 &&
    readHost32(bytes, at + 4) === 0x00010008 &&
    readHost32(bytes, at + 12) === 0x00020008 &&
    readHost32(bytes, at + 20) === 0x8002001c &&
    readHost32(bytes, at + 24) === 0x00010005 &&
    readHost32(bytes, at + 32) === 0x00020006 &&
    readHost32(bytes, at + 40) === 0x00030006
  );
}

function decodeAddresses(
  bytes: Uint8Array,
  at: number,
  end: number,
  family: number,
  words: Uint32Array,
  address: number,
): number {
  const sizeBytes = family === AF_INET ? 4 : 16;
  const source = family === AF_INET ? CTA_IP_V4_SRC : CTA_IP_V6_SRC;
  const destination = family === AF_INET ? CTA_IP_V4_DST : CTA_IP_V6_DST;
  let has = 0;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return TUPLE_BAD_LENGTH;
    const type = readHost16(bytes, at + 2) & NLA_TYPE_MASK;
    if (type === source || type === destination) {
      if (length !== 4 + sizeBytes) return TUPLE_BAD_LENGTH;
      const to = type === source ? address : address + 4;
      for (let i = 0; i < sizeBytes; i += 4) words[to + (i >> 2)] = readNet32(bytes, at + 4 + i);
      has |= type === source ? 1 : 2;
    }
    at += (length + 3) & ~3;
  }
  return has === 3 ? 0 : TUPLE_INCOMPLETE;
}

function decodeLayer4(bytes: Uint8Array, at: number, end: number, words: Uint32Array, l4: number): number {
  let protocol = TUPLE_INCOMPLETE;
  let word = 0;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    // The smallest of these attributes has one byte of payload, so one look covers NUM, TYPE and CODE.
    if (length < 5 || at + length > end) return TUPLE_BAD_LENGTH;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_PROTO_NUM:
        protocol = bytes[at + 4]!;
        break;
      case CTA_PROTO_SRC_PORT:
      case CTA_PROTO_ICMP_ID:
      case CTA_PROTO_ICMPV6_ID:
        if (length < 6) return TUPLE_BAD_LENGTH;
        word = (word & 0xffff) | (readNet16(bytes, at + 4) << 16);
        break;
      case CTA_PROTO_DST_PORT:
        if (length < 6) return TUPLE_BAD_LENGTH;
        word = (word & 0xffff0000) | readNet16(bytes, at + 4);
        break;
      case CTA_PROTO_ICMP_TYPE:
      case CTA_PROTO_ICMPV6_TYPE:
        word = (word & 0xffff00ff) | (bytes[at + 4]! << 8);
        break;
      case CTA_PROTO_ICMP_CODE:
      case CTA_PROTO_ICMPV6_CODE:
        word = (word & 0xffffff00) | bytes[at + 4]!;
        break;
    }
    at += (length + 3) & ~3;
  }
  words[l4] = word;
  return protocol;
}

/**
 * Writes one tuple: the source address at `words[source]`, the destination at `words[destination]`, `l4` in record
 * layout. A zone of 0 is not written: it is the default anyway, and the kernel refuses it beside another zone.
 */
export function encodeTuple(
  out: AttributeWriter,
  type: number,
  words: Uint32Array,
  source: number,
  destination: number,
  l4: number,
  familyAndProtocol: number,
  zone: number,
): void {
  const protocol = familyAndProtocol & 0xff;
  const nest = out.open(type);
  const addresses = out.open(CTA_TUPLE_IP);
  if (familyAndProtocol >>> 8 === AF_INET6) {
    out.putWords(CTA_IP_V6_SRC, words, source, 4);
    out.putWords(CTA_IP_V6_DST, words, destination, 4);
  } else {
    out.putNet32(CTA_IP_V4_SRC, words[source]!);
    out.putNet32(CTA_IP_V4_DST, words[destination]!);
  }
  out.close(addresses);
  const layer4 = out.open(CTA_TUPLE_PROTO);
  out.putU8(CTA_PROTO_NUM, protocol);
  if (hasPorts(protocol) || protocol === IPPROTO_GRE) {
    out.putNet16(CTA_PROTO_SRC_PORT, l4 >>> 16);
    out.putNet16(CTA_PROTO_DST_PORT, l4);
  } else if (protocol === IPPROTO_ICMP) {
    out.putNet16(CTA_PROTO_ICMP_ID, l4 >>> 16);
    out.putU8(CTA_PROTO_ICMP_TYPE, l4 >>> 8);
    out.putU8(CTA_PROTO_ICMP_CODE, l4);
  } else if (protocol === IPPROTO_ICMPV6) {
    out.putNet16(CTA_PROTO_ICMPV6_ID, l4 >>> 16);
    out.putU8(CTA_PROTO_ICMPV6_TYPE, l4 >>> 8);
    out.putU8(CTA_PROTO_ICMPV6_CODE, l4);
  }
  out.close(layer4);
  if (zone !== 0) out.putNet16(CTA_TUPLE_ZONE, zone);
  out.close(nest);
}

/**
 * Writes CTA_TUPLE_REPLY for a new flow; `encodeNat` writes the NAT attributes when its reply tuple is translated.
 *
 * The kernel lets nobody set IPS_SRC_NAT and IPS_DST_NAT: it sets them itself when it works out the translation, and
 * without them it translates no packet, whatever the tuples are. So the reply tuple is sent untranslated, and
 * CTA_NAT_DST and CTA_NAT_SRC (applied in this order) say how to translate it: in nf_nat_setup_info() each names one
 * address and one port, which leaves the kernel no choice. Both are always sent. For a missing one the kernel makes a
 * null binding, which may pick another port when the tuple is taken; with both, a clash is EEXIST.
 *
 * GRE keys are the exception: nf_nat_l4proto_unique_tuple() changes none before the flow has its master, so the reply
 * tuple carries the translated key, and the address makes the kernel set the bits.
 */
export function encodeReply(out: AttributeWriter, type: number, words: Uint32Array, base: number, zone: number): void {
  const protocol = protocolOf(words, base);
  const asIs = protocol === IPPROTO_GRE && (words[base + W_HAS]! & HAS_REPLY) !== 0;
  const l4 = asIs ? words[base + W_REPLY_L4]! : mirrorL4(protocol, words[base + W_ORIG_L4]!);
  encodeTuple(out, type, words, base + W_ORIG_DST, base + W_ORIG_SRC, l4, words[base + W_PROTO]!, zone);
}

/** Writes CTA_NAT_DST and CTA_NAT_SRC when the reply tuple is not the original one turned round; see `encodeReply`. */
export function encodeNat(out: AttributeWriter, words: Uint32Array, base: number): void {
  if ((words[base + W_HAS]! & HAS_REPLY) === 0 || replyIsMirror(words, base)) return;
  const protocol = protocolOf(words, base);
  const family = familyOf(words, base);
  const reply = words[base + W_REPLY_L4]!;
  if (isIcmp(protocol)) {
    // Either translation could change the one id: leave it to the one that the flow's status names, source when in
    // doubt.
    const nat = words[base + W_STATUS]! & (IPS_SRC_NAT | IPS_DST_NAT);
    const id = nat === IPS_DST_NAT ? reply : words[base + W_ORIG_L4]!;
    encodeRange(out, CTA_NAT_DST, words, base + W_REPLY_SRC, family, id >>> 16);
    encodeRange(out, CTA_NAT_SRC, words, base + W_REPLY_DST, family, reply >>> 16);
    return;
  }
  const ports = hasPorts(protocol);
  encodeRange(out, CTA_NAT_DST, words, base + W_REPLY_SRC, family, ports ? reply >>> 16 : -1);
  encodeRange(out, CTA_NAT_SRC, words, base + W_REPLY_DST, family, ports ? reply & 0xffff : -1);
}

/**
 * A range of one address and, unless `port` is negative, one port. A missing maximum counts as equal to the minimum.
 */
function encodeRange(
  out: AttributeWriter,
  type: number,
  words: Uint32Array,
  address: number,
  family: number,
  port: number,
): void {
  const nest = out.open(type);
  if (family === AF_INET6) out.putWords(CTA_NAT_V6_MINIP, words, address, 4);
  else out.putNet32(CTA_NAT_V4_MINIP, words[address]!);
  if (port >= 0) {
    const layer4 = out.open(CTA_NAT_PROTO);
    out.putNet16(CTA_PROTONAT_PORT_MIN, port);
    out.close(layer4);
  }
  out.close(nest);
}
