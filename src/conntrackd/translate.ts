import { ConntrailError } from "../errors.js";
import type { ConntrackdConf } from "./conf.js";
import type { ConfPlace } from "./tree.js";

/** What became of a directive. `not needed`: there is nothing in conntrail that it could set, or conntrackd ignores it too. */
export type Verdict = "taken over" | "replaced" | "not needed" | "not supported";

/** What became of one directive of a conntrackd.conf. */
export interface Remark extends ConfPlace {
  /** As it stands in the file, on one line. */
  readonly directive: string;
  readonly verdict: Verdict;
  /** The key of conntrail's configuration that it became; null: none. */
  readonly key: string | null;
  readonly note: string;
}

/** A conntrackd.conf as conntrail's own configuration. */
export interface Translation {
  /** conntrail's configuration file, with comments; always one that passes its check. */
  readonly yaml: string;
  /** One for each directive, in the order of the file. */
  readonly remarks: readonly Remark[];
  /** `Interface` of the dedicated link that is used; null: it names none. */
  readonly device: string | null;
}

/** Translates every directive. Throws ConntrailError CONFIG where no link can be made of the file. */
export function translate(conf: ConntrackdConf): Translation {
  throw new ConntrailError("CONFIG", `${conf.path}: a conntrackd.conf cannot be translated yet`);
}
