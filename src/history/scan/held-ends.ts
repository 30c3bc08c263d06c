/**
 * Ends that are held back for HOLD_MS of stream time, because a node that takes over may not have seen them and may take the
 * connection up again. No more than HELD_MAX wait at a time; beyond that the oldest is released early.
 */
import { STAMPS_PER_MS } from "../../flow/clock.js";
import type { Ending } from "./ending.js";
import type { LiveTable } from "./live-table.js";
import type { Reports } from "./reports.js";

/**
 * How long an end is held. A node that takes over without having seen it has the connection in its kernel again. A failure is
 * detected within seconds, and a commit of a million flows takes a few more.
 */
export const HOLD_MS = 20_000;
/** The same in stamps. */
export const HOLD_STAMPS = HOLD_MS * STAMPS_PER_MS;
/** How many ends are held at a time. */
export const HELD_MAX = 65_536;
/** Entries that there is room for at first. */
const CAPACITY_MIN = 256;
/** Numbers of an entry: publishedStamp, stamp, aheadMs, startMs, endMs, and the four counters. */
const NUMBERS = 9;
const HAS_COUNTERS = 1;
const IS_LOST = 2;

/** Holds the ends of rows of a live table, and reports each when it is released. */
export class HeldEnds {
  readonly #queue = new EndQueue();
  readonly #live: LiveTable;
  readonly #reports: Reports;
  #settled = 0;

  constructor(live: LiveTable, reports: Reports) {
    this.#live = live;
    this.#reports = reports;
  }

  /** Ends that are held. */
  get count(): number {
    return this.#queue.count;
  }

  /** No end is held that was published HOLD_STAMPS before this stamp. */
  get settled(): number {
    return Math.min(this.#settled, this.#queue.leastPublished() + HOLD_STAMPS);
  }

  /** Holds the end of a row that a message with that stamp published. */
  hold(slot: number, ending: Ending, publishedStamp: number): void {
    if (this.#queue.isFull) this.release(this.#queue.oldest());
    this.#live.hold(slot, this.#queue.push(slot, publishedStamp, ending));
  }

  /** Cancels the end of a held row: a node has taken the connection up again. */
  cancel(slot: number): void {
    this.#queue.take(this.#live.heldAt(slot));
    this.#live.resume(slot);
  }

  /** Reports the end of a held row and frees the row. */
  release(slot: number): void {
    const live = this.#live;
    const { ending, publishedStamp } = this.#queue.take(live.heldAt(slot));
    // A gap that begins at the end is no gap of this connection.
    const copy = live.copy(slot, ending.stamp - 1);
    const source = { node: live.owner(slot).name, stamp: publishedStamp, whole: live.isWhole(slot) };
    live.remove(slot);
    this.#reports.ended(copy, ending, source);
  }

  /** Releases the ends that no node can cancel any more at a stamp, `endsMax` at the most. Infinity as stamp: all ends. */
  settle(stamp: number, endsMax: number): void {
    if (stamp > this.#settled) this.#settled = stamp;
    const queue = this.#queue;
    for (let n = 0; n < endsMax && queue.oldestPublished + HOLD_STAMPS < stamp; n++) this.release(queue.oldest());
  }
}

/**
 * A queue of ends off the JavaScript heap, oldest first. An entry's place is a number that stays valid until the entry is
 * taken, from wherever in the queue.
 */
export class EndQueue {
  /** Slot + 1 of the connection in the table; 0: the entry was taken. */
  #slots = new Uint32Array(CAPACITY_MIN);
  #flags = new Uint8Array(CAPACITY_MIN);
  #numbers = new Float64Array(CAPACITY_MIN * NUMBERS);
  #first = 0;
  #next = 0;
  #count = 0;

  /** Entries that were not taken. */
  get count(): number {
    return this.#count;
  }

  /** True when the oldest entry must be taken before another fits: entries taken from behind it still occupy their places. */
  get isFull(): boolean {
    this.#skipTaken();
    return this.#next - this.#first >= HELD_MAX;
  }

  /** Stamp of the message that published the oldest entry; Infinity where the queue is empty. */
  get oldestPublished(): number {
    this.#skipTaken();
    return this.#first === this.#next ? Number.POSITIVE_INFINITY : this.#numbers[this.#at(this.#first) * NUMBERS]!;
  }

  /** The least stamp of a message that published an entry, for a stream may bring ends late; Infinity where the queue is empty. */
  leastPublished(): number {
    let least = Number.POSITIVE_INFINITY;
    for (let place = this.#first; place !== this.#next; place++) {
      const at = this.#at(place);
      if (this.#slots[at] !== 0) least = Math.min(least, this.#numbers[at * NUMBERS]!);
    }
    return least;
  }

  /** Appends an end that a message with that stamp published. Returns its place. */
  push(slot: number, publishedStamp: number, ending: Ending): number {
    this.#skipTaken();
    if (this.#next - this.#first === this.#slots.length) this.#grow();
    const at = this.#at(this.#next);
    const { counters } = ending;
    this.#slots[at] = slot + 1;
    this.#flags[at] = (counters === null ? 0 : HAS_COUNTERS) | (ending.end === "lost" ? IS_LOST : 0);
    const numbers = this.#numbers;
    const base = at * NUMBERS;
    numbers[base] = publishedStamp;
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

  /** The slot of the oldest entry; -1 where the queue is empty. */
  oldest(): number {
    this.#skipTaken();
    return this.#first === this.#next ? -1 : this.#slots[this.#at(this.#first)]! - 1;
  }

  /** Takes the entry at a place out of the queue. */
  take(place: number): { ending: Ending; publishedStamp: number } {
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
    return { ending, publishedStamp: numbers[base]! };
  }

  #at(place: number): number {
    return place & (this.#slots.length - 1);
  }

  #skipTaken(): void {
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
