import { type Logger, multistream, pino, type StreamEntry } from "pino";
import type { Config } from "../../config/config.js";
import { LogFile } from "./log-file.js";
import { formatLogLine } from "./log-line.js";
import { Syslog } from "./syslog.js";

/** Where the daemon's lines go. */
export interface DaemonLog {
  readonly logger: Logger;
  /** True when somebody finds the log later: it goes to a file or to syslog. */
  readonly kept: boolean;
  /** Opens the log file anew. Throws ConntrailError CONFIG when it cannot be. */
  reopen(): void;
}

/**
 * The log as configured: JSON lines to a file, lines for people to syslog, or to standard output, which gets JSON
 * lines too unless a person watches. Written at once: what is logged before a crash is there after it. Throws
 * ConntrailError CONFIG for a log file that cannot be written.
 */
export function openLog(config: Config): DaemonLog {
  const options = { level: config.logLevel, base: { node: config.node } };
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
  return { logger: pino(options, stream), kept, reopen: () => file?.reopen() };
}

/** Standard output of a service goes to the journal, which is mostly syslog, too. */
function inJournalAlready(config: Config): boolean {
  return config.logSyslog !== null && process.env.JOURNAL_STREAM !== undefined;
}
