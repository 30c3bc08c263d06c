import { readdirSync, readlinkSync, statSync } from "node:fs";
import { LineProcess, runOrThrow } from "./process.js";

const NETNS_DIRECTORY = "/run/netns";

/** A named network namespace (ip-netns(8)) and what runs in it. */
export class Namespace {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  async create(): Promise<void> {
    await runOrThrow("ip", ["netns", "add", this.name]);
  }

  /** Runs the lines as one ip-batch inside the namespace. */
  async ip(lines: readonly string[]): Promise<void> {
    await runOrThrow("ip", ["-n", this.name, "-batch", "-"], `${lines.join("\n")}\n`);
  }

  /** Runs a command inside and returns its output; throws when it fails. */
  async exec(file: string, args: readonly string[], input?: string): Promise<string> {
    return runOrThrow("ip", ["netns", "exec", this.name, file, ...args], input);
  }

  /**
   * The arguments of ip(8) that run a command inside: `ip netns exec` replaces itself, so the child has the command's
   * own pid.
   */
  execArguments(file: string, args: readonly string[]): string[] {
    return ["netns", "exec", this.name, file, ...args];
  }

  /** Starts a process inside; its lines go to `logFile`. */
  spawn(title: string, file: string, args: readonly string[], logFile: string): LineProcess {
    return new LineProcess(title, "ip", this.execArguments(file, args), logFile);
  }

  async sysctl(settings: Readonly<Record<string, string | number>>): Promise<void> {
    const assignments = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
    await this.exec("sysctl", ["-q", "-w", ...assignments]);
  }

  /** The pids of all processes inside. Empty when the namespace does not exist. */
  pids(): number[] {
    return namespacePids(this.name);
  }
}

/** The processes in a named network namespace. Only for namespaces that the laboratory made. */
export function namespacePids(name: string): number[] {
  let inode: number;
  try {
    inode = statSync(`${NETNS_DIRECTORY}/${name}`).ino;
  } catch {
    return [];
  }
  const wanted = `net:[${inode}]`;
  const pids: number[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      if (readlinkSync(`/proc/${entry}/ns/net`) === wanted) pids.push(Number(entry));
    } catch {
      // It ended between the listing and the look.
    }
  }
  return pids;
}
