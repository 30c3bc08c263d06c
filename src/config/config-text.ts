import { readFileSync } from "node:fs";
import { ConntrailError, errorText } from "../errors.js";

/** The configuration file, if no other is named. */
export const DEFAULT_CONFIG_PATH = "/etc/conntrail/conntrail.yaml";

/** The control socket of a daemon whose configuration names none. */
export const DEFAULT_CONTROL = "/run/conntrail/control.sock";

/** sun_path has room for 107 bytes, and the server needs some for a temporary name beside the socket. */
export const CONTROL_BYTES_MAX = 96;

const FILE_BYTES_MAX = 1024 * 1024;

/** The text of a configuration file. Throws ConntrailError CONFIG with path and reason when it cannot be read. */
export function readConfigText(path: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new ConntrailError("CONFIG", `${path}: cannot be read: ${reason(error)}`, { cause: error });
  }
  if (bytes.length > FILE_BYTES_MAX) {
    throw new ConntrailError("CONFIG", `${path}: found ${bytes.length} bytes, allowed is at most ${FILE_BYTES_MAX}`);
  }
  return bytes.toString("utf8");
}

function reason(error: unknown): string {
  switch ((error as NodeJS.ErrnoException).code) {
    case "ENOENT":
      return "no such file: write one with conntrail init, or name one with -c";
    case "EACCES":
      return "permission denied";
    case "EISDIR":
      return "it is a directory";
    default:
      return errorText(error);
  }
}

/** A word of the file for a message: in quotes, on one line, shortened if it is long. */
export function shown(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

/** Words, IPv4 addresses and networks, plain paths, quantities with a unit: YAML reads all of these as text. */
const PLAIN =
  /^[A-Za-z][A-Za-z0-9_-]*$|^\d+\.\d+\.\d+\.\d+(\/\d+)?$|^\/[A-Za-z0-9/._-]*[A-Za-z0-9._-]$|^\d+(m?s|[KMGT]?i?B)$/;

/** A text as a YAML scalar: plain where YAML reads it as text, otherwise in quotes. */
export function yamlScalar(text: string): string {
  return PLAIN.test(text) && !/^(true|false|null|yes|no|on|off)$/i.test(text) ? text : JSON.stringify(text);
}
