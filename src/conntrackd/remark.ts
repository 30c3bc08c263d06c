import type { ConfNode, ConfPlace } from "./tree.js";

/**
 * The outcome of a directive: it became a key of conntrail, the broker or TCP does it, it is not needed, or it is not
 * supported although it had a meaning.
 */
export type Verdict = "taken over" | "replaced" | "not needed" | "not supported";

/** The outcome of a directive, without its place. */
export interface Outcome {
  readonly verdict: Verdict;
  /** The key of conntrail's configuration; null: none. */
  readonly key: string | null;
  /** The reason, or the difference; may be empty. */
  readonly note: string;
}

/** The outcome of one directive of a conntrackd.conf. */
export interface Remark extends ConfPlace, Outcome {
  /** The directive on one line, without its block: `Address Ignore`. */
  readonly directive: string;
}

/** It became this key. */
export function takenOver(key: string | null, note = ""): Outcome {
  return { verdict: "taken over", key, note };
}

/** Something else does its work. */
export function replaced(note: string): Outcome {
  return { verdict: "replaced", key: null, note };
}

/** There is nothing to set. */
export function notNeeded(note: string): Outcome {
  return { verdict: "not needed", key: null, note };
}

/** It has no counterpart, and is left out. */
export function notSupported(note: string): Outcome {
  return { verdict: "not supported", key: null, note };
}

/** An outcome with the directive's place. */
export function remarkOn({ name, values }: ConfNode, outcome: Outcome): Remark {
  const directive = [name, ...values].map(({ text }) => text).join(" ");
  return { line: name.line, column: name.column, directive, ...outcome };
}
