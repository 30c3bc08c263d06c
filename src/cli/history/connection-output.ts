/** The text formats in which connections are printed, and the output to which every format is written. */
import type { Connection, ConnectionChange, Gap } from "../../history/connection.js";
import { connectionToJson, gapToJson } from "../../history/format/connection-json.js";
import { csvHead, csvRow } from "../../history/format/csv.js";
import { ecsRow } from "../../history/format/ecs.js";
import { zeekFoot, zeekHead, zeekJsonRow, zeekRow } from "../../history/format/zeek.js";
import type { Terminal } from "../process/terminal.js";
import { ConnectionTable } from "./connection-table.js";

/** The formats that are printed. `ipfix` is not among them: it goes to a file or a collector. */
export const TEXT_FORMATS = ["table", "json", "ndjson", "csv", "zeek", "zeek-json", "ecs"] as const;
export type TextFormat = (typeof TEXT_FORMATS)[number];

/** What is being printed. */
export interface OutputOptions {
  /** The time up to which the duration of a living connection is counted, milliseconds since the Unix epoch; null: none is shown. */
  readonly untilMs: number | null;
  /** True: changes are printed as they come, not the connections of a finished answer. */
  readonly changes: boolean;
  /** The keys before the connections in the format `json`. */
  readonly head: Readonly<Record<string, unknown>>;
}

/** A change, or a connection of a finished answer. */
export interface OutputRow {
  readonly type?: ConnectionChange["type"];
  readonly connection: Connection;
}

/** Where an answer is written, piece by piece. */
export interface ConnectionOutput {
  /** True where connections for which events may be missing have a mark that must be explained. */
  readonly marksDoubt: boolean;
  /** True where each connection's end must be reported once only, however late. */
  readonly takesEndsOnce: boolean;
  /** Writes rows. */
  write(rows: readonly OutputRow[]): Promise<void>;
  /** Sends what was written so far, because more may take a while. */
  flush(): Promise<void>;
  /** Ends a complete answer. */
  end(gaps: readonly Gap[]): Promise<void>;
}

/** The text of one format. A format of logs has one row for each connection, when it has ended; the others one for each change. */
interface Text {
  head(): string;
  rows(rows: readonly OutputRow[], first: boolean): string;
  foot(gaps: readonly Gap[]): string;
  readonly logsEnds: boolean;
}

/** An output in one of the text formats, on the terminal. */
export function textOutput(format: TextFormat, options: OutputOptions, terminal: Terminal): ConnectionOutput {
  const text = textOf(format, options, terminal);
  let begun = false;
  let printed = 0;
  const write = async (rows: readonly OutputRow[]): Promise<void> => {
    const wanted = text.logsEnds ? rows.filter(({ type }) => type === undefined || type === "ended") : rows;
    const head = begun ? "" : text.head();
    begun = true;
    const lines = wanted.length === 0 ? "" : text.rows(wanted, printed === 0);
    printed += wanted.length;
    if (head !== "" || lines !== "") await terminal.write(head + lines);
  };
  return {
    marksDoubt: format === "table",
    takesEndsOnce: text.logsEnds,
    write,
    flush: async () => {},
    end: async (gaps) => {
      if (!begun) await write([]);
      const foot = text.foot(gaps);
      if (foot !== "") await terminal.write(foot);
    },
  };
}

function textOf(format: TextFormat, options: OutputOptions, { colours, columns }: Terminal): Text {
  const lines = (row: (connection: Connection) => string): Text["rows"] => {
    return (rows) => rows.map(({ connection }) => row(connection)).join("");
  };
  const nothing = (): string => "";
  switch (format) {
    case "table": {
      const table = new ConnectionTable({
        colours,
        untilMs: options.untilMs,
        changes: options.changes,
        width: columns,
      });
      return { head: nothing, rows: (rows, first) => table.rows(rows, first), foot: nothing, logsEnds: false };
    }
    case "json":
      return jsonText(options.head);
    case "ndjson":
      return {
        head: nothing,
        rows: (rows) => rows.map((row) => `${rowJson(row)}\n`).join(""),
        foot: nothing,
        logsEnds: false,
      };
    case "csv":
      return { head: csvHead, rows: lines(csvRow), foot: nothing, logsEnds: true };
    case "zeek":
      return {
        head: () => zeekHead(Date.now()),
        rows: lines(zeekRow),
        foot: () => zeekFoot(Date.now()),
        logsEnds: true,
      };
    case "zeek-json":
      return { head: nothing, rows: lines(zeekJsonRow), foot: nothing, logsEnds: true };
    case "ecs":
      return { head: nothing, rows: lines(ecsRow), foot: nothing, logsEnds: true };
    default:
      return format satisfies never;
  }
}

/** One object: the keys of `head`, the connections with one line each, and the gaps. */
function jsonText(head: Readonly<Record<string, unknown>>): Text {
  const keys = Object.entries(head).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}, `);
  return {
    head: () => `{ ${keys.join("")}"connections": [`,
    rows: (rows, first) => `${first ? "\n" : ",\n"}${rows.map(rowJson).join(",\n")}`,
    foot: (gaps) => `\n], "gaps": ${JSON.stringify(gaps.map(gapToJson))} }\n`,
    logsEnds: false,
  };
}

/** A connection as JSON. A change has its type in the key `change`. */
function rowJson({ type, connection }: OutputRow): string {
  return JSON.stringify({ ...(type !== undefined && { change: type }), ...connectionToJson(connection) });
}
