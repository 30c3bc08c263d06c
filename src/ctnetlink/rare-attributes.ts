/**
 * Decodes and encodes the attributes that few flows carry: CTA_HELP, CTA_LABELS, CTA_SECCTX, CTA_SEQ_ADJ_ORIG and
 * _REPLY, CTA_SYNPROXY, CTA_TUPLE_MASTER. Only messages that have some get here, and only they allocate.
 */

import { HELPER_NAME_MAX } from "../flow/expectation.js";
import { isPrintable } from "../flow/plain-text.js";
import {
  type DecodedFlow,
  type RareAttributes,
  RECORD_WORDS,
  type SequenceAdjustment,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_ZONE,
} from "../flow/record.js";
import { protoWord, zoneWord } from "../flow/record-fields.js";
import { type AttributeWriter, readHost16, readNet32, readText } from "./attributes.js";
import {
  CTA_HELP,
  CTA_HELP_NAME,
  CTA_LABELS,
  CTA_SECCTX_NAME,
  CTA_SEQ_ADJ_ORIG,
  CTA_SEQ_ADJ_REPLY,
  CTA_SYNPROXY,
  CTA_SYNPROXY_ISN,
  CTA_TUPLE_MASTER,
  NLA_TYPE_MASK,
} from "./constants.js";
import { decodeTuple, encodeTuple, protocolOfTuple, zoneOfTuple } from "./tuple.js";

/** NF_CT_LABELS_MAX_SIZE. */
const LABELS_BYTES = 16;
/** Longer contexts are cut; SELinux's are much shorter. */
const SECCTX_MAX = 4096;

/** CTA_HELP: the name goes to `rare.helper`. False for a bad length, as for all of these. */
export function decodeHelp(bytes: Uint8Array, at: number, end: number, out: DecodedFlow): boolean {
  const name = findText(bytes, at, end, CTA_HELP_NAME, HELPER_NAME_MAX);
  if (name === null) return false;
  if (name !== "" && isPrintable(name)) rareOf(out).helper = name;
  return true;
}

/** CTA_SECCTX. */
export function decodeSecctx(bytes: Uint8Array, at: number, end: number, out: DecodedFlow): boolean {
  const name = findText(bytes, at, end, CTA_SECCTX_NAME, SECCTX_MAX);
  if (name === null) return false;
  if (name !== "" && isPrintable(name)) rareOf(out).secctx = name;
  return true;
}

/** CTA_LABELS: always 16 bytes, filled up with zeros. */
export function decodeLabels(bytes: Uint8Array, at: number, end: number, out: DecodedFlow): boolean {
  if (end - at > LABELS_BYTES) return false;
  const labels = new Uint8Array(LABELS_BYTES);
  labels.set(bytes.subarray(at, end));
  rareOf(out).labels = labels;
  return true;
}

/** CTA_SEQ_ADJ_ORIG or CTA_SEQ_ADJ_REPLY. */
export function decodeSeqadj(bytes: Uint8Array, at: number, end: number, type: number, out: DecodedFlow): boolean {
  const values = threeNumbers(bytes, at, end);
  if (values === null) return false;
  const [correctionPos, offsetBefore, offsetAfter] = values;
  const adjustment: SequenceAdjustment = { correctionPos, offsetBefore, offsetAfter };
  if (type === CTA_SEQ_ADJ_ORIG) rareOf(out).seqadjOrig = adjustment;
  else rareOf(out).seqadjReply = adjustment;
  return true;
}

/**
 * CTA_SYNPROXY. Zeros are ignored: the kernel gives every flow that was created by ctnetlink the extension, and
 * reports it with zeros.
 */
export function decodeSynproxy(bytes: Uint8Array, at: number, end: number, out: DecodedFlow): boolean {
  if (isZeroes(bytes, at, end)) return true;
  const values = threeNumbers(bytes, at, end);
  if (values === null) return false;
  const [isn, its, tsoff] = values;
  rareOf(out).synproxy = { isn, its, tsoff };
  return true;
}

/** CTA_TUPLE_MASTER: returns the result of `decodeTuple`. */
export function decodeMaster(bytes: Uint8Array, at: number, end: number, family: number, out: DecodedFlow): number {
  const master = new Uint32Array(RECORD_WORDS);
  const result = decodeTuple(bytes, at, end, family, master, W_ORIG_SRC, W_ORIG_L4);
  if (result < 0) return result;
  master[W_PROTO] = protoWord(family, protocolOfTuple(result));
  master[W_ZONE] = zoneWord(zoneOfTuple(result), zoneOfTuple(result));
  rareOf(out).master = master;
  return result;
}

function rareOf(out: DecodedFlow): RareAttributes {
  out.rare ??= {};
  return out.rare;
}

/** The text of attribute `wanted` in a nest, "" when it is not there, null for a bad length. */
function findText(bytes: Uint8Array, at: number, end: number, wanted: number, charsMax: number): string | null {
  let text = "";
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return null;
    if ((readHost16(bytes, at + 2) & NLA_TYPE_MASK) === wanted) {
      text = readText(bytes, at + 4, at + Math.min(length, 4 + charsMax));
    }
    at += (length + 3) & ~3;
  }
  return text;
}

/**
 * The 32-bit attributes 1, 2 and 3 of a nest, 0 where one is missing; null for a bad length. Both CTA_SEQADJ_* and
 * CTA_SYNPROXY_* are numbered so.
 */
function threeNumbers(bytes: Uint8Array, at: number, end: number): [number, number, number] | null {
  const values: [number, number, number] = [0, 0, 0];
  while (end - at >= 4) {
    const length = readHost16(bytes, at);
    if (length < 4 || at + length > end) return null;
    const type = readHost16(bytes, at + 2) & NLA_TYPE_MASK;
    if (type >= 1 && type <= 3) {
      if (length < 8) return null;
      values[type - 1] = readNet32(bytes, at + 4);
    }
    at += (length + 3) & ~3;
  }
  return values;
}

/** True for a well-formed nest of three 32-bit attributes that are all 0, without allocating. */
function isZeroes(bytes: Uint8Array, at: number, end: number): boolean {
  if (end - at !== 24) return false;
  for (let i = at; i < end; i += 8) {
    if (readHost16(bytes, i) !== 8 || readNet32(bytes, i + 4) !== 0) return false;
  }
  return true;
}

/**
 * Writes what the kernel accepts when a flow is created: helper, labels, sequence adjustments, SYN proxy, master. Not
 * the security context, which the kernel accepts from nobody. Labels go without CTA_LABELS_MASK, which makes the
 * kernel replace them all; it drops them silently where no rule uses labels.
 */
export function encodeRareForCreate(out: AttributeWriter, rare: RareAttributes): void {
  if (rare.helper !== undefined) {
    const nest = out.open(CTA_HELP);
    out.putText(CTA_HELP_NAME, rare.helper, HELPER_NAME_MAX);
    out.close(nest);
  }
  if (rare.master !== undefined) encodeMaster(out, rare.master);
  encodeRareForUpdate(out, rare);
}

/**
 * Writes what may change on an existing flow. Not the helper, which the kernel cannot attach later (EOPNOTSUPP, EBUSY
 * for another one), and not the master.
 */
export function encodeRareForUpdate(out: AttributeWriter, rare: RareAttributes): void {
  if (rare.seqadjOrig !== undefined) encodeSeqadj(out, CTA_SEQ_ADJ_ORIG, rare.seqadjOrig);
  if (rare.seqadjReply !== undefined) encodeSeqadj(out, CTA_SEQ_ADJ_REPLY, rare.seqadjReply);
  if (rare.synproxy !== undefined) {
    const { isn, its, tsoff } = rare.synproxy;
    encodeThree(out, CTA_SYNPROXY, isn, its, tsoff);
  }
  if (rare.labels !== undefined) out.putPadded(CTA_LABELS, rare.labels, LABELS_BYTES);
}

/** The kernel looks for the master in the flow's own zone and refuses a zone in this tuple. */
function encodeMaster(out: AttributeWriter, master: Uint32Array): void {
  encodeTuple(out, CTA_TUPLE_MASTER, master, W_ORIG_SRC, W_ORIG_DST, master[W_ORIG_L4]!, master[W_PROTO]!, 0);
}

function encodeSeqadj(out: AttributeWriter, type: number, adjustment: SequenceAdjustment): void {
  encodeThree(out, type, adjustment.correctionPos, adjustment.offsetBefore, adjustment.offsetAfter);
}

/** The numbers of `CTA_SEQADJ_*` and `CTA_SYNPROXY_*`: 1, 2, 3. The kernel refuses a nest that lacks one. */
function encodeThree(out: AttributeWriter, type: number, first: number, second: number, third: number): void {
  const nest = out.open(type);
  out.putNet32(CTA_SYNPROXY_ISN, first);
  out.putNet32(CTA_SYNPROXY_ISN + 1, second);
  out.putNet32(CTA_SYNPROXY_ISN + 2, third);
  out.close(nest);
}
