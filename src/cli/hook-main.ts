import { writeSync } from "node:fs";
import { DEFAULT_CONFIG_PATH, readConfigText } from "../config/config-text.js";
import { scanControlPath } from "../config/control-path.js";
import { GROUP_NAME, HOOK_ROLES, type HookReport, type HookRole } from "../control/protocol.js";
import { callHook } from "./process/hook-call.js";

/** The command line of a hook as keepalived's configuration has it. */
interface HookLine {
  readonly role: HookRole;
  readonly group: string | undefined;
  readonly configPath: string;
}

/**
 * Runs `conntrail hook` with the few modules that it needs, because keepalived waits for
 * nothing and every packet does. False if the command line has anything beside role, `-c` and `--group`: then nothing
 * was done, and `main` does it. Sets the exit code, and throws, as `main` does.
 */
export async function hookMain(argv: readonly string[]): Promise<boolean> {
  const line = parseHookLine(argv);
  if (line === null) return false;
  const controlPath = (): Promise<string> => findControl(line.configPath);
  let report: HookReport;
  try {
    report = await callHook({ ...line, controlPath, onProgress: () => undefined });
  } catch (error) {
    const { reportFailure } = await import("./main.js");
    await reportFailure(error, argv);
    return true;
  }
  const { formatHook } = await import("./hook-text.js");
  print(`${formatHook(report)}\n`);
  return true;
}

/** Null if it is not a plain call of a hook. */
export function parseHookLine(argv: readonly string[]): HookLine | null {
  const words: string[] = [];
  let configPath = DEFAULT_CONFIG_PATH;
  let group: string | undefined;
  const rest = [...argv];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (!word.startsWith("-")) {
      words.push(word);
      continue;
    }
    const value = rest.shift();
    if (value === undefined || value.startsWith("-")) return null;
    if (word === "-c" || word === "--config") configPath = value;
    else if (word === "--group" && GROUP_NAME.test(value)) group = value;
    else return null;
  }
  const [command, name, ...more] = words;
  const role = HOOK_ROLES.find((each) => each === name);
  return command === "hook" && role !== undefined && more.length === 0 ? { role, group, configPath } : null;
}

async function findControl(configPath: string): Promise<string> {
  const found = scanControlPath(readConfigText(configPath));
  if (found !== undefined) return found;
  const { anyControlPath } = await import("../conntrackd/conf.js");
  return anyControlPath(configPath);
}

/** Nobody may be reading. */
function print(text: string): void {
  try {
    writeSync(1, text);
  } catch {
    // The hook's work is done.
  }
}
