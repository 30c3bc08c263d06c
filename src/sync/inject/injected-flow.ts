/** Compares a flow of this kernel with what a peer published about it. `words` is the kernel's record, at base 0. */
import { W_MARK, W_PROTOINFO, W_STATUS } from "../../flow/record.js";
import { isClosing, isTcp, protocolStateOf, sameReply } from "../../flow/record-fields.js";
import { IPS_ASSURED, IPS_KEPT, IPS_SEEN_REPLY } from "../../flow/status.js";

/**
 * True when the kernel has seen a reply that the row lacks, or has opened the connection further. A kernel flow that is
 * closing while the row is open does not count, because it may be an older connection with the same ports.
 */
export function isAhead(words: Uint32Array, slab: Uint32Array, base: number): boolean {
  if (isOlder(words, slab[base + W_STATUS]!)) return false;
  if ((words[W_STATUS]! & ~slab[base + W_STATUS]! & IPS_KEPT) !== 0) return true;
  return !isClosing(words, 0) && isFurther(words, slab, base);
}

/** True for a TCP flow in a later state here. */
export function isFurther(words: Uint32Array, slab: Uint32Array, base: number): boolean {
  return isTcp(words, 0) && protocolStateOf(words, 0) > protocolStateOf(slab, base);
}

/**
 * True when the kernel's entry was answered long ago and the peer has just seen the flow begin: they are different
 * flows.
 */
export function isOlder(words: Uint32Array, status: number): boolean {
  return (words[W_STATUS]! & IPS_ASSURED) !== 0 && (status & IPS_SEEN_REPLY) === 0;
}

/** True when the kernel's flow matches the row, except for timeouts. */
export function sameState(words: Uint32Array, slab: Uint32Array, base: number): boolean {
  if (((words[W_STATUS]! ^ slab[base + W_STATUS]!) & IPS_KEPT) !== 0) return false;
  const state = isTcp(words, 0) ? 0xff : 0xffff_ffff;
  return words[W_MARK] === slab[base + W_MARK] && ((words[W_PROTOINFO]! ^ slab[base + W_PROTOINFO]!) & state) === 0;
}

/** True when two records show one flow in the same state, except for timeouts. */
export function isSame(a: Uint32Array, b: Uint32Array): boolean {
  return sameReply(a, 0, b, 0) && sameState(a, b, 0);
}
