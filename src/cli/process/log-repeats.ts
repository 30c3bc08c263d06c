import type { LogFn, Logger } from "pino";

const WINDOW_MS = 10_000;
/** Lines of one kind that are written in a window; the others are counted. */
const LINES_MAX = 10;
/** Kinds that are told apart in a window. All others are one more. */
const KINDS_MAX = 256;
const KIND_LENGTH_MAX = 200;
const INFO = 30;
const FATAL = 60;

interface Kind {
  written: number;
  repeated: number;
  /** Writes a line as the last one of its kind was written. */
  readonly write: (fields: object, text: string) => void;
  readonly text: string;
}

/**
 * Keeps a log readable while something repeats, as anybody who reaches the broker can make it: of each kind of line only
 * the first ones of 10 s are written, and then how many there were. Lines are of one kind when they have one level, and
 * one text but for numbers and what is quoted. Debug lines, which somebody has asked for, and fatal ones are all written.
 */
export class LogRepeats {
  readonly #nowMs: () => number;
  readonly #kinds = new Map<string, Kind>();
  #startedMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | null = null;

  /** `nowMs`: milliseconds of a monotonic clock. */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** The hook of pino that every line passes. */
  readonly hook = (logger: Logger, args: Parameters<LogFn>, method: LogFn, level: number): void => {
    if (level < INFO || level >= FATAL || this.#admit(logger, args, method, level)) method.apply(logger, args);
  };

  #admit(logger: Logger, args: Parameters<LogFn>, method: LogFn, level: number): boolean {
    const nowMs = this.#nowMs();
    if (nowMs - this.#startedMs >= WINDOW_MS) {
      this.#report();
      this.#startedMs = nowMs;
    }
    const text = String(args.find((arg) => typeof arg === "string") ?? "");
    const name = this.#nameOf(level, text);
    let kind = this.#kinds.get(name);
    if (kind === undefined) {
      const { event } = Object(args[0]) as { event?: string };
      const named = event === undefined ? {} : { event };
      const write = (fields: object, line: string): void => method.call(logger, { ...fields, ...named }, line);
      kind = { written: 0, repeated: 0, write, text: name === "" ? "lines of other kinds" : text };
      this.#kinds.set(name, kind);
    }
    if (kind.written < LINES_MAX) {
      kind.written++;
      return true;
    }
    kind.repeated++;
    this.#timer ??= setTimeout(() => this.#report(), WINDOW_MS).unref();
    return false;
  }

  #nameOf(level: number, text: string): string {
    const plain = text
      .slice(0, KIND_LENGTH_MAX)
      .replace(/"[^"]*"?|'[^']*'?/g, '""')
      .replace(/[0-9a-f]*\d[0-9a-f]*/gi, "0");
    const name = `${level} ${plain}`;
    return this.#kinds.size < KINDS_MAX || this.#kinds.has(name) ? name : "";
  }

  /** Writes how often each kind was repeated, and forgets all. */
  #report(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const { repeated, write, text } of this.#kinds.values()) {
      if (repeated > 0) write({ repeated, withinSeconds: WINDOW_MS / 1000 }, text);
    }
    this.#kinds.clear();
  }
}
