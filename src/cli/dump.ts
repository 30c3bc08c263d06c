import { Argument, type Command, Option } from "commander";
import { requestDump, requestExpectations } from "../control/client.js";
import { type ExpectationView, FLOW_TABLES, type FlowTableName } from "../control/protocol.js";
import { ConntrailError } from "../errors.js";
import {
  expectationFromJson,
  formatExpectation,
  formatExpectationTool,
  formatExpectationXml,
} from "../flow/expectation.js";
import { compileFlowQuery, type FlowQuery } from "../flow/filter.js";
import { flowFromRecord } from "../flow/flow.js";
import { formatConntrack, formatConntrackTool, formatXml } from "../flow/format.js";
import { type RareAttributes, RECORD_WORDS } from "../flow/record.js";
import type { CommandContext } from "./command.js";
import { addFlowOptions, flowQuery } from "./flow-options.js";

const FORMATS = ["conntrack", "json", "xml"] as const;
type Format = (typeof FORMATS)[number];

/** Puts one flow into text, without the line feed. */
type FlowFormatter = (words: Uint32Array, base: number, rare: RareAttributes | null) => string;

/** `dump`: the flows of a cache or of the kernel. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("dump")
    .description("print the flows of a table (conntrackd -i, -e)")
    .addArgument(new Argument("<table>", "which table").choices(FLOW_TABLES))
    .addOption(new Option("--format <format>", "how (default: conntrack, or json with --json)").choices(FORMATS));
  addFlowOptions(command)
    .option("--expect", "the expectations of helpers instead of flows (conntrackd -i expect)")
    .action(async (table: FlowTableName, options: FlowQuery & { format?: Format; expect?: boolean }) => {
      const { format = context.json ? "json" : "conntrack", expect = false } = options;
      const query = flowQuery(options);
      if (!expect) return dump(table, format, query, context);
      const [filter] = Object.keys(query);
      if (filter !== undefined)
        throw new ConntrailError("USAGE", `--${filter} chooses flows: leave it out with --expect`);
      return dumpExpectations(table, format, context);
    });
}

async function dumpExpectations(table: FlowTableName, format: Format, context: CommandContext): Promise<void> {
  const { terminal } = context;
  const views = await requestExpectations(await context.controlPath(), table, { signal: terminal.closed });
  const lines = views.map((view) => formatView(view, table, format));
  if (format === "json") await terminal.write(`[${lines.length === 0 ? "" : `\n${lines.join(",\n")}\n`}]\n`);
  else if (lines.length > 0) await terminal.write(`${lines.join("\n")}\n`);
}

function formatView(view: ExpectationView, table: FlowTableName, format: Format): string {
  const expectation = expectationFromJson(view);
  switch (format) {
    case "conntrack":
      if (table === "kernel") return formatExpectationTool(expectation);
      return formatExpectation(expectation, view.activeSeconds ?? 0);
    case "xml":
      return formatExpectationXml(expectation, { timeout: table === "kernel" });
    case "json":
      return JSON.stringify(view);
    default:
      return format satisfies never;
  }
}

async function dump(table: FlowTableName, format: Format, query: FlowQuery, context: CommandContext): Promise<void> {
  const { terminal } = context;
  const matches = compileFlowQuery(query);
  const formatFlow = formatter(table, format);
  const [open, between, close] = format === "json" ? ["[\n", ",\n", "\n]\n"] : ["", "\n", "\n"];
  let printed = 0;
  try {
    for await (const batch of requestDump(await context.controlPath(), table, { signal: terminal.closed })) {
      let text = "";
      for (let i = 0, base = 0; base < batch.words.length; i++, base += RECORD_WORDS) {
        if (!matches(batch.words, base)) continue;
        text += printed++ === 0 ? open : between;
        text += formatFlow(batch.words, base, batch.rare.get(i) ?? null);
      }
      if (text !== "") await terminal.write(text);
    }
  } catch (error) {
    terminal.throwIfClosed();
    // What was printed ends with a whole line; JSON stays open, so that nobody takes half a table for a whole one.
    if (printed > 0) await terminal.write("\n");
    throw error;
  }
  if (printed > 0) await terminal.write(close);
  else if (format === "json") await terminal.write("[]\n");
}

/**
 * An external cache is printed without reply tuples, as conntrackd does. A kernel table is printed as conntrack(8) does:
 * it has timeouts, and does not know how long its entries have been active.
 */
function formatter(table: FlowTableName, format: Format): FlowFormatter {
  const options = { reply: table !== "external", nowSeconds: Math.floor(Date.now() / 1000) };
  switch (format) {
    case "conntrack":
      if (table === "kernel") return (words, base, rare) => formatConntrackTool(words, base, rare);
      return (words, base, rare) => formatConntrack(words, base, rare, options);
    case "xml":
      return (words, base, rare) => formatXml(words, base, rare, options);
    case "json":
      return (words, base, rare) => JSON.stringify(flowFromRecord(words, base, rare));
    default:
      return format satisfies never;
  }
}
