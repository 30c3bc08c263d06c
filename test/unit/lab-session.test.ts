import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { beforeEach, describe, it } from "node:test";
import { reportSessions, Session } from "../../src/lab/session.js";

/** A stream whose far end is this test: `lines` is what the session wrote. */
class FarEnd {
  readonly lines: string[] = [];
  readonly stream = new PassThrough();

  constructor() {
    this.stream.write = ((chunk: string) => {
      this.lines.push(chunk);
      return true;
    }) as typeof this.stream.write;
  }

  answer(text: string): void {
    this.stream.emit("data", Buffer.from(text));
  }
}

describe("session", () => {
  let now: number;
  let far: FarEnd;
  let session: Session;

  beforeEach(() => {
    now = 1_000;
    far = new FarEnd();
    session = new Session("echo", far.stream, () => now);
  });

  it("numbers its lines and takes the echo, in pieces or not", () => {
    session.tick(1_000);
    session.tick(1_100);
    assert.deepEqual(far.lines, ["1 1000\n", "2 1100\n"]);
    assert.equal(session.open, false);
    now = 1_150;
    far.answer("1 10");
    far.answer("00\n2 1100\n");
    assert.equal(session.open, true);
    assert.equal(session.longestGapMs(now), 150);
    assert.equal(session.brokenBy, undefined);
  });

  it("counts a gap that lasts until now, and in full when it began before the window", () => {
    session.tick(1_000);
    now = 1_010;
    far.answer(far.lines[0]!);
    session.tick(1_100);
    session.mark(1_500);
    assert.equal(session.longestGapMs(1_800), 790);
    now = 2_010;
    far.answer(far.lines[1]!);
    assert.equal(session.longestGapMs(5_000), 1_000);
  });

  it("answers only with the echo of a line sent within the window", () => {
    session.tick(1_000);
    session.mark(1_200);
    now = 1_300;
    far.answer(far.lines[0]!);
    assert.equal(session.answering, false);
    session.tick(1_400);
    far.answer(far.lines[1]!);
    assert.equal(session.answering, true);
  });

  it("does not count a pause as a gap", () => {
    session.tick(1_000);
    now = 1_010;
    far.answer(far.lines[0]!);
    session.pause();
    session.tick(9_000);
    now = 9_020;
    far.answer(far.lines[1]!);
    assert.equal(session.longestGapMs(now), 20);
  });

  it("is broken by an answer out of order, a reset or an end, and by the first of them", () => {
    session.tick(1_000);
    far.answer("2 1000\n");
    assert.match(session.brokenBy ?? "", /instead of line 1/);
    far.stream.emit("error", new Error("ECONNRESET"));
    assert.match(session.brokenBy ?? "", /instead of line 1/);
    const other = new Session("echo", new FarEnd().stream, () => now);
    other.fail("ECONNRESET");
    assert.equal(other.brokenBy, "ECONNRESET");
  });

  it("does not take an end that was asked for as a failure", () => {
    session.expectClose();
    far.stream.emit("close");
    assert.equal(session.brokenBy, undefined);
  });

  it("stops sending when nobody answers", () => {
    for (let i = 0; i < 1_000; i++) session.tick(1_000 + i);
    assert.equal(far.lines.length, 600);
  });

  it("is summed up with others", () => {
    session.tick(1_000);
    now = 1_040;
    far.answer(far.lines[0]!);
    const silent = new Session("routed", new FarEnd().stream, () => now);
    silent.tick(1_040);
    const broken = new Session("ssh", new FarEnd().stream, () => now);
    broken.fail("reset");
    const report = reportSessions([session, silent, broken], 1_540, 1_000);
    assert.deepEqual(report, {
      windowMs: 540,
      sessions: 3,
      answering: 1,
      broken: 1,
      longestGapMs: 500,
      medianGapMs: 40,
      silentByTarget: { routed: 1, ssh: 1 },
      reasons: ["ssh: reset"],
    });
  });
});
