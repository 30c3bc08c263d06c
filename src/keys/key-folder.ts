/** The folder of a node's keys: `keys` beside its configuration. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { TlsConfig } from "../config/config.js";
import { ConntrailError } from "../errors.js";
import type { KeyPair } from "./authority.js";
import { type Roster, readRoster, writeRoster } from "./roster.js";

/** The files of a folder of keys, by the names that a configuration in `directory` has for them. */
export const KEY_FILES = {
  ca: "keys/ca.pem",
  cert: "keys/node.pem",
  key: "keys/node.key",
  nodes: "keys/nodes.json",
} as const;

/** The authority's own key, on the node where it was made. */
const AUTHORITY_KEY = "ca.key";

/** The keys beside a configuration file, whether there are any or not. */
export function keyFolderOf(configPath: string): Required<TlsConfig> & { nodes: string } {
  const directory = dirname(configPath);
  const { ca, cert, key, nodes } = KEY_FILES;
  return {
    ca: join(directory, ca),
    cert: join(directory, cert),
    key: join(directory, key),
    nodes: join(directory, nodes),
  };
}

/** True when there are keys beside a configuration file. */
export function hasKeys(configPath: string): boolean {
  return existsSync(keyFolderOf(configPath).key);
}

/** A node's keys, as they are written. */
export interface NodeKeys extends KeyPair {
  readonly ca: string;
}

/**
 * Writes a node's keys and its list of nodes. Each file is replaced as a whole. They are readable for the group of the
 * configuration's folder, if that is not root's: the daemon may run as another user.
 */
export function writeKeys(files: TlsConfig, keys: NodeKeys, roster: Roster): void {
  mkdirSync(dirname(files.key), { recursive: true, mode: 0o755 });
  // The certificate last: it is what a broker reads again, and then its key is there.
  replace(files.ca, keys.ca, 0o644);
  replace(files.key, keys.key, 0o600);
  replace(files.cert, keys.cert, 0o644);
  if (files.nodes !== null) writeRoster(files.nodes, roster);
}

/** Keeps an authority's key beside its certificate. Root reads it, and nobody else. */
export function writeAuthorityKey(files: TlsConfig, authority: KeyPair): void {
  mkdirSync(dirname(files.ca), { recursive: true, mode: 0o755 });
  replace(files.ca, authority.cert, 0o644);
  const path = authorityKeyPath(files);
  writeFileSync(`${path}.new`, authority.key, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Where the key of the authority is, on the node that has it. */
export function authorityKeyPath(files: TlsConfig): string {
  return join(dirname(files.ca), AUTHORITY_KEY);
}

/** The authority. Throws ConntrailError CONFIG on a node that does not have its key. */
export function readAuthority(files: TlsConfig): KeyPair {
  const path = authorityKeyPath(files);
  if (!existsSync(path)) {
    throw new ConntrailError(
      "CONFIG",
      `${path}: this node does not have the authority's key: do it on the node that has`,
    );
  }
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new ConntrailError("CONFIG", `${path}: can be read by others: chmod 600 ${path}`);
  }
  return { cert: readFileSync(files.ca, "utf8"), key: readFileSync(path, "utf8") };
}

/** The names that may connect to this node's broker, without its own; null: it has no list. */
export function readersOf({ nodes }: TlsConfig, node: string): readonly string[] | null {
  return nodes === null ? null : readRoster(nodes).nodes.filter((name) => name !== node);
}

/** Writes a secret beside the configuration, for root and for the group of its folder, if that is not root's. */
export function writeSecret(path: string, text: string): void {
  replace(path, `${text}\n`, 0o600, dirname(path));
}

function replace(path: string, text: string, mode: number, configured = dirname(dirname(path))): void {
  writeFileSync(`${path}.new`, text, { mode });
  const group = groupOf(configured);
  if (mode === 0o600 && group !== 0) {
    chownSync(`${path}.new`, process.getuid?.() ?? 0, group);
    chmodSync(`${path}.new`, 0o640);
  }
  renameSync(`${path}.new`, path);
}

function groupOf(directory: string): number {
  return process.getuid?.() === 0 ? statSync(directory).gid : 0;
}
