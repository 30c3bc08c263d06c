/**
 * Builds the Debian packages into `dist/packages`, or into the directory that is named:
 *
 *   node dist/deploy/packaging/main.js [--duckdb] [--node FILE] [DIRECTORY]
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { releaseDate } from "./changelog.js";
import { type Build, duckdbPackage, nodePackage, programPackage } from "./packages.js";
import { ARCHITECTURES } from "./production-modules.js";

const { values, positionals } = parseArgs({
  options: { duckdb: { type: "boolean" }, node: { type: "string" } },
  allowPositionals: true,
});
const root = fileURLToPath(new URL("../../..", import.meta.url));
const out = positionals[0] ?? join(root, "dist/packages");
const scratch = mkdtempSync(join(tmpdir(), "conntrail-deb-"));
try {
  mkdirSync(out, { recursive: true });
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  const date = releaseDate(readFileSync(join(root, "CHANGELOG.md"), "utf8"), version);
  const build: Build = {
    root,
    scratch,
    out,
    version,
    date,
    cpus: Object.keys(ARCHITECTURES),
    compression: "xz" as const,
  };
  say(await programPackage(build));
  if (values.duckdb === true) say(duckdbPackage(build));
  if (values.node !== undefined) say(nodePackage(build, values.node, versionOf(values.node)));
} catch (error) {
  process.stderr.write(`deb: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

function say(file: string): void {
  process.stdout.write(`built ${file}\n`);
}

function versionOf(program: string): string {
  const { stdout, status } = spawnSync(program, ["--version"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} does not run: name a Node.js 20 or newer`);
  return stdout.trim().replace(/^v/, "");
}
