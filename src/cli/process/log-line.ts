import { plainText } from "../../flow/plain-text.js";

const LEVELS: ReadonlyMap<unknown, string> = new Map([
  [10, "TRACE"],
  [20, "DEBUG"],
  [30, "INFO "],
  [40, "WARN "],
  [50, "ERROR"],
  [60, "FATAL"],
]);

/** A line of pino as an object. */
export type LogEntry = Readonly<Record<string, unknown>>;

/** Parses a line of pino; null when it is not JSON. */
export function parseLogEntry(line: string): LogEntry | null {
  try {
    return JSON.parse(line) as LogEntry;
  } catch {
    return null;
  }
}

/** A JSON log line as `12:34:56.789Z INFO  ready peers=2`, in UTC, for people; anything else unchanged. */
export function formatLogLine(line: string): string {
  const entry = parseLogEntry(line);
  if (entry === null) return line;
  const clock = new Date(Number(entry.time)).toISOString().slice(11);
  return `${clock} ${LEVELS.get(entry.level) ?? entry.level} ${formatLogText(entry)}\n`;
}

/** The message with its fields, and the name of its kind at the end: `ready peers=2 [daemon.ready]`. */
export function formatLogText(entry: LogEntry): string {
  const { level: _level, time: _time, msg, node: _node, event, ...fields } = entry;
  const rest = Object.entries(fields).map(([key, value]) => ` ${key}=${fieldText(value)}`);
  const kind = event === undefined ? "" : ` [${String(event)}]`;
  return plainText(`${String(msg ?? "").replace(/\s*\n\s*/g, " ")}${rest.join("")}${kind}`);
}

function fieldText(value: unknown): string {
  return typeof value === "string" && /^[!-~]+$/.test(value) ? value : JSON.stringify(value);
}
