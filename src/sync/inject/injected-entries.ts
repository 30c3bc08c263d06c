/**
 * Records what this daemon wrote into the kernel, and what a running dump can prove about it. The kernel fills each
 * part of a dump ahead of the request for it. So a dump may list an entry as it was before a write that has since
 * finished, or an entry that has since been removed.
 */
import { FlowTable } from "../../flow/flow-table.js";
import { W_REPLY_DST, W_REPLY_L4, W_REPLY_SRC } from "../../flow/record.js";
import type { InjectorCounters } from "./injector-counters.js";

/** Limit of removed entries that are remembered during a dump. */
const REMOVED_MAX = 1 << 20;
/** An upper bound of the flows that the kernel lists ahead of the one being read. */
const LISTED_AHEAD = 256;

/** What a dump has shown of an entry; 0: nothing yet. */
const SEEN = 1;
const WRITING = 2;

/** Seconds of the monotonic clock, which measures when entries expire. */
export function nowSeconds(): number {
  return performance.now() / 1000;
}

/**
 * What is known about each entry, by the slots of the external cache: when it expires, which reply tuple it has, and
 * what the last dump proves about it.
 */
export class InjectedEntries {
  /**
   * When the entry expires if no packet comes, seconds of the monotonic clock. 0: never written; -1: written and gone.
   */
  #expiresSeconds = new Float64Array(4096);
  /** How much later it may expire, seconds: the uncertainty of when the kernel was written to or listed. */
  #withinSeconds = new Float32Array(4096);
  /** Hash of the reply tuple that the kernel has. */
  #replies = new Uint32Array(4096);
  /** Birth of the connection for which the entry was written. */
  #births = new Float64Array(4096);
  /** SEEN if the last dump listed the entry, or if it was written since that dump began. */
  #seen = new Uint8Array(4096);
  /** Slots of the batch that is being written, and when their entries would expire if they were written at once. */
  #writing = new Map<number, number>();
  #writingSinceSeconds = 0;
  /** When a flow LISTED_AHEAD or more before this one was listed, or the dump began; and the next such time. */
  #listedSinceSeconds = 0;
  #listedNextSeconds = 0;
  #listed = 0;
  #dumping = false;
  /** Entries removed during the running dump; null while none runs. */
  #removed: FlowTable | null = null;
  readonly #counters: InjectorCounters;

  constructor(counters: InjectorCounters) {
    this.#counters = counters;
  }

  /** Slots from here on were never written. */
  get end(): number {
    return this.#expiresSeconds.length;
  }

  /** When the entry expires if no packet comes, seconds of the monotonic clock; 0 when the kernel does not have it. */
  expiresSeconds(slot: number): number {
    return Math.max(0, this.#expiresSeconds[slot] ?? 0);
  }

  /** How much later than `expiresSeconds` it may expire, seconds. */
  withinSeconds(slot: number): number {
    return this.#withinSeconds[slot] ?? 0;
  }

  /** True while its batch is being written. Its expiry is unknown until then. */
  isWriting(slot: number): boolean {
    return this.#writing.has(slot);
  }

  /** True when the kernel's entry has the same reply tuple as the record. */
  hasReply(slot: number, words: Uint32Array): boolean {
    return this.#replies[slot] === replyHash(words, 0);
  }

  /** True when the entry was written for a connection with another birth. */
  isAnother(slot: number, birth: number): boolean {
    return this.expiresSeconds(slot) > 0 && this.#births[slot] !== birth;
  }

  /** Records the birth of the connection for which the entry is written. */
  noteBirth(slot: number, birth: number): void {
    this.#reserve(slot);
    this.#births[slot] = birth;
  }

  /** The entry is in the kernel, or is being written, with the reply tuple of the record. */
  note(slot: number, words: Uint32Array, expiresSeconds: number): void {
    this.#reserve(slot);
    this.#expiresSeconds[slot] = expiresSeconds;
    this.#withinSeconds[slot] = 0;
    this.#replies[slot] = replyHash(words, 0);
    this.#seen[slot] = SEEN;
  }

  /**
   * A dump lists the entry with `leftSeconds`. The kernel listed it at some time before `atSeconds`, as far back as the
   * dump reads ahead.
   */
  noteListed(slot: number, words: Uint32Array, leftSeconds: number, atSeconds: number): void {
    this.note(slot, words, this.#listedSinceSeconds + leftSeconds);
    this.#withinSeconds[slot] = atSeconds - this.#listedSinceSeconds;
  }

  /** As far as is known, the kernel does not have the entry, or has it for another flow than the row's. */
  forget(slot: number): void {
    if (slot < this.#expiresSeconds.length && this.#expiresSeconds[slot] !== 0) this.#expiresSeconds[slot] = -1;
  }

  /** The row is removed. */
  drop(slot: number): void {
    if (slot < this.#expiresSeconds.length) this.#expiresSeconds[slot] = 0;
  }

  /** True when nothing was ever written for the row. */
  isUntouched(slot: number): boolean {
    return (this.#expiresSeconds[slot] ?? 0) === 0;
  }

  /**
   * A batch is being written, until `endWrite`. Meanwhile, a dump may list its entries as they were before or after.
   */
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

  /** The batch is written. Each entry was written at some time between `beginWrite` and `atSeconds`. */
  endWrite(atSeconds: number): void {
    for (const [slot, expiresSeconds] of this.#writing) {
      if (this.#expiresSeconds[slot] !== expiresSeconds) continue;
      this.#withinSeconds[slot] = atSeconds - this.#writingSinceSeconds;
    }
    this.#writing.clear();
  }

  /** True when the last dump listed the entry, or when it was written since that dump began. */
  isSeen(slot: number): boolean {
    return this.#seen[slot] !== 0;
  }

  /**
   * True for an entry that was being written when the last dump began, and that it has not listed. It may have been
   * written before, and have ended since.
   */
  isUncertain(slot: number): boolean {
    return this.#seen[slot] === WRITING;
  }

  /** The running dump lists the entry. */
  noteSeen(slot: number): void {
    this.#seen[slot] = SEEN;
  }

  /** A dump of the kernel begins. */
  beginDump(atSeconds: number): void {
    this.#seen.fill(0);
    for (const slot of this.#writing.keys()) this.#seen[slot] = WRITING;
    this.#listedSinceSeconds = atSeconds;
    this.#listedNextSeconds = atSeconds;
    this.#listed = 0;
    this.#removed = null;
    this.#dumping = true;
  }

  /** The dump has reached another flow. */
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

  /** An entry was removed. A running dump may still list it. */
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
