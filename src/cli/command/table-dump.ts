import { requestDump, requestExpectations } from "../../control/client.js";
import type { ExpectationView, FlowTableName } from "../../control/protocol.js";
import type { RecordBatch } from "../../control/record-reader.js";
import {
  expectationFromJson,
  formatExpectation,
  formatExpectationTool,
  formatExpectationXml,
} from "../../flow/expectation.js";
import { flowFromRecord } from "../../flow/flow.js";
import { formatConntrack, formatConntrackTool, formatXml } from "../../flow/format.js";
import { type RareAttributes, RECORD_WORDS } from "../../flow/record.js";
import type { Terminal } from "../process/terminal.js";

/** How a table can be printed. */
export const DUMP_FORMATS = ["conntrack", "json", "xml"] as const;

/** One of DUMP_FORMATS. */
export type DumpFormat = (typeof DUMP_FORMATS)[number];

/** One flow as text, without the line feed; null leaves it out. */
type FlowFormatter = (
  words: Uint32Array,
  base: number,
  rare: RareAttributes | null,
  counters: Float64Array | undefined,
) => string | null;

/** Prints the expectations of a table. Throws like `requestReport`. */
export async function dumpExpectations(
  path: string,
  table: FlowTableName,
  format: DumpFormat,
  terminal: Terminal,
): Promise<void> {
  const views = await requestExpectations(path, table, { signal: terminal.closed });
  const lines = views.map((view) => formatView(view, table, format));
  if (format === "json") await terminal.write(`[${lines.length === 0 ? "" : `\n${lines.join(",\n")}\n`}]\n`);
  else if (lines.length > 0) await terminal.write(`${lines.join("\n")}\n`);
}

function formatView(view: ExpectationView, table: FlowTableName, format: DumpFormat): string {
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

/** Prints the matching flows of a table as they come. Throws like `request`. */
export async function dumpFlows(
  path: string,
  table: FlowTableName,
  format: DumpFormat,
  matches: (words: Uint32Array, base: number) => boolean,
  terminal: Terminal,
): Promise<void> {
  const formatFlow = formatter(table, format);
  const choose: FlowFormatter = (words, base, ...more) =>
    matches(words, base) ? formatFlow(words, base, ...more) : null;
  const printed = await printFlows(
    requestDump(path, table, { signal: terminal.closed }),
    terminal,
    choose,
    format === "json" ? JSON_LIST : LINES,
  );
  if (printed === 0 && format === "json") await terminal.write("[]\n");
}

/** What stands before, between and after flows. */
const LINES = ["", "\n", "\n"] as const;
const JSON_LIST = ["[\n", ",\n", "\n]\n"] as const;

/** Prints the flows that come, each as `formatFlow` has it. Returns how many. */
export async function printFlows(
  batches: AsyncIterable<RecordBatch>,
  terminal: Terminal,
  formatFlow: FlowFormatter,
  [open, between, close]: readonly [string, string, string] = LINES,
): Promise<number> {
  let printed = 0;
  try {
    for await (const batch of batches) {
      let text = "";
      for (let i = 0, base = 0; base < batch.words.length; i++, base += RECORD_WORDS) {
        const flow = formatFlow(batch.words, base, batch.rare.get(i) ?? null, batch.countersOf(i));
        if (flow !== null) text += `${printed++ === 0 ? open : between}${flow}`;
      }
      if (text !== "") await terminal.write(text);
    }
  } catch (error) {
    terminal.throwIfClosed();
    // Complete the last line. JSON stays unclosed, so that nobody mistakes half a table for a whole one.
    if (printed > 0) await terminal.write("\n");
    throw error;
  }
  if (printed > 0) await terminal.write(close);
  return printed;
}

/**
 * An external cache is printed without reply tuples, as in conntrackd. A kernel table is printed as by conntrack(8):
 * with timeouts, and without the age of its entries, which the kernel does not report.
 */
function formatter(table: FlowTableName, format: DumpFormat): FlowFormatter {
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
