import { readdir } from "node:fs/promises";
import { join } from "node:path";

/** Names of the streams in an embedded broker's store, as nats-server lays it out; none where there is no store yet. */
export async function storedStreams(storeDir: string): Promise<string[]> {
  try {
    return await readdir(join(storeDir, "jetstream", "$G", "streams"));
  } catch {
    return [];
  }
}
