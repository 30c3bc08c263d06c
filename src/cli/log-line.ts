const LEVELS: ReadonlyMap<unknown, string> = new Map([
  [10, "TRACE"],
  [20, "DEBUG"],
  [30, "INFO "],
  [40, "WARN "],
  [50, "ERROR"],
  [60, "FATAL"],
]);

/** A JSON log line as `12:34:56.789 INFO  ready peers=2`, for a person at a terminal; anything else as it is. */
export function formatLogLine(line: string): string {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const { level, time, msg, node: _, ...fields } = entry;
  const clock = new Date(Number(time)).toISOString().slice(11, 23);
  const rest = Object.entries(fields).map(([key, value]) => ` ${key}=${fieldText(value)}`);
  return `${clock} ${LEVELS.get(level) ?? level} ${msg ?? ""}${rest.join("")}\n`;
}

function fieldText(value: unknown): string {
  return typeof value === "string" && /^[!-~]+$/.test(value) ? value : JSON.stringify(value);
}
