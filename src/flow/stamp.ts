import { W_TABLE_A, W_TABLE_B } from "./record.js";

const WORD = 2 ** 32;

/** The hybrid clock stamp of a row: 53 bits over the two table words. */
export function readStamp(slab: Uint32Array, base: number): number {
  return slab[base + W_TABLE_A]! * WORD + slab[base + W_TABLE_B]!;
}

/** The pair of readStamp. */
export function writeStamp(slab: Uint32Array, base: number, stamp: number): void {
  slab[base + W_TABLE_A] = Math.floor(stamp / WORD);
  slab[base + W_TABLE_B] = stamp % WORD;
}
