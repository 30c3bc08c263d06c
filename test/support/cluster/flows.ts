import {
  AF_INET,
  AF_INET6,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  RECORD_WORDS,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
} from "../../../src/flow/record.js";
import { mirrorL4 } from "../../../src/flow/record-fields.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../../src/flow/status.js";

const TCP = 6;
const UDP = 17;
const TCP_ESTABLISHED = 3;
const TCP_CLOSE_WAIT = 5;
/** Longer than any test, so that only a test ends a flow. */
const TIMEOUT_SECONDS = 86_400;

/** Flows of a range at the most. */
export const RANGE_FLOWS_MAX = 1 << 20;

/**
 * Writes flow number `index` of a range into `words`: each its own tuple, TCP and UDP, IPv4 and IPv6, every eighth with a
 * translated source. A range (0 to 63) is what one test or node touches. The mark also decides the state of TCP.
 */
export function writeTestFlow(words: Uint32Array, range: number, index: number, mark: number): void {
  words.fill(0, 0, RECORD_WORDS);
  const kind = index % 8;
  const isTcp = kind !== 5 && kind !== 7;
  const isV6 = kind >= 6;
  const host = ((range << 16) | (index & 0xffff)) >>> 0;
  const l4 = (((1024 + (index >>> 16)) << 16) | 443) >>> 0;
  if (isV6) {
    words.set([0x20010db8, 0, 0x0a00, host], W_ORIG_SRC);
    words.set([0x20010db8, 0, 0x0b00, 1], W_ORIG_DST);
  } else {
    words[W_ORIG_SRC] = (0x0a000000 | host) >>> 0;
    words[W_ORIG_DST] = 0xc0000201;
  }
  for (let i = 0; i < 4; i++) {
    words[W_REPLY_SRC + i] = words[W_ORIG_DST + i]!;
    words[W_REPLY_DST + i] = words[W_ORIG_SRC + i]!;
  }
  // 100.64.0.0 and on: an address of its own per flow, so that reply tuples never meet.
  if (kind === 4) words[W_REPLY_DST] = (0x64400000 | host) >>> 0;
  words[W_ORIG_L4] = l4;
  words[W_REPLY_L4] = mirrorL4(isTcp ? TCP : UDP, l4);
  words[W_PROTO] = ((isV6 ? AF_INET6 : AF_INET) << 8) | (isTcp ? TCP : UDP);
  words[W_STATUS] = IPS_SEEN_REPLY | IPS_ASSURED;
  words[W_TIMEOUT] = TIMEOUT_SECONDS;
  words[W_MARK] = mark;
  words[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_REPLY;
  if (!isTcp) return;
  words[W_PROTOINFO] = ((mark & 1) === 0 ? TCP_ESTABLISHED : TCP_CLOSE_WAIT) | (7 << 8) | (7 << 16);
  words[W_HAS]! |= HAS_PROTOINFO;
}
