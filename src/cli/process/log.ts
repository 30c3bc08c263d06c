import { type Logger, type LoggerOptions, multistream, pino, type StreamEntry } from "pino";
import type { Config } from "../../config/config.js";
import { plainLines } from "../../flow/plain-text.js";
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
 * Opens the configured log: JSON lines to a file, text to syslog; to standard output, text on a terminal and otherwise
 * JSON. Everything is written at once, so nothing logged before a crash is lost. Throws ConntrailError CONFIG when the
 * log file cannot be written.
 */
export function openLog(config: Config): DaemonLog {
  const repeats = new LogRepeats();
  const options: LoggerOptions = {
    level: config.logLevel,
    base: { node: config.node },
    hooks: {
      logMethod(args, method, level) {
        repeats.hook(this, args, method, level);
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
  if (process.stdout.isTTY) {
    streams.push({ level: "trace", stream: { write: (line) => process.stdout.write(formatLogLine(line)) } });
  } else if (file === null && !inJournalAlready(config)) {
    streams.push({ level: "trace", stream: pino.destination({ dest: 1, sync: true }) });
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

/** True when standard output and syslog both end in the journal, as in a service. */
function inJournalAlready(config: Config): boolean {
  return config.logSyslog !== null && process.env.JOURNAL_STREAM !== undefined;
}
