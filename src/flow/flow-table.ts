import { randomBytes } from "node:crypto";
import {
  AF_INET,
  type RareAttributes,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_ZONE,
} from "./record.js";
import { zoneOrigOf } from "./record-fields.js";

/** Records per slab: 2^12 records of 128 bytes are 512 KiB. */
const SLAB_BITS = 12;
const SLAB_MASK = (1 << SLAB_BITS) - 1;

/** The index is split by the top bits of the hash: its parts grow one at a time, and none stalls the event loop. */
const SEGMENT_BITS = 8;
const SEGMENT_ENTRIES_MIN = 16;

/** In the high half of W_HAS: the row is in use (indexed, or unlinked and not yet freed). */
export const ROW_LIVE = 0x1_0000;

/** Pairs (hash, slot + 1); slot + 1 == 0 is empty. Linear probing, deletion by shifting back. */
type Segment = Int32Array;

/**
 * Flow records in slabs off the JavaScript heap, found by (family, protocol, zone, original tuple) through a segmented
 * open-addressing index. A slot number is a flow's handle for as long as it is not freed. Holds at most `flowsMax`.
 * The hash is seeded per process: tuples come from the network.
 */
export class FlowTable {
  /** Limit of rows. A lower one lets those stay that are there. */
  flowsMax: number;
  /** Attributes that few flows carry, by slot. */
  readonly rare = new Map<number, RareAttributes>();
  readonly #slabs: Uint32Array[] = [];
  /** Beside each slab: the birth of its flows. */
  readonly #births: Float64Array[] = [];
  readonly #segments: Segment[] = [];
  /** Entries used, by segment. */
  readonly #used = new Uint32Array(1 << SEGMENT_BITS);
  /** The result of reading ahead. Nobody uses it, but the engine would drop reads without a result. */
  readonly #readAhead = new Int32Array(1);
  readonly #seed: number;
  #freeSlots = new Uint32Array(1024);
  #freeCount = 0;
  #slotsUsed = 0;
  #size = 0;

  constructor(flowsMax: number, seed: number = randomBytes(4).readUInt32LE()) {
    this.flowsMax = flowsMax;
    this.#seed = seed;
    for (let i = 0; i < 1 << SEGMENT_BITS; i++) this.#segments.push(newSegment(SEGMENT_ENTRIES_MIN));
  }

  /** Flows in the index. */
  get size(): number {
    return this.#size;
  }

  /** Slots ever used: every slot in use is below this. */
  get slotsUsed(): number {
    return this.#slotsUsed;
  }

  /** The slab that holds `slot`; its record begins at `base(slot)`. */
  slab(slot: number): Uint32Array {
    return this.#slabs[slot >>> SLAB_BITS]!;
  }

  /** Index of the slot's first word in its slab. */
  base(slot: number): number {
    return (slot & SLAB_MASK) * RECORD_WORDS;
  }

  /** Birth of the connection: stamp of the first claim that any node made to it; 0 while none is published. */
  birth(slot: number): number {
    return this.#births[slot >>> SLAB_BITS]![slot & SLAB_MASK]!;
  }

  setBirth(slot: number, stamp: number): void {
    this.#births[slot >>> SLAB_BITS]![slot & SLAB_MASK] = stamp;
  }

  /**
   * Takes another node's birth of the same connection over where it is earlier than the own one; 0 or less is none.
   */
  inheritBirth(slot: number, birth: number): void {
    if (slot < 0 || birth <= 0) return;
    const own = this.birth(slot);
    if (own === 0 || birth < own) this.setBirth(slot, birth);
  }

  /** True when another flow can be inserted. */
  get hasRoom(): boolean {
    return this.#slotsUsed - this.#freeCount < this.flowsMax;
  }

  isLive(slot: number): boolean {
    return slot < this.#slotsUsed && (this.slab(slot)[this.base(slot) + W_HAS]! & ROW_LIVE) !== 0;
  }

  /**
   * Hash of the kernel's key of a flow: original tuple and the zone of the original direction. Compute it once where a
   * record is looked up more than once. Signed, because V8 boxes numbers above 2^31.
   */
  hash(words: Uint32Array, base: number): number {
    const proto = words[base + W_PROTO]!;
    const width = proto >>> 8 === AF_INET ? 1 : 4;
    let h = mix(this.#seed, proto ^ (words[base + W_ZONE]! & 0xffff0000));
    h = mix(h, words[base + W_ORIG_L4]!);
    for (let i = 0; i < width; i++) {
      h = mix(h, words[base + W_ORIG_SRC + i]!);
      h = mix(h, words[base + W_ORIG_DST + i]!);
    }
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return h ^ (h >>> 16);
  }

  /**
   * Reads the index entries of these hashes, so that the lookups that follow find them in the processor's cache. In a
   * loop that does nothing else the processor fetches them side by side.
   */
  readAhead(hashes: Int32Array, count: number): void {
    let read = 0;
    for (let i = 0; i < count; i++) {
      const hash = hashes[i]!;
      const entries = this.#segments[hash >>> (32 - SEGMENT_BITS)]!;
      read ^= entries[2 * (hash & maskOf(entries)) + 1]!;
    }
    this.#readAhead[0] = read;
  }

  /** As `readAhead`, for the rows themselves; negative slots are skipped. */
  readRowsAhead(slots: Int32Array, count: number): void {
    let read = 0;
    for (let i = 0; i < count; i++) {
      const slot = slots[i]!;
      if (slot < 0) continue;
      const slab = this.slab(slot);
      const base = this.base(slot);
      read ^= slab[base]! ^ slab[base + RECORD_WORDS / 2]!;
    }
    this.#readAhead[0] = read;
  }

  /** The slot of the flow with this original tuple; -1 when there is none. */
  find(words: Uint32Array, base: number, hash = this.hash(words, base)): number {
    const entries = this.#segments[hash >>> (32 - SEGMENT_BITS)]!;
    const mask = maskOf(entries);
    for (let i = hash & mask; ; i = (i + 1) & mask) {
      const entry = entries[2 * i + 1]!;
      if (entry === 0) return -1;
      if (entries[2 * i] === hash && this.#sameKey(entry - 1, words, base)) return entry - 1;
    }
  }

  /**
   * Takes a slot for a flow that is not in the table, copies its record there and indexes it; -1 when the table is
   * full. The slot's table words and the high half of W_HAS start as ROW_LIVE and zeros.
   */
  insert(words: Uint32Array, base: number, hash = this.hash(words, base)): number {
    if (!this.hasRoom) return -1;
    const slot = this.#takeSlot();
    this.#fill(slot, words, base, hash);
    return slot;
  }

  /**
   * Puts a flow that is not in the table into an unused slot that the caller chooses: a table that is rebuilt keeps
   * its handles. Call `sealAdopted` at the end, and no `insert` before. False when the slot is out of bounds or in
   * use.
   */
  adopt(slot: number, words: Uint32Array, base: number): boolean {
    if (slot >= this.flowsMax || this.isLive(slot)) return false;
    for (; this.#slotsUsed <= slot; this.#slotsUsed++) this.#growTo(this.#slotsUsed);
    this.#fill(slot, words, base, this.hash(words, base));
    return true;
  }

  /** Frees the slots that adoption skipped. */
  sealAdopted(): void {
    for (let slot = this.#slotsUsed - 1; slot >= 0; slot--) if (!this.isLive(slot)) this.free(slot);
  }

  #fill(slot: number, words: Uint32Array, base: number, hash: number): void {
    const slab = this.slab(slot);
    const at = this.base(slot);
    for (let i = 0; i < RECORD_WORDS; i++) slab[at + i] = words[base + i]!;
    slab[at + W_HAS] = (slab[at + W_HAS]! & 0xffff) | ROW_LIVE;
    slab[at + RECORD_WORDS - 2] = 0;
    slab[at + RECORD_WORDS - 1] = 0;
    this.setBirth(slot, 0);
    this.#link(hash, slot);
    this.#size++;
  }

  /** Takes a flow out of the index; its record stays readable and its slot reserved until `free`. */
  unlink(slot: number): void {
    const hash = this.hash(this.slab(slot), this.base(slot));
    const at = hash >>> (32 - SEGMENT_BITS);
    const entries = this.#segments[at]!;
    const mask = maskOf(entries);
    for (let i = hash & mask; entries[2 * i + 1] !== 0; i = (i + 1) & mask) {
      if (entries[2 * i + 1] !== slot + 1) continue;
      closeGap(entries, mask, i);
      this.#used[at]!--;
      this.#size--;
      return;
    }
  }

  /** Puts an unlinked flow back into the index, which must hold no other flow of its tuple. */
  relink(slot: number): void {
    this.#link(this.hash(this.slab(slot), this.base(slot)), slot);
    this.#size++;
  }

  /** True when a row has the original tuple and zone of a record. */
  isTupleOf(slot: number, words: Uint32Array, base: number): boolean {
    return this.#sameKey(slot, words, base);
  }

  /** Frees an unlinked slot. */
  free(slot: number): void {
    this.slab(slot)[this.base(slot) + W_HAS] = 0;
    if (this.rare.size > 0) this.rare.delete(slot);
    if (this.#freeCount === this.#freeSlots.length) this.#freeSlots = doubled(this.#freeSlots);
    this.#freeSlots[this.#freeCount++] = slot;
  }

  #takeSlot(): number {
    if (this.#freeCount > 0) return this.#freeSlots[--this.#freeCount]!;
    const slot = this.#slotsUsed++;
    this.#growTo(slot);
    return slot;
  }

  #growTo(slot: number): void {
    if ((slot & SLAB_MASK) !== 0) return;
    this.#slabs.push(new Uint32Array(RECORD_WORDS << SLAB_BITS));
    this.#births.push(new Float64Array(1 << SLAB_BITS));
  }

  #link(hash: number, slot: number): void {
    const at = hash >>> (32 - SEGMENT_BITS);
    let entries = this.#segments[at]!;
    if ((this.#used[at]! + 1) * 4 > (maskOf(entries) + 1) * 3) {
      entries = grown(entries);
      this.#segments[at] = entries;
    }
    place(entries, hash, slot + 1);
    this.#used[at]!++;
  }

  #sameKey(slot: number, words: Uint32Array, base: number): boolean {
    const slab = this.slab(slot);
    const at = this.base(slot);
    if (slab[at + W_ORIG_L4] !== words[base + W_ORIG_L4]) return false;
    if (slab[at + W_PROTO] !== words[base + W_PROTO]) return false;
    if (zoneOrigOf(slab, at) !== zoneOrigOf(words, base)) return false;
    for (let i = 0; i < 4; i++) {
      if (slab[at + W_ORIG_SRC + i] !== words[base + W_ORIG_SRC + i]) return false;
      if (slab[at + W_ORIG_DST + i] !== words[base + W_ORIG_DST + i]) return false;
    }
    return true;
  }
}

/** A round of MurmurHash3. */
function mix(h: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  h ^= k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
}

function newSegment(entries: number): Segment {
  return new Int32Array(entries * 2);
}

function maskOf(entries: Segment): number {
  return (entries.length >>> 1) - 1;
}

function place(entries: Segment, hash: number, entry: number): void {
  const mask = maskOf(entries);
  let i = hash & mask;
  while (entries[2 * i + 1] !== 0) i = (i + 1) & mask;
  entries[2 * i] = hash;
  entries[2 * i + 1] = entry;
}

function grown(old: Segment): Segment {
  const entries = newSegment(old.length);
  for (let i = 0; i < old.length; i += 2) {
    const entry = old[i + 1]!;
    if (entry !== 0) place(entries, old[i]!, entry);
  }
  return entries;
}

/** Empties entry `gap` and shifts back what probing had pushed past it. */
function closeGap(entries: Segment, mask: number, gap: number): void {
  let hole = gap;
  for (let i = (gap + 1) & mask; entries[2 * i + 1] !== 0; i = (i + 1) & mask) {
    const home = entries[2 * i]! & mask;
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    entries[2 * hole] = entries[2 * i]!;
    entries[2 * hole + 1] = entries[2 * i + 1]!;
    hole = i;
  }
  entries[2 * hole + 1] = 0;
}

function doubled(array: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(array.length * 2);
  larger.set(array);
  return larger;
}
