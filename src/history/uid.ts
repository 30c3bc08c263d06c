import crypto from "node:crypto";
import { AF_INET, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_ZONE } from "../flow/record.js";

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/** The hash is taken apart by two digits at a time. */
const TWO_DIGITS = 62 * 62;
const PAIRS = Array.from({ length: TWO_DIGITS }, (_, i) => DIGITS[Math.floor(i / 62)]! + DIGITS[i % 62]!);
/** 62^17 is the first power above 2^96. */
const ROUNDS = 8;

/**
 * The name of a connection: "C" and 17 base62 digits of the first 96 bits of sha256 over birth stamp, zone of the original
 * direction, protocol and original tuple. `words` is a record at base 0.
 */
export function connectionUid(birth: number, words: Uint32Array): string {
  const proto = words[W_PROTO]!;
  const width = proto >>> 8 === AF_INET ? 1 : 4;
  const bytes = Buffer.allocUnsafe(8 + 4 * (3 + 2 * width));
  bytes.writeDoubleBE(birth, 0);
  bytes.writeUInt32BE(words[W_ZONE]! >>> 16, 8);
  bytes.writeUInt32BE(proto, 12);
  bytes.writeUInt32BE(words[W_ORIG_L4]!, 16);
  for (let i = 0; i < width; i++) {
    bytes.writeUInt32BE(words[W_ORIG_SRC + i]!, 20 + 4 * i);
    bytes.writeUInt32BE(words[W_ORIG_DST + i]!, 20 + 4 * (width + i));
  }
  return `C${base62(sha256(bytes))}`;
}

/** A character a byte; in one call where Node has that (20.12), which costs a fifth. */
function sha256(bytes: Uint8Array): string {
  const { hash } = crypto as { hash?: typeof crypto.hash };
  return hash === undefined
    ? crypto.createHash("sha256").update(bytes).digest("binary")
    : hash("sha256", bytes, "binary");
}

/** The first 96 bits by long division in words of 16 bits, which stay small integers: a BigInt would cost more than the hash. */
function base62(hash: string): string {
  let a = (hash.charCodeAt(0) << 8) | hash.charCodeAt(1);
  let b = (hash.charCodeAt(2) << 8) | hash.charCodeAt(3);
  let c = (hash.charCodeAt(4) << 8) | hash.charCodeAt(5);
  let d = (hash.charCodeAt(6) << 8) | hash.charCodeAt(7);
  let e = (hash.charCodeAt(8) << 8) | hash.charCodeAt(9);
  let f = (hash.charCodeAt(10) << 8) | hash.charCodeAt(11);
  let text = "";
  for (let round = 0; round < ROUNDS; round++) {
    let rest = a % TWO_DIGITS;
    a = (a / TWO_DIGITS) | 0;
    let value = (rest << 16) | b;
    rest = value % TWO_DIGITS;
    b = (value / TWO_DIGITS) | 0;
    value = (rest << 16) | c;
    rest = value % TWO_DIGITS;
    c = (value / TWO_DIGITS) | 0;
    value = (rest << 16) | d;
    rest = value % TWO_DIGITS;
    d = (value / TWO_DIGITS) | 0;
    value = (rest << 16) | e;
    rest = value % TWO_DIGITS;
    e = (value / TWO_DIGITS) | 0;
    value = (rest << 16) | f;
    rest = value % TWO_DIGITS;
    f = (value / TWO_DIGITS) | 0;
    text = PAIRS[rest]! + text;
  }
  return DIGITS[f]! + text;
}
