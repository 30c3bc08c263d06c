import { isDeepStrictEqual } from "node:util";
import {
  HAS_PROTOINFO,
  HAS_REPLY,
  type RareAttributes,
  W_HAS,
  W_MARK,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_STATUS,
} from "../flow/record.js";
import { isTcp, sameReply } from "../flow/record-fields.js";

/** True when a message (a record at base 0) has another reply tuple than the row; false when it has none. */
export function replyDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  return (words[W_HAS]! & HAS_REPLY) !== 0 && !sameReply(slab, base, words, 0);
}

/** True when a dumped flow is not as the row has it; timeout and TCP flags aside, which change without events. */
export function recordDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  const protocolInfo = (words[W_HAS]! & HAS_PROTOINFO) !== 0;
  const isTcpFlow = isTcp(words, 0);
  return (
    slab[base + W_STATUS] !== words[W_STATUS] ||
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
