import { Backoff } from "../../os/backoff.js";

/** Messages in a row that may be refused, and how long it takes until as many may be refused again. */
const REFUSED_MAX = 256;
const REFILL_MS = 60_000;
const ASIDE_MS_MIN = 10_000;
const ASIDE_MS_MAX = 300_000;
/** Applying one message never takes so long on a machine that works: a batch is some 5 ms. */
const WORK_MS_MAX = 100;

/**
 * The budget of work for one peer. A message that is refused, or that costs far too much, costs only itself. A peer that
 * writes one after the other is put aside for a while: its stream is not read, and then read on from there. If it goes on
 * like that, it is put aside for twice as long, and so on.
 */
export class Quarantine {
  /** Times that the peer was put aside. */
  count = 0;
  readonly #nowMs: () => number;
  readonly #backoff = new Backoff({ minMs: ASIDE_MS_MIN, maxMs: ASIDE_MS_MAX });
  /** What is left of the budget, in messages, at `#seenMs`. */
  #left = REFUSED_MAX;
  #seenMs: number;
  #untilMs = Number.NEGATIVE_INFINITY;

  /** `nowMs`: a monotonic clock. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#seenMs = nowMs();
  }

  /** How long the peer is aside from now on, milliseconds; 0 when it is not. */
  get leftMs(): number {
    return Math.max(0, this.#untilMs - this.#nowMs());
  }

  /** A message was applied. True when the peer is put aside for it. */
  applied(wasRefused: boolean, workMs: number): boolean {
    if (!wasRefused && workMs <= WORK_MS_MAX) return false;
    const nowMs = this.#nowMs();
    this.#left = Math.min(REFUSED_MAX, this.#left + ((nowMs - this.#seenMs) * REFUSED_MAX) / REFILL_MS);
    // A whole budget: it has written as it should for a while.
    if (this.#left === REFUSED_MAX) this.#backoff.reset();
    this.#seenMs = nowMs;
    this.#left--;
    if (this.#left > 0) return false;
    const asideMs = this.#backoff.nextMs();
    this.#untilMs = nowMs + asideMs;
    // It begins anew with half a budget: an hour aside must not count as an hour of good behaviour.
    this.#seenMs = this.#untilMs;
    this.#left = REFUSED_MAX / 2;
    this.count++;
    return true;
  }

  /** Ends it early. */
  release(): void {
    this.#untilMs = Number.NEGATIVE_INFINITY;
    this.#seenMs = this.#nowMs();
  }
}
