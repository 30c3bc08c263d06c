import { existsSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import type { Command } from "commander";
import { type Config, parseConfig } from "../config/config.js";
import { readConfigText } from "../config/config-text.js";
import { type ConntrackdConf, checkConntrackdConf, isConntrackdConf } from "../conntrackd/conf.js";
import type { Remark } from "../conntrackd/remark.js";
import { translate } from "../conntrackd/translate.js";
import { errorAt } from "../conntrackd/tree.js";
import { ConntrailError } from "../errors.js";
import { type Bundle, readBundle } from "../keys/bundle.js";
import { createKeys, installBundle, type WrittenBundle } from "../keys/cluster-keys.js";
import { withKeysLine } from "../keys/config-line.js";
import { hasKeys, keyFolderOf } from "../keys/key-folder.js";
import type { CommandContext } from "./command/command.js";
import { writeNewFile } from "./command/new-file.js";
import { formatColumns } from "./process/terminal.js";

interface ImportOptions {
  out?: string;
  force?: boolean;
  bundle?: string;
  keys: boolean;
}

/** `import`: translates a conntrackd.conf to conntrail's configuration, and reports the outcome of each directive. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("import")
    .description("turn a conntrackd.conf into conntrail's configuration")
    .argument("<file>", "the conntrackd.conf")
    .option("-o, --out <file>", "where to (default: standard output)")
    .option("--force", "replace a file that is there")
    .option("--bundle <file>", "with -o: the keys that import on another node made for this one")
    .option("--no-keys", "with -o: make no keys; the link stays as open as conntrackd's")
    .action((path: string, options: ImportOptions) => importFile(path, options, context));
}

async function importFile(path: string, options: ImportOptions, context: CommandContext): Promise<void> {
  const { force } = options;
  const out = options.out === "-" ? undefined : options.out;
  const { terminal } = context;
  const conf = await readConf(path, context);
  if (conf === undefined) return;
  const { yaml: open, remarks } = translate(conf);
  const isKeyed = out !== undefined && options.keys && conf.shape.mode !== "stats";
  const yaml = isKeyed ? withKeysLine(open, out) : open;
  const bundle = options.bundle === undefined ? null : readBundle(options.bundle);
  if (out !== undefined) writeNewFile(out, yaml, force === true);
  const bundles = isKeyed ? makeKeys(parseConfig(yaml, out), bundle, options) : [];
  if (context.json) {
    await terminal.json({ path, out: out ?? null, yaml, directives: remarks, bundles });
    return;
  }
  if (out === undefined) await terminal.write(yaml);
  terminal.usage(reportText(remarks));
  if (out === undefined) return;
  const wrote = [out, ...bundles.map((written) => written.path)].map((file) => `wrote ${file}\n`).join("");
  const there = bundles.map(({ node, path: file }) => `copy ${file} to ${node}, and import there with --bundle FILE, `);
  await terminal.write(`${wrote}next: look it over, ${there.join("")}then: conntrail daemon -c ${out}\n`);
}

/** Makes the cluster's keys, or puts those of a bundle in their place. Keys that are there stay. */
function makeKeys(config: Config, bundle: Bundle | null, { bundle: file }: ImportOptions): readonly WrittenBundle[] {
  const files = keyFolderOf(config.path);
  if (bundle !== null) {
    installBundle(files, bundle, config);
    if (file !== undefined) rmSync(file, { force: true });
    return [];
  }
  if (hasKeys(config.path)) return [];
  const members = config.peers.map(({ node, address }) => ({ node, address, isObserver: false }));
  return createKeys(config, files, members, { directory: dirname(config.path), nowMs: Date.now(), force: false });
}

/** Reads the file. Prints all its problems at once and returns undefined when there are any. */
async function readConf(path: string, { terminal }: CommandContext): Promise<ConntrackdConf | undefined> {
  if (!existsSync(path)) throw new ConntrailError("CONFIG", `${path}: no such file`);
  const text = readConfigText(path);
  if (!isConntrackdConf(text)) {
    const { checkConfig } = await import("../config/config.js");
    if (checkConfig(text, path).ok) {
      const found = "found conntrail's own configuration, allowed is a conntrackd.conf: there is nothing to import";
      throw new ConntrailError("CONFIG", `${path}: ${found}`);
    }
    throw errorAt(path, { line: 1, column: 1 }, "found no block of conntrackd's, allowed is a conntrackd.conf");
  }
  const check = checkConntrackdConf(text, path);
  if (check.ok) return check.conf;
  for (const problem of check.problems) terminal.complain(errorAt(path, problem, problem.text).message);
  terminal.exitCode = 2;
  return undefined;
}

function reportText(remarks: readonly Remark[]): string {
  const rows = remarks.map(({ line, directive, verdict, key, note }) => [
    String(line),
    directive,
    key === null ? verdict : `${verdict}: ${key}`,
    note,
  ]);
  const counts = new Map<string, number>();
  for (const { verdict } of remarks) counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
  const sum = [...counts].map(([verdict, count]) => `${count} ${verdict}`).join(", ");
  return `${formatColumns([["line", "directive", "became", "note"], ...rows])}${remarks.length} directives: ${sum}\n`;
}
