import type { Duplex } from "node:stream";
import type { SessionReport } from "./session-protocol.js";

/**
 * Unanswered lines, a minute's worth, after which a session stops sending, so that a dead session cannot fill the
 * memory.
 */
const UNANSWERED_MAX = 600;
const LINE_BYTES_MAX = 256;
const REASONS_MAX = 5;

/** A byte stream whose far end echoes it: a TCP socket, or the two pipes of an ssh process. */
export type EchoStream = Pick<Duplex, "write" | "on">;

/**
 * One long-lived connection that sends numbered lines and expects each back, in order. Times are milliseconds of a
 * monotonic clock, passed in by the caller.
 */
export class Session {
  readonly target: string;
  #stream: EchoStream;
  #partial = "";
  #sent = 0;
  #echoed = 0;
  #brokenBy: string | undefined;
  #closing = false;
  #windowStartMs: number;
  #lastEchoMs: number;
  #longestGapMs = 0;
  #answered = false;
  #paused = true;

  constructor(target: string, stream: EchoStream, clock: () => number) {
    this.target = target;
    this.#stream = stream;
    this.#windowStartMs = clock();
    this.#lastEchoMs = this.#windowStartMs;
    stream.on("data", (chunk: Buffer) => this.#receive(chunk.toString("latin1"), clock()));
    stream.on("error", (error: Error) => this.fail(error.message));
    stream.on("close", () => this.fail("closed by the other side"));
  }

  /** True once the first line has come back. */
  get open(): boolean {
    return this.#echoed > 0;
  }

  get brokenBy(): string | undefined {
    return this.#brokenBy;
  }

  /** True when it is not broken and got an echo of a line that it sent within the window. */
  get answering(): boolean {
    return this.#answered && this.#brokenBy === undefined;
  }

  /** Sends the next line. */
  tick(nowMs: number): void {
    if (this.#brokenBy !== undefined || this.#sent - this.#echoed >= UNANSWERED_MAX) return;
    // After a pause an echo is owed from now on, not from the last one before it.
    if (this.#paused) this.#lastEchoMs = nowMs;
    this.#paused = false;
    this.#sent++;
    this.#stream.write(`${this.#sent} ${nowMs}\n`);
  }

  /** Starts a new window. A gap that has already begun counts in full when it ends. */
  mark(nowMs: number): void {
    this.#windowStartMs = nowMs;
    this.#longestGapMs = 0;
    this.#answered = false;
  }

  /** The longest gap of the window, including one that lasts until `nowMs`. */
  longestGapMs(nowMs: number): number {
    const owed = this.#sent > this.#echoed;
    return owed ? Math.max(this.#longestGapMs, nowMs - this.#lastEchoMs) : this.#longestGapMs;
  }

  /** Stops sending on purpose: the time until the next line is no gap. */
  pause(): void {
    this.#paused = true;
  }

  /** Expects the end of the stream, which then does not break the session. */
  expectClose(): void {
    this.#closing = true;
  }

  /** Marks it broken, once. */
  fail(reason: string): void {
    if (!this.#closing) this.#brokenBy ??= reason;
  }

  #receive(text: string, nowMs: number): void {
    const lines = (this.#partial + text).split("\n");
    this.#partial = lines.pop() ?? "";
    if (this.#partial.length > LINE_BYTES_MAX) this.fail("an answer without end");
    for (const line of lines) this.#take(line, nowMs);
  }

  #take(line: string, nowMs: number): void {
    const [sequence, sentAtMs] = line.split(" ").map(Number);
    if (sequence !== this.#echoed + 1 || sentAtMs === undefined) {
      this.fail(`answer "${line.slice(0, 40)}" instead of line ${this.#echoed + 1}`);
      return;
    }
    this.#echoed = sequence;
    this.#longestGapMs = Math.max(this.#longestGapMs, nowMs - this.#lastEchoMs);
    this.#lastEchoMs = nowMs;
    if (sentAtMs >= this.#windowStartMs) this.#answered = true;
  }
}

/** Summarises the sessions of a window. */
export function reportSessions(sessions: readonly Session[], nowMs: number, windowStartMs: number): SessionReport {
  const gaps = sessions.map((session) => session.longestGapMs(nowMs)).sort((a, b) => a - b);
  const silentByTarget: Record<string, number> = {};
  const reasons: string[] = [];
  let answering = 0;
  let broken = 0;
  for (const session of sessions) {
    if (session.answering) answering++;
    else silentByTarget[session.target] = (silentByTarget[session.target] ?? 0) + 1;
    if (session.brokenBy === undefined) continue;
    broken++;
    if (reasons.length < REASONS_MAX) reasons.push(`${session.target}: ${session.brokenBy}`);
  }
  return {
    windowMs: Math.round(nowMs - windowStartMs),
    sessions: sessions.length,
    answering,
    broken,
    longestGapMs: Math.round(gaps.at(-1) ?? 0),
    medianGapMs: Math.round(gaps[gaps.length >> 1] ?? 0),
    silentByTarget,
    reasons,
  };
}
