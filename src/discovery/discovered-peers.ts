import { open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { hostAddress } from "../config/address.js";
import type { Config, PeerConfig } from "../config/config.js";
import { parseName } from "../config/schema.js";
import { errorText } from "../errors.js";
import { makeDirectory } from "../os/make-directory.js";
import { PEERS_MAX } from "./announcement.js";

/**
 * Where the discovered peers are kept, in `broker.store`: a daemon that starts then also knows those that are dead
 * now, and can restore the flows that they carried.
 *
 *   {"cluster":"edge","peers":[{"node":"fw2","address":"10.77.0.2"}]}
 */
export function discoveredPath(config: Config): string {
  return join(config.broker.store, "discovered.json");
}

const FILE_BYTES_MAX = 64 * 1024;

/** The configuration with the peers that were discovered earlier added to the listed ones, which take precedence. */
export async function withDiscovered(config: Config, log: Logger): Promise<Config> {
  if (config.discover === null) return config;
  const path = discoveredPath(config);
  try {
    const bytes = await readFile(path);
    const known = bytes.length <= FILE_BYTES_MAX ? parseDiscovered(bytes.toString("utf8"), config) : null;
    if (known !== null) return { ...config, peers: [...config.peers, ...known] };
    log.warn({ path }, "the file of discovered peers is not one: it is made anew as they announce themselves");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      log.warn({ error: errorText(error) }, "the file of discovered peers cannot be read");
    }
  }
  return config;
}

/** The peers of this cluster that do not contradict the configuration; null when the text is not such a file. */
function parseDiscovered(text: string, config: Config): PeerConfig[] | null {
  let file: { cluster?: unknown; peers?: unknown } | null;
  try {
    file = JSON.parse(text) as typeof file;
  } catch {
    return null;
  }
  if (file === null || typeof file !== "object" || !Array.isArray(file.peers)) return null;
  if (file.cluster !== config.cluster) return [];
  const nodes = new Set([config.node, ...config.peers.map((peer) => peer.node)]);
  const addresses = new Set([config.listen, ...config.peers.map((peer) => peer.address)]);
  const known: PeerConfig[] = [];
  for (const entry of file.peers as unknown[]) {
    const found = (entry ?? {}) as Record<string, unknown>;
    const node = parseName(found.node);
    const address = hostAddress(found.address);
    if (node === undefined || address === undefined) return null;
    if (nodes.has(node) || addresses.has(address) || config.peers.length + known.length >= PEERS_MAX) continue;
    nodes.add(node);
    addresses.add(address);
    known.push({ node, address, discovered: true });
  }
  return known;
}

/** Saves the discovered ones of `peers`. Readers find the old file or the new one, even after a power failure. */
export async function saveDiscovered(config: Config, peers: readonly PeerConfig[]): Promise<void> {
  const path = discoveredPath(config);
  const discovered = peers.filter((peer) => peer.discovered === true).map(({ node, address }) => ({ node, address }));
  makeDirectory(config.broker.store, 0o700);
  const file = await open(`${path}.new`, "w", 0o600);
  try {
    await file.writeFile(`${JSON.stringify({ cluster: config.cluster, peers: discovered })}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}
