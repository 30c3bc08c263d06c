/**
 * The list of the nodes that may connect to this node's broker: `nodes.json` among the keys. Every node has its own. A
 * certificate alone opens nothing: its name must be in the list.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { parseName } from "../config/schema.js";
import { ConntrailError, errorText } from "../errors.js";

/** Who may connect. */
export interface Roster {
  readonly nodes: readonly string[];
  /** Names that were taken away, and are not given again: an old certificate of that name would be valid with them. */
  readonly revoked: readonly string[];
}

/** Every node has an account on every broker. */
const NODES_MAX = 256;

const names = z.array(z.string().refine((name) => parseName(name) !== undefined)).max(NODES_MAX);
const schema = z.object({ nodes: names, revoked: names });

/** Reads a list. @throws ConntrailError CONFIG in one line */
export function readRoster(path: string): Roster {
  try {
    if ((statSync(path).mode & 0o022) !== 0) throw new Error(`can be written by others: chmod 644 ${path}`);
    const { nodes, revoked } = schema.parse(JSON.parse(readFileSync(path, "utf8")));
    return { nodes: nodes.filter((node) => !revoked.includes(node)), revoked };
  } catch (error) {
    const why = error instanceof z.ZodError ? 'allowed is {"nodes":[names],"revoked":[names]}' : errorText(error);
    throw new ConntrailError("CONFIG", `${path}: ${why}`, { cause: error });
  }
}

/** Writes a list, so that a reader sees the old one or the new one. */
export function writeRoster(path: string, roster: Roster): void {
  writeFileSync(`${path}.new`, `${JSON.stringify(roster, null, 2)}\n`, { mode: 0o644 });
  renameSync(`${path}.new`, path);
}

/** The list with one more node. Throws ConntrailError CONFIG for a name that was revoked. */
export function withNode(roster: Roster, node: string): Roster {
  if (roster.revoked.includes(node)) {
    const why = `${node} was revoked, and a certificate of that name may still be about: give the node another name`;
    throw new ConntrailError("CONFIG", why);
  }
  return { ...roster, nodes: [...new Set([...roster.nodes, node])] };
}

/** The list without a node, which does not come back. */
export function withoutNode(roster: Roster, node: string): Roster {
  const nodes = roster.nodes.filter((name) => name !== node);
  return { nodes, revoked: [...new Set([...roster.revoked, node])] };
}
