import type { ConfNode, ConfPlace } from "./tree.js";

/**
 * What became of a directive: a key of conntrail's, something that the broker or TCP does by itself, nothing because
 * there is nothing to set, or nothing although it had a meaning.
 */
export type Verdict = "taken over" | "replaced" | "not needed" | "not supported";

/** What became of a directive, without its place. */
export interface Outcome {
  readonly verdict: Verdict;
  /** The key of conntrail's configuration that it became; null: none. */
  readonly key: string | null;
  /** Why, how, or with what difference; empty when there is nothing to say. */
  readonly note: string;
}

/** What became of one directive of a conntrackd.conf. */
export interface Remark extends ConfPlace, Outcome {
  /** As it stands in the file, on one line: `Address Ignore` without its list. */
  readonly directive: string;
}

/** It became this key. */
export function takenOver(key: string | null, note = ""): Outcome {
  return { verdict: "taken over", key, note };
}

/** Something else does it. */
export function replaced(note: string): Outcome {
  return { verdict: "replaced", key: null, note };
}

/** It sets nothing that there is. */
export function notNeeded(note: string): Outcome {
  return { verdict: "not needed", key: null, note };
}

/** It is left out. */
export function notSupported(note: string): Outcome {
  return { verdict: "not supported", key: null, note };
}

/** An outcome with the directive's place. */
export function remarkOn({ name, values }: ConfNode, outcome: Outcome): Remark {
  const directive = [name, ...values].map(({ text }) => text).join(" ");
  return { line: name.line, column: name.column, directive, ...outcome };
}
