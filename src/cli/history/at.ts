import type { Command } from "commander";
import { ConntrailError } from "../../errors.js";
import { compileFlowQuery } from "../../flow/filter.js";
import { formatTime, parseTime, requirePast } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { flowQuery } from "../command/flow-options.js";
import { paged } from "../process/pager.js";
import { printAnswer } from "./answer.js";
import { textOutput } from "./connection-output.js";
import { addConnectionOptions, type ConnectionOptions, formatOf, readLimit, readNodes } from "./options.js";
import { withHistory } from "./source.js";

/** `at`: the connections that were alive at a time. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("at")
    .description("the connections that were alive at a time, of all nodes: at yesterday 14:03, at -2h")
    .argument("<time...>", "2026-01-31T12:00Z, yesterday 14:03, -2h")
    // A time such as `-2h` looks like an option.
    .allowUnknownOption();
  addConnectionOptions(command).action((words: string[], options: ConnectionOptions) => at(words, options, context));
}

async function at(words: readonly string[], options: ConnectionOptions, context: CommandContext): Promise<void> {
  const unknown = words.find((word) => word.startsWith("--"));
  if (unknown !== undefined) throw new ConntrailError("USAGE", `unknown option '${unknown}'`);
  const text = words.join(" ");
  const nowMs = Date.now();
  const time = parseTime("at", text, nowMs);
  requirePast("at", text, time, nowMs);
  const filter = flowQuery(options);
  compileFlowQuery(filter);
  const limit = readLimit(options.limit);
  const format = formatOf(options, context);
  if (format === "ipfix" || format === "parquet") throw new ConntrailError("USAGE", `${format} is a format of history`);
  await withHistory(context, async (source) => {
    const nodes = readNodes(options.node, source.nodes);
    const { terminal } = context;
    const query = { sinceMs: time.ms, untilMs: time.ms, filter, nodes, limit };
    const head = { at: formatTime(time.ms) };
    const print = async (): Promise<void> => {
      const output = textOutput(format, { untilMs: time.ms, changes: false, head }, terminal);
      const { connections } = await printAnswer(source.at(time.ms, query, terminal.closed), output, terminal);
      if (connections === 0 && format === "table") terminal.complain(`no connections at ${formatTime(time.ms)}`);
    };
    await (format === "table" ? paged(terminal, print) : print());
  });
}
