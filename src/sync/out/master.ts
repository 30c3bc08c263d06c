import type { FlowTable } from "../../flow/flow-table.js";
import { W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_REPLY_SRC, W_ZONE } from "../../flow/record.js";
import { zoneReplyOf } from "../../flow/record-fields.js";

/** Flows with rare attributes that are looked through for a master, so that no event costs more than a moment. */
const CANDIDATES_MAX = 65_536;

/**
 * The zone of the flow with this original tuple, null when the table has none. The kernel does not say which zone an
 * expectation is in; nearly always it is 0, and in others the master is found among the flows that have a helper.
 */
export function findMasterZone(table: FlowTable, master: Uint32Array): number | null {
  if (table.size === 0) return null;
  if (table.find(master, 0) >= 0) return zoneReplyOf(master, 0);
  let left = CANDIDATES_MAX;
  for (const [slot, rare] of table.rare) {
    if (left-- === 0) return null;
    if (rare.helper === undefined || !table.isLive(slot)) continue;
    const slab = table.slab(slot);
    const base = table.base(slot);
    // CTA_EXPECT_ZONE names one zone for both directions: a master that has two cannot be named.
    const zone = slab[base + W_ZONE]!;
    if (zone >>> 16 === (zone & 0xffff) && sameOriginalTuple(slab, base, master)) return zone & 0xffff;
  }
  return null;
}

/** True when the flow at `base` has the original tuple of `master`, zones aside. */
export function sameOriginalTuple(slab: Uint32Array, base: number, master: Uint32Array): boolean {
  if (slab[base + W_PROTO] !== master[W_PROTO] || slab[base + W_ORIG_L4] !== master[W_ORIG_L4]) return false;
  for (let i = W_ORIG_SRC; i < W_REPLY_SRC; i++) if (slab[base + i] !== master[i]) return false;
  return true;
}
