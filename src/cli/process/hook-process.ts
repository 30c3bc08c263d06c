import { readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { ConntrailError } from "../../errors.js";
import { processUser, readProcessStat } from "../../os/process-stat.js";

/** Nobody nests scripts deeper than this. */
const ANCESTORS_MAX = 16;
/** conntrackd's options with which it asks a daemon and does not become one. */
const CONNTRACKD_REQUEST = /^-[ciefFRBntks]/;
const CONNTRACKD_CONFIG = "/etc/conntrackd/conntrackd.conf";

/**
 * When keepalived started this hook. If keepalived started a script that calls the hook, the script's start counts: of
 * two scripts, the one that was started last may be the first to call its hook.
 * @throws ConntrailError CONTROL if /proc is not mounted
 */
export function hookStart(): { readonly ticks: number; readonly pid: number } {
  let pid = process.pid;
  let stat = readProcessStat(pid);
  if (stat === null) throw new ConntrailError("CONTROL", "/proc tells nothing of this process: is it mounted?");
  const own = { ticks: stat.startTicks, pid };
  for (let depth = 0; depth < ANCESTORS_MAX && stat.parent > 1; depth++) {
    const parent = readProcessStat(stat.parent);
    if (parent === null) return own;
    if (isKeepalived(stat.parent, parent.name)) return { ticks: stat.startTicks, pid };
    pid = stat.parent;
    stat = parent;
  }
  return own;
}

/** keepalived's processes may have other names (`process_names`). */
function isKeepalived(pid: number, name: string): boolean {
  if (name.startsWith("keepalived")) return true;
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`)).startsWith("keepalived");
  } catch {
    return false;
  }
}

/**
 * True if a daemon of this configuration runs, as `conntrail daemon` or bin/conntrackd, even one that does not answer
 * yet. It looks at all processes, so it is slow. Anybody may run a process that looks like a daemon, and must not make a
 * hook wait for it: one that counts is root's, or belongs to the owner of the control socket's folder.
 */
export function daemonRuns(configPath: string, control: string): boolean {
  const config = realPath(resolve(configPath));
  const owner = statSync(dirname(control), { throwIfNoEntry: false })?.uid;
  return readdirSync("/proc").some((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return false;
    const named = daemonConfig(commandLine(name), configPath);
    if (named === null) return false;
    const user = processUser(Number(name));
    if (user === null || (user !== 0 && user !== process.geteuid?.() && user !== owner)) return false;
    return realPath(resolve(link(`/proc/${name}/cwd`), named)) === config;
  });
}

/** The configuration of the daemon that this command line runs; null if it runs none. */
export function daemonConfig(argv: readonly string[], defaultPath: string): string | null {
  const at = argv.findIndex((word) => /(^|\/)(conntrail|conntrackd)$/.test(word));
  const program = argv[at];
  if (program === undefined) return null;
  const args = argv.slice(at + 1);
  if (basename(program) === "conntrail") {
    if (!args.includes("daemon")) return null;
    const after = args.findIndex((word) => word === "-c" || word === "--config");
    const joined = args.find((word) => word.startsWith("--config="))?.slice("--config=".length);
    return joined ?? (after < 0 ? undefined : args[after + 1]) ?? defaultPath;
  }
  if (args.some((word) => CONNTRACKD_REQUEST.test(word))) return null;
  const after = args.indexOf("-C");
  return (after < 0 ? undefined : args[after + 1]) ?? CONNTRACKD_CONFIG;
}

/** A daemon has named itself by its command line, in which the configuration is last (os/process-name.ts). */
const TITLE = /^(conntrail|conntrackd)( \S+)? (-[cC]) ([^\0]*)\0*$/;

function commandLine(pid: string): string[] {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    const [, program = "", command = "", option = "", path = ""] = TITLE.exec(text) ?? [];
    return program === "" ? text.split("\0") : [program, command.trim(), option, path];
  } catch {
    return [];
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "/";
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
