import type { Logger } from "pino";
import type { OwnStatus } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { plainText } from "../flow/plain-text.js";
import { UnixDatagram } from "../os/unix-datagram.js";

/** How often the status is told. */
const STATUS_MS = 15_000;
const STATUS_LENGTH_MAX = 500;

/** The state of a node in a line, as `systemctl status` shows it: `primary, in sync with fw2`. */
export function statusLine({ role, reason, peers, kernel }: OwnStatus): string {
  const inSync = peers.filter((peer) => peer.inSync).map(({ node }) => node);
  const late = peers.filter((peer) => !peer.inSync).map((peer) => `not in sync with ${peer.node}: ${peer.reason}`);
  const parts = [
    peers.length === 0 ? "no peers" : null,
    inSync.length === 0 ? null : `in sync with ${inSync.join(", ")}`,
    reason === null ? null : `not in sync: ${reason}`,
    ...late,
    kernel.max === 0 ? null : `${kernel.entries} of ${kernel.max} kernel entries`,
  ];
  const text = [role === "unknown" ? "no role yet" : role, ...parts.filter((part) => part !== null)].join("; ");
  return plainText(text).slice(0, STATUS_LENGTH_MAX);
}

/** Notifies a service manager by sd_notify(3) that the daemon is ready, alive, or ending. */
export class Systemd {
  readonly #socket: UnixDatagram;
  readonly #log: Logger;
  readonly #watchdogMs: number | null;
  #timer: NodeJS.Timeout | null = null;

  /**
   * Null where no service manager listens (NOTIFY_SOCKET). The variables are removed, so that no child process notifies
   * it.
   */
  static open(env: NodeJS.ProcessEnv, log: Logger): Systemd | null {
    const { NOTIFY_SOCKET: path, WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = env;
    for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete env[name];
    if (path === undefined || path === "") return null;
    const watched = Number(usec) > 0 && (pid === undefined || pid === String(process.pid));
    try {
      return new Systemd(new UnixDatagram(path), watched ? Number(usec) / 1000 : null, log);
    } catch (error) {
      log.warn({ error: errorText(error) }, "systemd cannot be told anything");
      return null;
    }
  }

  private constructor(socket: UnixDatagram, watchdogMs: number | null, log: Logger) {
    this.#socket = socket;
    this.#watchdogMs = watchdogMs;
    this.#log = log;
  }

  /** What the daemon waits for before it is ready, in `systemctl status`. */
  starting(text: string): void {
    this.#tell(`STATUS=${text}`);
  }

  /**
   * `Type=notify` waits for this. From now on, the watchdog is notified at least twice per watchdog time, while the event
   * loop turns, and `systemctl status` shows the status in a line.
   */
  ready(status: () => string): void {
    const report = (first: string): void => this.#tell(`${first}\nSTATUS=${status()}`);
    report(`READY=1\nMAINPID=${process.pid}`);
    const intervalMs = Math.min(STATUS_MS, (this.#watchdogMs ?? Number.POSITIVE_INFINITY) / 2);
    this.#timer = setInterval(() => report("WATCHDOG=1"), Math.max(1, intervalMs));
    this.#timer.unref();
  }

  /** The daemon is ending. The watchdog is still notified, because a clean end may take longer than its time. */
  stopping(): void {
    this.#tell("STOPPING=1\nSTATUS=ending");
  }

  /** Sends no more notifications. */
  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#socket.close();
  }

  #tell(text: string): void {
    if (!this.#socket.send(text)) this.#log.warn({ what: text.split("\n")[0] }, "systemd could not be told");
  }
}
