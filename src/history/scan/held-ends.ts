import { STAMPS_PER_MS } from "../../flow/clock.js";
import type { Ending } from "./live-table.js";

/**
 * So long ends wait: a node that takes over may not have heard of them, and then its kernel has the
 * connection once more. A failure is seen within some seconds, and a commit of a million flows takes some more.
 */
export const HOLD_MS = 20_000;
/** The same in stamps. */
export const HOLD_STAMPS = HOLD_MS * STAMPS_PER_MS;
/** So many at a time. */
export const HELD_MAX = 65_536;
/** Entries that there is room for at first. */
const CAPACITY_MIN = 256;
/** What an entry keeps: told, stamp, aheadMs, startMs, endMs, and the four counters. */
const NUMBERS = 9;
const HAS_COUNTERS = 1;
const IS_LOST = 2;

/**
 * Ends that wait because another node may yet take the connection up again, oldest first, off the JavaScript heap. A place is a
 * number that holds until the entry is gone.
 */
export class HeldEnds {
  /** Slot + 1 of the connection in the table; 0: it was taken out. */
  #slots = new Uint32Array(CAPACITY_MIN);
  #flags = new Uint8Array(CAPACITY_MIN);
  #numbers = new Float64Array(CAPACITY_MIN * NUMBERS);
  #first = 0;
  #next = 0;
  #count = 0;

  /** Ends that wait. */
  get count(): number {
    return this.#count;
  }

  /** True when the oldest has to go before another comes: also what was taken out behind it holds its place until then. */
  get isFull(): boolean {
    this.#skip();
    return this.#next - this.#first >= HELD_MAX;
  }

  /** Stamp of the message that told the oldest; Infinity where none waits. */
  get oldestTold(): number {
    this.#skip();
    return this.#first === this.#next ? Number.POSITIVE_INFINITY : this.#numbers[this.#at(this.#first) * NUMBERS]!;
  }

  /** Stamp of the message that told one, the least of all; Infinity where none waits. What a stream brings late stands behind others. */
  leastTold(): number {
    let least = Number.POSITIVE_INFINITY;
    for (let place = this.#first; place !== this.#next; place++) {
      const at = this.#at(place);
      if (this.#slots[at] !== 0) least = Math.min(least, this.#numbers[at * NUMBERS]!);
    }
    return least;
  }

  /** Takes an end in, told by a message of that stamp; its place. */
  push(slot: number, told: number, ending: Ending): number {
    this.#skip();
    if (this.#next - this.#first === this.#slots.length) this.#grow();
    const at = this.#at(this.#next);
    const { counters } = ending;
    this.#slots[at] = slot + 1;
    this.#flags[at] = (counters === null ? 0 : HAS_COUNTERS) | (ending.end === "lost" ? IS_LOST : 0);
    const numbers = this.#numbers;
    const base = at * NUMBERS;
    numbers[base] = told;
    numbers[base + 1] = ending.stamp;
    numbers[base + 2] = ending.aheadMs;
    numbers[base + 3] = ending.startMs;
    numbers[base + 4] = ending.endMs;
    numbers[base + 5] = counters?.origPackets ?? 0;
    numbers[base + 6] = counters?.origBytes ?? 0;
    numbers[base + 7] = counters?.replyPackets ?? 0;
    numbers[base + 8] = counters?.replyBytes ?? 0;
    this.#count++;
    return this.#next++ >>> 0;
  }

  /** The slot of the oldest; -1 where none waits. */
  oldest(): number {
    this.#skip();
    return this.#first === this.#next ? -1 : this.#slots[this.#at(this.#first)]! - 1;
  }

  /** Takes the entry at a place out: what it says, and the stamp of the message that said it. */
  take(place: number): { ending: Ending; told: number } {
    const at = this.#at(place);
    const flags = this.#flags[at]!;
    const numbers = this.#numbers;
    const base = at * NUMBERS;
    const counters = {
      origPackets: numbers[base + 5]!,
      origBytes: numbers[base + 6]!,
      replyPackets: numbers[base + 7]!,
      replyBytes: numbers[base + 8]!,
    };
    const ending: Ending = {
      end: (flags & IS_LOST) !== 0 ? "lost" : "ended",
      stamp: numbers[base + 1]!,
      aheadMs: numbers[base + 2]!,
      counters: (flags & HAS_COUNTERS) !== 0 ? counters : null,
      startMs: numbers[base + 3]!,
      endMs: numbers[base + 4]!,
    };
    this.#slots[at] = 0;
    this.#count--;
    return { ending, told: numbers[base]! };
  }

  #at(place: number): number {
    return place & (this.#slots.length - 1);
  }

  #skip(): void {
    while (this.#first !== this.#next && this.#slots[this.#at(this.#first)] === 0) this.#first++;
  }

  #grow(): void {
    const slots = new Uint32Array(this.#slots.length * 2);
    const flags = new Uint8Array(slots.length);
    const numbers = new Float64Array(slots.length * NUMBERS);
    for (let place = this.#first; place !== this.#next; place++) {
      const from = this.#at(place);
      const to = place & (slots.length - 1);
      slots[to] = this.#slots[from]!;
      flags[to] = this.#flags[from]!;
      numbers.set(this.#numbers.subarray(from * NUMBERS, (from + 1) * NUMBERS), to * NUMBERS);
    }
    this.#slots = slots;
    this.#flags = flags;
    this.#numbers = numbers;
  }
}
