import { type Config, parseConfig } from "../config/config.js";
import { readConfigText } from "../config/config-text.js";
import { isConntrackdConf, parseConntrackdConf } from "../conntrackd/conf.js";
import { translate } from "../conntrackd/translate.js";

/** The configuration in a file, conntrail's YAML or a conntrackd.conf. Throws ConntrailError CONFIG with one line. */
export function loadAnyConfig(path: string): Config {
  const text = readConfigText(path);
  if (!isConntrackdConf(text)) return parseConfig(text, path);
  return parseConfig(translate(parseConntrackdConf(text, path)).yaml, path);
}
