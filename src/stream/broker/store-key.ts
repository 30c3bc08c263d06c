/** The key with which nats-server encrypts its store. It never gets into the store itself, where nats.conf is. */
import { createHash } from "node:crypto";
import { chmod, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ConntrailError, errorText } from "../../errors.js";

/** Environment variable of nats-server with the key. */
export const STORE_KEY_VARIABLE = "CONNTRAIL_STORE_KEY";

/** What `openssl rand -hex 32` prints, or as much that is as hard to guess. */
const KEY = /^[A-Za-z0-9+/=_-]{32,256}$/;
/** Says by which key a store is encrypted, in the store. */
const MARK_FILE = "encrypted-by";

/**
 * Reads the key, or null where none is configured, and compares it with the one by which the store is encrypted:
 * with another one, nats-server would start without its streams. @throws ConntrailError CONFIG, STORE
 */
export async function readStoreKey(path: string | null, storeDir: string): Promise<string | null> {
  const key = path === null ? null : await readKey(path);
  const marked = await readFile(join(storeDir, MARK_FILE), "utf8").catch(() => null);
  if (marked === null || (key !== null && marked.trim() === markOf(key))) return key;
  const what = key === null ? "broker.encryption_key is missing" : `${path} is another one`;
  throw new ConntrailError(
    "STORE",
    `the store ${storeDir} is encrypted, and ${what}: give the key that it was made with`,
  );
}

/** Notes in the store by which key it is encrypted. The store exists. */
export async function markStore(key: string | null, storeDir: string): Promise<void> {
  if (key === null) return;
  const path = join(storeDir, MARK_FILE);
  await writeFile(path, `${markOf(key)}\n`, { mode: 0o600 });
  await chmod(path, 0o600);
}

async function readKey(path: string): Promise<string> {
  try {
    const { mode } = await stat(path);
    if ((mode & 0o007) !== 0) throw new Error("others may read it: chmod 640");
    const key = (await readFile(path, "latin1")).trim();
    if (!KEY.test(key)) throw new Error("it has no 32 letters and digits: openssl rand -hex 32");
    return key;
  } catch (cause) {
    throw new ConntrailError("CONFIG", `broker.encryption_key ${path}: ${errorText(cause)}`, { cause });
  }
}

function markOf(key: string): string {
  return createHash("sha256").update(`conntrail store ${key}`).digest("hex").slice(0, 16);
}
