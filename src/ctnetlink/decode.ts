/**
 * One conntrack message of the kernel, decoded where it lies in the receive buffer.
 *
 *     nlmsghdr (16)  length u32 | type u16: NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_* | flags u16 | seq u32 | port id u32
 *     nfgenmsg (4)   family u8 | version u8 | resource id u16
 *     attributes     CTA_*, nested
 *
 * A datagram is walked like this, without a callback, which would cost more than the walk:
 *
 *     for (let at = 0; end - at >= NLMSG_HDRLEN; ) {
 *       const length = readHost32(bytes, at);
 *       if (length < NLMSG_HDRLEN || length > end - at) { count it as malformed; break; }
 *       const type = readHost16(bytes, at + 4);
 *       ... decodeConntrack(bytes, at + NLMSG_HDRLEN, at + length, flow) ...
 *       at += (length + 3) & ~3;
 *     }
 */
import {
  AF_INET,
  AF_INET6,
  type DecodedFlow,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_ZONE,
  WORD_VALUES,
} from "../flow/record.js";
import { protocolOf, protoWord, zoneWord } from "../flow/record-fields.js";
import { EBADMSG } from "../os/errno.js";
import { readHost16, readHost32, readNet16, readNet32, readNet64 } from "./attributes.js";
import {
  CTA_COUNTERS_BYTES,
  CTA_COUNTERS_ORIG,
  CTA_COUNTERS_PACKETS,
  CTA_COUNTERS_REPLY,
  CTA_HELP,
  CTA_ID,
  CTA_LABELS,
  CTA_MARK,
  CTA_PROTOINFO,
  CTA_SECCTX,
  CTA_SEQ_ADJ_ORIG,
  CTA_SEQ_ADJ_REPLY,
  CTA_STATUS,
  CTA_SYNPROXY,
  CTA_TIMEOUT,
  CTA_TIMESTAMP,
  CTA_TIMESTAMP_START,
  CTA_TIMESTAMP_STOP,
  CTA_TUPLE_MASTER,
  CTA_TUPLE_ORIG,
  CTA_TUPLE_REPLY,
  CTA_ZONE,
  NFGENMSG_LEN,
  NLA_TYPE_MASK,
} from "./constants.js";
import { decodeProtoinfo } from "./protoinfo.js";
import {
  decodeHelp,
  decodeLabels,
  decodeMaster,
  decodeSecctx,
  decodeSeqadj,
  decodeSynproxy,
} from "./rare-attributes.js";
import { decodeTuple, protocolOfTuple, TUPLE_BAD_LENGTH, zoneOfTuple } from "./tuple.js";

/** Why a message was not decoded. */
export const DecodeFailure = {
  /** Shorter than its nfgenmsg. */
  truncated: 1,
  /** Neither AF_INET nor AF_INET6. */
  unknownFamily: 2,
  /** An attribute that ends beyond its message or nest, or is too short for its payload. */
  badAttributeLength: 3,
  /** No CTA_TUPLE_ORIG. */
  noOriginalTuple: 4,
  /** A tuple without both addresses or without its protocol, or two tuples of different protocols. */
  badTuple: 5,
} as const;
export type DecodeFailure = (typeof DecodeFailure)[keyof typeof DecodeFailure];

const HAS_ORIG = 0x10000;

/**
 * Decodes one message from its nfgenmsg on, `[start, end)` of `bytes`, into `out`, which it overwrites whole: the
 * words up to W_HAS without W_UPDATED and W_CREATED, counters, times, rare attributes. 0 on success; after a failure
 * `out` is undefined. Never throws, never reads outside `[start, end)`, allocates for rare attributes only, skips
 * unknown attributes.
 */
export function decodeConntrack(bytes: Uint8Array, start: number, end: number, out: DecodedFlow): DecodeFailure | 0 {
  out.reset();
  if (end > bytes.length) end = bytes.length;
  if (end - start < NFGENMSG_LEN) return DecodeFailure.truncated;
  const family = bytes[start]!;
  if (family !== AF_INET && family !== AF_INET6) return DecodeFailure.unknownFamily;
  const words = out.words;
  let has = 0;
  let replyProtocol = -1;
  let zone = 0;
  let at = start + NFGENMSG_LEN;
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    const stop = at + length;
    if (length < 4 || stop > end) return DecodeFailure.badAttributeLength;
    const type = readHost16(bytes, at + 2) & NLA_TYPE_MASK;
    switch (type) {
      case CTA_TUPLE_ORIG: {
        const result = decodeTuple(bytes, at + 4, stop, family, words, W_ORIG_SRC, W_ORIG_L4);
        if (result < 0) return tupleFailure(result);
        words[W_PROTO] = protoWord(family, protocolOfTuple(result));
        words[W_ZONE] = words[W_ZONE]! | zoneWord(zoneOfTuple(result), 0);
        has |= HAS_ORIG;
        break;
      }
      case CTA_TUPLE_REPLY: {
        const result = decodeTuple(bytes, at + 4, stop, family, words, W_REPLY_SRC, W_REPLY_L4);
        if (result < 0) return tupleFailure(result);
        replyProtocol = protocolOfTuple(result);
        words[W_ZONE] = words[W_ZONE]! | zoneWord(0, zoneOfTuple(result));
        has |= HAS_REPLY;
        break;
      }
      case CTA_STATUS:
        if (length < 8) return DecodeFailure.badAttributeLength;
        words[W_STATUS] = readNet32(bytes, at + 4);
        has |= HAS_STATUS;
        break;
      case CTA_TIMEOUT:
        if (length < 8) return DecodeFailure.badAttributeLength;
        words[W_TIMEOUT] = readNet32(bytes, at + 4);
        has |= HAS_TIMEOUT;
        break;
      case CTA_MARK:
        if (length < 8) return DecodeFailure.badAttributeLength;
        words[W_MARK] = readNet32(bytes, at + 4);
        has |= HAS_MARK;
        break;
      case CTA_ID:
        if (length < 8) return DecodeFailure.badAttributeLength;
        words[W_ID] = readNet32(bytes, at + 4);
        has |= HAS_ID;
        break;
      case CTA_PROTOINFO:
        if (!decodeProtoinfo(bytes, at + 4, stop, words)) return DecodeFailure.badAttributeLength;
        has |= HAS_PROTOINFO;
        break;
      case CTA_ZONE:
        if (length < 6) return DecodeFailure.badAttributeLength;
        zone = readNet16(bytes, at + 4);
        words[W_ZONE] = zoneWord(zone, zone);
        break;
      default: {
        const result = decodeLess(bytes, at + 4, stop, type, family, has, out);
        if (result < 0) return -result as DecodeFailure;
        has |= result;
      }
    }
    at += (length + 3) & ~3;
  }
  if ((has & HAS_ORIG) === 0) return DecodeFailure.noOriginalTuple;
  if ((has & HAS_REPLY) !== 0 && replyProtocol !== protocolOf(words, 0)) return DecodeFailure.badTuple;
  if (out.rare !== null) has |= HAS_RARE;
  words[W_HAS] = has & ~HAS_ORIG;
  return 0;
}

/** The attributes of destroyed flows and dumps, and the rare ones: their HAS_* bit, or a negated failure. */
function decodeLess(
  bytes: Uint8Array,
  at: number,
  end: number,
  type: number,
  family: number,
  has: number,
  out: DecodedFlow,
): number {
  switch (type) {
    case CTA_COUNTERS_ORIG:
    case CTA_COUNTERS_REPLY: {
      if ((has & HAS_COUNTERS) === 0) out.counters.fill(0);
      const to = type === CTA_COUNTERS_ORIG ? 0 : 2;
      return decodeCounters(bytes, at, end, out.counters, to) ? HAS_COUNTERS : -DecodeFailure.badAttributeLength;
    }
    case CTA_TIMESTAMP:
      out.timesMicros.fill(0);
      return decodeTimestamp(bytes, at, end, out.timesMicros) ? HAS_TIMES : -DecodeFailure.badAttributeLength;
    default:
      return -decodeRare(bytes, at, end, type, family, out);
  }
}

function decodeRare(
  bytes: Uint8Array,
  at: number,
  end: number,
  type: number,
  family: number,
  out: DecodedFlow,
): DecodeFailure | 0 {
  let well = true;
  switch (type) {
    case CTA_HELP:
      well = decodeHelp(bytes, at, end, out);
      break;
    case CTA_LABELS:
      well = decodeLabels(bytes, at, end, out);
      break;
    case CTA_SECCTX:
      well = decodeSecctx(bytes, at, end, out);
      break;
    case CTA_SEQ_ADJ_ORIG:
    case CTA_SEQ_ADJ_REPLY:
      well = decodeSeqadj(bytes, at, end, type, out);
      break;
    case CTA_SYNPROXY:
      well = decodeSynproxy(bytes, at, end, out);
      break;
    case CTA_TUPLE_MASTER: {
      const result = decodeMaster(bytes, at, end, family, out);
      return result < 0 ? tupleFailure(result) : 0;
    }
  }
  return well ? 0 : DecodeFailure.badAttributeLength;
}

function tupleFailure(result: number): DecodeFailure {
  return result === TUPLE_BAD_LENGTH ? DecodeFailure.badAttributeLength : DecodeFailure.badTuple;
}

function decodeCounters(bytes: Uint8Array, at: number, end: number, counters: Float64Array, to: number): boolean {
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return false;
    const type = readHost16(bytes, at + 2) & NLA_TYPE_MASK;
    if (type === CTA_COUNTERS_PACKETS || type === CTA_COUNTERS_BYTES) {
      if (length < 12) return false;
      counters[type === CTA_COUNTERS_PACKETS ? to : to + 1] = readNet64(bytes, at + 4);
    }
    at += (length + 3) & ~3;
  }
  return true;
}

function decodeTimestamp(bytes: Uint8Array, at: number, end: number, timesMicros: Float64Array): boolean {
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return false;
    const type = readHost16(bytes, at + 2) & NLA_TYPE_MASK;
    if (type === CTA_TIMESTAMP_START || type === CTA_TIMESTAMP_STOP) {
      if (length < 12) return false;
      timesMicros[type - CTA_TIMESTAMP_START] = microsOfNanos(readNet32(bytes, at + 4), readNet32(bytes, at + 8));
    }
    at += (length + 3) & ~3;
  }
  return true;
}

/** Nanoseconds as two words to whole microseconds: today's nanoseconds do not fit into 53 bits. */
function microsOfNanos(high: number, low: number): number {
  const rest = high % 1000;
  return ((high - rest) / 1000) * WORD_VALUES + Math.floor((rest * WORD_VALUES + low) / 1000);
}

/**
 * The errno of an NLMSG_ERROR, from the payload after its nlmsghdr: 0 for an acknowledgement, else positive; EBADMSG
 * for a payload too short to hold it.
 * The request's nlmsghdr follows at `start + 4`; its sequence number is also that of the error's own header.
 */
export function decodeError(bytes: Uint8Array, start: number, end: number): number {
  if (end > bytes.length || end - start < 4) return EBADMSG;
  return -(readHost32(bytes, start) | 0) | 0;
}
