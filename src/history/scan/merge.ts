import type { OpenedMessage } from "../../stream/format/envelope.js";
import type { StreamSource } from "./source.js";

/** A source that has a next message. */
export type ReadySource = StreamSource & { head: OpenedMessage };

function isReady(source: StreamSource): source is ReadySource {
  return source.head !== null;
}

/**
 * Merges several streams by the stamps of their messages. Of equal stamps, the one of the node whose name sorts first comes first.
 * No more is read ahead than the sources hold. An idle source is not waited for, so its next message may come late.
 */
export class Merge {
  #sources: readonly StreamSource[];
  readonly #signal: AbortSignal;
  #woken = false;
  #wake: (() => void) | null = null;

  /** `sources` must be in the order of their names. The signal ends them all. */
  constructor(sources: readonly StreamSource[], signal: AbortSignal) {
    this.#sources = sources;
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
    if (signal.aborted) this.close();
  }

  /**
   * The source whose head is the next message; use the head before `advance`. Null: call `wait`, unless all have ended.
   * @throws the error that ended a source early
   */
  next(): ReadySource | null {
    let least: ReadySource | null = null;
    for (const source of this.#sources) {
      if (!isReady(source)) {
        source.check();
        if (source.ended) continue;
        source.fill(this.#onWake);
        if (source.idle) continue;
        return null;
      }
      if (least === null || source.head.envelope.stamp < least.head.envelope.stamp) least = source;
    }
    return least;
  }

  /** True when it reads the stream of that node. */
  reads(name: string): boolean {
    return this.#sources.some(({ node }) => node.name === name);
  }

  /** Adds streams that are read from now on. */
  add(sources: readonly StreamSource[]): void {
    this.#sources = [...this.#sources, ...sources].sort((a, b) => (a.node.name < b.node.name ? -1 : 1));
    if (this.#signal.aborted) this.close();
  }

  /** From now on no source is idle before it has read up to where `tipOf` says that its stream ends now; null: nobody can tell. */
  async expect(tipOf: (node: string) => Promise<number | null>): Promise<void> {
    const expectTip = async (source: StreamSource): Promise<void> => {
      const tip = await tipOf(source.node.name);
      if (tip !== null) source.expect(tip);
    };
    await Promise.all(this.#sources.map(expectTip));
    this.#onWake();
  }

  /** True when every source has ended. */
  get ended(): boolean {
    return this.#sources.every((source) => source.ended);
  }

  /** True when all that the streams hold now has been read. */
  get idle(): boolean {
    return this.#sources.every((source) => source.ended || (source.head === null && source.idle));
  }

  /** Resolves when a source has a message, an end or a failure, or after `ms`; null: no time limit. */
  async wait(ms: number | null = null): Promise<void> {
    const timer = ms === null ? undefined : setTimeout(this.#onWake, ms);
    while (!this.#woken) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    clearTimeout(timer);
    this.#woken = false;
  }

  /** Ends all sources. */
  close(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
    for (const source of this.#sources) source.close();
    this.#onWake();
  }

  readonly #onAbort = (): void => this.close();

  readonly #onWake = (): void => {
    this.#woken = true;
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };
}
