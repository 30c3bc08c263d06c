import { type DestinationStream, type LogFn, type Logger, type LoggerOptions, pino } from "pino";
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
  /** Writes where this configuration says from now on. Throws like `reopen`, and then all stays as it was. */
  moveTo(config: LogConfig): void;
}

type LogConfig = Pick<Config, "logFile" | "logSyslog" | "logFormat">;

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
  const places = new Places(config);
  return {
    logger: pino(options, places),
    get kept() {
      return places.kept;
    },
    reopen: () => places.reopen(),
    moveTo: (next) => places.moveTo(next),
  };
}

/** The places that each line goes to. */
class Places implements DestinationStream {
  #config: LogConfig;
  #file: LogFile | null;
  #syslog: Syslog | null;
  #output: DestinationStream | null;

  constructor(config: LogConfig) {
    this.#config = config;
    this.#file = config.logFile === null ? null : new LogFile(config.logFile);
    this.#syslog = config.logSyslog === null ? null : new Syslog(config.logSyslog);
    this.#output = outputOf(config);
  }

  get kept(): boolean {
    return this.#file !== null || this.#syslog !== null;
  }

  write(line: string): void {
    this.#file?.write(line);
    this.#syslog?.write(line);
    this.#output?.write(line);
  }

  reopen(): void {
    this.#file?.reopen();
  }

  moveTo(config: LogConfig): void {
    const { logFile, logSyslog } = config;
    const before = this.#config;
    if (logFile !== before.logFile) {
      const file = logFile === null ? null : new LogFile(logFile);
      this.#file?.close();
      this.#file = file;
    }
    if (logSyslog !== before.logSyslog) {
      this.#syslog?.close();
      this.#syslog = logSyslog === null ? null : new Syslog(logSyslog);
    }
    this.#output = outputOf(config);
    this.#config = config;
  }
}

/** Standard output, where somebody sees it or nothing else is written to. */
function outputOf(config: LogConfig): DestinationStream | null {
  const isSeen = process.stdout.isTTY || (config.logFile === null && !inJournalAlready(config));
  return isSeen ? standardOutput(config.logFormat) : null;
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
function inJournalAlready(config: LogConfig): boolean {
  return config.logSyslog !== null && process.env.JOURNAL_STREAM !== undefined;
}
