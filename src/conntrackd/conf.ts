import { ConntrailError } from "../errors.js";

/** A place in the file, both from 1. */
export interface ConfPlace {
  readonly line: number;
  readonly column: number;
}

/** A word of the file: a directive's name or one of its values. */
export interface ConfWord extends ConfPlace {
  readonly text: string;
}

/** A directive with its values and, where it has braces, what stands between them. */
export interface ConfNode {
  readonly name: ConfWord;
  /** What follows the name before the brace or the next directive: `FTFW` of `Mode FTFW {`. */
  readonly values: readonly ConfWord[];
  /** Null: no braces. */
  readonly block: readonly ConfNode[] | null;
}

/** A conntrackd.conf: the tree of its directives, and what clients need of it. */
export interface ConntrackdConf {
  readonly path: string;
  readonly nodes: readonly ConfNode[];
  readonly mode: "FTFW" | "ALARM" | "NOTRACK";
  /** `UNIX { Path }`, where the daemon listens for requests. */
  readonly unixPath: string;
  readonly lockFile: string;
  /** `Interface` of the dedicated link that is used; null: it names none. */
  readonly device: string | null;
}

/** Whether a configuration file is conntrackd's rather than conntrail's own YAML. */
export function isConntrackdConf(text: string): boolean {
  return /^(?:\s*#.*\n|\s*\n)*\s*(?:General|Sync|Stats|Helper)\s*(?:\{|$)/m.test(text);
}

/** Reads a conntrackd.conf. Throws ConntrailError CONFIG `path:line:column: what was found, what is allowed`. */
export function parseConntrackdConf(_text: string, path: string): ConntrackdConf {
  throw new ConntrailError("CONFIG", `${path}: a conntrackd.conf cannot be read yet`);
}
