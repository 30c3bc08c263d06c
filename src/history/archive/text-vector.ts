import { type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";

/** duckdb_string_t, public in DuckDB's C header: the length, and the text in place, or four bytes of it and where all of it lies. */
const STRING_WORDS = 4;
const INLINE_BYTES = 12;
/** The longest text that `open` has room for. */
const TEXT_BYTES_MAX = 64;
/** Digits of an octet and the dot behind it, a byte each, and how many those are. */
const OCTETS = Uint32Array.from({ length: 256 }, (_, octet) => packed(`${octet}.`));
const OCTET_LENGTHS = Uint8Array.from(OCTETS, (_, octet) => `${octet}.`.length);

/** A vector of DuckDB, as its C functions have it. */
export type Vector = ReturnType<DuckdbPackage["bindings"]["data_chunk_get_vector"]>;

/**
 * The short texts of a column, on their way into a vector of DuckDB: all of them are handed over as one, since each by itself
 * would be a call, and the rows then point into it.
 */
export class TextVector {
  readonly bytes = new Uint8Array((VECTOR_ROWS + 1) * TEXT_BYTES_MAX);
  readonly #words = new Uint32Array(this.bytes.buffer);
  readonly #places = new Uint32Array(VECTOR_ROWS);
  readonly #strings = new Uint32Array(VECTOR_ROWS * STRING_WORDS);
  #end = 0;

  /** Forgets all texts. */
  reset(): void {
    this.#end = 0;
  }

  /** Where in `bytes` the next text goes; `close` says how long it has become. */
  open(): number {
    const words = this.#words;
    const first = this.#end >>> 2;
    // What is kept in place ends with zeros.
    words[first] = 0;
    words[first + 1] = 0;
    words[first + 2] = 0;
    return this.#end;
  }

  /** The text that was opened last is that of a row. */
  close(row: number, length: number): void {
    this.#places[row] = this.#end;
    this.#strings[row * STRING_WORDS] = length;
    this.#end = (this.#end + length + 3) & ~3;
  }

  /** A text of ASCII. */
  set(row: number, text: string): void {
    const at = this.open();
    const length = Math.min(text.length, TEXT_BYTES_MAX);
    for (let i = 0; i < length; i++) this.bytes[at + i] = text.charCodeAt(i);
    this.close(row, length);
  }

  /** The text of an address of IPv4. */
  setIpv4(row: number, address: number): void {
    const { bytes } = this;
    const begin = this.open();
    let at = begin;
    for (let shift = 24; shift >= 0; shift -= 8) {
      const octet = (address >>> shift) & 0xff;
      const digits = OCTETS[octet]!;
      bytes[at] = digits;
      bytes[at + 1] = digits >>> 8;
      bytes[at + 2] = digits >>> 16;
      bytes[at + 3] = digits >>> 24;
      at += OCTET_LENGTHS[octet]!;
    }
    // Without the last dot.
    at--;
    bytes[at] = 0;
    this.close(row, at - begin);
  }

  /** Hands the texts of so many rows over; each of them was set, or is null in the end. */
  copy(bindings: DuckdbPackage["bindings"], vector: Vector, rows: number): void {
    bindings.vector_assign_string_element_len(vector, 0, this.bytes.subarray(0, Math.max(this.#end, INLINE_BYTES + 1)));
    const [, , lower, upper] = new Uint32Array(bindings.vector_get_data(vector, 16).slice().buffer);
    const strings = this.#strings;
    const words = this.#words;
    for (let row = 0, at = 0; row < rows; row++, at += STRING_WORDS) {
      const place = this.#places[row]!;
      const from = place >>> 2;
      strings[at + 1] = words[from]!;
      if (strings[at]! <= INLINE_BYTES) {
        strings[at + 2] = words[from + 1]!;
        strings[at + 3] = words[from + 2]!;
      } else {
        const address = lower! + place;
        strings[at + 2] = address;
        strings[at + 3] = address > 0xffff_ffff ? upper! + 1 : upper!;
      }
    }
    bindings.copy_data_to_vector(vector, 0, strings.buffer as ArrayBuffer, 0, rows * STRING_WORDS * 4);
  }
}

function packed(text: string): number {
  let word = 0;
  for (let i = 0; i < text.length; i++) word |= text.charCodeAt(i) << (8 * i);
  return word >>> 0;
}
