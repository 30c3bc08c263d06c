import { HAS_PROTOINFO, RECORD_WORDS, W_HAS } from "../flow/record.js";
import { isTcp } from "../flow/record-fields.js";
import type { InternalCache } from "./internal.js";

/** The record of a node's own flow with this original tuple, copied; null when there is none, or another node carries it. */
export function ownFlow(internal: InternalCache, words: Uint32Array, base: number): Uint32Array | null {
  const { table } = internal;
  const slot = table.size === 0 ? -1 : table.find(words, base);
  if (slot < 0 || internal.isSuperseded(slot)) return null;
  const at = table.base(slot);
  return table.slab(slot).slice(at, at + RECORD_WORDS);
}

/** True when a flow that packets begin here can become the node's own: else nobody knows of it but the kernel. */
export function hasRoom({ table, limit }: InternalCache): boolean {
  return table.size < limit && table.hasRoom;
}

/** True for a row of TCP of which nobody has told how far it is. */
export function lacksState({ table }: InternalCache, slot: number): boolean {
  const [slab, base] = [table.slab(slot), table.base(slot)];
  return isTcp(slab, base) && (slab[base + W_HAS]! & HAS_PROTOINFO) === 0;
}
