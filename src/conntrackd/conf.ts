import assert from "node:assert/strict";
import { CONTROL_BYTES_MAX, readConfigText } from "../config/config-text.js";
import { controlPath } from "../config/control-path.js";
import { HOMES } from "./grammar.js";
import { linksOf } from "./link.js";
import { type ConfProblem, parseConf } from "./parser.js";
import { type Shape, shapeOf } from "./shape.js";
import { type ConfNode, directivesAt, errorAt } from "./tree.js";

/** A conntrackd.conf: the tree of its directives, and the values that clients need. */
export interface ConntrackdConf {
  readonly path: string;
  readonly nodes: readonly ConfNode[];
  /** `UNIX { Path }`, where the daemon listens for requests. */
  readonly unixPath: string;
  readonly lockFile: string;
  /** `Interface` of the active dedicated link; null: it names none. */
  readonly device: string | null;
  readonly shape: Shape;
}

/** Either a readable file or all its problems. */
export type ConfCheck =
  | { readonly ok: true; readonly conf: ConntrackdConf }
  | { readonly ok: false; readonly problems: readonly ConfProblem[] };

const FILE_BYTES_MAX = 1024 * 1024;

/** The default of conntrackd 1.4.7 without LockFile; its manual says conntrack.lock. */
const DEFAULT_LOCK = "/var/lock/conntrackd.lock";

/** The path of all examples. Without Path, conntrackd 1.4.7 listens where nobody finds it. */
const DEFAULT_UNIX_PATH = "/var/run/conntrackd.ctl";

/**
 * True for a configuration file of conntrackd, false for conntrail's own YAML, whose keys have a colon. conntrackd's
 * begins with a closing brace, with a word and a brace, or with one of its words; block names in any case.
 */
export function isConntrackdConf(text: string): boolean {
  const start = /^\uFEFF?(?:\s|#[^\n]*(?:\n|$))*/.exec(text)?.[0].length ?? 0;
  const head = text.slice(start, start + 200);
  const word = /^([A-Za-z]\w*)\b(?!\s*:)/.exec(head)?.[1];
  if (word === undefined) return head.startsWith("}");
  if (HOMES.has(word) || /^(sync|general|stats|helper)$/i.test(word)) return true;
  return /^\w+\s*(?:#[^\n]*\s*)*\{/.test(head);
}

/** Reads a conntrackd.conf. Throws ConntrailError CONFIG `path:line:column: what was found, what is allowed`. */
export function parseConntrackdConf(text: string, path: string): ConntrackdConf {
  const check = checkConntrackdConf(text, path);
  if (check.ok) return check.conf;
  const [first] = check.problems;
  assert.ok(first !== undefined, "a file that is refused has a problem");
  throw errorAt(path, first, first.text);
}

/** Reads a conntrackd.conf, and returns all problems instead of throwing the first. */
export function checkConntrackdConf(text: string, path: string): ConfCheck {
  if (text.length > FILE_BYTES_MAX) {
    const problem = { line: 1, column: 1, text: `found ${text.length} bytes, allowed is at most ${FILE_BYTES_MAX}` };
    return { ok: false, problems: [problem] };
  }
  const { nodes, problems } = parseConf(text);
  return problems.length > 0 ? { ok: false, problems } : { ok: true, conf: confOf(nodes, path) };
}

/**
 * The control socket that a configuration file names, be it conntrail's YAML or a conntrackd.conf. As fast as
 * `controlPath`.
 */
export async function anyControlPath(path: string): Promise<string> {
  const text = readConfigText(path);
  return isConntrackdConf(text) ? parseConntrackdConf(text, path).unixPath : await controlPath(path);
}

function confOf(nodes: readonly ConfNode[], path: string): ConntrackdConf {
  const unixPath = lastValue(nodes, ["General", "UNIX", "Path"]);
  return {
    path,
    nodes,
    unixPath: unixPath !== undefined && Buffer.byteLength(unixPath) <= CONTROL_BYTES_MAX ? unixPath : DEFAULT_UNIX_PATH,
    lockFile: lastValue(nodes, ["General", "LockFile"]) ?? DEFAULT_LOCK,
    device: linksOf(nodes).active?.device?.text ?? null,
    shape: shapeOf(nodes),
  };
}

function lastValue(nodes: readonly ConfNode[], path: readonly string[]): string | undefined {
  return directivesAt(nodes, path).at(-1)?.values[0]?.text;
}
