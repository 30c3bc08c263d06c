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

/** Resolves when the program has ended and all that it printed is read. To be called before it prints. */
export async function finish(child: ChildProcess): Promise<ProgramResult> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, stdout, stderr };
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
