import { readlinkSync } from "node:fs";
import { dirname, resolve } from "node:path";

/** Where a symbolic link leads to; any other path unchanged. */
export function linkTarget(path: string): string {
  try {
    return resolve(dirname(path), readlinkSync(path));
  } catch {
    return path;
  }
}
