/** The uid of a connection: a hash that every node computes alike, from whatever part of the connection's life was read. */
import crypto from "node:crypto";
import { AF_INET, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO } from "../flow/record.js";
import { familyOf, zoneOrigOf } from "../flow/record-fields.js";

/** Character codes of the digits of base62, two at a time. */
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const FIRST = Uint8Array.from({ length: 62 * 62 }, (_, pair) => DIGITS.charCodeAt(Math.floor(pair / 62)));
const SECOND = Uint8Array.from({ length: 62 * 62 }, (_, pair) => DIGITS.charCodeAt(pair % 62));
const FOUR_DIGITS = 62 ** 4;
const PREFIX = "C".charCodeAt(0);
/** 62^17 is the first power above 2^96. */
export const UID_LENGTH = 1 + 17;
/** Words that are hashed for IPv6. */
const WORDS_MAX = 5 + 8;

/** Computes a uid from the stamp of the birth and a record at base 0. */
export type UidOf = (birth: number, words: Uint32Array) => string;

/** Writes the words that are hashed for the record at `base`, from `at` on and `step` words apart. Returns how many those are. */
export type PutUidMessage = (
  out: Uint32Array,
  at: number,
  step: number,
  birth: number,
  words: Uint32Array,
  base: number,
) => number;

/** Makes such a function. It has a buffer of its own, in which a double becomes two words. */
export function createUidMessage(): PutUidMessage {
  const view = new DataView(new ArrayBuffer(8));
  return (out, at, step, birth, words, base) => {
    const width = familyOf(words, base) === AF_INET ? 1 : 4;
    view.setFloat64(0, birth);
    out[at] = view.getUint32(0);
    out[at + step] = view.getUint32(4);
    out[at + 2 * step] = zoneOrigOf(words, base);
    out[at + 3 * step] = words[base + W_PROTO]!;
    out[at + 4 * step] = words[base + W_ORIG_L4]!;
    for (let i = 0; i < width; i++) {
      out[at + (5 + i) * step] = words[base + W_ORIG_SRC + i]!;
      out[at + (5 + width + i) * step] = words[base + W_ORIG_DST + i]!;
    }
    return 5 + 2 * width;
  };
}

/**
 * Makes a function that computes uids: "C" and 17 base62 digits of the first 96 bits of sha256 over birth stamp, zone of the
 * original direction, protocol and original tuple. It has buffers of its own, because allocating costs more than hashing.
 */
export function createUid(): UidOf {
  const putMessage = createUidMessage();
  const message = new Uint32Array(WORDS_MAX);
  const view = new DataView(new ArrayBuffer(4 * WORDS_MAX));
  const codes = new Uint8Array(UID_LENGTH);
  return (birth, words) => {
    const count = putMessage(message, 0, 1, birth, words, 0);
    for (let i = 0; i < count; i++) view.setUint32(4 * i, message[i]!);
    const hash = sha256(new Uint8Array(view.buffer, 0, 4 * count));
    const limb = (i: number): number =>
      (hash.charCodeAt(i) << 16) | (hash.charCodeAt(i + 1) << 8) | hash.charCodeAt(i + 2);
    putUid(codes, 0, limb(0), limb(3), limb(6), limb(9));
    return text18(codes);
  };
}

/** The hash as a string, a character for each byte. In one call, which costs a fifth, where Node.js has that (20.12). */
function sha256(bytes: Uint8Array): string {
  const { hash } = crypto as { hash?: typeof crypto.hash };
  return hash === undefined
    ? crypto.createHash("sha256").update(bytes).digest("binary")
    : hash("sha256", bytes, "binary");
}

/** Writes the uid of 96 bits of a hash, given as four numbers of 24 bits, as UID_LENGTH character codes. */
export function putUid(codes: Uint8Array, at: number, a: number, b: number, c: number, d: number): void {
  codes[at] = PREFIX;
  // Long division by 62^4, so that all intermediate values stay exact integers.
  for (let end = at + UID_LENGTH; end > at + 4; end -= 4) {
    const quotientA = Math.floor(a / FOUR_DIGITS);
    b += (a - quotientA * FOUR_DIGITS) * 2 ** 24;
    const quotientB = Math.floor(b / FOUR_DIGITS);
    c += (b - quotientB * FOUR_DIGITS) * 2 ** 24;
    const quotientC = Math.floor(c / FOUR_DIGITS);
    d += (c - quotientC * FOUR_DIGITS) * 2 ** 24;
    const quotientD = Math.floor(d / FOUR_DIGITS);
    const rest = d - quotientD * FOUR_DIGITS;
    const upper = (rest / (62 * 62)) | 0;
    const lower = rest - upper * 62 * 62;
    codes[end - 4] = FIRST[upper]!;
    codes[end - 3] = SECOND[upper]!;
    codes[end - 2] = FIRST[lower]!;
    codes[end - 1] = SECOND[lower]!;
    a = quotientA;
    b = quotientB;
    c = quotientC;
    d = quotientD;
  }
  codes[at + 1] = SECOND[d]!;
}

/** The codes are named one by one, because spreading the array would cost more than the hash. */
function text18(c: Uint8Array): string {
  return String.fromCharCode(
    c[0]!,
    c[1]!,
    c[2]!,
    c[3]!,
    c[4]!,
    c[5]!,
    c[6]!,
    c[7]!,
    c[8]!,
    c[9]!,
    c[10]!,
    c[11]!,
    c[12]!,
    c[13]!,
    c[14]!,
    c[15]!,
    c[16]!,
    c[17]!,
  );
}
