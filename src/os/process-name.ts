import { prctlName } from "./libc.js";

/** TASK_COMM_LEN without its NUL. */
const NAME_BYTES_MAX = 15;

/**
 * Names this process as ps, pgrep, pidof and killall show it: `name` is the name of the program, and `words` are the
 * command line that began it. Without that, both would be those of Node.js.
 */
export function nameProcess(name: string, words: readonly string[]): void {
  // It sets the name of the thread to the beginning of the whole text, too: the right one follows.
  process.title = [name, ...words].join(" ");
  prctlName(name.slice(0, NAME_BYTES_MAX));
}
