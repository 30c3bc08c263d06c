/**
 * Decodes and encodes expectations. They are rare, so unlike flows they are decoded into objects.
 *
 *     nlmsghdr (16)  type u16: NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_*
 *     nfgenmsg (4)
 *     attributes     CTA_EXPECT_TUPLE, _MASK, _MASTER (as CTA_TUPLE_*, without zones), _NAT { _DIR, _TUPLE }?, _TIMEOUT, _ID,
 *                    _FLAGS, _CLASS, _HELP_NAME?, _FN?; in requests _ZONE, which the kernel takes and does not give
 *
 * The kernel sends IPCTNL_MSG_EXP_NEW when a helper makes one, and IPCTNL_MSG_EXP_DELETE when its connection comes, it
 * times out, its master ends or its helper drops it. It never sends updates.
 */

import { EXPECT_FN_MAX, type Expectation, type ExpectationNat, HELPER_NAME_MAX } from "../flow/expectation.js";
import { isPrintable } from "../flow/plain-text.js";
import { AF_INET, AF_INET6, RECORD_WORDS, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_ZONE } from "../flow/record.js";
import { protoWord, zoneReplyOf, zoneWord } from "../flow/record-fields.js";
import { type AttributeWriter, readHost16, readNet16, readNet32, readText } from "./attributes.js";
import {
  CTA_EXPECT_CLASS,
  CTA_EXPECT_FLAGS,
  CTA_EXPECT_FN,
  CTA_EXPECT_HELP_NAME,
  CTA_EXPECT_ID,
  CTA_EXPECT_MASK,
  CTA_EXPECT_MASTER,
  CTA_EXPECT_NAT,
  CTA_EXPECT_NAT_DIR,
  CTA_EXPECT_NAT_TUPLE,
  CTA_EXPECT_TIMEOUT,
  CTA_EXPECT_TUPLE,
  CTA_EXPECT_ZONE,
  NFGENMSG_LEN,
  NLA_TYPE_MASK,
} from "./constants.js";
import { DecodeFailure } from "./decode.js";
import { decodeTuple, encodeTuple, protocolOfTuple, TUPLE_BAD_LENGTH } from "./tuple.js";

/** What has been decoded of an expectation so far. */
interface PartialExpectation {
  tuple?: Uint32Array;
  mask?: Uint32Array;
  master?: Uint32Array;
  zone: number;
  nat?: ExpectationNat;
  /** CTA_EXPECT_TIMEOUT, _ID, _FLAGS and _CLASS, by attribute number. */
  readonly numbers: Map<number, number>;
  helper?: string;
  fn?: string;
}

/**
 * Decodes one message from its nfgenmsg on, `[start, end)` of `bytes`. A DecodeFailure when it is malformed. Never
 * throws, never reads outside `[start, end)`. The zone is 0 unless the message has one: see `setExpectationZone`.
 */
export function decodeExpectation(bytes: Uint8Array, start: number, end: number): Expectation | DecodeFailure {
  const stop = Math.min(end, bytes.length);
  if (stop - start < NFGENMSG_LEN) return DecodeFailure.truncated;
  const family = bytes[start]!;
  if (family !== AF_INET && family !== AF_INET6) return DecodeFailure.unknownFamily;
  const partial: PartialExpectation = { zone: 0, numbers: new Map() };
  const failure = eachAttribute(bytes, start + NFGENMSG_LEN, stop, (type, at, to) =>
    decodeAttribute(bytes, type, at, to, family, partial),
  );
  return failure !== 0 ? failure : finish(partial);
}

function decodeAttribute(
  bytes: Uint8Array,
  type: number,
  at: number,
  end: number,
  family: number,
  partial: PartialExpectation,
): DecodeFailure | 0 {
  switch (type) {
    case CTA_EXPECT_TUPLE:
    case CTA_EXPECT_MASK:
    case CTA_EXPECT_MASTER: {
      const tuple = readTuple(bytes, at, end, family);
      if (typeof tuple === "number") return tuple;
      if (type === CTA_EXPECT_TUPLE) partial.tuple = tuple;
      else if (type === CTA_EXPECT_MASK) partial.mask = tuple;
      else partial.master = tuple;
      return 0;
    }
    case CTA_EXPECT_TIMEOUT:
    case CTA_EXPECT_ID:
    case CTA_EXPECT_FLAGS:
    case CTA_EXPECT_CLASS:
      if (end - at < 4) return DecodeFailure.badAttributeLength;
      partial.numbers.set(type, readNet32(bytes, at));
      return 0;
    case CTA_EXPECT_ZONE:
      if (end - at < 2) return DecodeFailure.badAttributeLength;
      partial.zone = readNet16(bytes, at);
      return 0;
    case CTA_EXPECT_HELP_NAME:
      partial.helper = readText(bytes, at, Math.min(end, at + HELPER_NAME_MAX));
      return 0;
    case CTA_EXPECT_FN:
      partial.fn = readText(bytes, at, Math.min(end, at + EXPECT_FN_MAX));
      return 0;
    case CTA_EXPECT_NAT:
      return decodeNat(bytes, at, end, family, partial);
    default:
      return 0;
  }
}

function decodeNat(
  bytes: Uint8Array,
  at: number,
  end: number,
  family: number,
  partial: PartialExpectation,
): DecodeFailure | 0 {
  let direction = 0;
  let nat: Uint32Array | null = null;
  const failure = eachAttribute(bytes, at, end, (type, from, to) => {
    if (type === CTA_EXPECT_NAT_DIR) {
      if (to - from < 4) return DecodeFailure.badAttributeLength;
      direction = readNet32(bytes, from);
    } else if (type === CTA_EXPECT_NAT_TUPLE) {
      const tuple = readTuple(bytes, from, to, family);
      if (typeof tuple === "number") return tuple;
      nat = tuple;
    }
    return 0;
  });
  if (failure === 0 && nat !== null) partial.nat = { direction, tuple: nat };
  return failure;
}

function finish(partial: PartialExpectation): Expectation | DecodeFailure {
  const { tuple, mask, master, numbers, zone } = partial;
  if (tuple === undefined) return DecodeFailure.noOriginalTuple;
  if (mask === undefined || master === undefined) return DecodeFailure.badTuple;
  // A mask has no protocol of its own: this one says how to read its layer 4 word.
  mask[W_PROTO] = tuple[W_PROTO]!;
  for (const words of [tuple, mask, master]) words[W_ZONE] = zoneWord(zone, zone);
  const expectation: Expectation = {
    tuple,
    mask,
    master,
    timeoutSeconds: numbers.get(CTA_EXPECT_TIMEOUT) ?? 0,
    flags: numbers.get(CTA_EXPECT_FLAGS) ?? 0,
    class: numbers.get(CTA_EXPECT_CLASS) ?? 0,
  };
  const id = numbers.get(CTA_EXPECT_ID);
  if (id !== undefined) expectation.id = id;
  if (isNamed(partial.helper)) expectation.helper = partial.helper;
  if (isNamed(partial.fn)) expectation.fn = partial.fn;
  if (partial.nat !== undefined) expectation.nat = partial.nat;
  return expectation;
}

function isNamed(name: string | undefined): name is string {
  return name !== undefined && name !== "" && isPrintable(name);
}

function readTuple(bytes: Uint8Array, at: number, end: number, family: number): Uint32Array | DecodeFailure {
  const words = new Uint32Array(RECORD_WORDS);
  const result = decodeTuple(bytes, at, end, family, words, W_ORIG_SRC, W_ORIG_L4);
  if (result < 0) return result === TUPLE_BAD_LENGTH ? DecodeFailure.badAttributeLength : DecodeFailure.badTuple;
  words[W_PROTO] = protoWord(family, protocolOfTuple(result));
  return words;
}

/** Calls `take` for each attribute with the bounds of its payload, until it returns something other than 0. */
function eachAttribute(
  bytes: Uint8Array,
  at: number,
  end: number,
  take: (type: number, at: number, end: number) => DecodeFailure | 0,
): DecodeFailure | 0 {
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return DecodeFailure.badAttributeLength;
    const failure = take(readHost16(bytes, at + 2) & NLA_TYPE_MASK, at + 4, at + length);
    if (failure !== 0) return failure;
    at += (length + 3) & ~3;
  }
  return 0;
}

/** Writes everything that the kernel accepts for a new expectation; see RequestBatch.createExpectation. */
export function encodeExpectation(out: AttributeWriter, expectation: Expectation): void {
  const { mask, master, nat } = expectation;
  encodeIdentity(out, expectation);
  encodeOriginal(out, CTA_EXPECT_MASK, mask);
  encodeOriginal(out, CTA_EXPECT_MASTER, master);
  if (nat !== undefined) {
    const nest = out.open(CTA_EXPECT_NAT);
    out.putNet32(CTA_EXPECT_NAT_DIR, nat.direction);
    encodeOriginal(out, CTA_EXPECT_NAT_TUPLE, nat.tuple);
    out.close(nest);
  }
  out.putNet32(CTA_EXPECT_FLAGS, expectation.flags);
  out.putNet32(CTA_EXPECT_CLASS, expectation.class);
  if (expectation.helper !== undefined) out.putText(CTA_EXPECT_HELP_NAME, expectation.helper, HELPER_NAME_MAX);
  if (expectation.fn !== undefined) out.putText(CTA_EXPECT_FN, expectation.fn, EXPECT_FN_MAX);
}

/** Writes what the kernel needs to change an existing expectation, which can be its remaining time only. */
export function encodeExpectationTimeout(out: AttributeWriter, expectation: Expectation, timeoutSeconds: number): void {
  encodeIdentity(out, expectation);
  encodeOriginal(out, CTA_EXPECT_MASK, expectation.mask);
  encodeOriginal(out, CTA_EXPECT_MASTER, expectation.master);
  out.putNet32(CTA_EXPECT_TIMEOUT, timeoutSeconds);
}

/** Writes what identifies an expectation: tuple and zone, with `matchId` the id too. */
export function encodeExpectationName(out: AttributeWriter, expectation: Expectation, matchId: boolean): void {
  encodeIdentity(out, expectation);
  if (matchId && expectation.id !== undefined) out.putNet32(CTA_EXPECT_ID, expectation.id);
}

function encodeIdentity(out: AttributeWriter, { tuple }: Expectation): void {
  encodeOriginal(out, CTA_EXPECT_TUPLE, tuple);
  const zone = zoneReplyOf(tuple, 0);
  if (zone !== 0) out.putNet16(CTA_EXPECT_ZONE, zone);
}

function encodeOriginal(out: AttributeWriter, type: number, words: Uint32Array): void {
  encodeTuple(out, type, words, W_ORIG_SRC, W_ORIG_DST, words[W_ORIG_L4]!, words[W_PROTO]!, 0);
}
