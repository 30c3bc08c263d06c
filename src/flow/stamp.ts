import { W_TABLE_A, W_TABLE_B, WORD_VALUES } from "./record.js";

/** The hybrid clock stamp of a row: 53 bits over the two table words. */
export function readStamp(slab: Uint32Array, base: number): number {
  return slab[base + W_TABLE_A]! * WORD_VALUES + slab[base + W_TABLE_B]!;
}

/** The pair of readStamp. */
export function writeStamp(slab: Uint32Array, base: number, stamp: number): void {
  slab[base + W_TABLE_A] = Math.floor(stamp / WORD_VALUES);
  slab[base + W_TABLE_B] = stamp % WORD_VALUES;
}
