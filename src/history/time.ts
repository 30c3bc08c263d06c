/**
 * Points in time as people write them:
 *
 *   2026-01-31T12:00:05.250+01:00   ISO 8601; a space for the T, seconds and fraction left out, 20260131T120005Z
 *   2026-01-31 12:00                without a zone: the machine's own (TZ)
 *   2026-01-31                      its first moment
 *   yesterday 14:03, today, 14:03   14:03 alone is today's
 *   monday, mon 9:00, last monday   the last such day; without `last` today counts
 *   now, 2h, -2h, -1h30m, -7d       before now: w, d, h, m, s, ms
 *   2 hours ago, an hour ago        the same in words
 *   1769857205.25, @1769857205      seconds since the Unix epoch
 *
 * A wall clock time that the machine's zone skipped or had twice is refused: an answer that is an hour off names the wrong host.
 */
import { ConntrailError } from "../errors.js";

/** A point in time, and how exactly it was named. */
export interface NamedTime {
  /** Milliseconds since the Unix epoch. */
  readonly ms: number;
  /** 1000 where the text names a whole second or minute, as clocks and logs write it; 1 where it has a fraction. */
  readonly spanMs: number;
}

/** Milliseconds of each unit of a duration. */
const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ["w", 604_800_000],
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
  ["ms", 1],
]);
const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;
/** Date's own range is wider, but a time outside of these years is a typing error. */
const YEAR_MIN = 1970;
const YEAR_MAX = 9999;

/** The words for them, without the plural's s. */
const UNIT_WORDS: ReadonlyMap<string, string> = new Map([
  ...["w", "week", "wk"].map((word) => [word, "w"] as const),
  ...["d", "day"].map((word) => [word, "d"] as const),
  ...["h", "hour", "hr"].map((word) => [word, "h"] as const),
  ...["m", "minute", "min"].map((word) => [word, "m"] as const),
  ...["s", "second", "sec"].map((word) => [word, "s"] as const),
  ...["ms", "millisecond"].map((word) => [word, "ms"] as const),
]);
const WEEKDAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

const RELATIVE = /^-?((?:\d+(?:\.\d+)?(?:ms|[wdhms]))+)(?: +ago)?$/;
const IN_WORDS = /^(?:(?:\d+(?:\.\d+)? *|an? +)[a-z]+(?:,? +and +|,? +|$))+(?:ago)?$/;
const EPOCH = /^(?:@(\d{1,12}(?:[.,]\d{1,9})?)|(\d{9,11}(?:[.,]\d{1,9})?))$/;
const DATE = String.raw`(?:(?<year>\d{4})-(?<month>\d\d)-(?<day>\d\d)|(?<basic>\d{8})|(?<word>today|yesterday|(?:last +)?(?:sun|mon|tue|wed|thu|fri|sat)[a-z]{0,6}))`;
const CLOCK = String.raw`(?:(?<hour>\d\d?):(?<minute>\d\d)(?::(?<second>\d\d)(?<fraction>[.,]\d{1,9})?)?|(?<basicClock>\d{4}(?:\d\d)?))`;
const ZONE = String.raw`(?: ?(?<zone>z|utc|gmt|[+-]\d\d(?::?\d\d)?))`;
const CALENDAR = new RegExp(`^(?:${DATE}(?:(?:t| +)${CLOCK}${ZONE}?)?|${CLOCK.replaceAll("?<", "?<lone_")})$`);

/**
 * Reads a point in time. Throws USAGE with one line that names `option` when the text is no time, or names a time of the machine's
 * own zone that did not happen or happened twice.
 */
export function parseTime(option: string, text: string, nowMs: number): NamedTime {
  const plain = text.trim().toLowerCase();
  if (plain === "now") return { ms: nowMs, spanMs: 1 };
  const relative = RELATIVE.exec(plain);
  if (relative !== null) return { ms: checkedYear(option, text, nowMs - durationMs(plain)), spanMs: 1 };
  const backMs = IN_WORDS.test(plain) ? wordsMs(plain) : null;
  if (backMs !== null) return { ms: checkedYear(option, text, nowMs - backMs), spanMs: 1 };
  const epoch = EPOCH.exec(plain);
  if (epoch !== null) return epochTime(option, text, plain.replace("@", "").replace(",", "."));
  const calendar = CALENDAR.exec(plain)?.groups;
  if (calendar === undefined) throw unreadable(option, text);
  return calendarTime(option, text, calendar, nowMs);
}

/** Throws USAGE when a time lies in the future. */
export function requirePast(option: string, text: string, time: NamedTime, nowMs: number): void {
  if (time.ms <= nowMs) return;
  throw new ConntrailError(
    "USAGE",
    `${option}: ${quoted(text)} is ${formatTime(time.ms)}, which lies ahead: it is ${formatTime(nowMs)}`,
  );
}

/** Throws USAGE when a range ends before it begins. */
export function requireOrder(since: NamedTime | null, until: NamedTime | null): void {
  if (since === null || until === null || since.ms <= until.ms) return;
  const range = `from ${formatTime(since.ms)} until ${formatTime(until.ms)}`;
  throw new ConntrailError("USAGE", `--until lies before --since: ${range}; exchange them`);
}

/** ISO 8601 in UTC, with milliseconds or microseconds only where the time has them. */
export function formatTime(ms: number): string {
  const micros = Math.round(ms * 1000);
  const seconds = Math.floor(micros / 1_000_000);
  const text = new Date(seconds * 1000).toISOString().slice(0, 19);
  const rest = micros - seconds * 1_000_000;
  if (rest === 0) return `${text}Z`;
  const digits = String(rest).padStart(6, "0");
  return `${text}.${digits.endsWith("000") ? digits.slice(0, 3) : digits}Z`;
}

function durationMs(text: string): number {
  let sum = 0;
  for (const [, number, unit = ""] of text.matchAll(/(\d+(?:\.\d+)?)(ms|[wdhms])/g)) {
    sum += Number(number) * (UNIT_MS.get(unit) ?? Number.NaN);
  }
  return sum;
}

/** `2 hours and 5 minutes ago`; null where a word is no unit. */
function wordsMs(text: string): number | null {
  let sum = 0;
  for (const [, number = "", word = ""] of text.matchAll(/(\d+(?:\.\d+)?|\ban?(?= )) *([a-z]+)/g)) {
    const unit = UNIT_WORDS.get(word) ?? UNIT_WORDS.get(word.replace(/s$/, ""));
    if (unit === undefined) return null;
    sum += (number.startsWith("a") ? 1 : Number(number)) * (UNIT_MS.get(unit) ?? Number.NaN);
  }
  return sum;
}

function epochTime(option: string, text: string, seconds: string): NamedTime {
  const ms = checkedYear(option, text, Math.round(Number(seconds) * 1_000_000) / 1000);
  return { ms, spanMs: seconds.includes(".") ? 1 : 1000 };
}

type Groups = Record<string, string | undefined>;

function calendarTime(option: string, text: string, groups: Groups, nowMs: number): NamedTime {
  const [year, month, day] = dateOf(groups, nowMs);
  const [hour, minute, second] = clockOf(groups);
  const fraction = groups.fraction ?? groups.lone_fraction;
  // As if it were UTC. Date carries a field that is too large over to the next one, so the fields then differ.
  const asUtc = Date.UTC(year, month - 1, day, hour, minute, second);
  const back = new Date(asUtc);
  const exists =
    back.getUTCMonth() === month - 1 && back.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
  if (!exists || year < YEAR_MIN) throw unreadable(option, text);
  const whole = groups.zone === undefined ? localMs(option, text, asUtc) : asUtc - zoneMs(option, text, groups.zone);
  if (fraction === undefined) return { ms: whole, spanMs: 1000 };
  return { ms: whole + Math.round(Number(`0.${fraction.slice(1)}`) * 1_000_000) / 1000, spanMs: 1 };
}

function dateOf(groups: Groups, nowMs: number): [number, number, number] {
  if (groups.year !== undefined) return [Number(groups.year), Number(groups.month), Number(groups.day)];
  if (groups.basic !== undefined) {
    return [Number(groups.basic.slice(0, 4)), Number(groups.basic.slice(4, 6)), Number(groups.basic.slice(6))];
  }
  const today = new Date(nowMs);
  // Noon, so that no change of the clocks leads to another day.
  today.setHours(12, 0, 0, 0);
  today.setDate(today.getDate() - daysBack(groups.word ?? "today", today.getDay()));
  return [today.getFullYear(), today.getMonth() + 1, today.getDate()];
}

/** How many days before today that day was; NaN for what only begins like a weekday. */
function daysBack(word: string, today: number): number {
  if (word === "today") return 0;
  if (word === "yesterday") return 1;
  const name = word.replace(/^last +/, "");
  const weekday = WEEKDAYS.findIndex((each) => each === name || each.slice(0, 3) === name);
  if (weekday < 0) return Number.NaN;
  const days = (today - weekday + 7) % 7;
  return days === 0 && name !== word ? 7 : days;
}

function clockOf(groups: Groups): [number, number, number] {
  const basic = groups.basicClock ?? groups.lone_basicClock;
  if (basic !== undefined) return [Number(basic.slice(0, 2)), Number(basic.slice(2, 4)), Number(basic.slice(4) || 0)];
  return [
    Number(groups.hour ?? groups.lone_hour ?? 0),
    Number(groups.minute ?? groups.lone_minute ?? 0),
    Number(groups.second ?? groups.lone_second ?? 0),
  ];
}

/** How far the zone is ahead of UTC. */
function zoneMs(option: string, text: string, zone: string): number {
  if (!/^[+-]/.test(zone)) return 0;
  const hours = Number(zone.slice(1, 3));
  const minutes = Number(zone.slice(3).replace(":", "") || 0);
  if (hours > 23 || minutes > 59) throw unreadable(option, text);
  return (zone.startsWith("-") ? -1 : 1) * (hours * 60 + minutes) * MINUTE_MS;
}

/** The moment at which the machine's wall clock shows these fields. */
function localMs(option: string, text: string, asUtc: number): number {
  // If the clocks were changed near that moment, the days before and after it have different offsets.
  const offsets = new Set([asUtc - DAY_MS, asUtc + DAY_MS].map((ms) => wallOffsetMs(ms)));
  const moments = [...offsets].map((offset) => asUtc - offset).filter((ms) => ms + wallOffsetMs(ms) === asUtc);
  const [moment] = moments;
  if (moment !== undefined && moments.length === 1) return moment;
  const what = moments.length === 0 ? "did not happen in this machine's zone" : "happened twice in this machine's zone";
  const zones = moments.length === 0 ? "a zone" : `the zone, ${moments.map(zoneText).join(" or ")}`;
  throw new ConntrailError(
    "USAGE",
    `${option}: ${quoted(text)} ${what}, since its clocks were changed then; add ${zones}`,
  );
}

function wallOffsetMs(ms: number): number {
  return -new Date(ms).getTimezoneOffset() * MINUTE_MS;
}

function zoneText(ms: number): string {
  const minutes = wallOffsetMs(ms) / MINUTE_MS;
  const size = Math.abs(minutes);
  const two = (value: number): string => String(value).padStart(2, "0");
  return `${minutes < 0 ? "-" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

function checkedYear(option: string, text: string, ms: number): number {
  const year = new Date(ms).getUTCFullYear();
  if (!(year >= YEAR_MIN && year <= YEAR_MAX)) throw unreadable(option, text);
  return ms;
}

function unreadable(option: string, text: string): ConntrailError {
  const allowed =
    "2026-01-31T12:00:05Z, 2026-01-31 12:00 (this machine's zone), yesterday 14:03, last monday, 2h, now, or seconds since 1970";
  return new ConntrailError("USAGE", `${option}: ${quoted(text)} is no time; give ${allowed}`);
}

/** In quotes, on one line and not longer than a time could be. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}
