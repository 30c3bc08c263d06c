import { UnixDatagram } from "../../os/unix-datagram.js";
import { formatLogText, type LogEntry, parseLogEntry } from "./log-line.js";
import { severity } from "./severity.js";

/** The socket of syslog(3). */
const DEV_LOG = "/dev/log";

/** Longer lines are cut; a syslog daemon takes 8 KiB. */
const LINE_LENGTH_MAX = 4000;

/** Codes of syslog(3). */
const FACILITIES: Readonly<Record<string, number>> = {
  user: 1,
  daemon: 3,
  local0: 16,
  local1: 17,
  local2: 18,
  local3: 19,
  local4: 20,
  local5: 21,
  local6: 22,
  local7: 23,
};

/**
 * Writes the log to syslog, in the form of the C library. Nothing waits for the syslog daemon: lines that it does not
 * accept are counted, and reported with the next line that it accepts.
 */
export class Syslog {
  readonly #facility: number;
  readonly #socket: UnixDatagram;
  #lost = 0;

  constructor(facility: string, path = DEV_LOG) {
    this.#facility = FACILITIES[facility] ?? 3;
    this.#socket = new UnixDatagram(path);
  }

  /** Writes a line of pino. */
  write(line: string): void {
    const entry = parseLogEntry(line);
    if (entry === null) return;
    if (this.#lost > 0) {
      const lost = { level: 40, time: entry.time, lost: this.#lost, msg: "lines of the log were not taken by syslog" };
      if (this.#send(lost)) this.#lost = 0;
    }
    if (!this.#send(entry)) this.#lost++;
  }

  #send(entry: LogEntry): boolean {
    const priority = this.#facility * 8 + severity(Number(entry.level));
    const text = formatLogText(entry)
      .replace(/\s*\n\s*/g, " ")
      .slice(0, LINE_LENGTH_MAX);
    return this.#socket.send(
      `<${priority}>${timestamp(new Date(Number(entry.time)))} conntrail[${process.pid}]: ${text}`,
    );
  }
}

/** `Jan  2 03:04:05`, in this machine's time. */
function timestamp(date: Date): string {
  const [, month, day, , clock] = date.toString().split(" ");
  return `${month} ${String(Number(day)).padStart(2)} ${clock}`;
}
