import type { Merge } from "./merge.js";
import { joinStreams, type StreamRange } from "./merged-streams.js";
import type { Projection } from "./projection.js";
import type { HistoryStreams } from "./streams.js";

/** A shared broker may have lost the servers of one stream: the others go on without it when that is so for so long. */
const UNTOLD_MS_MAX = 60_000;

/**
 * Knows up to when a live merge has all that the broker holds. A source that has nothing to give may only be slow: this process or
 * the broker had no time. So the broker is asked where each stream ends, and the merge waits for every source until it is there.
 */
export class StreamTips {
  readonly #streams: HistoryStreams;
  readonly #merge: Merge;
  readonly #projection: Projection;
  readonly #range: StreamRange;
  readonly #now: () => number;
  readonly #untoldMsMax: number;
  #knownMs = 0;
  #askedMs = Number.NEGATIVE_INFINITY;
  #asking = false;
  /** When every stream was told of for the last time. */
  #wholeMs = performance.now();

  /** `now`: the clock that `knownMs` is told by. `untoldMsMax`: so long a stream of which the broker tells nothing is waited for. */
  constructor(
    streams: HistoryStreams,
    merge: Merge,
    projection: Projection,
    options: { range: StreamRange; now: () => number; untoldMsMax?: number },
  ) {
    this.#streams = streams;
    this.#merge = merge;
    this.#projection = projection;
    this.#range = options.range;
    this.#now = options.now;
    this.#untoldMsMax = options.untoldMsMax ?? UNTOLD_MS_MAX;
  }

  /**
   * Milliseconds since the Unix epoch: what was stored before this time, in any stream, comes out of the merge in its order. 0 before
   * the first answer. While the broker is away it stays where it is.
   */
  get knownMs(): number {
    return this.#knownMs;
  }

  /** Asks in the background, unless an answer is due or the last question is less than `everyMs` ago. Takes new streams in as well. */
  ask(everyMs: number): void {
    if (this.#asking || performance.now() - this.#askedMs < everyMs) return;
    this.#asking = true;
    this.#askedMs = performance.now();
    void this.#look().finally(() => {
      this.#asking = false;
    });
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const nowMs = this.#now();
    let told = 0;
    let untold = 0;
    await joinStreams(this.#streams, this.#merge, this.#projection, this.#range);
    await this.#merge.expect(async (node) => {
      try {
        const tip = await this.#tipOf(node);
        told++;
        return tip;
      } catch {
        // The readers tell of a broker that is away, and the next question is soon.
        untold++;
        return null;
      }
    });
    if (untold === 0) this.#wholeMs = performance.now();
    else if (told === 0 || performance.now() - this.#wholeMs < this.#untoldMsMax) return;
    this.#knownMs = nowMs;
  }

  async #tipOf(node: string): Promise<number> {
    const bounds = await this.#streams.lookup(node).bounds();
    // What retention has removed is not waited for.
    return bounds === null || bounds.messages === 0 ? 0 : bounds.last;
  }
}
