import { UnixDatagram } from "./unix-datagram.js";

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

/** The local syslog daemon, for one program. Messages have the form of the C library; nothing waits for the daemon. */
export class SyslogSocket {
  readonly #facility: number;
  readonly #program: string;
  readonly #socket: UnixDatagram;

  constructor(facility: string, program: string, path = DEV_LOG) {
    this.#facility = FACILITIES[facility] ?? 3;
    this.#program = program;
    this.#socket = new UnixDatagram(path);
  }

  /** Sends one line. False when the syslog daemon did not accept it. */
  send(severity: number, date: Date, text: string): boolean {
    const line = text.replace(/\s*\n\s*/g, " ").slice(0, LINE_LENGTH_MAX);
    const priority = this.#facility * 8 + severity;
    return this.#socket.send(`<${priority}>${timestamp(date)} ${this.#program}[${process.pid}]: ${line}`);
  }

  close(): void {
    this.#socket.close();
  }
}

/** `Jan  2 03:04:05`, in this machine's time. */
function timestamp(date: Date): string {
  const [, month, day, , clock] = date.toString().split(" ");
  return `${month} ${String(Number(day)).padStart(2)} ${clock}`;
}
