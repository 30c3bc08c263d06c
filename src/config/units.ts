/** Parses durations and sizes: a whole number and a unit. A number without a unit is refused, except 0. */

const DURATION_MS: ReadonlyMap<string, number> = new Map([
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000],
]);

const SIZE_BYTES: ReadonlyMap<string, number> = new Map([
  ["B", 1],
  ["kB", 1e3],
  ["KB", 1e3],
  ["MB", 1e6],
  ["GB", 1e9],
  ["TB", 1e12],
  ["KiB", 1024],
  ["MiB", 1024 ** 2],
  ["GiB", 1024 ** 3],
  ["TiB", 1024 ** 4],
]);

/** Examples of durations, for messages. */
export const DURATION_EXAMPLES = "a duration with its unit, such as 5ms 10s 3m 2h 7d";

/** Examples of sizes, for messages. */
export const SIZE_EXAMPLES = "a size with its unit, such as 64KiB 500MB 2GiB";

/** `5ms 10s 3m 2h 7d` or 0, in milliseconds; undefined for anything else. */
export function parseDuration(value: unknown): number | undefined {
  return parseQuantity(value, DURATION_MS);
}

/** `64KiB 500MB 2GiB` or 0, in bytes; undefined for anything else. */
export function parseSize(value: unknown): number | undefined {
  return parseQuantity(value, SIZE_BYTES);
}

function parseQuantity(value: unknown, units: ReadonlyMap<string, number>): number | undefined {
  if (value === 0 || value === "0") return 0;
  if (typeof value !== "string") return undefined;
  const match = /^(\d{1,15}) ?([A-Za-z]{1,3})$/.exec(value);
  const factor = units.get(match?.[2] ?? "");
  if (match === null || factor === undefined) return undefined;
  const quantity = Number(match[1]) * factor;
  return Number.isSafeInteger(quantity) ? quantity : undefined;
}
