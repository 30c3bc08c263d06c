import type { Logger } from "pino";
import type { OwnStatus } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { plainText } from "../flow/plain-text.js";
import { UnixDatagram } from "../os/unix-datagram.js";

/** How soon a change of the status is told. */
const STATUS_MS = 5000;
const STATUS_LENGTH_MAX = 500;

/** The state of a node in a line, as `systemctl status` shows it: `primary, in sync with fw2`. */
export function statusLine({ role, reason, peers }: OwnStatus): string {
  const inSync = peers.filter((peer) => peer.inSync).map(({ node }) => node);
  const late = peers.filter((peer) => !peer.inSync).map((peer) => `not in sync with ${peer.node}: ${peer.reason}`);
  const parts = [
    peers.length === 0 ? "no peers" : null,
    inSync.length === 0 ? null : `in sync with ${inSync.join(", ")}`,
    reason === null ? null : `not in sync: ${reason}`,
    ...late,
  ];
  const text = [role === "unknown" ? "no role yet" : role, ...parts.filter((part) => part !== null)].join("; ");
  return plainText(text).slice(0, STATUS_LENGTH_MAX);
}

/** Notifies a service manager by sd_notify(3) that the daemon is ready, alive, or ending. */
export class Systemd {
  readonly #socket: UnixDatagram;
  readonly #log: Logger;
  readonly #watchdogMs: number | null;
  readonly #timers: NodeJS.Timeout[] = [];

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
   * `Type=notify` waits for this. From now on, the watchdog is notified twice per watchdog time, while the event loop
   * turns, and `systemctl status` shows the status in a line.
   */
  ready(status: () => string): void {
    let told = status();
    this.#tell(`READY=1\nMAINPID=${process.pid}\nSTATUS=${told}`);
    this.#every(STATUS_MS, () => {
      const text = status();
      if (text !== told) this.#tell(`STATUS=${text}`);
      told = text;
    });
    if (this.#watchdogMs !== null) this.#every(Math.max(1, this.#watchdogMs / 2), () => this.#tell("WATCHDOG=1"));
  }

  /** The daemon is ending. The watchdog is still notified, because a clean end may take longer than its time. */
  stopping(): void {
    this.#tell("STOPPING=1\nSTATUS=ending");
  }

  /** Sends no more notifications. */
  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#socket.close();
  }

  #every(ms: number, work: () => void): void {
    this.#timers.push(setInterval(work, ms).unref());
  }

  #tell(text: string): void {
    if (!this.#socket.send(text)) this.#log.warn({ what: text.split("\n")[0] }, "systemd could not be told");
  }
}
