import { FlowTable } from "../../flow/flow-table.js";
import { replyHash } from "./injected-flow.js";

/** Entries that are remembered as removed while one dump runs. */
const REMOVED_MAX = 1 << 20;
/** More flows than the kernel lists ahead of the one that is being looked at. */
const LISTED_AHEAD = 256;

/**
 * What this daemon knows of the entries that it wrote into the kernel, by the slots of the external cache: when they run out,
 * which reply tuple they have, and whether a dump that runs can be believed of them. The kernel fills a part of a dump before
 * the part is asked for, so a dump may list entries as they were before a write that ended since, or that were removed since.
 */
export class InjectedEntries {
  /** When the entry runs out if no packet comes, in seconds of the monotonic clock; 0: not written yet, -1: written and gone. */
  #expires = new Float64Array(4096);
  /** So much later it may run out: the kernel was written to, or listed, at a time that is known to so many seconds. */
  #within = new Float32Array(4096);
  /** The reply tuple that the kernel has, hashed. */
  #replies = new Uint32Array(4096);
  /** Birth of the connection that was written. */
  #births = new Float64Array(4096);
  /** 1 where the last dump has listed the entry, or it was written since that began. */
  #seen = new Uint8Array(4096);
  /** Slots of the batch that is being written, and when the entries run out if that takes no time. */
  #writing = new Map<number, number>();
  #writingSince = 0;
  /** When the flow was listed that is LISTED_AHEAD or more before this one, or the dump began; and one on the way there. */
  #listedSince = 0;
  #listedNext = 0;
  #listed = 0;
  #dumping = false;
  /** Removed while the dump runs. */
  #removed: FlowTable | null = null;

  /** Slots from here on were never written. */
  get end(): number {
    return this.#expires.length;
  }

  /** When the entry runs out if no packet comes, in seconds of the monotonic clock; 0 when it is not in the kernel. */
  expires(slot: number): number {
    return Math.max(0, this.#expires[slot] ?? 0);
  }

  /** By so many seconds it may run out later than `expires`. */
  within(slot: number): number {
    return this.#within[slot] ?? 0;
  }

  /** True while the batch is written that it is in: nobody can tell yet when it runs out. */
  isWriting(slot: number): boolean {
    return this.#writing.has(slot);
  }

  /** True when the kernel has it with the reply tuple of the record. */
  hasReply(slot: number, words: Uint32Array): boolean {
    return this.#replies[slot] === replyHash(words, 0);
  }

  /** True when the entry was written for another connection than that of this birth. */
  isAnother(slot: number, birth: number): boolean {
    return this.expires(slot) > 0 && this.#births[slot] !== birth;
  }

  /** The entry is written for the connection of this birth. */
  noteBirth(slot: number, birth: number): void {
    this.#reserve(slot);
    this.#births[slot] = birth;
  }

  /** The entry is in the kernel, or on its way there, with the reply tuple of the record. */
  note(slot: number, words: Uint32Array, expires: number): void {
    this.#reserve(slot);
    this.#expires[slot] = expires;
    this.#within[slot] = 0;
    this.#replies[slot] = replyHash(words, 0);
    this.#seen[slot] = 1;
  }

  /** A dump lists the entry, with so many seconds left when the kernel listed it: between a while ago and now. */
  listed(slot: number, words: Uint32Array, seconds: number, now: number): void {
    this.note(slot, words, this.#listedSince + seconds);
    this.#within[slot] = now - this.#listedSince;
  }

  /** The kernel does not have it, or not for the flow that stands there now, as far as is known. */
  forget(slot: number): void {
    if (slot < this.#expires.length && this.#expires[slot] !== 0) this.#expires[slot] = -1;
  }

  /** The row goes. */
  drop(slot: number): void {
    if (slot < this.#expires.length) this.#expires[slot] = 0;
  }

  /** True when nothing was ever written for the row. */
  isUntouched(slot: number): boolean {
    return (this.#expires[slot] ?? 0) === 0;
  }

  /** A batch is being written: what a dump lists of it may be from before or after. Until `written`. */
  writing(
    items: readonly { readonly slot: number; readonly words: Uint32Array; readonly timeoutSeconds: number }[],
    now: number,
  ): void {
    this.#writingSince = now;
    for (const { slot, words, timeoutSeconds } of items) {
      this.note(slot, words, now + timeoutSeconds);
      this.#writing.set(slot, now + timeoutSeconds);
    }
  }

  /** The batch is written, each of it at some time until now. */
  written(now: number): void {
    for (const [slot, expires] of this.#writing) {
      if (this.#expires[slot] === expires) this.#within[slot] = now - this.#writingSince;
    }
    this.#writing.clear();
  }

  /** True when the last dump has listed it, or it was written since that began. */
  seen(slot: number): boolean {
    return this.#seen[slot] === 1;
  }

  beginDump(now: number): void {
    this.#seen.fill(0);
    for (const slot of this.#writing.keys()) this.#seen[slot] = 1;
    this.#listedSince = now;
    this.#listedNext = now;
    this.#listed = 0;
    this.#removed = null;
    this.#dumping = true;
  }

  /** The dump comes to another flow. */
  countListed(now: number): void {
    if (++this.#listed % LISTED_AHEAD !== 0) return;
    this.#listedSince = this.#listedNext;
    this.#listedNext = now;
  }

  /** The dump is over, complete or not. */
  endDump(): void {
    this.#removed = null;
    this.#dumping = false;
  }

  /** An entry was removed: a dump that runs may list it yet. False when there is no room to remember that. */
  removed(words: Uint32Array, base: number): boolean {
    if (!this.#dumping) return true;
    this.#removed ??= new FlowTable(REMOVED_MAX);
    return this.#removed.find(words, base) >= 0 || this.#removed.insert(words, base) >= 0;
  }

  /** True when it was removed since the running dump began. */
  wasRemoved(words: Uint32Array): boolean {
    return this.#removed !== null && this.#removed.find(words, 0) >= 0;
  }

  #reserve(slot: number): void {
    if (slot < this.#expires.length) return;
    const length = Math.max(slot + 1, this.#expires.length * 2);
    const expires = new Float64Array(length);
    const within = new Float32Array(length);
    const replies = new Uint32Array(length);
    const births = new Float64Array(length);
    const seen = new Uint8Array(length);
    expires.set(this.#expires);
    within.set(this.#within);
    replies.set(this.#replies);
    births.set(this.#births);
    seen.set(this.#seen);
    this.#expires = expires;
    this.#within = within;
    this.#replies = replies;
    this.#births = births;
    this.#seen = seen;
  }
}
