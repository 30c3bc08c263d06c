/** The line of a configuration that names the keys beside it. */
import { checkConfig } from "../config/config.js";
import { ConntrailError } from "../errors.js";
import { KEY_FILES } from "./key-folder.js";

/** The line for the keys beside the file. */
export const KEYS_LINE = `tls: { ca: ${KEY_FILES.ca}, cert: ${KEY_FILES.cert}, key: ${KEY_FILES.key}, nodes: ${KEY_FILES.nodes} }`;

/** The line that says that there are none. */
export const OPEN_LINE = "tls: false";

/**
 * The text of a configuration with this line in place of its own `tls`, or added. Throws ConntrailError CONFIG when it
 * has a `tls` of several lines.
 */
export function withKeysLine(text: string, path: string): string {
  const line = /^tls:.*$/m;
  const changed = line.test(text) ? text.replace(line, KEYS_LINE) : `${text.replace(/\n*$/, "\n")}\n${KEYS_LINE}\n`;
  if (!checkConfig(changed, path).ok) {
    throw new ConntrailError("CONFIG", `${path}: its tls is not one line: put this in its place: ${KEYS_LINE}`);
  }
  return changed;
}
