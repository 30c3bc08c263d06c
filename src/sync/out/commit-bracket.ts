import type { Logger } from "pino";
import type { KernelEvents } from "../ports/kernel.js";
import type { CommitEnds } from "./commit-ends.js";
import type { KernelResync } from "./kernel-resync.js";

/** Turns that may be spent on reading the event socket empty after a commit. */
const QUEUED_TURNS_MAX = 256;

/**
 * Brackets a commit. While it runs, the kernel reports no new flows, because the commit writes most of them itself. A
 * resync afterwards reads them.
 */
export class CommitBracket {
  readonly #events: KernelEvents | null;
  readonly #resync: KernelResync;
  readonly #ends: CommitEnds;
  readonly #log: Logger;
  #isOpen = false;
  #isReading = false;
  #reading: Promise<void> = Promise.resolve();

  constructor(options: { events: KernelEvents | null; resync: KernelResync; commitEnds: CommitEnds; log: Logger }) {
    this.#events = options.events;
    this.#resync = options.resync;
    this.#ends = options.commitEnds;
    this.#log = options.log;
  }

  /** True from before the first write until the written entries have been read back. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** True while the written entries are being read back. */
  get isReading(): boolean {
    return this.#isReading;
  }

  /** Resolves when the entries that the last commit wrote have been read back. */
  get read(): Promise<void> {
    return this.#reading;
  }

  /**
   * Runs `write` and returns its result; rejects if it does. In either case the kernel is read afterwards. Then
   * `whenRead` is called with the result. One at a time: the caller waits for `read` first.
   */
  async run<T>(write: () => Promise<T>, whenRead: (written: T) => Promise<void>): Promise<T> {
    this.#isOpen = true;
    this.#resync.readsCommit = true;
    this.#ends.begin();
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
      // What was queued until here lacks the new flows, so it must not be taken for newer than the dump.
      await this.#readQueued();
      this.#isReading = true;
      await this.#resync.resync();
      // A flow may have ended before the dump reached it. Its event may still be queued.
      await this.#readQueued();
    } catch (error) {
      this.#log.error({ err: error }, "what the commit wrote could not be read");
    } finally {
      this.#isOpen = false;
      this.#isReading = false;
      this.#resync.readsCommit = false;
      this.#ends.end();
    }
  }

  async #readQueued(): Promise<void> {
    for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#events?.readNow() === true; turns++) {
      await new Promise(setImmediate);
    }
  }
}
