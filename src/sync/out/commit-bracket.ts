import type { Logger } from "pino";
import type { KernelEvents } from "../ports/kernel.js";
import type { KernelResync } from "./kernel-resync.js";

/** Turns in which the event socket is to be read empty after a commit. */
const QUEUED_TURNS_MAX = 256;

/**
 * The time of a commit: this kernel does not tell of flows that begin, most of which the commit writes, and a resync behind it brings
 * them in.
 */
export class CommitBracket {
  readonly #events: KernelEvents | null;
  readonly #resync: KernelResync;
  readonly #log: Logger;
  #isOpen = false;
  #reading: Promise<void> = Promise.resolve();

  constructor(options: { events: KernelEvents | null; resync: KernelResync; log: Logger }) {
    this.#events = options.events;
    this.#resync = options.resync;
    this.#log = options.log;
  }

  /** True from before the first write until what was written is read. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Resolves when what the last commit wrote is read. */
  get read(): Promise<void> {
    return this.#reading;
  }

  /**
   * Runs `write`, and gives what that gives; rejects when it does. The kernel is read afterwards, in either case, and then `whenRead`
   * is called with what was written. One at a time: the caller waits for `read` first.
   */
  async run<T>(write: () => Promise<T>, whenRead: (written: T) => void): Promise<T> {
    this.#isOpen = true;
    this.#events?.hearNew(false);
    try {
      const written = await write();
      this.#reading = this.#readBack().then(() => whenRead(written));
      return written;
    } catch (error) {
      this.#reading = this.#readBack();
      throw error;
    }
  }

  async #readBack(): Promise<void> {
    try {
      this.#events?.hearNew(true);
      await this.#resync.resync();
      // What ended before the dump came to it, its event may still be queued.
      for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#events?.readNow() === true; turns++) {
        await new Promise(setImmediate);
      }
    } catch (error) {
      this.#log.error({ err: error }, "what the commit wrote could not be read");
    } finally {
      this.#isOpen = false;
    }
  }
}
