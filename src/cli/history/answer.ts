/** Prints an answer of the history: its connections as they come, then on standard error what may be missing. */
import type { Connection, Gap, HistoryAnswer } from "../../history/connection.js";
import { formatTime } from "../../history/time.js";
import type { Terminal } from "../process/terminal.js";
import type { ConnectionOutput, OutputRow } from "./connection-output.js";

const PROGRESS_FIRST_MS = 1000;
const PROGRESS_EVERY_MS = 250;
/** How many gaps are listed. Of the others only the number is printed. */
const GAP_LINES_MAX = 8;

/** What was printed of an answer. */
export interface PrintedAnswer {
  readonly connections: number;
  readonly gaps: readonly Gap[];
}

/**
 * Prints an answer as it comes, then on standard error where events may be missing. `rows` makes the rows of a batch; without it,
 * each connection is a row.
 */
export async function printAnswer(
  answer: HistoryAnswer,
  output: ConnectionOutput,
  terminal: Terminal,
  rows: (batch: readonly Connection[]) => readonly OutputRow[] = (batch) => batch.map((connection) => ({ connection })),
): Promise<PrintedAnswer> {
  const stopProgress = showProgress(answer, terminal);
  let connections = 0;
  let doubtful = false;
  try {
    for await (const batch of answer.connections) {
      const printed = rows(batch);
      connections += printed.length;
      doubtful ||= printed.some(({ connection }) => connection.mayMiss);
      terminal.progressLine("");
      await output.write(printed);
    }
  } finally {
    stopProgress();
  }
  terminal.throwIfClosed();
  const gaps = answer.gaps();
  await output.end(gaps);
  printGaps(gaps, terminal);
  if (doubtful && output.marksDoubt) terminal.complain("? marks connections for which events may be missing");
  const { malformed } = answer.progress();
  if (malformed > 0) {
    const kinds = "damaged, of a later format version, or not conntrail's";
    terminal.complain(`passed over: ${counted(malformed, "message")}, ${kinds}`);
  }
  return { connections, gaps };
}

/** Prints a line on standard error for each gap, up to a limit. */
export function printGaps(gaps: readonly Gap[], terminal: Terminal): void {
  for (const gap of gaps.slice(0, GAP_LINES_MAX)) terminal.complain(formatGap(gap));
  const more = gaps.length - GAP_LINES_MAX;
  if (more > 0) terminal.complain(`and ${counted(more, "more gap")}; --json lists them all`);
}

/** `events of fw2 may be missing from … until … (12 events): overrun`. */
export function formatGap({ node, fromMs, untilMs, events, reason }: Gap): string {
  const from = fromMs === null ? "" : ` from ${formatTime(fromMs)}`;
  const until = untilMs === null ? "" : ` until ${formatTime(untilMs)}`;
  const count = events === null ? "" : ` (${counted(events, "event")})`;
  return `events of ${node} may be missing${from}${until}${count}: ${reason}`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** Shows on a terminal how far a long scan has come. Returns a function that ends that. */
function showProgress(answer: HistoryAnswer, terminal: Terminal): () => void {
  if (!terminal.watched) return () => {};
  const start = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - start >= PROGRESS_FIRST_MS) terminal.progressLine(progressText(answer));
  }, PROGRESS_EVERY_MS);
  return () => {
    clearInterval(timer);
    terminal.progressLine("");
  };
}

function progressText(answer: HistoryAnswer): string {
  const { messages, messagesTotal, events, timeMs, archive } = answer.progress();
  if (archive !== undefined && archive.files < archive.filesTotal) {
    return `file ${archive.files + 1} of ${archive.filesTotal} of the archive`;
  }
  const share = messagesTotal === 0 ? "" : `${Math.min(100, Math.floor((100 * messages) / messagesTotal))} %, `;
  const time = timeMs === null ? "" : `, at ${formatTime(Math.floor(timeMs / 1000) * 1000)}`;
  return `${share}${events.toLocaleString("en")} events read${time}`;
}
