/**
 * Connections as an aligned table for people. Rows are printed as they come: a column gets wider when a wide value comes. On a
 * terminal that is too narrow for all columns, times and counters are shortened, then columns left out, and at last lines cut.
 */
import { plainText } from "../../flow/plain-text.js";
import type { Connection, ConnectionChange } from "../../history/connection.js";
import { type ConnectionJson, connectionToJson } from "../../history/format/connection-json.js";
import { formatMs } from "../process/terminal.js";

const BOLD = "\u001b[1m";
const GREEN = "\u001b[32m";
const YELLOW = "\u001b[33m";
const PLAIN = "\u001b[0m";

interface Cell {
  text: string;
  /** An escape sequence, used only in a coloured table. */
  readonly colour?: string;
}

/** How a table is printed. */
export interface ConnectionTableOptions {
  readonly colours: boolean;
  /** The time up to which the duration of a living connection is counted, milliseconds since the Unix epoch; null: none is shown. */
  readonly untilMs: number | null;
  /** Adds a first column with the type of the change. */
  readonly changes: boolean;
  /** How many characters a line has room for; null: any number. */
  readonly width: number | null;
}

/** The columns, and widths that are enough for most rows, so that columns seldom get wider. */
const WIDTHS = {
  CHANGE: 7,
  START: 24,
  DURATION: 8,
  PROTO: 5,
  SOURCE: 21,
  DESTINATION: 21,
  NAT: 21,
  STATE: 16,
  PACKETS: 9,
  BYTES: 12,
  NODES: 9,
} as const;
type Column = keyof typeof WIDTHS;

/** The same of those that are shortened where the terminal is narrow. */
const SHORT_WIDTHS: Partial<Record<Column, number>> = { START: 14, BYTES: 6 };
/** What is left out of a narrow table, one after the other. */
const DISPENSABLE: readonly Column[] = ["PACKETS", "STATE", "DURATION", "NODES", "NAT", "BYTES"];
const BETWEEN = 2;
/** Columns that are only as wide as their values: nothing is aligned behind them that would move. */
const LATE: ReadonlySet<Column> = new Set(["STATE", "PACKETS", "BYTES", "NODES"]);

/** The columns that fit into a width, and whether some of them are shortened. */
function layout(all: readonly Column[], width: number | null): { columns: readonly Column[]; short: boolean } {
  const room = (columns: readonly Column[], short: boolean): number =>
    columns.reduce((sum, name) => sum + BETWEEN + ((short ? SHORT_WIDTHS[name] : undefined) ?? WIDTHS[name]), -BETWEEN);
  if (width === null || room(all, false) <= width) return { columns: all, short: false };
  let columns = all;
  for (const name of DISPENSABLE) {
    if (room(columns, true) <= width) break;
    columns = columns.filter((column) => column !== name);
  }
  return { columns, short: true };
}

/** A table that is printed in several pieces. */
export class ConnectionTable {
  readonly #options: ConnectionTableOptions;
  readonly #columns: readonly Column[];
  readonly #short: boolean;
  readonly #widths: number[];

  constructor(options: ConnectionTableOptions) {
    this.#options = options;
    const all = (Object.keys(WIDTHS) as Column[]).filter((name) => name !== "CHANGE" || options.changes);
    const { columns, short } = layout(all, options.width);
    this.#columns = columns;
    this.#short = short;
    // Where there is room, a column is as wide as most of its values; of the last ones it depends on the values.
    this.#widths = columns.map(
      (name) => (short ? SHORT_WIDTHS[name] : undefined) ?? (LATE.has(name) ? name.length : WIDTHS[name]),
    );
  }

  /** The lines of some rows, below the heading if they are the first. */
  rows(
    changes: readonly { readonly type?: ConnectionChange["type"]; readonly connection: Connection }[],
    first: boolean,
  ): string {
    const rows = changes.map(({ type, connection }) => this.#row(connection, type));
    if (first) rows.unshift(this.#columns.map((text) => ({ text, colour: BOLD })));
    for (const row of rows) {
      for (const [i, { text }] of row.entries()) this.#widths[i] = Math.max(this.#widths[i] ?? 0, text.length);
    }
    return rows.map((row) => this.#line(row)).join("");
  }

  #line(row: readonly Cell[]): string {
    const { width, colours } = this.#options;
    const last = row.length - 1;
    let line = "";
    let used = 0;
    for (const [i, cell] of row.entries()) {
      const room = width === null ? Number.POSITIVE_INFINITY : width - used;
      const text = cell.text.length > room ? `${cell.text.slice(0, Math.max(0, room - 1))}…` : cell.text;
      const space = i === last ? "" : " ".repeat((this.#widths[i] ?? text.length) - cell.text.length + BETWEEN);
      line += (cell.colour !== undefined && colours ? `${cell.colour}${text}${PLAIN}` : text) + space;
      used += text.length + space.length;
      if (width !== null && used >= width) break;
    }
    return `${line.trimEnd()}\n`;
  }

  #row(connection: Connection, type: ConnectionChange["type"] | undefined): Cell[] {
    const json = connectionToJson(connection);
    const cells = this.#columns.map((name) => {
      const cell = this.#cell(name, connection, json, type);
      return { ...cell, text: plainText(cell.text) };
    });
    const last = cells.at(-1);
    if (json.mayMiss && last !== undefined) last.text += " ?";
    return cells;
  }

  #cell(name: Column, connection: Connection, json: ConnectionJson, type: ConnectionChange["type"] | undefined): Cell {
    const { counters, startMs } = connection;
    switch (name) {
      case "CHANGE":
        return { text: type ?? "" };
      case "START":
        if (startMs === null) return { text: "before" };
        return { text: this.#short ? formatLocalTime(startMs).slice(5, 19) : formatLocalTime(startMs) };
      case "DURATION":
        return { text: this.#duration(connection) };
      case "PROTO":
        return { text: json.protocol };
      case "SOURCE":
        return { text: endpoint(json.orig.src, json.orig.sport) };
      case "DESTINATION":
        return { text: endpoint(json.orig.dst, json.orig.dport) + icmp(json) };
      case "NAT":
        return { text: translation(json) };
      case "STATE":
        return state(connection, json);
      case "PACKETS":
        return { text: counters === null ? "-" : `${counters.origPackets}/${counters.replyPackets}` };
      case "BYTES":
        if (counters === null) return { text: "-" };
        if (this.#short) return { text: formatCount(counters.origBytes + counters.replyBytes) };
        return { text: `${counters.origBytes}/${counters.replyBytes}` };
      case "NODES":
        return { text: json.path.map(({ node }) => node).join(" → ") };
      default:
        return name satisfies never;
    }
  }

  /** `12 s+` while the connection is alive, `<12 s` where it was gone by then. */
  #duration({ startMs, endMs, end }: Connection): string {
    const untilMs = endMs ?? this.#options.untilMs;
    if (startMs === null || untilMs === null) return "-";
    const text = formatMs(Math.max(0, untilMs - startMs));
    if (end === "open") return `${text}+`;
    return end === "lost" ? `<${text}` : text;
  }
}

/** A number in at most six characters: `950`, `12.3k`, `4.5M`. */
export function formatCount(count: number): string {
  const units = ["", "k", "M", "G", "T", "P", "E"];
  let [value, unit] = [count, 0];
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? String(Math.round(value)) : `${value.toFixed(1)}${units[unit]}`;
}

/** An address with its port: `10.0.0.1:80`, `[2001:db8::1]:80`. */
export function endpoint(address: string, port: number | undefined): string {
  const host = address.includes(":") && port !== undefined ? `[${address}]` : address;
  return port === undefined ? host : `${host}:${port}`;
}

/** This machine's wall clock with its distance from UTC: `2026-01-31 13:00:05.250+01:00`, `2026-01-31 12:00:05.250Z`. */
export function formatLocalTime(ms: number): string {
  const minutes = -new Date(ms).getTimezoneOffset();
  const wall = new Date(Math.floor(ms) + minutes * 60_000).toISOString().replace("T", " ").slice(0, -1);
  if (minutes === 0) return `${wall}Z`;
  const two = (value: number): string => String(Math.floor(value)).padStart(2, "0");
  return `${wall}${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

function icmp({ orig }: ConnectionJson): string {
  return orig.icmpType === undefined ? "" : ` type ${orig.icmpType} id ${orig.icmpId}`;
}

/** The translated source, and after an arrow the translated destination. */
function translation({ nat }: ConnectionJson): string {
  if (nat === undefined) return "-";
  const source =
    nat.src === undefined ? [] : [endpoint(nat.src.address, nat.src.port ?? nat.src.icmpId ?? nat.src.key)];
  const destination = nat.dst === undefined ? [] : [`→ ${endpoint(nat.dst.address, nat.dst.port ?? nat.dst.key)}`];
  return [...source, ...destination].join(" ");
}

function state({ end }: Connection, { state: last, status }: ConnectionJson): Cell {
  const word = last ?? (status !== undefined && !status.includes("SEEN_REPLY") ? "UNREPLIED" : "");
  const text = `${word} ${end}`.trimStart();
  if (end === "open") return { text, colour: GREEN };
  return end === "lost" ? { text, colour: YELLOW } : { text };
}
