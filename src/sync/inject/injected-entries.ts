/**
 * Remembers what this daemon wrote into the kernel, and tells whether a dump that runs can be believed of it. The kernel fills a
 * part of a dump before that part is asked for, so a dump may list entries as they were before a write that has ended since,
 * or entries that were removed since.
 */
import { FlowTable } from "../../flow/flow-table.js";
import { W_REPLY_DST, W_REPLY_L4, W_REPLY_SRC } from "../../flow/record.js";
import type { InjectorCounters } from "./injector-counters.js";

/** Entries that are remembered as removed while one dump runs. */
const REMOVED_MAX = 1 << 20;
/** More flows than the kernel lists ahead of the one that is being looked at. */
const LISTED_AHEAD = 256;

/** Seconds of the monotonic clock, by which entries expire. */
export function nowSeconds(): number {
  return performance.now() / 1000;
}

/** By the slots of the external cache: when entries expire, which reply tuple they have, what the last dump proves of them. */
export class InjectedEntries {
  /** When the entry expires if no packet comes, in seconds of the monotonic clock; 0: never written, -1: written and gone. */
  #expiresSeconds = new Float64Array(4096);
  /** How much later it may expire: by as much as is unknown when the kernel was written to, or listed. */
  #withinSeconds = new Float32Array(4096);
  /** The reply tuple that the kernel has, hashed. */
  #replies = new Uint32Array(4096);
  /** Birth of the connection that was written. */
  #births = new Float64Array(4096);
  /** 1 where the last dump has listed the entry, or it was written since that dump began. */
  #seen = new Uint8Array(4096);
  /** Slots of the batch that is being written, and when their entries expire if that takes no time. */
  #writing = new Map<number, number>();
  #writingSinceSeconds = 0;
  /** When the flow was listed that is LISTED_AHEAD or more before this one, or the dump began; and the next such time. */
  #listedSinceSeconds = 0;
  #listedNextSeconds = 0;
  #listed = 0;
  #dumping = false;
  /** Removed while the dump runs. */
  #removed: FlowTable | null = null;
  readonly #counters: InjectorCounters;

  constructor(counters: InjectorCounters) {
    this.#counters = counters;
  }

  /** Slots from here on were never written. */
  get end(): number {
    return this.#expiresSeconds.length;
  }

  /** When the entry expires if no packet comes, in seconds of the monotonic clock; 0 when it is not in the kernel. */
  expiresSeconds(slot: number): number {
    return Math.max(0, this.#expiresSeconds[slot] ?? 0);
  }

  /** By how much it may expire later than `expiresSeconds`. */
  withinSeconds(slot: number): number {
    return this.#withinSeconds[slot] ?? 0;
  }

  /** True while its batch is being written: nobody can tell yet when it expires. */
  isWriting(slot: number): boolean {
    return this.#writing.has(slot);
  }

  /** True when the kernel has the entry with the reply tuple of the record. */
  hasReply(slot: number, words: Uint32Array): boolean {
    return this.#replies[slot] === replyHash(words, 0);
  }

  /** True when the entry was written for another connection than the one of this birth. */
  isAnother(slot: number, birth: number): boolean {
    return this.expiresSeconds(slot) > 0 && this.#births[slot] !== birth;
  }

  /** The entry is written for the connection of this birth. */
  noteBirth(slot: number, birth: number): void {
    this.#reserve(slot);
    this.#births[slot] = birth;
  }

  /** The entry is in the kernel, or on its way there, with the reply tuple of the record. */
  note(slot: number, words: Uint32Array, expiresSeconds: number): void {
    this.#reserve(slot);
    this.#expiresSeconds[slot] = expiresSeconds;
    this.#withinSeconds[slot] = 0;
    this.#replies[slot] = replyHash(words, 0);
    this.#seen[slot] = 1;
  }

  /** A dump lists the entry, with `leftSeconds` at the time that the kernel listed it: between a while ago and now. */
  noteListed(slot: number, words: Uint32Array, leftSeconds: number, atSeconds: number): void {
    this.note(slot, words, this.#listedSinceSeconds + leftSeconds);
    this.#withinSeconds[slot] = atSeconds - this.#listedSinceSeconds;
  }

  /** As far as is known, the kernel does not have the entry, or not for the flow that the row is of now. */
  forget(slot: number): void {
    if (slot < this.#expiresSeconds.length && this.#expiresSeconds[slot] !== 0) this.#expiresSeconds[slot] = -1;
  }

  /** The row goes. */
  drop(slot: number): void {
    if (slot < this.#expiresSeconds.length) this.#expiresSeconds[slot] = 0;
  }

  /** True when nothing was ever written for the row. */
  isUntouched(slot: number): boolean {
    return (this.#expiresSeconds[slot] ?? 0) === 0;
  }

  /** A batch is being written, until `endWrite`: a dump may list its entries as they were before, or as they are after. */
  beginWrite(
    items: readonly { readonly slot: number; readonly words: Uint32Array; readonly timeoutSeconds: number }[],
    atSeconds: number,
  ): void {
    this.#writingSinceSeconds = atSeconds;
    for (const { slot, words, timeoutSeconds } of items) {
      this.note(slot, words, atSeconds + timeoutSeconds);
      this.#writing.set(slot, atSeconds + timeoutSeconds);
    }
  }

  /** The batch is written, each entry at some time between `beginWrite` and now. */
  endWrite(atSeconds: number): void {
    for (const [slot, expiresSeconds] of this.#writing) {
      if (this.#expiresSeconds[slot] !== expiresSeconds) continue;
      this.#withinSeconds[slot] = atSeconds - this.#writingSinceSeconds;
    }
    this.#writing.clear();
  }

  /** True when the last dump has listed the entry, or it was written since that dump began. */
  isSeen(slot: number): boolean {
    return this.#seen[slot] === 1;
  }

  /** A dump of the kernel begins. */
  beginDump(atSeconds: number): void {
    this.#seen.fill(0);
    for (const slot of this.#writing.keys()) this.#seen[slot] = 1;
    this.#listedSinceSeconds = atSeconds;
    this.#listedNextSeconds = atSeconds;
    this.#listed = 0;
    this.#removed = null;
    this.#dumping = true;
  }

  /** The dump comes to another flow. */
  countListed(atSeconds: number): void {
    if (++this.#listed % LISTED_AHEAD !== 0) return;
    this.#listedSinceSeconds = this.#listedNextSeconds;
    this.#listedNextSeconds = atSeconds;
  }

  /** The dump is over, complete or not. */
  endDump(): void {
    this.#removed = null;
    this.#dumping = false;
  }

  /** An entry was removed: a dump that runs may list it yet. */
  noteRemoved(words: Uint32Array, base: number): void {
    if (!this.#dumping) return;
    this.#removed ??= new FlowTable(REMOVED_MAX);
    if (this.#removed.find(words, base) >= 0 || this.#removed.insert(words, base) >= 0) return;
    this.#counters.endingsDropped++;
  }

  /** True when the flow's entry was removed since the running dump began. */
  wasRemoved(words: Uint32Array): boolean {
    return this.#removed !== null && this.#removed.find(words, 0) >= 0;
  }

  #reserve(slot: number): void {
    if (slot < this.#expiresSeconds.length) return;
    const length = Math.max(slot + 1, this.#expiresSeconds.length * 2);
    const expiresSeconds = new Float64Array(length);
    const withinSeconds = new Float32Array(length);
    const replies = new Uint32Array(length);
    const births = new Float64Array(length);
    const seen = new Uint8Array(length);
    expiresSeconds.set(this.#expiresSeconds);
    withinSeconds.set(this.#withinSeconds);
    replies.set(this.#replies);
    births.set(this.#births);
    seen.set(this.#seen);
    this.#expiresSeconds = expiresSeconds;
    this.#withinSeconds = withinSeconds;
    this.#replies = replies;
    this.#births = births;
    this.#seen = seen;
  }
}

/** FNV-1a over the words of the reply tuple; never 0. */
function replyHash(words: Uint32Array, base: number): number {
  let hash = 0x811c9dc5;
  for (let i = W_REPLY_SRC; i < W_REPLY_DST + 4; i++) hash = Math.imul(hash ^ words[base + i]!, 0x01000193);
  return (Math.imul(hash ^ words[base + W_REPLY_L4]!, 0x01000193) | 1) >>> 0;
}
