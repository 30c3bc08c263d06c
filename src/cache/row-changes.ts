/** Compares a kernel message with a row: whether they are the same flow, what differs, and what the message changes. */
import { isDeepStrictEqual } from "node:util";
import {
  type DecodedFlow,
  HAS_ID,
  HAS_MARK,
  HAS_MASK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  type RareAttributes,
  W_HAS,
  W_ID,
  W_MARK,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_UPDATED,
} from "../flow/record.js";
import { isTcp, sameReply } from "../flow/record-fields.js";
import { IPS_KEPT, IPS_NAT_DONE } from "../flow/status.js";

/** True when the message (a record at base 0) has another CTA_ID than the row, so it is about another flow. */
export function isOtherFlow(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  return (slab[base + W_HAS]! & words[W_HAS]! & HAS_ID) !== 0 && slab[base + W_ID] !== words[W_ID];
}

/**
 * True for an event of the row's flow that was queued before a dump listed it: the event (a record at base 0) lacks
 * status bits that a kernel never clears.
 */
export function isOlderEvent(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  const has = HAS_ID | HAS_STATUS;
  if ((slab[base + W_HAS]! & words[W_HAS]! & has) !== has || slab[base + W_ID] !== words[W_ID]) return false;
  return (slab[base + W_STATUS]! & ~words[W_STATUS]! & IPS_KEPT) !== 0;
}

/** True when a message (a record at base 0) has another reply tuple than the row; false when it has none. */
export function replyDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  return (words[W_HAS]! & HAS_REPLY) !== 0 && !sameReply(slab, base, words, 0);
}

/**
 * True when a dumped flow differs from the row, except for what changes without events: timeout, TCP flags, and whether
 * this kernel has decided on a translation.
 */
export function recordDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  const protocolInfo = (words[W_HAS]! & HAS_PROTOINFO) !== 0;
  const isTcpFlow = isTcp(words, 0);
  return (
    ((slab[base + W_STATUS]! ^ words[W_STATUS]!) & ~IPS_NAT_DONE) !== 0 ||
    slab[base + W_MARK] !== words[W_MARK] ||
    (protocolInfo && slab[base + W_PROTOINFO] !== words[W_PROTOINFO]) ||
    (protocolInfo && !isTcpFlow && slab[base + W_PROTOINFO_B] !== words[W_PROTOINFO_B]) ||
    (protocolInfo && !isTcpFlow && slab[base + W_PROTOINFO_C] !== words[W_PROTOINFO_C]) ||
    replyDiffers(slab, base, words)
  );
}

/** True when a dumped flow has other rare attributes than the row. */
export function rareDiffers(known: RareAttributes | undefined, dumped: RareAttributes | null): boolean {
  if (known === undefined || dumped === null) return (known === undefined) !== (dumped === null);
  return !isDeepStrictEqual(known, dumped);
}

/** Copies into a row what a message's record carries; an event names only what changed. */
export function mergeRecord(slab: Uint32Array, base: number, words: Uint32Array, nowSeconds: number): void {
  const has = words[W_HAS]! & HAS_MASK;
  if ((has & HAS_STATUS) !== 0) slab[base + W_STATUS] = words[W_STATUS]!;
  if ((has & HAS_MARK) !== 0) slab[base + W_MARK] = words[W_MARK]!;
  if ((has & HAS_ID) !== 0) slab[base + W_ID] = words[W_ID]!;
  if ((has & HAS_TIMEOUT) !== 0) {
    slab[base + W_TIMEOUT] = words[W_TIMEOUT]!;
    slab[base + W_UPDATED] = nowSeconds;
  }
  if ((has & HAS_PROTOINFO) !== 0) {
    slab[base + W_PROTOINFO] = words[W_PROTOINFO]!;
    slab[base + W_PROTOINFO_B] = words[W_PROTOINFO_B]!;
    slab[base + W_PROTOINFO_C] = words[W_PROTOINFO_C]!;
  }
  if ((has & HAS_REPLY) !== 0) {
    for (let i = W_REPLY_SRC; i < W_REPLY_DST + 4; i++) slab[base + i] = words[i]!;
    slab[base + W_REPLY_L4] = words[W_REPLY_L4]!;
  }
  slab[base + W_HAS]! |= has;
}

/** Copies the state and the mark from a flow that a dump lists, where it shows them and they are wanted. True for news. */
export function completeRecord(
  slab: Uint32Array,
  base: number,
  words: Uint32Array,
  wantsState: boolean,
  wantsMark: boolean,
): boolean {
  const has = words[W_HAS]! & ((wantsState ? HAS_PROTOINFO : 0) | (wantsMark ? HAS_MARK : 0));
  let isNews = false;
  if ((has & HAS_PROTOINFO) !== 0) {
    isNews = slab[base + W_PROTOINFO] !== words[W_PROTOINFO];
    slab.set(words.subarray(W_PROTOINFO, W_PROTOINFO_C + 1), base + W_PROTOINFO);
  }
  if ((has & HAS_MARK) !== 0) {
    isNews ||= slab[base + W_MARK] !== words[W_MARK];
    slab[base + W_MARK] = words[W_MARK]!;
  }
  slab[base + W_HAS]! |= has;
  return isNews;
}

/** When the flow began, seconds since the Unix epoch: the kernel's own time if it reports one. */
export function createdSeconds(flow: DecodedFlow, nowSeconds: number): number {
  if ((flow.words[W_HAS]! & HAS_TIMES) === 0) return nowSeconds;
  return Math.floor(flow.timesMicros[0]! / 1e6);
}
