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

  /** Blocks for as long as it lasts. */
  run({ eventsPerSecond, seconds }: Churn): Churned {
    const start = performance.now();
    const endMs = start + seconds * 1000;
    let events = 0;
    let behindMax = 0;
    for (;;) {
      const now = performance.now();
      if (now >= endMs) break;
      const due = Math.floor(((now - start) * eventsPerSecond) / 1000) - events;
      if (due <= 0) {
        sleep(Math.max(TICK_MS, start + ((events + 1) * 1000) / eventsPerSecond - now));
        continue;
      }
      behindMax = Math.max(behindMax, due);
      const count = Math.min(due, EVENTS_PER_SEND_MAX);
      this.#step(this.#made - this.#ended === this.#live, count);
      events += count;
    }
    const tookSeconds = (performance.now() - start) / 1000;
    const alive = this.#made - this.#ended;
    return { events, seconds: tookSeconds, alive, refused: this.#requester.takeRefused(), behindMax };
  }

  /** The numbers of the flows that live now. */
  alive(): Uint32Array {
    return Uint32Array.from({ length: this.#made - this.#ended }, (_, index) => (this.#ended + index) % this.#size);
  }

  #step(endsFirst: boolean, count: number): void {
    const ends = endsFirst ? (count + 1) >> 1 : count >> 1;
    this.#ended = this.#send(this.#deletes, this.#ended, ends);
    this.#made = this.#send(this.#creates, this.#made, count - ends);
    this.#requester.drain();
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

/** Blocks until `performance.now()` has come to this. */
export function sleepUntil(ms: number): void {
  const left = ms - performance.now();
  if (left > 0) sleep(left);
}

function sleep(milliseconds: number): void {
  const nanos = Math.floor(milliseconds * 1e6);
  nanosleep(BigInt64Array.of(BigInt(Math.floor(nanos / 1e9)), BigInt(nanos % 1e9)), null);
}
