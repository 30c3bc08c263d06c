/**
 * Guarantees that only one write runs at a time, and only between start and stop: at once after a pause, then at
 * intervals.
 */
import assert from "node:assert/strict";
import type { Logger } from "pino";
import { BATCH_MESSAGES } from "../../ctnetlink/request-socket.js";
import { errorText } from "../../errors.js";
import type { Carrier } from "../ports/kernel.js";
import type { Doubts } from "./doubts.js";
import type { Endings } from "./endings.js";
import type { EntryWriter } from "./entry-writer.js";
import type { WorkList } from "./work-list.js";

/** Works off the work list. Only its callees may use the carrier, so nothing can use it before `start`. */
export class WriteLoop {
  readonly #work: WorkList;
  readonly #endings: Endings;
  readonly #writer: EntryWriter;
  readonly #doubts: Doubts;
  readonly #intervalMs: number;
  readonly #log: Logger;
  /** Null until the start. */
  #carrier: Carrier | null = null;
  /** Cancels the write that is due; null when none is. */
  #cancel: (() => void) | null = null;
  #writing: Promise<void> | null = null;
  #writtenMs = Number.NEGATIVE_INFINITY;
  /** Whoever waits until nothing is left to write. */
  readonly #waiting: (() => void)[] = [];
  #stopped = false;

  constructor(parts: {
    work: WorkList;
    endings: Endings;
    writer: EntryWriter;
    doubts: Doubts;
    /** Minimum time between the beginnings of two writes. */
    intervalMs: number;
    log: Logger;
  }) {
    this.#work = parts.work;
    this.#endings = parts.endings;
    this.#writer = parts.writer;
    this.#doubts = parts.doubts;
    this.#intervalMs = parts.intervalMs;
    this.#log = parts.log;
  }

  get isStarted(): boolean {
    return this.#carrier !== null;
  }

  /** Starts writing. Call it once. */
  start(carrier: Carrier): void {
    assert.ok(this.#carrier === null, "an injector starts once");
    this.#carrier = carrier;
    this.poke();
  }

  /** Call it when there may be work. */
  poke(): void {
    const carrier = this.#carrier;
    if (carrier === null || this.#stopped || this.#cancel !== null || this.#writing !== null) return;
    if (this.#work.isEmpty) return;
    const write = (): void => {
      this.#cancel = null;
      this.#writtenMs = performance.now();
      this.#writing = this.#write(carrier).finally(() => {
        this.#writing = null;
        this.poke();
      });
    };
    const waitMs = this.#writtenMs + this.#intervalMs - performance.now();
    if (waitMs <= 0) {
      const due = setImmediate(write);
      this.#cancel = () => clearImmediate(due);
    } else {
      const due = setTimeout(write, waitMs);
      this.#cancel = () => clearTimeout(due);
    }
  }

  /** Resolves when nothing is left to write, or a write has failed. */
  idle(): Promise<void> {
    this.poke();
    if (this.#cancel === null && this.#writing === null) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Ends come first: a tuple that ended and came again within a turn is a new flow. Never rejects. */
  async #write(carrier: Carrier): Promise<void> {
    const work = this.#work;
    try {
      while (!work.isEmpty && !this.#stopped) {
        if (work.hasEnded) await this.#endings.remove(carrier);
        // Not while flows that ended meanwhile wait for their removal.
        if (!work.hasEnded) await this.#writer.writeChanged(carrier);
        if (!work.hasEnded) await this.#doubts.verify(work.takeDoubtful(BATCH_MESSAGES), carrier);
      }
    } catch (error) {
      this.#log.error(
        { error: errorText(error) },
        "flows of peers could not be written into the kernel: comparing with it",
      );
      carrier.resync();
    } finally {
      for (const resolve of this.#waiting.splice(0)) resolve();
    }
  }

  /** Cancels the write that is due, and waits for the running one. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel?.();
    await this.#writing;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
