import { closeSync, openSync, writeSync } from "node:fs";

const BLOCK_BYTES = 64 * 1024;

/** Writes into `file` until its file system is full to the last block. Removing the file makes room again. */
export function fillDisk(file: string): void {
  const descriptor = openSync(file, "w");
  const block = Buffer.alloc(BLOCK_BYTES);
  try {
    for (;;) writeSync(descriptor, block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  } finally {
    closeSync(descriptor);
  }
}
