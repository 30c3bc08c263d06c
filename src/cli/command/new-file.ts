import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { ConntrailError, errorText } from "../../errors.js";

/**
 * Writes a configuration file, and creates its directories. Throws CONTROL when the file exists, unless with `force`.
 */
export function writeNewFile(path: string, text: string, force: boolean): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    const to = force ? `${path}.new` : path;
    writeFileSync(to, text, { flag: force ? "w" : "wx", mode: 0o644 });
    if (force) renameSync(to, path);
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
    const why = exists ? "exists already: replace it with --force or name another with --out" : errorText(error);
    throw new ConntrailError("CONTROL", `${path}: ${why}`, { cause: error });
  }
}
