/** Short texts on their way into a vector of DuckDB, without a call for each of them. */
import { type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";

/** duckdb_string_t of DuckDB's public C header: the length, then the text itself, or its first four bytes and its address. */
const STRING_WORDS = 4;
const INLINE_BYTES = 12;
/** The longest text that `open` has room for. */
const TEXT_BYTES_MAX = 64;
/** The digits of each octet and the dot behind them, one byte each, and how many bytes those are. */
const OCTETS = Uint32Array.from({ length: 256 }, (_, octet) => packed(`${octet}.`));
const OCTET_LENGTHS = Uint8Array.from(OCTETS, (_, octet) => `${octet}.`.length);

/** A vector of DuckDB, as its C functions have it. */
export type Vector = ReturnType<DuckdbPackage["bindings"]["data_chunk_get_vector"]>;

/** The texts of a column. They are handed over to DuckDB as one long text in one call, and the rows point into that. */
export class TextVector {
  readonly bytes = new Uint8Array((VECTOR_ROWS + 1) * TEXT_BYTES_MAX);
  readonly #words = new Uint32Array(this.bytes.buffer);
  readonly #places = new Uint32Array(VECTOR_ROWS);
  readonly #strings = new Uint32Array(VECTOR_ROWS * STRING_WORDS);
  #end = 0;

  /** Removes all texts. */
  reset(): void {
    this.#end = 0;
  }

  /** Begins a text. Returns where in `bytes` it must be written; then call `close`. */
  open(): number {
    const words = this.#words;
    const first = this.#end >>> 2;
    // A text that is kept in place must be padded with zeros.
    words[first] = 0;
    words[first + 1] = 0;
    words[first + 2] = 0;
    return this.#end;
  }

  /** Ends the text that was begun last, which has that length and belongs to that row. */
  close(row: number, length: number): void {
    this.#places[row] = this.#end;
    this.#strings[row * STRING_WORDS] = length;
    this.#end = (this.#end + length + 3) & ~3;
  }

  /** Sets the text of a row, which must be ASCII. */
  set(row: number, text: string): void {
    const at = this.open();
    const length = Math.min(text.length, TEXT_BYTES_MAX);
    for (let i = 0; i < length; i++) this.bytes[at + i] = text.charCodeAt(i);
    this.close(row, length);
  }

  /** Sets the text of a row to an IPv4 address. */
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

  /** Copies the texts of the first `rows` rows into a vector. A row that was not set must become null afterwards. */
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
