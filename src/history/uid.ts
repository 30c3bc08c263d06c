import crypto from "node:crypto";
import { AF_INET, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_ZONE } from "../flow/record.js";

/** Character codes of the digits of base62, two at a time. */
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const FIRST = Uint8Array.from({ length: 62 * 62 }, (_, pair) => DIGITS.charCodeAt(Math.floor(pair / 62)));
const SECOND = Uint8Array.from({ length: 62 * 62 }, (_, pair) => DIGITS.charCodeAt(pair % 62));
const FOUR_DIGITS = 62 ** 4;
/** 62^17 is the first power above 2^96. */
const UID_LENGTH = 1 + 17;
const IPV4_BYTES = 20 + 8;
const IPV6_BYTES = 20 + 32;

/** Gives the name of a connection by the stamp of its birth and a record at base 0. */
export type UidOf = (birth: number, words: Uint32Array) => string;

/**
 * Makes names of connections: "C" and 17 base62 digits of the first 96 bits of sha256 over birth stamp, zone of the original
 * direction, protocol and original tuple. It works in buffers of its own: allocating costs more than hashing.
 */
export function createUid(): UidOf {
  const view = new DataView(new ArrayBuffer(IPV6_BYTES));
  const ipv4 = new Uint8Array(view.buffer, 0, IPV4_BYTES);
  const ipv6 = new Uint8Array(view.buffer);
  const limbs = new Float64Array(4);
  const codes = new Uint8Array(UID_LENGTH).fill("C".charCodeAt(0));
  return (birth, words) => {
    const proto = words[W_PROTO]!;
    const width = proto >>> 8 === AF_INET ? 1 : 4;
    view.setFloat64(0, birth);
    view.setUint32(8, words[W_ZONE]! >>> 16);
    view.setUint32(12, proto);
    view.setUint32(16, words[W_ORIG_L4]!);
    for (let i = 0; i < width; i++) {
      view.setUint32(20 + 4 * i, words[W_ORIG_SRC + i]!);
      view.setUint32(20 + 4 * (width + i), words[W_ORIG_DST + i]!);
    }
    const hash = sha256(width === 1 ? ipv4 : ipv6);
    for (let i = 0; i < 4; i++) {
      limbs[i] = (hash.charCodeAt(3 * i) << 16) | (hash.charCodeAt(3 * i + 1) << 8) | hash.charCodeAt(3 * i + 2);
    }
    return base62(limbs, codes);
  };
}

/** A character a byte; in one call where Node has that (20.12), which costs a fifth. */
function sha256(bytes: Uint8Array): string {
  const { hash } = crypto as { hash?: typeof crypto.hash };
  return hash === undefined
    ? crypto.createHash("sha256").update(bytes).digest("binary")
    : hash("sha256", bytes, "binary");
}

/** Long division of four limbs of 24 bits by 62^4, so that what is divided stays an exact integer. Uses `limbs` up. */
function base62(limbs: Float64Array, codes: Uint8Array): string {
  for (let at = UID_LENGTH - 4; at > 0; at -= 4) {
    let rest = 0;
    for (let i = 0; i < 4; i++) {
      const value = rest * 2 ** 24 + limbs[i]!;
      const quotient = Math.floor(value / FOUR_DIGITS);
      limbs[i] = quotient;
      rest = value - quotient * FOUR_DIGITS;
    }
    const upper = (rest / (62 * 62)) | 0;
    const lower = rest - upper * 62 * 62;
    codes[at] = FIRST[upper]!;
    codes[at + 1] = SECOND[upper]!;
    codes[at + 2] = FIRST[lower]!;
    codes[at + 3] = SECOND[lower]!;
  }
  codes[1] = SECOND[limbs[3]!]!;
  return text18(codes);
}

/** Named one by one: a spread of the array would cost more than the hash. */
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
