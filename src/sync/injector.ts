import type { Logger } from "pino";
import type { ExternalCache, ExternalListener } from "../cache/external.js";
import { RequestBatch } from "../ctnetlink/encode.js";
import { BATCH_MESSAGES } from "../ctnetlink/request-socket.js";
import { errorText } from "../errors.js";
import { RECORD_WORDS } from "../flow/record.js";
import { type CommitOptions, commitStaging, type KernelRequests, newTally, Staging } from "./commit.js";

/** What an injector counts; the group `inject` of `stats`. */
export interface InjectorCounters {
  injected: number;
  updated: number;
  removed: number;
  failed: number;
}

/**
 * Mode `inject`: what peers say goes into this kernel at once, without a commit, for active-active and asymmetric paths. The
 * external cache keeps the books (which flow is whose); this listens to it and writes what changed, in batches.
 */
export class Injector implements ExternalListener {
  readonly counters: InjectorCounters = { injected: 0, updated: 0, removed: 0, failed: 0 };
  readonly #external: () => ExternalCache;
  readonly #kernel: KernelRequests;
  readonly #options: () => CommitOptions;
  readonly #intervalMs: number;
  readonly #log: Logger;
  readonly #changed = new Set<number>();
  #ended = new Uint32Array(BATCH_MESSAGES * RECORD_WORDS);
  #endedCount = 0;
  /** Cancels the write that is due; null when none is. */
  #cancel: (() => void) | null = null;
  #writing: Promise<void> | null = null;

  constructor(options: {
    external: () => ExternalCache;
    kernel: KernelRequests;
    options: () => CommitOptions;
    intervalMs: number;
    log: Logger;
  }) {
    this.#external = options.external;
    this.#kernel = options.kernel;
    this.#options = options.options;
    this.#intervalMs = options.intervalMs;
    this.#log = options.log;
  }

  /** Bounded by the rows of the external cache: a row waits once. */
  changed(slot: number): void {
    this.#changed.add(slot);
    this.#poke();
  }

  ended(slot: number): void {
    const { table } = this.#external();
    this.#changed.delete(slot);
    if ((this.#endedCount + 1) * RECORD_WORDS > this.#ended.length) {
      // Bounded by the rows of the external cache as well: it can end no more than it holds before this is written.
      const larger = new Uint32Array(this.#ended.length * 2);
      larger.set(this.#ended);
      this.#ended = larger;
    }
    const base = table.base(slot);
    this.#ended.set(table.slab(slot).subarray(base, base + RECORD_WORDS), this.#endedCount++ * RECORD_WORDS);
    this.#poke();
  }

  forgotten(slot: number): void {
    this.#changed.delete(slot);
  }

  #poke(): void {
    if (this.#cancel !== null || this.#writing !== null) return;
    const write = (): void => {
      this.#cancel = null;
      this.#writing = this.#write().finally(() => {
        this.#writing = null;
        if (this.#changed.size > 0 || this.#endedCount > 0) this.#poke();
      });
    };
    if (this.#intervalMs === 0) {
      const due = setImmediate(write);
      this.#cancel = () => clearImmediate(due);
    } else {
      const due = setTimeout(write, this.#intervalMs);
      this.#cancel = () => clearTimeout(due);
    }
  }

  /** Ends first: a tuple that ended and came again within a turn is a new flow. Never rejects. */
  async #write(): Promise<void> {
    try {
      await this.#remove();
      const { table } = this.#external();
      const batch = new RequestBatch();
      while (this.#changed.size > 0) {
        const staging = new Staging();
        for (const slot of this.#changed) {
          this.#changed.delete(slot);
          if (table.isLive(slot)) staging.add(table, slot);
          if (staging.count >= BATCH_MESSAGES) break;
        }
        const tally = newTally();
        await commitStaging(staging, batch, this.#kernel, () => true, this.#options(), tally);
        this.counters.injected += tally.committed;
        this.counters.updated += tally.updated;
        for (const count of Object.values(tally.failed)) this.counters.failed += count;
      }
    } catch (error) {
      this.#log.error({ error: errorText(error) }, "flows of peers could not be written into the kernel");
    }
  }

  async #remove(): Promise<void> {
    const words = this.#ended;
    const count = this.#endedCount;
    if (count === 0) return;
    this.#ended = new Uint32Array(BATCH_MESSAGES * RECORD_WORDS);
    this.#endedCount = 0;
    const batch = new RequestBatch();
    for (let first = 0; first < count; first += BATCH_MESSAGES) {
      batch.reset();
      const end = Math.min(first + BATCH_MESSAGES, count);
      for (let i = first; i < end; i++) batch.delete(words, i * RECORD_WORDS);
      const { errors } = await this.#kernel.send(batch);
      this.counters.removed += end - first - errors.length;
    }
  }

  /** Cancels what is due and waits for what is being written. */
  async stop(): Promise<void> {
    this.#cancel?.();
    await this.#writing;
  }
}
