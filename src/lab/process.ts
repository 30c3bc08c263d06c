import { type ChildProcess, execFile, spawn } from "node:child_process";
import { accessSync, constants, createWriteStream, existsSync, readFileSync, type WriteStream } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { ConntrailError } from "../errors.js";
import { pause } from "../os/pause.js";

/** The result of a command. `code` is -1 when a signal ended it or it could not be started. */
export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const COMMAND_TIMEOUT_MS = 30_000;
const COMMAND_OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const LINES_KEPT_MAX = 2_000;

/** Runs a command to its end; a failure is a value, not an error. Killed after `timeoutMs`. */
export function runCommand(
  file: string,
  args: readonly string[],
  options: { input?: string; timeoutMs?: number } = {},
): Promise<CommandResult> {
  return new Promise((resolve) => {
    const child = execFile(
      file,
      args,
      {
        encoding: "utf8",
        env: toolEnvironment(),
        killSignal: "SIGKILL",
        maxBuffer: COMMAND_OUTPUT_BYTES_MAX,
        timeout: options.timeoutMs ?? COMMAND_TIMEOUT_MS,
      },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ code, stdout, stderr: error !== null && stderr === "" ? error.message : stderr });
      },
    );
    // A command that ends before it has read all its input is reported by its exit code, not by EPIPE.
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input ?? "");
  });
}

/** As `runCommand`, but a failure throws one line that names the command. Returns the standard output. */
export async function runOrThrow(file: string, args: readonly string[], input?: string): Promise<string> {
  const result = await runCommand(file, args, input === undefined ? {} : { input });
  if (result.code !== 0) {
    const detail = result.stderr.trim().split("\n")[0] ?? "";
    throw new ConntrailError("KERNEL", `${file} ${args.join(" ")}: exit ${result.code}: ${detail}`);
  }
  return result.stdout;
}

/**
 * Waits until `condition` returns something other than undefined or false; after `timeoutMs` throws TIMEOUT, which
 * names `what`.
 */
export async function waitFor<T>(
  what: string,
  timeoutMs: number,
  condition: () => T | undefined | false | Promise<T | undefined | false>,
  options: { intervalMs?: number; signal?: AbortSignal } = {},
): Promise<T> {
  const deadlineMs = performance.now() + timeoutMs;
  for (;;) {
    options.signal?.throwIfAborted();
    const value = await condition();
    if (value !== undefined && value !== false) return value;
    if (performance.now() >= deadlineMs) {
      throw new ConntrailError("TIMEOUT", `waited ${(timeoutMs / 1000).toFixed(1)} s in vain: ${what}`);
    }
    await pause(options.intervalMs ?? 50);
  }
}

/** The first executable of that name on the path, including the administrator's directories. */
export function findTool(name: string): string | undefined {
  for (const directory of toolPath()) {
    const candidate = join(directory, name);
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not here: look in the next directory.
    }
  }
  return undefined;
}

/** The directory of conntrail's package.json, searched upwards from this file, so that any output directory works. */
export function projectRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const manifest = join(directory, "package.json");
    if (existsSync(manifest) && /"name":\s*"conntrail"/.test(readFileSync(manifest, "utf8"))) return directory;
    const parent = dirname(directory);
    if (parent === directory)
      throw new ConntrailError("USAGE", "no package.json of conntrail above the laboratory's files");
    directory = parent;
  }
}

/**
 * The search path: a user's path often lacks sbin, and keepalived's hooks must find the Node that this process runs
 * on.
 */
function toolPath(): string[] {
  const own = (process.env.PATH ?? "").split(delimiter).filter((part) => part !== "");
  const wanted = [dirname(process.execPath), ...own, "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
  return [...new Set(wanted)];
}

/** The environment of every command of the laboratory. */
export function toolEnvironment(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, PATH: toolPath().join(delimiter), LC_ALL: "C" };
  // node:test sets this for its children; a node process that inherits it would speak the runner's protocol.
  delete env.NODE_TEST_CONTEXT;
  delete env.SSH_AUTH_SOCK;
  return env;
}

/**
 * A child process whose output is read line by line: each line goes to a log file, the last 2,000 stay in memory.
 * `stop` and `kill` affect this one process only.
 */
export class LineProcess {
  readonly name: string;
  readonly lines: string[] = [];
  readonly exited: Promise<number>;
  #child: ChildProcess;
  #exitCode: number | undefined;
  #log: WriteStream;
  #listeners = new Set<(line: string) => void>();

  constructor(name: string, file: string, args: readonly string[], logFile: string) {
    this.name = name;
    this.#log = createWriteStream(logFile, { flags: "a" });
    this.#child = spawn(file, args, { env: toolEnvironment(), stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stdin?.on("error", () => {});
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      if (stream) createInterface({ input: stream }).on("line", (line) => this.#take(line));
    }
    this.exited = new Promise((resolve) => {
      const end = (code: number): void => {
        this.#exitCode ??= code;
        this.#log.end();
        resolve(this.#exitCode);
      };
      this.#child.once("error", (error) => {
        this.#take(error.message);
        end(-1);
      });
      // "close" comes after the last line was read, "exit" may come before.
      this.#child.once("close", (code) => end(code ?? -1));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#exitCode === undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Writes a line to its standard input. */
  send(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** Calls `listener` with each later line, until the returned function is called. */
  onLine(listener: (line: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The first line, past or future, for which `match` returns something. Throws when the process ends, and after
   * `timeoutMs`.
   */
  async waitForLine<T>(what: string, timeoutMs: number, match: (line: string) => T | undefined): Promise<T> {
    let seen = 0;
    return waitFor(
      `${this.name}: ${what}`,
      timeoutMs,
      () => {
        for (const line of this.lines.slice(seen)) {
          seen++;
          const value = match(line);
          if (value !== undefined) return value;
        }
        if (!this.running) throw this.#ended(what);
        return undefined;
      },
      { intervalMs: 20 },
    );
  }

  /** Sends SIGTERM, and SIGKILL after `timeoutMs`. Returns the exit code. */
  async stop(timeoutMs = 5_000): Promise<number> {
    if (this.running) this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.kill(), timeoutMs);
    const code = await this.exited;
    clearTimeout(timer);
    return code;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  #take(line: string): void {
    if (this.lines.length >= LINES_KEPT_MAX) this.lines.splice(0, LINES_KEPT_MAX / 2);
    this.lines.push(line);
    if (!this.#log.writableEnded) this.#log.write(`${line}\n`);
    for (const listener of this.#listeners) listener(line);
  }

  #ended(what: string): ConntrailError {
    const last = this.lines.slice(-3).join(" | ");
    return new ConntrailError(
      "TIMEOUT",
      `${this.name} ended before ${what}: ${last === "" ? "it said nothing" : last}`,
    );
  }
}
