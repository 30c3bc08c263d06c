/** Connections as an aligned table for people. Rows are printed as they come: a column gets wider when a wide value comes. */
import { plainText } from "../../flow/plain-text.js";
import type { Connection, ConnectionChange } from "../../history/connection.js";
import { type ConnectionJson, connectionToJson } from "../../history/format/connection-json.js";
import { formatMs } from "../process/terminal.js";

const BOLD = "\u001b[1m";
const GREEN = "\u001b[32m";
const YELLOW = "\u001b[33m";
const PLAIN = "\u001b[0m";

interface Cell {
  readonly text: string;
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
}

/** Widths that are enough for most rows, so that columns seldom get wider. */
const WIDTHS: Readonly<Record<string, number>> = {
  CHANGE: 7,
  START: 24,
  DURATION: 8,
  PROTO: 5,
  SOURCE: 21,
  DESTINATION: 21,
  NAT: 21,
};

/** A table that is printed in several pieces. */
export class ConnectionTable {
  readonly #options: ConnectionTableOptions;
  readonly #widths: number[];
  readonly #names: readonly string[];

  constructor(options: ConnectionTableOptions) {
    this.#options = options;
    const names = ["START", "DURATION", "PROTO", "SOURCE", "DESTINATION", "NAT", "STATE", "PACKETS", "BYTES", "NODES"];
    this.#names = options.changes ? ["CHANGE", ...names] : names;
    this.#widths = this.#names.map((name) => WIDTHS[name] ?? name.length);
  }

  /** The lines of some rows, below the heading if they are the first. */
  rows(
    changes: readonly { readonly type?: ConnectionChange["type"]; readonly connection: Connection }[],
    first: boolean,
  ): string {
    const rows = changes.map(({ type, connection }) => this.#row(connection, type));
    if (first) rows.unshift(this.#names.map((text) => ({ text, colour: BOLD })));
    for (const row of rows) {
      for (const [i, { text }] of row.entries()) this.#widths[i] = Math.max(this.#widths[i] ?? 0, text.length);
    }
    return rows.map((row) => this.#line(row)).join("");
  }

  #line(row: readonly Cell[]): string {
    const last = row.length - 1;
    const cells = row.map(({ text, colour }, i) => {
      const space = i === last ? "" : " ".repeat((this.#widths[i] ?? text.length) - text.length + 2);
      return colour !== undefined && this.#options.colours ? `${colour}${text}${PLAIN}${space}` : text + space;
    });
    return `${cells.join("").trimEnd()}\n`;
  }

  #row(connection: Connection, type: ConnectionChange["type"] | undefined): Cell[] {
    const json = connectionToJson(connection);
    const { counters } = connection;
    const cells: Cell[] = [
      { text: connection.startMs === null ? "before" : formatLocalTime(connection.startMs) },
      { text: this.#duration(connection) },
      { text: json.protocol },
      { text: endpoint(json.orig.src, json.orig.sport) },
      { text: endpoint(json.orig.dst, json.orig.dport) + icmp(json) },
      { text: translation(json) },
      state(connection, json),
      { text: counters === null ? "-" : `${counters.origPackets}/${counters.replyPackets}` },
      { text: counters === null ? "-" : `${counters.origBytes}/${counters.replyBytes}` },
      { text: `${json.path.map(({ node }) => node).join(" → ")}${json.mayMiss ? " ?" : ""}` },
    ];
    const plain = cells.map((cell) => ({ ...cell, text: plainText(cell.text) }));
    return this.#options.changes ? [{ text: type ?? "" }, ...plain] : plain;
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
