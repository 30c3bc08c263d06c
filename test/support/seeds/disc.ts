import { createCipheriv } from "node:crypto";

/** What the seeds' clients download: blocks that differ from each other, the same in each run. */
export const DISC_BLOCKS = 4_096;
export const BLOCK_BYTES = 16_384;

const ZEROS = Buffer.alloc(BLOCK_BYTES);
const KEY = Buffer.from("conntrail's disc", "latin1");

/** The bytes of a block: a key stream, so that a block out of place or cut short changes the checksum. */
export function blockOf(index: number): Buffer {
  const start = Buffer.alloc(16);
  start.writeUInt32BE(index, 0);
  return createCipheriv("aes-128-ctr", KEY, start).update(ZEROS);
}
