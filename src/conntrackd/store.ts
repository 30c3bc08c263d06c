import { createHash } from "node:crypto";

/** The stores of daemons that are told apart from others, each in a directory of its own. */
const INSTANCES = "/var/lib/conntrail/instances";

/** The names of one daemon's own files in the examples and in the packages of distributions. */
const USUAL_SOCKET = /^(\/var)?\/run\/conntrackd\.(ctl|sock)$/;
const USUAL_LOCK = /^\/(var|run)\/lock\/conntrackd?\.lock$/;

/** A directory's name, some bytes below the kernel's limit. */
const NAME_LENGTH_MAX = 200;

/** The files that tell a daemon from others on its host. */
export interface Instance {
  /** `UNIX { Path }`. */
  readonly unixPath: string;
  readonly lockFile: string;
}

/**
 * The store of the daemon of a conntrackd.conf, which has no word for it. Several daemons on one host, as in network
 * namespaces, have sockets and lock files of their own: each of them also has a store of its own. Null: the usual names,
 * so the usual store.
 */
export function storeOf({ unixPath, lockFile }: Instance): string | null {
  if (!USUAL_SOCKET.test(unixPath)) return `${INSTANCES}/${nameOf(unixPath)}`;
  return USUAL_LOCK.test(lockFile) ? null : `${INSTANCES}/${nameOf(lockFile)}`;
}

/** One name for each path: `run-lb2.ctl`; characters other than letters, digits and dots are escaped. */
function nameOf(path: string): string {
  const escaped = (character: string): string => `_${character.codePointAt(0)?.toString(16)}_`;
  const name = path
    .slice(1)
    .split("/")
    .map((part) => part.replace(/[^A-Za-z0-9.]/gu, escaped))
    .join("-");
  return name.length <= NAME_LENGTH_MAX ? name : createHash("sha256").update(path).digest("hex");
}
