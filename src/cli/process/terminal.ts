import type { Writable } from "node:stream";
import { ConntrailError } from "../../errors.js";
import { plainLines, plainText } from "../../flow/plain-text.js";
import { SEVERITY } from "../../os/severity.js";
import { isJournal } from "./journal.js";

/** Thrown when the reader of the output is gone; ends a command silently. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/** Standard output and error of a command, and its exit code. */
export class Terminal {
  /** 0 done, 1 failed, 2 usage. */
  exitCode = 0;
  readonly #stdout: NodeJS.WriteStream;
  readonly #stderr: NodeJS.WriteStream;
  readonly #closed = new AbortController();
  /** Where the output goes while a pager shows it, and what is said after it has ended. */
  #pager: Writable | null = null;
  #saidLater: string[] = [];
  #failure: Error = new OutputClosed();

  constructor(stdout: NodeJS.WriteStream, stderr: NodeJS.WriteStream) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    // `conntrail dump internal | head` closes the pipe early, which is no error.
    stdout.on("error", (cause: NodeJS.ErrnoException) => {
      if (cause.code !== "EPIPE") {
        this.#failure = new ConntrailError("CONTROL", `the output cannot be written: ${cause.message}`, { cause });
      }
      this.#closed.abort();
    });
    stderr.on("error", () => {});
  }

  /** Aborted when the output has no reader any more. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Throws when the output can no longer be written: OutputClosed when its reader is gone, which is no error. */
  throwIfClosed(): void {
    if (this.closed.aborted) throw this.#failure;
  }

  /**
   * Writes to standard output, and waits until it is written. What a terminal would not show as text is escaped, and
   * of escape sequences only a table's colours pass, on a terminal. Throws like `throwIfClosed`.
   */
  async write(text: string): Promise<void> {
    this.throwIfClosed();
    await new Promise<void>((resolve) => {
      (this.#pager ?? this.#stdout).write(plainLines(text, this.colours), () => resolve());
    });
    this.throwIfClosed();
  }

  /** Writes a page in place of what the terminal shows, each line as wide as fits, as many lines as fit. */
  async screen(text: string): Promise<void> {
    const { columns = 80, rows = 24 } = this.#stdout;
    const lines = text.split("\n").slice(0, rows - 1);
    const shown = lines.map((line) => `${plainText(line).slice(0, columns)}\u001b[K`).join("\n");
    this.throwIfClosed();
    await new Promise<void>((resolve) => {
      this.#stdout.write(`\u001b[H${shown}\u001b[J`, () => resolve());
    });
    this.throwIfClosed();
  }

  /** A line on standard output. */
  line(text: string): Promise<void> {
    return this.write(`${text}\n`);
  }

  /** A value as JSON on standard output. */
  json(value: unknown): Promise<void> {
    return this.write(`${JSON.stringify(value, null, 2)}\n`);
  }

  /** Prints progress, if standard error is a terminal. */
  progress(text: string): void {
    if (this.#stderr.isTTY) this.#stderr.write(`${plainText(text)}\n`);
  }

  /** True when standard output shows colours: on a terminal, unless NO_COLOR is set (https://no-color.org). */
  get colours(): boolean {
    return this.#stdout.isTTY === true && (process.env.NO_COLOR ?? "") === "";
  }

  /** True when standard error is a terminal that no pager has taken. */
  get watched(): boolean {
    return this.#stderr.isTTY === true && this.#pager === null;
  }

  /** True when standard output is a terminal. */
  get isTerminal(): boolean {
    return this.#stdout.isTTY === true;
  }

  /** How many characters a line has room for; null: any number, because it is no terminal. */
  get columns(): number | null {
    return this.isTerminal && this.#stdout.columns > 0 ? this.#stdout.columns : null;
  }

  /** Sends the output through a pager from now on. `write` waits for it, and its end closes the output. */
  page(pager: Writable): void {
    this.#pager = pager;
    for (const event of ["error", "close"]) {
      pager.on(event, () => {
        if (this.#pager === pager && !pager.writableEnded) this.#closed.abort();
      });
    }
  }

  /** Ends the output of a pager, and says what was kept back meanwhile, after `ended`. */
  async endPaging(ended: Promise<void>): Promise<void> {
    this.#pager?.end();
    await ended;
    this.#pager = null;
    for (const text of this.#saidLater.splice(0)) this.#stderr.write(text);
  }

  /** Prints progress in one line that the next one replaces, if standard error is a terminal; "" removes it. */
  progressLine(text: string): void {
    if (this.watched) this.#stderr.write(`\r\u001b[K${plainText(text)}`);
  }

  /** Prints the one line that says why a command failed, or what its answer lacks. */
  complain(text: string): void {
    const priority = isJournal(2) ? `<${SEVERITY.error}>` : "";
    const line = `${priority}conntrail: ${plainText(text.trim().replace(/\s*\n\s*/g, " "))}\n`;
    if (this.#pager === null) this.#stderr.write(line);
    else this.#saidLater.push(line);
  }

  /** Writes to standard error unchanged, for usage texts. */
  usage(text: string): void {
    this.#stderr.write(text);
  }
}

/** Columns as wide as their widest cell, two spaces apart; the first row is the heading. A cell is one line. */
export function formatColumns(cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map(plainText));
  const widths = columnWidths(rows);
  return rows
    .map((row) => `${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")}`.trimEnd())
    .map((line) => `${line}\n`)
    .join("");
}

/** The length of the longest cell of each column. */
export function columnWidths(rows: readonly (readonly string[])[]): number[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  }
  return widths;
}

/** Milliseconds for people: `850 ms`, `2.4 s`, `12 min`, `3.5 h`. */
export function formatMs(ms: number | null): string {
  if (ms === null) return "-";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  return ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : `${(ms / 3_600_000).toFixed(1)} h`;
}
