import { isDeepStrictEqual } from "node:util";
import {
  HAS_PROTOINFO,
  HAS_REPLY,
  type RareAttributes,
  W_HAS,
  W_MARK,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
} from "../flow/record.js";

const TCP = 6;

/** True when a message (a record at base 0) has another reply tuple than the row; false when it has none. */
export function replyDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  if ((words[W_HAS]! & HAS_REPLY) === 0) return false;
  for (let i = W_REPLY_SRC; i < W_REPLY_DST + 4; i++) if (slab[base + i] !== words[i]) return true;
  return slab[base + W_REPLY_L4] !== words[W_REPLY_L4];
}

/** True when a dumped flow is not as the row has it; timeout and TCP flags aside, which change without events. */
export function recordDiffers(slab: Uint32Array, base: number, words: Uint32Array): boolean {
  const protocolInfo = (words[W_HAS]! & HAS_PROTOINFO) !== 0;
  const isTcp = (words[W_PROTO]! & 0xff) === TCP;
  return (
    slab[base + W_STATUS] !== words[W_STATUS] ||
    slab[base + W_MARK] !== words[W_MARK] ||
    (protocolInfo && slab[base + W_PROTOINFO] !== words[W_PROTOINFO]) ||
    (protocolInfo && !isTcp && slab[base + W_PROTOINFO_B] !== words[W_PROTOINFO_B]) ||
    (protocolInfo && !isTcp && slab[base + W_PROTOINFO_C] !== words[W_PROTOINFO_C]) ||
    replyDiffers(slab, base, words)
  );
}

/** True when a dumped flow has other rare attributes than the row. */
export function rareDiffers(known: RareAttributes | undefined, dumped: RareAttributes | null): boolean {
  if (known === undefined || dumped === null) return (known === undefined) !== (dumped === null);
  return !isDeepStrictEqual(known, dumped);
}
