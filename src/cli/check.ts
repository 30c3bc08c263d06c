import { accessSync, constants, existsSync } from "node:fs";
import type { Command } from "commander";
import { type Config, checkConfig } from "../config/config.js";
import { readConfigText } from "../config/config-text.js";
import { checkConntrackdConf, isConntrackdConf } from "../conntrackd/conf.js";
import type { Remark } from "../conntrackd/remark.js";
import { checkTranslation } from "../conntrackd/translate.js";
import type { CommandContext } from "./command/command.js";

/** One mistake. `key` is of conntrail's YAML, `column` of a conntrackd.conf. */
interface Mistake {
  readonly line: number;
  readonly column?: number;
  readonly key?: string;
  readonly text: string;
}

/** What `check --json` prints. */
interface CheckReport {
  readonly path: string;
  readonly kind: "conntrail.yaml" | "conntrackd.conf";
  readonly ok: boolean;
  readonly problems: readonly Mistake[];
  /** Of a conntrackd.conf: what is not supported, and has no effect. */
  readonly warnings: readonly Remark[];
}

/** `check`: all mistakes of a configuration file of either kind, without a daemon; exit code 2 when there are any. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("check")
    .argument("[file]", "conntrail.yaml or conntrackd.conf (default: that of -c)")
    .description("all mistakes of a configuration file, conntrail's or conntrackd's; exit 2 when there are any")
    .action(async (file: string | undefined) => {
      const path = file ?? context.configPath;
      const { report, config } = checkFile(path, readConfigText(path));
      context.terminal.exitCode = report.ok ? 0 : 2;
      if (context.json) return context.terminal.json(report);
      for (const problem of report.problems) context.terminal.complain(problemText(path, problem));
      for (const { line, column, directive, note } of report.warnings) {
        context.terminal.usage(`${path}:${line}:${column}: warning: ${directive} is not supported: ${note}\n`);
      }
      if (config !== null) await context.terminal.write(`${path}: ${summary(report.kind, config)}\n`);
    });
}

/** The mistakes of a text, and its configuration if there are none. */
function checkFile(path: string, text: string): { report: CheckReport; config: Config | null } {
  if (!isConntrackdConf(text)) {
    const check = checkConfig(text, path);
    const found = check.ok ? fileProblems(check.config, text) : check.problems;
    return reported(path, "conntrail.yaml", found, [], check.ok ? check.config : null);
  }
  const conf = checkConntrackdConf(text, path);
  if (!conf.ok) return reported(path, "conntrackd.conf", conf.problems, [], null);
  const translated = checkTranslation(conf.conf);
  if (!translated.ok) return reported(path, "conntrackd.conf", translated.problems, [], null);
  const { yaml, remarks } = translated.translation;
  const unsupported = remarks.filter(({ verdict }) => verdict === "not supported");
  const check = checkConfig(yaml, path);
  const config = check.ok ? check.config : null;
  return reported(path, "conntrackd.conf", check.ok ? [] : check.problems, unsupported, config);
}

function reported(
  path: string,
  kind: CheckReport["kind"],
  problems: readonly Mistake[],
  warnings: readonly Remark[],
  config: Config | null,
): { report: CheckReport; config: Config | null } {
  const ok = problems.length === 0;
  return { report: { path, kind, ok, problems, warnings }, config: ok ? config : null };
}

/** The files that the configuration names and that a daemon must be able to read. */
function fileProblems({ tls, broker }: Config, text: string): Mistake[] {
  const files = {
    "tls.ca": tls?.ca,
    "tls.cert": tls?.cert,
    "tls.key": tls?.key,
    "tls.nodes": tls?.nodes,
    "broker.login": broker.login?.file,
    "broker.encryption_key": broker.encryptionKey,
  };
  return Object.entries(files).flatMap(([key, file]) => {
    if (typeof file !== "string" || isReadable(file)) return [];
    const how = existsSync(file) ? "cannot be read" : "is not there";
    return [{ line: lineOf(key, text), key, text: `${file} ${how}` }];
  });
}

/** The line of a key, by its last word. */
function lineOf(key: string, text: string): number {
  const word = key.slice(key.lastIndexOf(".") + 1);
  return text.split("\n").findIndex((line) => new RegExp(`(^|[\\s{,])${word}:`).test(line)) + 1;
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function problemText(path: string, { line, column, key, text }: Mistake): string {
  const place = column === undefined ? `${path}:${line}` : `${path}:${line}:${column}`;
  return `${place}: ${key === undefined || key === "" ? "" : `${key}: `}${text}`;
}

function summary(kind: CheckReport["kind"], { mode, node, peers }: Config): string {
  const what = mode === "stats" ? "mode stats" : `node ${node}, mode ${mode}, ${peers.length} peers`;
  return `no mistakes (${kind}, ${what})`;
}
