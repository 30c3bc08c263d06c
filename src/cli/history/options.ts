/** The options that `history` and `at` share. */
import { type Command, Option } from "commander";
import { ConntrailError } from "../../errors.js";
import type { FlowQuery } from "../../flow/filter.js";
import type { CommandContext } from "../command/command.js";
import { addFlowOptions } from "../command/flow-options.js";
import { TEXT_FORMATS, type TextFormat } from "./connection-output.js";

/** For more connections than this use `--since` and `--until`, or no limit at all. */
export const LIMIT_MAX = 1_000_000;

/** The options that choose connections and the form in which they are printed. */
export interface ConnectionOptions extends FlowQuery {
  node?: string;
  limit?: string;
  format?: TextFormat | "ipfix" | "parquet";
}

/** Adds those options to a command. */
export function addConnectionOptions(command: Command, formats: readonly string[] = TEXT_FORMATS): Command {
  return addFlowOptions(command)
    .option("--node <names>", "only connections that one of these nodes carried: fw1 or fw1,fw2")
    .option("--limit <count>", `the newest so many, ${LIMIT_MAX} at the most`)
    .addOption(new Option("--format <format>", "how (default: table, or json with --json)").choices([...formats]));
}

/** The format that was chosen. */
export function formatOf<F extends string>(options: { format?: F }, context: CommandContext): F | "table" | "json" {
  return options.format ?? (context.json ? "json" : "table");
}

/** Reads `--limit`; null where it is left out. Throws USAGE when it is no allowed number. */
export function readLimit(text: string | undefined): number | null {
  if (text === undefined) return null;
  const limit = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= LIMIT_MAX) return limit;
  throw new ConntrailError("USAGE", `--limit: "${text}" is not allowed; give a number from 1 to ${LIMIT_MAX}`);
}

/** Reads `--node`; null where it is left out. Throws USAGE for a node without a stream. */
export function readNodes(wanted: string | undefined, known: readonly string[]): readonly string[] | null {
  if (wanted === undefined) return null;
  const names = wanted.split(",");
  for (const name of names) {
    if (known.includes(name)) continue;
    const there = known.length === 0 ? "there is none of any node" : `there are those of ${known.join(", ")}`;
    throw new ConntrailError("USAGE", `--node: there is no stream of "${name}" here; ${there}`);
  }
  return names;
}
