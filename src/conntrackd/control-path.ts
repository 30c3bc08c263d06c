import { readConfigText } from "../config/config-text.js";
import { controlPath } from "../config/control-path.js";
import { isConntrackdConf, parseConntrackdConf } from "./conf.js";

/** The control socket that a configuration file names, conntrail's YAML or a conntrackd.conf. As quick as `controlPath`. */
export async function anyControlPath(path: string): Promise<string> {
  const text = readConfigText(path);
  return isConntrackdConf(text) ? parseConntrackdConf(text, path).unixPath : await controlPath(path);
}
