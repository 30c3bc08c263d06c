import { SyslogSocket } from "../../os/syslog.js";
import { formatLogText, type LogEntry, parseLogEntry } from "./log-line.js";
import { severity } from "./severity.js";

/**
 * Writes the log to syslog. Nothing waits for the syslog daemon: lines that it does not accept are counted, and reported
 * with the next line that it accepts.
 */
export class Syslog {
  readonly #socket: SyslogSocket;
  #lost = 0;

  constructor(facility: string, path?: string) {
    this.#socket = new SyslogSocket(facility, "conntrail", path);
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

  close(): void {
    this.#socket.close();
  }

  #send(entry: LogEntry): boolean {
    return this.#socket.send(severity(Number(entry.level)), new Date(Number(entry.time)), formatLogText(entry));
  }
}
