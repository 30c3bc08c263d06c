import { CONTROL_BYTES_MAX, DEFAULT_CONTROL, readConfigText } from "./config-text.js";

/**
 * The control socket that the configuration file at `path` names. Commands that only ask the daemon need nothing else,
 * and start in half the time without YAML parser and schema: those are loaded only for files that `scanControlPath`
 * cannot read. Throws ConntrailError CONFIG like `loadConfig`.
 */
export async function controlPath(path: string): Promise<string> {
  const text = readConfigText(path);
  const found = scanControlPath(text);
  if (found !== undefined) return found;
  const { parseConfig } = await import("./config.js");
  return parseConfig(text, path).control;
}

/**
 * The value of `control` in a block map of plain lines; undefined when only a YAML parser can find it. In such a map
 * every line is indented unless it begins a key of the top level, so a line that starts with `control:` is that key.
 */
export function scanControlPath(text: string): string | undefined {
  let found: string | undefined;
  for (const line of text.split("\n")) {
    if (line === "" || /^[ #\r]/.test(line)) continue;
    const key = /^([a-z_]+):(?=[ \r]|$)/.exec(line)?.[1];
    if (key === undefined) return undefined;
    if (key !== "control") continue;
    const value = /^control: +(\/[A-Za-z0-9/._-]*[A-Za-z0-9._-])\s*(?: #.*)?$/.exec(line)?.[1];
    if (value === undefined || found !== undefined || value.length > CONTROL_BYTES_MAX) return undefined;
    found = value;
  }
  return found ?? DEFAULT_CONTROL;
}
