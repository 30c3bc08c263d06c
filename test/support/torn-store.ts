import { closeSync, openSync, readdirSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";

/** What a power cut or a dying disk does to the last block of a stream. */
export const DAMAGES = ["zeroed tail", "garbage tail", "bit at 10 %", "bit at 50 %", "bit at 90 %"] as const;

/** One of DAMAGES. */
export type Damage = (typeof DAMAGES)[number];

const TAIL_BYTES = 512;

/** Damages the last block of a stream in a store whose server does not run. `store`: what the server has as `store_dir`. */
export function tear(store: string, stream: string, damage: Damage): void {
  const directory = join(store, "jetstream", "$G", "streams", stream, "msgs");
  const blocks = readdirSync(directory).filter((file) => file.endsWith(".blk"));
  const last = blocks.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).at(-1);
  if (last === undefined) throw new Error(`${stream} has no block in ${directory}`);
  const path = join(directory, last);
  const { size } = statSync(path);
  const tail = Math.min(TAIL_BYTES, size);
  const file = openSync(path, "r+");
  try {
    if (damage === "zeroed tail") writeSync(file, Buffer.alloc(tail), 0, tail, size - tail);
    else if (damage === "garbage tail") writeSync(file, Buffer.alloc(tail, 0xa5), 0, tail, size - tail);
    else writeSync(file, Buffer.of(0x5a), 0, 1, Math.floor((size * Number(/\d+/.exec(damage)?.[0])) / 100));
  } finally {
    closeSync(file);
  }
}
