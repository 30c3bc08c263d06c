/** A Bloom filter over public addresses and ports: a small set that may say yes where it should say no, but never the reverse. */
import { createHash } from "node:crypto";

/** Bits for each member, and how many of them one sets: one answer in 2,000 is wrong. */
const BITS_EACH = 16;
const HASHES = 8;

/** Whether a file may hold a connection behind an address and port. */
export class EndFilter {
  readonly #bits: Uint8Array;

  private constructor(bits: Uint8Array) {
    this.#bits = bits;
  }

  /** A filter with these members, as `endKey` writes them. */
  static of(keys: readonly string[]): EndFilter {
    const filter = new EndFilter(new Uint8Array(Math.ceil((keys.length * BITS_EACH) / 8)));
    for (const key of keys) filter.#add(key);
    return filter;
  }

  /** The inverse of `toString`. */
  static parse(text: string): EndFilter {
    return new EndFilter(Buffer.from(text, "base64"));
  }

  /** False: that member is certainly not in it. */
  has(key: string): boolean {
    const size = 8 * this.#bits.length;
    if (size === 0) return false;
    return places(key, size).every((at) => ((this.#bits[at >>> 3] ?? 0) & (1 << (at & 7))) !== 0);
  }

  /** Base64. */
  toString(): string {
    return Buffer.from(this.#bits).toString("base64");
  }

  #add(key: string): void {
    for (const at of places(key, 8 * this.#bits.length)) {
      this.#bits[at >>> 3] = (this.#bits[at >>> 3] ?? 0) | (1 << (at & 7));
    }
  }
}

/** An address and a port, of ICMP the id; 0 for a protocol that has neither. */
export function endKey(address: string, port: number): string {
  return `${address} ${port}`;
}

function places(key: string, size: number): number[] {
  const hash = createHash("sha1").update(key).digest();
  const [first, second] = [hash.readUInt32LE(0), hash.readUInt32LE(4) | 1];
  return Array.from({ length: HASHES }, (_, i) => (first + i * (second >>> 0)) % size);
}
