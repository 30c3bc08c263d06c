import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, relative, sep } from "node:path";

const FETCH_MS_MAX = 60_000;

/** A package of package-lock.json. */
interface LockedPackage {
  readonly version?: string;
  readonly integrity?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
}

/** Debian's architectures that Node.js of Debian runs on, by Node's name of the processor. */
export const ARCHITECTURES: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };

/** What a program that runs does not read: sources in C, types, maps, documentation. */
const IDLE_EXTENSIONS = new Set([
  ".ts",
  ".cts",
  ".mts",
  ".map",
  ".md",
  ".cc",
  ".hh",
  ".c",
  ".h",
  ".cpp",
  ".def",
  ".gyp",
]);
const IDLE_FOLDERS = new Set(["vendor", "doc", "docs", "examples", "test", "tests", "bench"]);

/** The packages of package-lock.json that the program needs when it runs, as paths like `node_modules/pino`. */
export function productionPackages(root: string): ReadonlyMap<string, LockedPackage> {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, LockedPackage>;
  };
  return new Map(
    Object.entries(lock.packages).filter(
      ([path, one]) => path !== "" && one.dev !== true && !path.includes("/@types/"),
    ),
  );
}

/**
 * Copies the packages that the program needs from `root` to `to`, without what it never reads. Native parts are taken
 * for `cpus`; those that are not installed here come from npm's registry or its cache. Returns the processors for which
 * the copy is whole.
 */
export function copyProductionModules(root: string, to: string, cpus: readonly string[]): readonly string[] {
  const whole = new Set(cpus);
  for (const [path, locked] of productionPackages(root)) {
    const native = locked.cpu !== undefined || locked.os !== undefined;
    if (native && !(locked.os ?? ["linux"]).includes("linux")) continue;
    if (native && !cpus.some((cpu) => locked.cpu?.includes(cpu) ?? true)) continue;
    const from = join(root, path);
    if (existsSync(from)) {
      copyPackage(from, join(to, path));
    } else if (native && isNeeded(path)) {
      if (!unpackFromRegistry(path, locked, join(to, path))) for (const cpu of locked.cpu ?? []) whole.delete(cpu);
    } else if (locked.optional !== true) {
      throw new Error(`${path} is not installed: run npm run setup`);
    }
  }
  return [...whole];
}

/** Copies one package without what a program that runs does not read, and without packages inside it. */
export function copyPackage(from: string, to: string): void {
  cpSync(from, to, {
    recursive: true,
    filter: (source) => {
      const parts = relative(from, source).split(sep);
      if (parts.some((part) => part === "node_modules")) return false;
      if (statSync(source).isDirectory()) return parts.length > 1 || !IDLE_FOLDERS.has(parts[0] ?? "");
      return /^licen[cs]e/i.test(parts.at(-1) ?? "") || !IDLE_EXTENSIONS.has(extname(source));
    },
  });
}

/** The program runs without msgpackr's native part, which only saves time that it does not spend. */
function isNeeded(path: string): boolean {
  return path.includes("/koffi-");
}

/** Puts a package that is not for this machine in its place, if npm has it and its digest is that of package-lock.json. */
function unpackFromRegistry(path: string, { version, integrity }: LockedPackage, to: string): boolean {
  const name = path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length);
  const scratch = mkdtempSync(join(tmpdir(), "conntrail-package-"));
  const run = (command: string, args: readonly string[]) =>
    spawnSync(command, args, { cwd: scratch, encoding: "utf8", timeout: FETCH_MS_MAX });
  try {
    const packed = run("npm", ["pack", "--silent", "--prefer-offline", `${name}@${version}`]);
    const file = packed.stdout.trim().split("\n").at(-1) ?? "";
    if (packed.status !== 0 || !existsSync(join(scratch, file))) return false;
    const digest = createHash("sha512")
      .update(readFileSync(join(scratch, file)))
      .digest("base64");
    if (`sha512-${digest}` !== integrity) throw new Error(`${name}@${version}: not the file of package-lock.json`);
    if (run("tar", ["-xzf", file]).status !== 0) return false;
    copyPackage(join(scratch, "package"), to);
    return true;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
