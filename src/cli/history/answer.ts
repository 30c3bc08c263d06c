/** Prints an answer of the history: its connections as they come, then on standard error what may be missing. */
import type { Connection, Gap, HistoryAnswer } from "../../history/connection.js";
import { formatTime } from "../../history/time.js";
import type { Terminal } from "../process/terminal.js";
import type { ConnectionOutput, OutputRow } from "./connection-output.js";

const PROGRESS_FIRST_MS = 1000;
const PROGRESS_EVERY_MS = 250;
/** How many lines are printed of gaps. Of the others only the number is printed. */
const GAP_LINES_MAX = 8;
/** More gaps of one node for one reason than this are one line. */
const GAPS_ALIKE_MAX = 2;

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

/** Prints where events may be missing on standard error, a line for each gap or for many alike, up to a limit. */
export function printGaps(gaps: readonly Gap[], terminal: Terminal): void {
  const alike = new Map<string, Gap[]>();
  for (const gap of gaps) {
    const key = JSON.stringify([gap.node, gap.reason]);
    alike.set(key, [...(alike.get(key) ?? []), gap]);
  }
  const lines = [...alike.values()].flatMap((group) =>
    group.length > GAPS_ALIKE_MAX ? [formatGaps(group)] : group.map(formatGap),
  );
  for (const line of lines.slice(0, GAP_LINES_MAX)) terminal.complain(line);
  const more = lines.length - GAP_LINES_MAX;
  if (more > 0) terminal.complain(`and ${counted(more, "more gap")}; --json lists them all`);
}

/** `events of fw2 may be missing in 12 stretches from … until … (40 events): overrun; --json lists them`. */
function formatGaps(gaps: readonly Gap[]): string {
  const [first] = gaps;
  if (first === undefined) return "";
  const known = (values: readonly (number | null)[]): number[] | null => {
    const numbers = values.filter((value) => value !== null);
    return numbers.length === values.length ? numbers : null;
  };
  const [from, until, events] = [
    known(gaps.map(({ fromMs }) => fromMs)),
    known(gaps.map(({ untilMs }) => untilMs)),
    known(gaps.map((gap) => gap.events)),
  ];
  const all: Gap = {
    ...first,
    fromMs: from === null ? null : Math.min(...from),
    untilMs: until === null ? null : Math.max(...until),
    events: events === null ? null : events.reduce((sum, each) => sum + each, 0),
  };
  return `${formatGap(all).replace(" may be missing", ` may be missing in ${gaps.length} stretches`)}; --json lists them`;
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
