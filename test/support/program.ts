/** conntrail's command line as a child process. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { projectRoot } from "../../src/lab/process.js";

/** Where this build is: `src/` and `test/` of the compiled program. */
const BUILD = fileURLToPath(new URL("../..", import.meta.url));

/** What a program has printed until it ended; `code` is null after a signal. */
export interface ProgramResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A program that takes longer hangs, on the slowest machine. */
const PROGRAM_MS_MAX = 120_000;

/**
 * Resolves when the program has ended and all that it printed is read; one that hangs is killed. To be called before it
 * prints.
 */
export async function finish(child: ChildProcess): Promise<ProgramResult> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const hangs = setTimeout(() => child.kill("SIGKILL"), PROGRAM_MS_MAX);
  const [code] = (await once(child, "close")) as [number | null];
  clearTimeout(hangs);
  return { code, stdout, stderr };
}

/** What a program logs, from now on. Lines that come together are found one after the other, and none is lost. */
export class ProgramLog {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  #rest = "";
  #hasEnded = false;
  #wake: () => void = () => undefined;

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on("data", (chunk: Buffer) => {
      const lines = (this.#rest + chunk.toString()).split("\n");
      this.#rest = lines.pop() ?? "";
      this.#lines.push(...lines);
      this.#wake();
    });
    child.once("close", () => {
      this.#hasEnded = true;
      this.#wake();
    });
  }

  /** The next line with this message; lines before it are passed over. Rejects when the program ends first, or hangs. */
  async next(message: string): Promise<Record<string, unknown>> {
    const passed: string[] = [];
    const deadline = setTimeout(() => this.#child.kill("SIGKILL"), PROGRAM_MS_MAX);
    try {
      for (;;) {
        const line = this.#lines.shift();
        if (line?.includes(`"msg":"${message}"`)) return JSON.parse(line);
        if (line !== undefined) passed.push(line);
        else if (this.#hasEnded) throw new Error(`it ended before it logged ${message}: ${passed.join("\n")}`);
        else await this.#more();
      }
    } finally {
      clearTimeout(deadline);
    }
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

/** Starts the command line of this build, in UTC, where its packages are found. */
export function startMain(args: readonly string[]): ChildProcess {
  const main = new URL("../../src/cli/main.js", import.meta.url).href;
  const call = `import(${JSON.stringify(main)}).then(({ main }) => main(process.argv.slice(1)))`;
  return spawn(process.execPath, ["--input-type=module", "-e", call, "--", ...args], {
    cwd: projectRoot(),
    env: { ...process.env, TZ: "UTC" },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

/** A copy of the program in a directory of its own, in which files can be replaced. */
export class ProgramCopy {
  /** The executable. */
  readonly path: string;
  readonly #sources: string;

  constructor(directory: string) {
    const root = projectRoot();
    this.path = join(directory, "bin", "conntrail");
    this.#sources = join(directory, "dist", "src");
    mkdirSync(join(directory, "bin"), { recursive: true });
    cpSync(join(root, "bin", "conntrail"), this.path);
    cpSync(join(root, "package.json"), join(directory, "package.json"));
    cpSync(join(BUILD, "src"), this.#sources, { recursive: true });
    symlinkSync(join(root, "node_modules"), join(directory, "node_modules"));
  }

  /** Another text for a compiled file, named by its path in `src/`. */
  replace(file: string, text: string): void {
    writeFileSync(join(this.#sources, file), text);
  }

  /** The compiled file is as it was. */
  restore(file: string): void {
    cpSync(join(BUILD, "src", file), join(this.#sources, file));
  }
}
