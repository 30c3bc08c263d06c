/**
 * Decodes and encodes CTA_PROTOINFO: the connection state that the kernel keeps for TCP, SCTP and DCCP. In the record:
 * words 24 to 26.
 */
import { IPPROTO_DCCP, IPPROTO_SCTP, IPPROTO_TCP } from "../flow/protocol.js";
import { HAS_PROTOINFO, W_HAS, W_PROTOINFO, W_PROTOINFO_B, W_PROTOINFO_C } from "../flow/record.js";
import { protocolOf, protocolStateOf, TCP_CONNTRACK_SYN_SENT } from "../flow/record-fields.js";
import { type AttributeWriter, readHost16, readNet32 } from "./attributes.js";
import {
  CTA_PROTOINFO,
  CTA_PROTOINFO_DCCP,
  CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ,
  CTA_PROTOINFO_DCCP_ROLE,
  CTA_PROTOINFO_DCCP_STATE,
  CTA_PROTOINFO_SCTP,
  CTA_PROTOINFO_SCTP_STATE,
  CTA_PROTOINFO_SCTP_VTAG_ORIGINAL,
  CTA_PROTOINFO_SCTP_VTAG_REPLY,
  CTA_PROTOINFO_TCP,
  CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
  CTA_PROTOINFO_TCP_FLAGS_REPLY,
  CTA_PROTOINFO_TCP_STATE,
  CTA_PROTOINFO_TCP_WSCALE_ORIGINAL,
  CTA_PROTOINFO_TCP_WSCALE_REPLY,
  IP_CT_TCP_FLAG_BE_LIBERAL,
  IP_CT_TCP_FLAG_CLOSE_INIT,
  IP_CT_TCP_FLAG_SACK_PERM,
  IP_CT_TCP_FLAG_WINDOW_SCALE,
  NLA_TYPE_MASK,
} from "./constants.js";

/**
 * The TCP flags that are carried over. The others refer to sequence numbers that this kernel has not seen: with
 * MAXACK_SET and no td_maxack it would compare acknowledgements with 0.
 */
export const TCP_FLAGS_CARRIED =
  IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_CLOSE_INIT | IP_CT_TCP_FLAG_BE_LIBERAL;

/** Decodes the nest between `at` and `end` into words 24 to 26. False for a bad length. */
export function decodeProtoinfo(bytes: Uint8Array, at: number, end: number, words: Uint32Array): boolean {
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    const stop = at + length;
    if (length < 4 || stop > end) return false;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_PROTOINFO_TCP:
        if (!decodeTcp(bytes, at + 4, stop, words)) return false;
        break;
      case CTA_PROTOINFO_SCTP:
        if (!decodeSctp(bytes, at + 4, stop, words)) return false;
        break;
      case CTA_PROTOINFO_DCCP:
        if (!decodeDccp(bytes, at + 4, stop, words)) return false;
        break;
    }
    at += (length + 3) & ~3;
  }
  return true;
}

function decodeTcp(bytes: Uint8Array, at: number, end: number, words: Uint32Array): boolean {
  let info = 0;
  let flags = 0;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 5 || at + length > end) return false;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_PROTOINFO_TCP_STATE:
        info = (info & 0xffff00) | bytes[at + 4]!;
        break;
      case CTA_PROTOINFO_TCP_WSCALE_ORIGINAL:
        info = (info & 0xff00ff) | (bytes[at + 4]! << 8);
        break;
      case CTA_PROTOINFO_TCP_WSCALE_REPLY:
        info = (info & 0x00ffff) | (bytes[at + 4]! << 16);
        break;
      case CTA_PROTOINFO_TCP_FLAGS_ORIGINAL:
        if (length < 6) return false;
        flags = (flags & 0xffff0000) | readHost16(bytes, at + 4);
        break;
      case CTA_PROTOINFO_TCP_FLAGS_REPLY:
        if (length < 6) return false;
        flags = (flags & 0x0000ffff) | (readHost16(bytes, at + 4) << 16);
        break;
    }
    at += (length + 3) & ~3;
  }
  words[W_PROTOINFO] = info;
  words[W_PROTOINFO_B] = flags;
  return true;
}

function decodeSctp(bytes: Uint8Array, at: number, end: number, words: Uint32Array): boolean {
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 5 || at + length > end) return false;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_PROTOINFO_SCTP_STATE:
        words[W_PROTOINFO] = bytes[at + 4]!;
        break;
      case CTA_PROTOINFO_SCTP_VTAG_ORIGINAL:
        if (length < 8) return false;
        words[W_PROTOINFO_B] = readNet32(bytes, at + 4);
        break;
      case CTA_PROTOINFO_SCTP_VTAG_REPLY:
        if (length < 8) return false;
        words[W_PROTOINFO_C] = readNet32(bytes, at + 4);
        break;
    }
    at += (length + 3) & ~3;
  }
  return true;
}

function decodeDccp(bytes: Uint8Array, at: number, end: number, words: Uint32Array): boolean {
  let info = 0;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    // The nest may hold an empty attribute that aligns the 64-bit one.
    if (length < 4 || at + length > end) return false;
    switch (readHost16(bytes, at + 2) & NLA_TYPE_MASK) {
      case CTA_PROTOINFO_DCCP_STATE:
        if (length < 5) return false;
        info = (info & 0xff00) | bytes[at + 4]!;
        break;
      case CTA_PROTOINFO_DCCP_ROLE:
        if (length < 5) return false;
        info = (info & 0x00ff) | (bytes[at + 4]! << 8);
        break;
      case CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ:
        if (length < 12) return false;
        words[W_PROTOINFO_B] = readNet32(bytes, at + 4);
        words[W_PROTOINFO_C] = readNet32(bytes, at + 8);
        break;
    }
    at += (length + 3) & ~3;
  }
  words[W_PROTOINFO] = info;
  return true;
}

/**
 * Writes CTA_PROTOINFO for the record at `base`, or nothing. With `liberal`, a TCP flow gets it for the flags even if
 * the record has no state.
 */
export function encodeProtoinfo(out: AttributeWriter, words: Uint32Array, base: number, liberal: boolean): void {
  const has = (words[base + W_HAS]! & HAS_PROTOINFO) !== 0;
  switch (protocolOf(words, base)) {
    case IPPROTO_TCP:
      if (has || liberal) encodeTcp(out, words, base, has, liberal);
      break;
    case IPPROTO_SCTP:
      if (has) encodeSctp(out, words, base);
      break;
    case IPPROTO_DCCP:
      if (has) encodeDccp(out, words, base);
      break;
  }
}

function encodeTcp(out: AttributeWriter, words: Uint32Array, base: number, has: boolean, liberal: boolean): void {
  const set = liberal ? IP_CT_TCP_FLAG_BE_LIBERAL : 0;
  const info = words[base + W_PROTOINFO]!;
  let flags = has ? words[base + W_PROTOINFO_B]! : 0;
  // The kernel accepts scales only if both directions have one. It reads the reply's own scale from the SYN's answer.
  if (protocolStateOf(words, base) === TCP_CONNTRACK_SYN_SENT) flags |= (flags & IP_CT_TCP_FLAG_WINDOW_SCALE) << 16;
  const mask = has ? TCP_FLAGS_CARRIED : set;
  const nest = out.open(CTA_PROTOINFO);
  const tcp = out.open(CTA_PROTOINFO_TCP);
  if (has) {
    out.putU8(CTA_PROTOINFO_TCP_STATE, info);
    out.putU8(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, info >>> 8);
    out.putU8(CTA_PROTOINFO_TCP_WSCALE_REPLY, info >>> 16);
  }
  out.putPair(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, (flags & TCP_FLAGS_CARRIED) | set, mask);
  out.putPair(CTA_PROTOINFO_TCP_FLAGS_REPLY, ((flags >>> 16) & TCP_FLAGS_CARRIED) | set, mask);
  out.close(tcp);
  out.close(nest);
}

/** All three attributes: the kernel refuses SCTP without one of them. */
function encodeSctp(out: AttributeWriter, words: Uint32Array, base: number): void {
  const nest = out.open(CTA_PROTOINFO);
  const sctp = out.open(CTA_PROTOINFO_SCTP);
  out.putU8(CTA_PROTOINFO_SCTP_STATE, words[base + W_PROTOINFO]!);
  out.putNet32(CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, words[base + W_PROTOINFO_B]!);
  out.putNet32(CTA_PROTOINFO_SCTP_VTAG_REPLY, words[base + W_PROTOINFO_C]!);
  out.close(sctp);
  out.close(nest);
}

function encodeDccp(out: AttributeWriter, words: Uint32Array, base: number): void {
  const nest = out.open(CTA_PROTOINFO);
  const dccp = out.open(CTA_PROTOINFO_DCCP);
  out.putU8(CTA_PROTOINFO_DCCP_STATE, words[base + W_PROTOINFO]!);
  out.putU8(CTA_PROTOINFO_DCCP_ROLE, words[base + W_PROTOINFO]! >>> 8);
  out.putNet64(CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ, words[base + W_PROTOINFO_B]!, words[base + W_PROTOINFO_C]!);
  out.close(dccp);
  out.close(nest);
}
