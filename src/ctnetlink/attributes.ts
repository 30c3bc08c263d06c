/**
 * Bytes of netlink attributes: reading them where they lie, writing them word by word.
 *
 *     struct nlattr    0        2        4
 *                      | length | type   | payload … | padding to 4 |
 *
 * Length counts the header and not the padding; it and the type are in host order, and conntrail runs on little-endian
 * hosts only. Payloads of ctnetlink are in network order. The two high bits of the type are flags.
 */
import { WORD_VALUES } from "../flow/record.js";
import { NLA_F_NESTED } from "./constants.js";

/** A 16-bit number in host order. The caller has checked the bounds, as for all readers here. */
export function readHost16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** A 32-bit number in host order. */
export function readHost32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** A 16-bit number in network order. */
export function readNet16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** A 32-bit number in network order. */
export function readNet32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** A 64-bit number in network order; exact up to 2^53, rounded beyond. */
export function readNet64(bytes: Uint8Array, at: number): number {
  return readNet32(bytes, at) * WORD_VALUES + readNet32(bytes, at + 4);
}

/**
 * Text of an attribute between `at` and `stop`, up to its NUL if it has one, byte by byte as Latin-1:
 * the kernel's names are ASCII.
 */
export function readText(bytes: Uint8Array, at: number, stop: number): string {
  let text = "";
  for (let i = at; i < stop && bytes[i] !== 0; i++) text += String.fromCharCode(bytes[i]!);
  return text;
}

/** The four bytes of a word in the other order. */
export function swap32(value: number): number {
  return (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);
}

/**
 * Writes attributes into one buffer that is allocated once. All of netlink is aligned to 4 bytes, so it works in
 * words. It checks no bounds: its user reserves room for the largest message first.
 */
export class AttributeWriter {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  /** Where the next word goes. */
  at = 0;

  constructor(bytesMax: number) {
    const buffer = new ArrayBuffer(bytesMax & ~3);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
  }

  /** One word, in host order. */
  host32(value: number): void {
    this.words[this.at++] = value;
  }

  putU8(type: number, value: number): void {
    this.words[this.at] = 5 | (type << 16);
    this.words[this.at + 1] = value & 0xff;
    this.at += 2;
  }

  /** A 16-bit number in network order. */
  putNet16(type: number, value: number): void {
    this.words[this.at] = 6 | (type << 16);
    this.words[this.at + 1] = ((value & 0xff) << 8) | ((value >>> 8) & 0xff);
    this.at += 2;
  }

  /** Two bytes, in this order. */
  putPair(type: number, first: number, second: number): void {
    this.words[this.at] = 6 | (type << 16);
    this.words[this.at + 1] = (first & 0xff) | ((second & 0xff) << 8);
    this.at += 2;
  }

  /** A 32-bit number in network order. */
  putNet32(type: number, value: number): void {
    this.words[this.at] = 8 | (type << 16);
    this.words[this.at + 1] = swap32(value);
    this.at += 2;
  }

  /** A 64-bit number in network order. */
  putNet64(type: number, high: number, low: number): void {
    this.words[this.at] = 12 | (type << 16);
    this.words[this.at + 1] = swap32(high);
    this.words[this.at + 2] = swap32(low);
    this.at += 3;
  }

  /** `count` words of `source` from `from` on, each in network order. */
  putWords(type: number, source: Uint32Array, from: number, count: number): void {
    this.words[this.at++] = (4 + count * 4) | (type << 16);
    for (let i = 0; i < count; i++) this.words[this.at++] = swap32(source[from + i]!);
  }

  /** `sizeBytes` bytes, a multiple of 4: `value` as far as it goes, then zeros. */
  putPadded(type: number, value: Uint8Array, sizeBytes: number): void {
    this.words[this.at++] = (4 + sizeBytes) | (type << 16);
    this.words.fill(0, this.at, this.at + (sizeBytes >> 2));
    this.bytes.set(value.length > sizeBytes ? value.subarray(0, sizeBytes) : value, this.at * 4);
    this.at += sizeBytes >> 2;
  }

  /** At most `charsMax` characters, then a NUL. */
  putText(type: number, value: string, charsMax: number): void {
    const length = Math.min(value.length, charsMax) + 1;
    this.words[this.at++] = (4 + length) | (type << 16);
    this.words.fill(0, this.at, this.at + ((length + 3) >> 2));
    for (let i = 0; i < length - 1; i++) this.bytes[this.at * 4 + i] = value.charCodeAt(i) & 0xff;
    this.at += (length + 3) >> 2;
  }

  /** Begins a nest; the result goes to `close`. */
  open(type: number): number {
    this.words[this.at] = (type | NLA_F_NESTED) << 16;
    return this.at++;
  }

  /** Ends the nest that `open` began: fills in its length. */
  close(nest: number): void {
    this.words[nest] = (this.words[nest]! & 0xffff0000) | ((this.at - nest) * 4);
  }
}
