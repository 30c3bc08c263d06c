import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { LogRepeats } from "../../src/cli/process/log-repeats.js";

/** A log under a clock that the test moves. */
function setUp() {
  const clock = { ms: 0 };
  const lines: Record<string, unknown>[] = [];
  const repeats = new LogRepeats(() => clock.ms);
  const logger = pino(
    {
      level: "debug",
      hooks: {
        logMethod(args, method, level) {
          repeats.hook(this, args, method, level);
        },
      },
    },
    { write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>) },
  );
  return { clock, lines, logger };
}

describe("a log in which lines repeat", () => {
  it("has ten of a kind in 10 s, and then their number", () => {
    const { clock, lines, logger } = setUp();
    const child = logger.child({ part: "broker" });
    for (let i = 0; i < 170_000; i++) child.warn(`10.0.0.${i % 250}:${i} - cid:${i} - TLS handshake error: EOF`);
    assert.equal(lines.length, 10);
    logger.warn({ peer: "fw2" }, "broker connection lost");
    clock.ms = 10_000;
    logger.info("ready");
    assert.equal(lines.length, 13);
    const { msg, repeated, level, part } = lines[11]!;
    assert.match(String(msg), /TLS handshake error/);
    assert.deepEqual([repeated, level, part], [169_990, 40, "broker"]);
    assert.equal(lines[12]!.msg, "ready");
  });

  it("is bounded although every line has another text", () => {
    const { clock, lines, logger } = setUp();
    const letters = (n: number): string => n.toString(26).replace(/\d/g, (digit) => "qrstuvwxyz"[Number(digit)]!);
    for (let i = 0; i < 20_000; i++) logger.error({ i }, `said ${letters(i)}`);
    assert.ok(lines.length < 300, String(lines.length));
    clock.ms = 10_000;
    logger.info("ready");
    const counted = lines.reduce((sum, { repeated }) => sum + Number(repeated ?? 0), 0);
    assert.equal(lines.length - 2 + counted, 20_000);
  });

  it("keeps what somebody asked for, and why the program ended", () => {
    const { lines, logger } = setUp();
    for (let i = 0; i < 50; i++) logger.debug("detail");
    for (let i = 0; i < 50; i++) logger.fatal("end");
    assert.equal(lines.length, 100);
  });
});
