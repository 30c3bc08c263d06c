/**
 * Plain msgpack, written and read by the specification alone: what tests hold the packing library against.
 * Reads maps, arrays, strings, binaries, numbers, booleans and nil, and throws on anything else, extensions above all.
 */

/** What a plain message is made of. */
export type Plain = null | boolean | number | string | Uint8Array | Plain[] | { [key: string]: Plain };

/** The value of a payload that must hold just one. */
export function readPlain(bytes: Uint8Array): Plain {
  const reader = new PlainReader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new Error(`${bytes.length - reader.at} bytes left over`);
  return value;
}

class PlainReader {
  at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  value(): Plain {
    const tag = this.#uint(1);
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.#map(tag & 0xf);
    if (tag < 0xa0) return this.#array(tag & 0xf);
    if (tag < 0xc0) return this.#text(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return tag === 0xc3;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#take(this.#uint(1 << (tag - 0xc4))).slice();
      case 0xcb:
        return this.#view.getFloat64(this.#skip(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#uint(1 << (tag - 0xcc));
      case 0xd0:
        return this.#view.getInt8(this.#skip(1));
      case 0xd1:
        return this.#view.getInt16(this.#skip(2));
      case 0xd2:
        return this.#view.getInt32(this.#skip(4));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#text(this.#uint(1 << (tag - 0xd9)));
      case 0xdc:
        return this.#array(this.#uint(2));
      case 0xdd:
        return this.#array(this.#uint(4));
      case 0xde:
        return this.#map(this.#uint(2));
      case 0xdf:
        return this.#map(this.#uint(4));
      default:
        throw new Error(`not plain msgpack: 0x${tag.toString(16)} at ${this.at - 1}`);
    }
  }

  #skip(count: number): number {
    const at = this.at;
    if (at + count > this.#bytes.length) throw new Error("message is cut off");
    this.at += count;
    return at;
  }

  #take(count: number): Uint8Array {
    const at = this.#skip(count);
    return this.#bytes.subarray(at, at + count);
  }

  #uint(count: number): number {
    return this.#take(count).reduce((value, byte) => value * 256 + byte, 0);
  }

  #text(count: number): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.#take(count));
  }

  #array(count: number): Plain[] {
    return Array.from({ length: count }, () => this.value());
  }

  #map(count: number): { [key: string]: Plain } {
    const map: { [key: string]: Plain } = {};
    for (let i = 0; i < count; i++) {
      const key = this.value();
      if (typeof key !== "string" || key in map) throw new Error(`key ${String(key)}`);
      map[key] = this.value();
    }
    return map;
  }
}

/** The bytes of a value, with 32-bit lengths throughout. */
export function writePlain(value: Plain): Uint8Array {
  return Uint8Array.from(bytesOf(value));
}

function bytesOf(value: Plain): number[] {
  if (value === null) return [0xc0];
  if (typeof value === "boolean") return [value ? 0xc3 : 0xc2];
  if (typeof value === "number") return numberBytes(value);
  if (typeof value === "string") {
    const text = new TextEncoder().encode(value);
    return [0xdb, ...length(text.length), ...text];
  }
  if (value instanceof Uint8Array) return [0xc6, ...length(value.length), ...value];
  if (Array.isArray(value)) return [0xdd, ...length(value.length), ...value.flatMap(bytesOf)];
  const entries = Object.entries(value);
  return [0xdf, ...length(entries.length), ...entries.flatMap(([key, item]) => [...bytesOf(key), ...bytesOf(item)])];
}

function numberBytes(value: number): number[] {
  if (Number.isInteger(value) && value >= 0 && value <= 0xffffffff) return [0xce, ...length(value)];
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value);
  return [0xcb, ...bytes];
}

function length(count: number): number[] {
  return [count >>> 24, (count >>> 16) & 0xff, (count >>> 8) & 0xff, count & 0xff];
}
