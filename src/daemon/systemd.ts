import type { Logger } from "pino";
import { errorText } from "../errors.js";
import { UnixDatagram } from "../os/unix-datagram.js";

/** Notifies a service manager by sd_notify(3) that the daemon is ready, alive, or ending. */
export class Systemd {
  readonly #socket: UnixDatagram;
  readonly #log: Logger;
  readonly #watchdogMs: number | null;
  #watchdog: NodeJS.Timeout | null = null;

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

  /**
   * `Type=notify` waits for this. From now on, the watchdog is notified twice per watchdog time, while the event loop
   * turns.
   */
  ready(): void {
    this.#tell(`READY=1\nMAINPID=${process.pid}`);
    if (this.#watchdogMs === null) return;
    this.#watchdog = setInterval(() => this.#tell("WATCHDOG=1"), Math.max(1, this.#watchdogMs / 2));
    this.#watchdog.unref();
  }

  /** The daemon is ending. The watchdog is still notified, because a clean end may take longer than its time. */
  stopping(): void {
    this.#tell("STOPPING=1");
  }

  /** Sends no more notifications. */
  close(): void {
    if (this.#watchdog !== null) clearInterval(this.#watchdog);
    this.#socket.close();
  }

  #tell(text: string): void {
    if (!this.#socket.send(text)) this.#log.warn({ what: text.split("\n")[0] }, "systemd could not be told");
  }
}
