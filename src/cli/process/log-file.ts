import { appendFileSync, closeSync, openSync } from "node:fs";
import { ConntrailError, errorText } from "../../errors.js";

/** Readable by root only, as in conntrackd: the log names hosts. */
const MODE = 0o600;

/**
 * A log file. Each line is written at once. Lines that cannot be written (a full disk) are counted, and reported when
 * there is room again.
 */
export class LogFile {
  readonly #path: string;
  #fd: number;
  #lost = 0;

  /** Throws ConntrailError CONFIG when it cannot be opened. */
  constructor(path: string) {
    this.#path = path;
    this.#fd = openLog(path);
  }

  write(line: string): void {
    try {
      if (this.#lost > 0) {
        const lost = { level: 40, time: Date.now(), lost: this.#lost, msg: "lines of the log could not be written" };
        // The file may contain the beginning of a line for which there was no room.
        appendFileSync(this.#fd, `\n${JSON.stringify(lost)}\n`);
        this.#lost = 0;
      }
      appendFileSync(this.#fd, line);
    } catch {
      this.#lost++;
    }
  }

  /**
   * Opens a new file of the same name, after logrotate has moved the old one. Throws like the constructor, and then keeps
   * the old one.
   */
  reopen(): void {
    const fd = openLog(this.#path);
    closeSync(this.#fd);
    this.#fd = fd;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function openLog(path: string): number {
  try {
    return openSync(path, "a", MODE);
  } catch (cause) {
    throw new ConntrailError("CONFIG", `log.file ${path} cannot be written: ${errorText(cause)}`, { cause });
  }
}
