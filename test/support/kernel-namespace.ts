/**
 * A network namespace of its own for each kernel test: tables, sysctls and sockets do not meet.
 */
import { type ChildProcess, execFile, execFileSync, type SpawnOptions, spawn } from "node:child_process";
import { accessSync, closeSync, constants, existsSync, openSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import koffi from "koffi";
import {
  AF_INET,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
} from "../../src/flow/record.js";

const CLONE_NEWNET = 0x40000000;
const TOOLS = ["ip", "conntrack", "nft"];

const setns = koffi.load(null).func("int setns(int fd, int type)") as (fd: number, type: number) => number;
const execFileAsync = promisify(execFile);

/** Why kernel tests cannot run here, or null when they can. */
export function kernelAvailable(): string | null {
  if (process.platform !== "linux") return "needs Linux";
  if (process.geteuid?.() !== 0) return "needs root";
  for (const tool of TOOLS) if (!isInstalled(tool)) return `needs ${tool}(8)`;
  if (!existsSync("/proc/sys/net/netfilter/nf_conntrack_max")) return "no conntrack in this kernel";
  try {
    const name = `conntrail-probe-${process.pid}`;
    execFileSync("ip", ["netns", "add", name], { stdio: "pipe" });
    execFileSync("ip", ["netns", "delete", name], { stdio: "pipe" });
  } catch {
    return "may not create network namespaces";
  }
  return null;
}

/** One namespace with its loopback up and conntrack events always on. `await using ns = await KernelNamespace.create()`. */
export class KernelNamespace {
  static #created = 0;
  readonly name: string;
  readonly #children = new Set<ChildProcess>();
  readonly #onExit = (): void => this.#deleteNow();

  private constructor(name: string) {
    this.name = name;
  }

  /** Makes a new one, named after this process and a counter. */
  static async create(): Promise<KernelNamespace> {
    KernelNamespace.#created++;
    const namespace = new KernelNamespace(`conntrail-${process.pid}-${KernelNamespace.#created}`);
    await execFileAsync("ip", ["netns", "add", namespace.name]);
    process.once("exit", namespace.#onExit);
    try {
      await execFileAsync("ip", ["-n", namespace.name, "link", "set", "lo", "up"]);
      namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    } catch (error) {
      await namespace[Symbol.asyncDispose]();
      throw error;
    }
    return namespace;
  }

  /** As `inNamespace`. */
  run<T>(enter: () => T): T {
    return inNamespace(this.name, enter);
  }

  /** Writes a sysctl, named by its path below /proc/sys, in this namespace. */
  sysctl(path: string, value: string): void {
    this.run(() => writeFileSync(`/proc/sys/${path}`, `${value}\n`));
  }

  /** Runs a command to its end; rejects, with its stderr in the message, when it fails. */
  exec(command: string, args: readonly string[] = []): Promise<{ stdout: string; stderr: string }> {
    return execFileAsync("ip", ["netns", "exec", this.name, command, ...args], { maxBuffer: 256 << 20 });
  }

  /** Starts a command that is killed with the namespace if it still runs. */
  spawn(command: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess {
    const child = spawn("ip", ["netns", "exec", this.name, command, ...args], options);
    this.#children.add(child);
    child.once("exit", () => this.#children.delete(child));
    return child;
  }

  /** What a process without capabilities gets thrown that imports `module` and does this: the code and the message. */
  async refusal(module: string, attempt: string): Promise<string> {
    const script = `
      const module = await import(${JSON.stringify(module)});
      process.setegid(65534);
      process.seteuid(65534);
      try {
        ${attempt};
      } catch (error) {
        process.stdout.write(error.code + " " + error.message);
      }
      process.exit(0);`;
    return (await this.exec(process.execPath, ["--input-type=module", "-e", script])).stdout;
  }

  /** conntrack(8) in this namespace; resolves with what it printed. */
  async conntrack(...args: string[]): Promise<string> {
    return (await this.exec("conntrack", args)).stdout;
  }

  /** nft(8) in this namespace, fed with a script. */
  async nft(script: string): Promise<void> {
    await this.exec("nft", [script]);
  }

  /** An nftables rule set that makes the namespace's own traffic pass through conntrack. */
  async track(): Promise<void> {
    await this.nft(
      "add table inet conntrail; add chain inet conntrail in { type filter hook input priority 0; }; " +
        "add rule inet conntrail in ct state new accept",
    );
  }

  /** Kills what was started in it and deletes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#children].map(stop));
    process.removeListener("exit", this.#onExit);
    await execFileAsync("ip", ["netns", "delete", this.name]);
  }

  #deleteNow(): void {
    for (const child of this.#children) child.kill("SIGKILL");
    try {
      execFileSync("ip", ["netns", "delete", this.name], { stdio: "ignore" });
    } catch {
      // The process is ending; there is nobody left to tell.
    }
  }
}

/** Calls `enter` with the main thread in the named network namespace. Sockets made in it stay there; it must not be async. */
export function inNamespace<T>(name: string, enter: () => T): T {
  const here = openSync("/proc/thread-self/ns/net", constants.O_RDONLY);
  try {
    const there = openSync(`/run/netns/${name}`, constants.O_RDONLY);
    try {
      change(there);
      return enter();
    } finally {
      change(here);
      closeSync(there);
    }
  } finally {
    closeSync(here);
  }
}

/** Resolves as soon as `condition` holds, looking every few milliseconds; throws with `what` after the deadline. */
export async function waitUntil(condition: () => boolean, what: string, deadlineMs = 30_000): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited ${deadlineMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The record of an IPv4 UDP flow that is different for each `number` below 2^24: 10.x.y.z:number → 192.0.2.1:53. */
export function udpRecord(number: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  const source = 0x0a000000 | number;
  const port = 1024 + (number % 60000);
  words[W_ORIG_SRC] = source;
  words[W_ORIG_DST] = 0xc0000201;
  words[W_REPLY_SRC] = 0xc0000201;
  words[W_REPLY_DST] = source;
  words[W_ORIG_L4] = (port << 16) | 53;
  words[W_REPLY_L4] = (53 << 16) | port;
  words[W_PROTO] = (AF_INET << 8) | 17;
  words[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_REPLY;
  return words;
}

function change(fd: number): void {
  if (setns(fd, CLONE_NEWNET) !== 0) throw new Error(`setns failed with errno ${koffi.errno()}`);
}

function isInstalled(tool: string): boolean {
  return (process.env.PATH ?? "").split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}
