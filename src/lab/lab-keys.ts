import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { readBundle } from "../keys/bundle.js";
import { createKeys, installBundle } from "../keys/cluster-keys.js";
import { keyFolderOf } from "../keys/key-folder.js";

/** A node whose keys are made. */
export interface KeyedNode {
  readonly name: string;
  readonly address: string;
  readonly configFile: string;
  readonly isObserver?: boolean;
}

/**
 * Makes the keys of a cluster as people do: on the first node for all, and for each other node from its bundle.
 * The directories of the configurations must exist.
 */
export function makeClusterKeys(cluster: string, port: number, nodes: readonly KeyedNode[]): void {
  const [first, ...others] = nodes;
  if (first === undefined) return;
  const members = others.map(({ name, address, isObserver = false }) => ({ node: name, address, isObserver }));
  const peers = members.filter(({ isObserver }) => !isObserver);
  const facts = { cluster, node: first.name, listen: first.address, peers, mode: "cache", broker: { port } } as const;
  const how = { directory: dirname(first.configFile), nowMs: Date.now(), force: false };
  const bundles = createKeys(facts, keyFolderOf(first.configFile), members, how);
  for (const { node, path } of bundles) {
    const other = others.find(({ name }) => name === node);
    if (other !== undefined) installBundle(keyFolderOf(other.configFile), readBundle(path), { cluster, node });
    rmSync(path);
  }
}
