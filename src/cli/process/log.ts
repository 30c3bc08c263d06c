import {
  type DestinationStream,
  type LogFn,
  type Logger,
  type LoggerOptions,
  multistream,
  pino,
  type StreamEntry,
} from "pino";
import type { Config } from "../../config/config.js";
import { plainLines } from "../../flow/plain-text.js";
import { formatJournalLine, isJournal } from "./journal.js";
import { eventOf } from "./log-events.js";
import { LogFile } from "./log-file.js";
import { formatLogLine } from "./log-line.js";
import { LogRepeats } from "./log-repeats.js";
import { Syslog } from "./syslog.js";

/** The daemon's log. */
export interface DaemonLog {
  readonly logger: Logger;
  /** True when the log goes to a file or to syslog, where it can be read later. */
  readonly kept: boolean;
  /** Reopens the log file. Throws ConntrailError CONFIG when that fails. */
  reopen(): void;
  /** Writes to another log file from now on. False if there was none, or is to be none: that needs a restart. */
  moveTo(path: string | null): boolean;
}

/**
 * Opens the configured log: JSON lines to a file, text to syslog; to standard output what `log.format` says, by default
 * text with priorities in the journal, text on a terminal, and otherwise JSON. Each line has the name of its kind as
 * `event`. Everything is written at once, so nothing logged before a crash is lost. Throws ConntrailError CONFIG when the
 * log file cannot be written.
 */
export function openLog(config: Config): DaemonLog {
  const repeats = new LogRepeats();
  const options: LoggerOptions = {
    level: config.logLevel,
    base: { node: config.node },
    hooks: {
      logMethod(args, method, level) {
        repeats.hook(this, withEvent(args), method, level);
      },
      // JSON escapes some of the characters that a terminal acts upon.
      streamWrite: plainLines,
    },
  };
  const streams: StreamEntry[] = [];
  const file = config.logFile === null ? null : new LogFile(config.logFile);
  if (file !== null) streams.push({ level: "trace", stream: file });
  if (config.logSyslog !== null) streams.push({ level: "trace", stream: new Syslog(config.logSyslog) });
  const kept = streams.length > 0;
  if (process.stdout.isTTY || (file === null && !inJournalAlready(config))) {
    streams.push({ level: "trace", stream: standardOutput(config.logFormat) });
  }
  const [only] = streams;
  const stream = streams.length === 1 && only !== undefined ? only.stream : multistream(streams);
  return { logger: pino(options, stream), kept, reopen: () => file?.reopen(), moveTo: (path) => moveTo(file, path) };
}

function moveTo(file: LogFile | null, path: string | null): boolean {
  if (file === null || path === null) return false;
  file.reopen(path);
  return true;
}

/** Standard output, in the form of `log.format`. */
function standardOutput(format: Config["logFormat"]): DestinationStream {
  const journal = isJournal(1);
  const isText = format === "text" || (format === "auto" && (journal || process.stdout.isTTY));
  const out = process.stdout.isTTY ? process.stdout : pino.destination({ dest: 1, sync: true });
  if (!isText) return out;
  const shown = journal ? formatJournalLine : formatLogLine;
  return { write: (line) => void out.write(shown(line)) };
}

/** The arguments of a line with the name of its kind among the fields. Lines whose text is made up bring their own. */
function withEvent(args: Parameters<LogFn>): Parameters<LogFn> {
  const [first, second] = args as [unknown, unknown];
  if (typeof first === "string") {
    const event = eventOf(first);
    return event === undefined ? args : ([{ event }, first] as unknown as Parameters<LogFn>);
  }
  const event = typeof second === "string" ? eventOf(second) : undefined;
  if (event === undefined || typeof first !== "object" || first === null) return args;
  return [{ ...first, event }, ...args.slice(1)] as unknown as Parameters<LogFn>;
}

/** True when standard output and syslog both end in the journal, as in a service. */
function inJournalAlready(config: Config): boolean {
  return config.logSyslog !== null && process.env.JOURNAL_STREAM !== undefined;
}
