/** `sql`: runs a query and prints its answer as a table, CSV or JSON. */

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { plainText } from "../../flow/plain-text.js";
import { indexesOf, streamsBeyondMs } from "../../history/archive/archived-history.js";
import { loadDuckdb } from "../../history/archive/duckdb.js";
import { type SqlAnswer, SqlSession, STREAM_ROWS_MAX } from "../../history/archive/sql.js";
import { csvCell } from "../../history/format/csv.js";
import type { CommandContext } from "../command/command.js";
import { printGaps } from "./answer.js";
import { damagedText, withStreams } from "./source.js";

const FORMATS = ["table", "csv", "json"] as const;
type Format = (typeof FORMATS)[number];
/** The first rows, whose widths decide the widths of the columns of a table. */
const TABLE_ROWS = 1000;
const CELL_MAX = 60;

/** `sql`: a query over all connections of the archive and the streams. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("sql")
    .description(
      "a query in SQL over the view connections: the archive, and what the streams have beyond it; it only reads",
    )
    .argument(
      "<query>",
      `"SELECT orig_src, count(*) FROM connections GROUP BY ALL"; "DESCRIBE connections" lists the columns`,
    )
    .addOption(new Option("--format <format>", "how (default: table, or json with --json)").choices(FORMATS))
    .action((query: string, options: { format?: Format }) => sql(query, options.format ?? null, context));
}

async function sql(query: string, asked: Format | null, context: CommandContext): Promise<void> {
  const { terminal } = context;
  // Where it is missing, nothing else is asked for, and nothing is left behind.
  await loadDuckdb();
  await withStreams(context, async ({ config, streams, history }) => {
    const onDamaged = (path: string, why: string): void => terminal.complain(damagedText(path, why));
    const spill = await mkdtemp(join(tmpdir(), "conntrail-sql-"));
    const session = await SqlSession.open(config.archive?.directory ?? null, spill, onDamaged);
    try {
      await session.check(query);
      const state = await session.state();
      const sinceMs = state === null ? null : await streamsBeyondMs(state, indexesOf(streams, history.nodes));
      const range = { sinceMs, untilMs: null, filter: {}, nodes: null, limit: null };
      const answer = history.connections(range, terminal.closed);
      const whole = await session.addStream(answer.connections);
      terminal.throwIfClosed();
      const result = await session.query(query, terminal.closed);
      await print(result, asked ?? (context.json ? "json" : "table"), context);
      printGaps(answer.gaps(), terminal);
      if (!whole) terminal.complain(`the streams hold more connections than the ${STREAM_ROWS_MAX} that were taken in`);
    } finally {
      await session.close();
    }
  });
}

async function print(answer: SqlAnswer, format: Format, { terminal }: CommandContext): Promise<void> {
  switch (format) {
    case "table":
      return printTable(answer, (text) => terminal.write(text));
    case "csv":
      await terminal.write(`${answer.columns.map(csvCell).join(",")}\n`);
      for await (const rows of answer.rows) {
        await terminal.write(rows.map((row) => `${row.map((value) => csvCell(text(value))).join(",")}\n`).join(""));
      }
      return;
    case "json": {
      let printed = 0;
      for await (const rows of answer.rows) {
        const lines = rows.map((row) => JSON.stringify(objectOf(answer.columns, row)));
        if (lines.length > 0) await terminal.write(`${printed === 0 ? "[\n" : ",\n"}${lines.join(",\n")}`);
        printed += lines.length;
      }
      return terminal.write(printed === 0 ? "[]\n" : "\n]\n");
    }
    default:
      return format satisfies never;
  }
}

/** Prints a table. The first TABLE_ROWS rows decide the widths of the columns; numbers are aligned to the right. */
async function printTable(answer: SqlAnswer, write: (text: string) => Promise<void>): Promise<void> {
  const heads = answer.columns;
  const widths = heads.map((name) => name.length);
  const right = answer.types.map((type) => /INT|DOUBLE|FLOAT|DECIMAL/.test(type) && !type.endsWith("[]"));
  const line = (cells: readonly string[]): string =>
    `${cells
      .map((cell, i) => (right[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join("  ")
      .trimEnd()}\n`;
  let waiting: string[][] | null = [];
  const begin = async (rows: readonly string[][]): Promise<void> => {
    for (const [i, width] of widths.entries()) {
      widths[i] = Math.min(
        CELL_MAX,
        rows.reduce((widest, row) => Math.max(widest, row[i]?.length ?? 0), width),
      );
    }
    await write(line(heads) + rows.map(line).join(""));
  };
  for await (const batch of answer.rows) {
    const rows = batch.map((row) => row.map((value) => plainText(text(value))));
    if (waiting === null) {
      await write(rows.map(line).join(""));
      continue;
    }
    waiting.push(...rows);
    if (waiting.length < TABLE_ROWS) continue;
    await begin(waiting);
    waiting = null;
  }
  if (waiting !== null) await begin(waiting);
}

function objectOf(columns: readonly string[], row: readonly unknown[]): Record<string, unknown> {
  return Object.fromEntries(columns.map((name, i) => [name, row[i]]));
}

function text(value: unknown): string {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
