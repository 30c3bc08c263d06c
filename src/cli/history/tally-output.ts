/** `history --top`, `--summary` and `--histogram`: what many connections come to, in place of the connections. */
import { ConntrailError } from "../../errors.js";
import type { Connection, HistoryAnswer } from "../../history/connection.js";
import { gapToJson } from "../../history/format/connection-json.js";
import {
  type Bar,
  Histogram,
  type NamedTally,
  type Summary,
  SummaryTally,
  TALLY_KEYS,
  TALLY_ORDERS,
  type TallyKey,
  type TallyOrder,
  TopTally,
} from "../../history/tally.js";
import { formatTime } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { formatColumns, formatMs } from "../process/terminal.js";
import { printAnswer } from "./answer.js";
import { formatCount, formatLocalTime } from "./connection-table.js";

/** What is asked for. */
export type TallyRequest =
  | { readonly type: "top"; readonly key: TallyKey; readonly order: TallyOrder; readonly count: number }
  | { readonly type: "summary" }
  | { readonly type: "histogram" };

/** The options of a command that ask for it. */
export interface TallyOptions {
  top?: string;
  by?: string;
  summary?: boolean;
  histogram?: boolean;
}

const TOP_DEFAULT = 10;
const HEADS: Readonly<Record<TallyKey, string>> = { src: "SOURCE", dst: "DESTINATION", port: "PORT" };
/** The width of a bar's line where the output is no terminal. */
const WIDTH_DEFAULT = 80;

/** What the options ask for; null: connections. `limit`: how many names. Throws USAGE when they do not fit together. */
export function readTally(options: TallyOptions, limit: number | null): TallyRequest | null {
  const { top, by, summary, histogram } = options;
  if ([top !== undefined, summary === true, histogram === true].filter(Boolean).length > 1) {
    throw usage("--top, --summary and --histogram: give one of them");
  }
  if (by !== undefined && top === undefined) throw usage("--by belongs to --top");
  if (top !== undefined) {
    const key = TALLY_KEYS.find((each) => each === top);
    const order = TALLY_ORDERS.find((each) => each === (by ?? "connections"));
    if (key === undefined) throw usage(`--top: "${top}" is not allowed; give ${TALLY_KEYS.join(", ")}`);
    if (order === undefined) throw usage(`--by: "${by}" is not allowed; give ${TALLY_ORDERS.join(" or ")}`);
    return { type: "top", key, order, count: limit ?? TOP_DEFAULT };
  }
  if (summary !== true && histogram !== true) return null;
  if (limit !== null) throw usage("--limit is of no use here: all connections of the range are counted");
  return summary === true ? { type: "summary" } : { type: "histogram" };
}

/** Reads the answer to its end and prints what it comes to. `sinceMs`: the begin of the range. */
export async function printTally(
  answer: HistoryAnswer,
  request: TallyRequest,
  sinceMs: number | null,
  context: CommandContext,
): Promise<void> {
  switch (request.type) {
    case "top": {
      const tally = new TopTally(request.key, request.order);
      const gaps = await count(answer, tally, context);
      const rows = tally.top(request.count);
      const { key, order } = request;
      const json = { top: key, by: order, rows: rows.map((row) => tallyJson(row)), exact: tally.dropped === 0, gaps };
      await context.print(json, () => formatTop(rows, key));
      if (tally.dropped > 0) context.terminal.complain("there were too many to be counted exactly: shorten the range");
      return;
    }
    case "summary": {
      const tally = new SummaryTally();
      const gaps = await count(answer, tally, context);
      const summary = tally.summary();
      await context.print({ ...summaryJson(summary), gaps }, () => formatSummary(summary));
      return;
    }
    case "histogram": {
      const tally = new Histogram(sinceMs);
      const gaps = await count(answer, tally, context);
      const bars = tally.bars();
      const { stepMs, earlier } = tally;
      const json = {
        stepSeconds: stepMs / 1000,
        earlier,
        bars: bars.map(({ fromMs, ...bar }) => ({ from: formatTime(fromMs), ...bar })),
        gaps,
      };
      const width = context.terminal.columns ?? WIDTH_DEFAULT;
      await context.print(json, () => formatHistogram(bars, { stepMs, earlier, width }));
      return;
    }
    default:
      request satisfies never;
  }
}

/** Counts all connections, and prints on standard error what may be missing. */
async function count(
  answer: HistoryAnswer,
  tally: { add(connection: Connection): void },
  { terminal }: CommandContext,
): Promise<unknown[]> {
  const output = {
    marksDoubt: false,
    takesEndsOnce: false,
    write: async (rows: readonly { connection: Connection }[]) => {
      for (const { connection } of rows) tally.add(connection);
    },
    flush: async () => {},
    end: async () => {},
  };
  const { gaps } = await printAnswer(answer, output, terminal);
  return gaps.map(gapToJson);
}

function tallyJson({ name, connections, bytes, packets, uncounted }: NamedTally): object {
  return { name, connections, bytes, packets, uncounted };
}

function summaryJson({ firstMs, lastMs, protocols, nodes, ...summary }: Summary): object {
  return {
    ...summary,
    first: firstMs === null ? null : formatTime(firstMs),
    last: lastMs === null ? null : formatTime(lastMs),
    protocols: protocols.map(tallyJson),
    nodes: nodes.map(tallyJson),
  };
}

/** A line for each name. What was not counted is `-`. */
export function formatTop(rows: readonly NamedTally[], key: TallyKey): string {
  return formatColumns([[HEADS[key], "CONNECTIONS", "BYTES", "PACKETS"], ...rows.map(tallyCells)]);
}

function tallyCells({ name, connections, bytes, packets, uncounted }: NamedTally): string[] {
  const none = uncounted === connections;
  return [name, String(connections), none ? "-" : formatCount(bytes), none ? "-" : formatCount(packets)];
}

/** Some lines, then a table by protocol and one by node. */
export function formatSummary(summary: Summary): string {
  const { total, outcomes, translated, mayMiss, firstMs, lastMs, protocols, nodes } = summary;
  const times = [firstMs, lastMs].map((ms) => (ms === null ? "-" : formatLocalTime(ms)));
  const states = `${outcomes.ended} ended, ${outcomes.lost} lost, ${outcomes.open} open`;
  const uncounted = total.uncounted === 0 ? "" : `; ${total.uncounted} were not counted`;
  const doubt = mayMiss === 0 ? "" : `${mayMiss} of them may be incomplete, because events are missing\n`;
  return `${total.connections} connections: ${states}; ${translated} translated
first begin ${times[0]}, last end ${times[1]}
${formatCount(total.bytes)} bytes in ${formatCount(total.packets)} packets${uncounted}
${doubt}
${formatColumns([["PROTOCOL", "CONNECTIONS", "BYTES", "PACKETS"], ...protocols.map(tallyCells)])}
${formatColumns([["NODE", "CONNECTIONS", "BYTES", "PACKETS"], ...nodes.map(tallyCells)])}`;
}

/** A line for each bar: when it begins, how many connections began in it, and a bar. */
export function formatHistogram(
  bars: readonly Bar[],
  { stepMs, earlier, width }: { stepMs: number; earlier: number; width: number },
): string {
  const most = bars.reduce((max, { connections }) => Math.max(max, connections), 0);
  const digits = Math.max("BEGUN".length, String(most).length);
  const time = (ms: number): string => formatLocalTime(ms).slice(0, 19);
  const room = Math.max(1, width - time(0).length - digits - 4);
  const lines = bars.map(({ fromMs, connections }) => {
    const length = most === 0 ? 0 : Math.ceil((connections / most) * room);
    return `${time(fromMs)}  ${String(connections).padStart(digits)}  ${"#".repeat(length)}`.trimEnd();
  });
  const head = `${"FROM".padEnd(time(0).length)}  ${"BEGUN".padStart(digits)}  each ${formatMs(stepMs)}`;
  const foot = earlier === 0 ? [] : [`${earlier} connections began earlier`];
  return [head, ...lines, ...foot].map((line) => `${line}\n`).join("");
}

function usage(text: string): ConntrailError {
  return new ConntrailError("USAGE", text);
}
