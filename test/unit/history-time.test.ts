import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import fc from "fast-check";
import { ConntrailError } from "../../src/errors.js";
import { formatTime, parseTime, requireOrder, requirePast } from "../../src/history/time.js";

/** Saturday noon in UTC. */
const NOW = Date.UTC(2026, 0, 31, 12, 0, 0);
const zone = process.env.TZ;

beforeEach(() => {
  process.env.TZ = "Europe/Berlin";
});

afterEach(() => {
  if (zone === undefined) delete process.env.TZ;
  else process.env.TZ = zone;
});

function read(text: string, nowMs = NOW): string {
  return formatTime(parseTime("--since", text, nowMs).ms);
}

function refused(text: string, nowMs = NOW): string {
  try {
    read(text, nowMs);
  } catch (error) {
    assert.ok(error instanceof ConntrailError);
    assert.equal(error.code, "USAGE");
    assert.doesNotMatch(error.message, /\n/);
    return error.message;
  }
  return assert.fail(`"${text}" was read as ${read(text, nowMs)}`);
}

test("ISO 8601 with a zone", () => {
  for (const text of [
    "2026-01-31T12:00:05.25Z",
    "2026-01-31T13:00:05.25+01:00",
    "2026-01-31 13:00:05,25+0100",
    "2026-01-31 13:00:05.25 +01",
    "2026-01-31t12:00:05.25z",
    "2026-01-31 12:00:05.25 UTC",
    "2026-01-31T06:30:05.25-05:30",
    " 2026-01-31T12:00:05.250000Z ",
  ]) {
    assert.equal(read(text), "2026-01-31T12:00:05.250Z", text);
  }
  assert.equal(read("20260131T120005Z"), "2026-01-31T12:00:05Z");
  assert.equal(read("2026-01-31T12:00Z"), "2026-01-31T12:00:00Z");
  assert.equal(read("2024-02-29T00:00:00.000125Z"), "2024-02-29T00:00:00.000125Z");
});

test("without a zone it is the machine's own", () => {
  assert.equal(read("2026-01-31 12:00"), "2026-01-31T11:00:00Z");
  assert.equal(read("2026-07-31 12:00"), "2026-07-31T10:00:00Z");
  assert.equal(read("2026-01-31"), "2026-01-30T23:00:00Z");
  process.env.TZ = "UTC";
  assert.equal(read("2026-01-31 12:00"), "2026-01-31T12:00:00Z");
});

test("days by name and the clock alone", () => {
  assert.equal(read("yesterday 14:03"), "2026-01-30T13:03:00Z");
  assert.equal(read("today 09:00"), "2026-01-31T08:00:00Z");
  assert.equal(read("Today 9:00:01"), "2026-01-31T08:00:01Z");
  assert.equal(read("yesterday"), "2026-01-29T23:00:00Z");
  assert.equal(read("today"), "2026-01-30T23:00:00Z");
  assert.equal(read("14:03:05.5"), "2026-01-31T13:03:05.500Z");
  assert.equal(read("yesterday 14:03Z"), "2026-01-30T14:03:00Z");
  // The day after the clocks went forward is not 24 hours behind.
  assert.equal(read("yesterday 00:30", Date.UTC(2026, 2, 29, 22, 30)), "2026-03-28T23:30:00Z");
});

test("before now", () => {
  assert.equal(read("now"), "2026-01-31T12:00:00Z");
  assert.equal(read("-2h"), "2026-01-31T10:00:00Z");
  assert.equal(read("-1h30m"), "2026-01-31T10:30:00Z");
  assert.equal(read("-7d"), "2026-01-24T12:00:00Z");
  assert.equal(read("-1w"), "2026-01-24T12:00:00Z");
  assert.equal(read("-1.5s"), "2026-01-31T11:59:58.500Z");
  assert.equal(read("-250ms"), "2026-01-31T11:59:59.750Z");
});

test("back from now, as people say it", () => {
  for (const text of ["2h", "-2h", "2h ago", "2 hours ago", "2 hours", "120 min ago", "1 hour and 60 minutes ago"]) {
    assert.equal(read(text), "2026-01-31T10:00:00Z", text);
  }
  assert.equal(read("an hour ago"), "2026-01-31T11:00:00Z");
  assert.equal(read("a week ago"), "2026-01-24T12:00:00Z");
  assert.equal(read("1.5 days ago"), "2026-01-30T00:00:00Z");
});

test("the last such weekday, of which today is one without `last`", () => {
  process.env.TZ = "UTC";
  assert.equal(read("last monday"), "2026-01-26T00:00:00Z");
  assert.equal(read("Monday 14:03"), "2026-01-26T14:03:00Z");
  assert.equal(read("sat 9:00"), "2026-01-31T09:00:00Z");
  assert.equal(read("last saturday"), "2026-01-24T00:00:00Z");
  assert.equal(read("fri"), "2026-01-30T00:00:00Z");
});

test("seconds since the epoch", () => {
  assert.equal(read("1769860800"), "2026-01-31T12:00:00Z");
  assert.equal(read("1769860800.000125"), "2026-01-31T12:00:00.000125Z");
  assert.equal(read("@0"), "1970-01-01T00:00:00Z");
});

test("how exactly it was named", () => {
  const spans = ["12:00:05", "12:00", "2026-01-31T12:00:05Z", "1769860800", "12:00:05.1", "1769860800.1", "-2h", "now"];
  assert.deepEqual(
    spans.map((text) => parseTime("--at", text, NOW).spanMs),
    [1000, 1000, 1000, 1000, 1, 1, 1, 1],
  );
});

test("what is no time is refused in one line", () => {
  for (const text of [
    "",
    "noon",
    "ago",
    "2 fortnights ago",
    "mondey",
    "next monday",
    "+2h",
    "-2",
    "-2 hours",
    "-2h3",
    "2026-02-30",
    "2026-13-01",
    "2026-01-31T24:00Z",
    "2026-01-31T12:60Z",
    "2026-01-31T12:00:60Z",
    "2026-01-31T12:00+25:00",
    "2026-01-31T12:00+01:99",
    "1969-12-31T23:59Z",
    "31.01.2026",
    "01/31/2026",
    "2026-1-31",
    "1769860800000",
    "-99999999w",
    "yesterday yesterday",
    "14:03 yesterday",
    "2026-01-31T",
    "2026-01-31T12",
    "2026-01-31\n12:00",
    "1e9",
    "NaN",
    "9".repeat(400),
    "-".repeat(400),
  ]) {
    assert.match(refused(text), /^--since: ".*" is no time; give 2026-01-31T12:00:05Z, /s, text);
  }
});

test("a time that the clocks skipped or showed twice is refused", () => {
  assert.equal(
    refused("2026-03-29 02:30"),
    '--since: "2026-03-29 02:30" did not happen in this machine\'s zone, since its clocks were changed then; add a zone',
  );
  assert.equal(
    refused("2026-10-25 02:30"),
    '--since: "2026-10-25 02:30" happened twice in this machine\'s zone, since its clocks were changed then; add the zone, +02:00 or +01:00',
  );
  assert.equal(read("2026-10-25 02:30+02:00"), "2026-10-25T00:30:00Z");
  assert.equal(read("2026-10-25 03:00"), "2026-10-25T02:00:00Z");
  assert.equal(read("2026-03-29 03:00"), "2026-03-29T01:00:00Z");
});

test("what must have passed, and what must be in order", () => {
  const now = parseTime("--at", "now", NOW);
  const later = parseTime("--at", "2026-01-31T12:00:01Z", NOW);
  requirePast("--at", "now", now, NOW);
  assert.throws(() => requirePast("--at", "13:00:01", later, NOW), {
    code: "USAGE",
    message: '--at: "13:00:01" is 2026-01-31T12:00:01Z, which lies ahead: it is 2026-01-31T12:00:00Z',
  });
  requireOrder(now, later);
  requireOrder(now, now);
  requireOrder(null, now);
  requireOrder(later, null);
  assert.throws(() => requireOrder(later, now), {
    code: "USAGE",
    message: "--until lies before --since: from 2026-01-31T12:00:01Z until 2026-01-31T12:00:00Z; exchange them",
  });
});

test("what is printed is read as the same time, in any zone", () => {
  const micros = fc.integer({ min: 0, max: Date.UTC(2100, 0) * 1000 });
  fc.assert(
    fc.property(micros, fc.constantFrom("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"), (value, name) => {
      process.env.TZ = name;
      const text = formatTime(value / 1000);
      assert.equal(read(text), text);
      const seconds = (value / 1_000_000).toFixed(6);
      assert.equal(read(`@${seconds}`), text);
    }),
  );
});

test("any text is a time or one line", () => {
  const part = fc.constantFrom(
    "2026",
    "-",
    "01",
    ":",
    "T",
    " ",
    "Z",
    "+",
    "1",
    "h",
    ".",
    ",",
    "@",
    "yesterday",
    "\n",
    "ms",
    "é",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(part, { maxLength: 14 }).map((parts) => parts.join("")),
      ),
      (text) => {
        try {
          const { ms, spanMs } = parseTime("--at", text, NOW);
          assert.ok(Number.isFinite(ms) && spanMs > 0);
          formatTime(ms);
        } catch (error) {
          assert.ok(error instanceof ConntrailError, String(error));
          assert.doesNotMatch(error.message, /\n/);
        }
      },
    ),
    { numRuns: 2000 },
  );
});
