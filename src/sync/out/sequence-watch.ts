import type { Logger } from "pino";
import { errorText } from "../../errors.js";
import { type DecodedFlow, HAS_MARK, W_HAS, W_MARK } from "../../flow/record.js";

/** Limit of masters that wait for their lookup. */
const MASTERS_MAX = 1024;
/** The helper reports its expectation just before it rewrites the packet. After this delay, the kernel has the rest. */
const DELAY_MS = 3;

/**
 * Looks up the master of each expectation for its sequence adjustment (CTA_SEQ_ADJ_*). A helper that replaces an
 * address in a TCP stream by one of another length shifts all later sequence numbers, and the kernel sends no event
 * about that. But the helper does so where it expects a connection, so each expectation prompts a lookup.
 */
export class SequenceWatch {
  /** Part of the group `expectations` of `stats`. */
  readonly counters = {
    mastersLookedUp: 0,
    /** Masters that were not looked up because the list of waiting ones was full. */
    mastersDropped: 0,
  };
  readonly #lookUp: (words: Uint32Array, base: number) => Promise<DecodedFlow | null>;
  readonly #found: (flow: DecodedFlow) => void;
  readonly #log: Logger;
  readonly #masters = new Map<string, Uint32Array>();
  #timer: NodeJS.Timeout | null = null;
  #running = false;
  #stopped = false;

  constructor(options: {
    lookUp: (words: Uint32Array, base: number) => Promise<DecodedFlow | null>;
    found: (flow: DecodedFlow) => void;
    log: Logger;
  }) {
    this.#lookUp = options.lookUp;
    this.#found = options.found;
    this.#log = options.log;
  }

  /** The helper of the flow with this original tuple has a new expectation. */
  note(master: Uint32Array): void {
    if (this.#stopped) return;
    const key = master.join();
    if (this.#masters.size >= MASTERS_MAX && !this.#masters.has(key)) {
      this.counters.mastersDropped++;
      return;
    }
    this.#masters.set(key, master);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#timer !== null || this.#running || this.#masters.size === 0 || this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#running = true;
      void this.#run().finally(() => {
        this.#running = false;
        this.#schedule();
      });
    }, DELAY_MS);
  }

  /** Looks up the waiting masters, one after the other. Never rejects. */
  async #run(): Promise<void> {
    const masters = [...this.#masters.values()];
    this.#masters.clear();
    for (const master of masters) {
      if (this.#stopped) return;
      try {
        this.counters.mastersLookedUp++;
        const flow = await this.#lookUp(master, 0);
        if (flow === null || this.#stopped) continue;
        // An event omits a mark of 0 and a lookup does not. A lookup must not change how a row looks.
        if (flow.words[W_MARK] === 0) flow.words[W_HAS]! &= ~HAS_MARK;
        this.#found(flow);
      } catch (error) {
        if (!this.#stopped) this.#log.warn({ error: errorText(error) }, "a flow with a helper could not be looked up");
      }
    }
  }

  /** Starts no more lookups. */
  stop(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
