import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";

/** What a power cut or a dying disk does to the last block of a stream. */
export const DAMAGES = [
  "zeroed tail",
  "zeroed from a sequence on",
  "garbage tail",
  "bit at 10 %",
  "bit at 50 %",
  "bit at 90 %",
] as const;

/** One of DAMAGES. */
export type Damage = (typeof DAMAGES)[number];

const TAIL_BYTES = 512;

/** Of a record in a block, before and after the message: its length, and its checksum. */
const LENGTH_BYTES = 4;
const HASH_BYTES = 8;
/** The record has headers. */
const HEADERS_BIT = 0x80000000;

/** Damages the last block of a stream in a store whose server does not run. `store`: what the server has as `store_dir`. */
export function tear(store: string, stream: string, damage: Damage): void {
  const path = lastBlock(store, stream);
  const { size } = statSync(path);
  const tail = Math.min(TAIL_BYTES, size);
  if (damage === "zeroed tail") overwrite(path, size - tail, Buffer.alloc(tail));
  else if (damage === "zeroed from a sequence on") {
    // The record keeps its length: nats-server 2.9 takes 0 for the last sequence of the stream.
    const at = recordBefore(readFileSync(path), size - tail) + LENGTH_BYTES;
    overwrite(path, at, Buffer.alloc(size - at));
  } else if (damage === "garbage tail") overwrite(path, size - tail, Buffer.alloc(tail, 0xa5));
  else overwrite(path, Math.floor((size * Number(/\d+/.exec(damage)?.[0])) / 100), Buffer.of(0x5a));
}

/** Damages one message, the `index`th of the last block from 0, and nothing else. As `tear`, while no server runs. */
export function spoilMessage(store: string, stream: string, index: number): void {
  const path = lastBlock(store, stream);
  const block = readFileSync(path);
  let at = 0;
  for (let record = 0; record < index; record++) at += lengthAt(block, at);
  const last = at + lengthAt(block, at) - HASH_BYTES - 1;
  assert.ok(last > at + LENGTH_BYTES && last < block.length);
  overwrite(path, last, Buffer.of(block[last]! ^ 1));
}

/** Where the last record begins that begins before a place. */
function recordBefore(block: Buffer, end: number): number {
  let at = 0;
  for (let next = 0; next < end && next < block.length; next += lengthAt(block, next)) at = next;
  return at;
}

function lengthAt(block: Buffer, at: number): number {
  return (block.readUInt32LE(at) & ~HEADERS_BIT) >>> 0;
}

function lastBlock(store: string, stream: string): string {
  const directory = join(store, "jetstream", "$G", "streams", stream, "msgs");
  const blocks = readdirSync(directory).filter((file) => file.endsWith(".blk"));
  const last = blocks.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).at(-1);
  if (last === undefined) throw new Error(`${stream} has no block in ${directory}`);
  return join(directory, last);
}

function overwrite(path: string, position: number, bytes: Buffer): void {
  const file = openSync(path, "r+");
  try {
    writeSync(file, bytes, 0, bytes.length, position);
  } finally {
    closeSync(file);
  }
}

/**
 * Damages the message with this payload where the last block of a stream has it, and no other. The server may run: it reads the
 * block when it no longer has it in memory. False when the message is not on the disk yet.
 */
export function tearMessage(store: string, stream: string, payload: Uint8Array): boolean {
  const path = lastBlock(store, stream);
  const at = readFileSync(path).indexOf(payload);
  if (at >= 0) overwrite(path, at, Buffer.of((payload[0] ?? 0) ^ 0xff));
  return at >= 0;
}
