import koffi from "koffi";
import type { Churn, Churned } from "./protocol.js";
import { type Encoded, encodeRequests, type Requester } from "./requester.js";

/** Finer than this it does not wait, so 50,000 events a second come ten at a time. */
const TICK_MS = 0.2;
/** A load that was held up catches up in sends of so many at most. */
const EVENTS_PER_SEND_MAX = 512;
/** The flows that live at the beginning come at this pace, which every daemon can follow. */
const FILL_FLOWS_PER_SECOND = 40_000;
const FILL_BATCH = 64;
/** Ended tuples of which each waits until its turn comes again, at least. */
const ENDED_MIN = 20_000;
const ENDED_MAX = 100_000;

const nanosleep = koffi.load(null).func("int nanosleep(void *time, void *left)") as (
  time: BigInt64Array,
  left: null,
) => number;

/**
 * `live` flows in a ring of more tuples. Each event ends the oldest or makes a new one, in turn; a tuple comes
 * again when the ring has gone round.
 */
export class Ring {
  readonly #requester: Requester;
  readonly #creates: Encoded;
  readonly #deletes: Encoded;
  readonly #live: number;
  readonly #size: number;
  #ended = 0;
  #made = 0;

  constructor(requester: Requester, range: number, live: number) {
    this.#requester = requester;
    this.#live = live;
    this.#size = live + Math.min(ENDED_MAX, Math.max(ENDED_MIN, live));
    this.#creates = encodeRequests("create", range, 0, this.#size);
    this.#deletes = encodeRequests("delete", range, 0, this.#size);
    const start = performance.now();
    while (this.#made < live) {
      this.#made = this.#send(this.#creates, this.#made, Math.min(FILL_BATCH, live - this.#made));
      sleepUntil(start + (this.#made * 1000) / FILL_FLOWS_PER_SECOND);
    }
  }

  /** How many live now: `live`, or one less. */
  get lives(): number {
    return this.#made - this.#ended;
  }

  /** Requests that the kernel refused since the last call. */
  takeRefused(): number {
    return this.#requester.takeRefused();
  }

  /** Makes so many events: ends and beginnings in turn. */
  step(count: number): void {
    const ends = this.lives === this.#live ? (count + 1) >> 1 : count >> 1;
    this.#ended = this.#send(this.#deletes, this.#ended, ends);
    this.#made = this.#send(this.#creates, this.#made, count - ends);
    this.#requester.drain();
  }

  /** The numbers of the flows that live now. */
  alive(): Uint32Array {
    return Uint32Array.from({ length: this.lives }, (_, index) => (this.#ended + index) % this.#size);
  }

  /** Numbers grow without end; the ring's places are their remainders. */
  #send(requests: Encoded, from: number, count: number): number {
    const first = from % this.#size;
    const end = first + count;
    this.#requester.send(requests, first, Math.min(end, this.#size));
    if (end > this.#size) this.#requester.send(requests, 0, end - this.#size);
    return from + count;
  }
}

/**
 * Each ring makes `eventsPerSecond` events for so many seconds; those of several rings lie evenly between each other. Blocks
 * for as long as it lasts. `events` and `alive` are of all together.
 */
export function churn(
  rings: readonly Ring[],
  { eventsPerSecond, seconds }: Pick<Churn, "eventsPerSecond" | "seconds">,
): Churned {
  const start = performance.now();
  const endMs = start + seconds * 1000;
  const made = rings.map(() => 0);
  let behindMax = 0;
  for (;;) {
    const now = performance.now();
    if (now >= endMs) break;
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [index, ring] of rings.entries()) {
      const before = index / rings.length;
      const events = made[index]!;
      const due = Math.floor(((now - start) * eventsPerSecond) / 1000 + before) - events;
      nextMs = Math.min(nextMs, due > 0 ? now : start + ((events + 1 - before) * 1000) / eventsPerSecond);
      if (due <= 0) continue;
      behindMax = Math.max(behindMax, due);
      const count = Math.min(due, EVENTS_PER_SEND_MAX);
      ring.step(count);
      made[index] = events + count;
    }
    if (nextMs > now) sleep(Math.max(TICK_MS, Math.min(nextMs, endMs) - now));
  }
  const sum = (of: (ring: Ring, index: number) => number): number =>
    rings.reduce((total, ring, index) => total + of(ring, index), 0);
  return {
    events: sum((_, index) => made[index]!),
    seconds: (performance.now() - start) / 1000,
    alive: sum((ring) => ring.lives),
    refused: sum((ring) => ring.takeRefused()),
    behindMax,
  };
}

/** Blocks until `performance.now()` has come to this. */
export function sleepUntil(ms: number): void {
  const left = ms - performance.now();
  if (left > 0) sleep(left);
}

function sleep(milliseconds: number): void {
  const nanos = Math.floor(milliseconds * 1e6);
  nanosleep(BigInt64Array.of(BigInt(Math.floor(nanos / 1e9)), BigInt(nanos % 1e9)), null);
}
