import { type Config, parseConfig } from "../../config/config.js";
import { readConfigText } from "../../config/config-text.js";
import { isConntrackdConf, parseConntrackdConf } from "../../conntrackd/conf.js";
import type { Remark } from "../../conntrackd/remark.js";
import { translate } from "../../conntrackd/translate.js";
import { withKeysLine } from "../../keys/config-line.js";
import { hasKeys } from "../../keys/key-folder.js";

/** A configuration. If it was made from a conntrackd.conf, also the outcome of each directive. */
export interface AnyConfig {
  readonly config: Config;
  readonly remarks: readonly Remark[];
}

/** The configuration in a file, conntrail's YAML or a conntrackd.conf. Throws ConntrailError CONFIG with one line. */
export function loadAnyConfig(path: string): Config {
  return readAnyConfig(path).config;
}

/** As `loadAnyConfig`, with the remarks. */
export function readAnyConfig(path: string): AnyConfig {
  const text = readConfigText(path);
  if (!isConntrackdConf(text)) return { config: parseConfig(text, path), remarks: [] };
  const { yaml, remarks } = translate(parseConntrackdConf(text, path));
  const config = parseConfig(yaml, path);
  // A conntrackd.conf cannot name keys: those beside it count.
  const isKeyed = config.mode !== "stats" && hasKeys(path);
  return { config: isKeyed ? parseConfig(withKeysLine(yaml, path), path) : config, remarks };
}
