import { VECTOR_ROWS } from "./duckdb.js";

/** duckdb_string_t: the length, and up to so many bytes in place. A longer one is DuckDB's to keep. */
const STRING_BYTES = 16;
const STRING_WORDS = STRING_BYTES / 4;
const LENGTH_BYTES = 4;
const INLINE_BYTES = STRING_BYTES - LENGTH_BYTES;
/** Digits of an octet and the dot behind it, a byte each, and how many those are. */
const OCTETS = Uint32Array.from({ length: 256 }, (_, octet) => packed(`${octet}.`));
const OCTET_LENGTHS = Uint8Array.from(OCTETS, (_, octet) => `${octet}.`.length);

/** A piece of all texts of a page. */
class Piece {
  readonly words = new Uint32Array(VECTOR_ROWS * STRING_WORDS);
  readonly bytes = new Uint8Array(this.words.buffer);
}

/**
 * The texts of a column, a page of rows: each in pieces of 12 bytes, so that it lies in its place; one that is longer than all of
 * them is handed over by itself. Pieces behind the first are made when a text needs them.
 */
export class StagedTexts {
  /** A bit for each row that has a text. */
  readonly present = new Uint8Array(VECTOR_ROWS / 8);
  /** Those that are handed over by themselves. */
  readonly long: { readonly row: number; readonly text: string }[] = [];
  readonly #pieces: Piece[] = [new Piece()];
  readonly #piecesMax: number;
  readonly #address = new Uint8Array(STRING_BYTES);
  readonly #addressWords = new Uint32Array(this.#address.buffer);
  #rows = 0;

  constructor(piecesMax: number) {
    this.#piecesMax = piecesMax;
  }

  /** How many pieces its texts need; 0: no row has one. */
  get pieces(): number {
    return this.#rows === 0 ? 0 : this.#pieces.length;
  }

  /** The bytes of a piece; null where no text needs it. */
  bytes(piece: number): ArrayBuffer | null {
    return (this.#pieces[piece]?.bytes.buffer as ArrayBuffer | undefined) ?? null;
  }

  /** Makes it empty. */
  reset(): void {
    if (this.#rows === 0) return;
    this.#rows = 0;
    this.long.length = 0;
    this.present.fill(0);
    for (const { words } of this.#pieces) words.fill(0);
  }

  /** A text of ASCII. */
  set(row: number, text: string): void {
    const { length } = text;
    if (length > this.#piecesMax * INLINE_BYTES) {
      this.setLong(row, text);
      return;
    }
    for (let from = 0; from < length; from += INLINE_BYTES) {
      const { words, bytes } = this.#piece(from / INLINE_BYTES);
      const count = Math.min(INLINE_BYTES, length - from);
      words[row * STRING_WORDS] = count;
      const at = row * STRING_BYTES + LENGTH_BYTES;
      for (let i = 0; i < count; i++) bytes[at + i] = text.charCodeAt(from + i);
    }
    this.#mark(row);
  }

  /** A text of any length, of any characters. */
  setLong(row: number, text: string): void {
    this.long.push({ row, text });
    this.#mark(row);
  }

  /** The text of an address of IPv4. */
  setIpv4(row: number, address: number): void {
    const text = this.#address;
    const textWords = this.#addressWords;
    textWords[2] = 0;
    textWords[3] = 0;
    let length = 0;
    for (let shift = 24; shift >= 0; shift -= 8) {
      const octet = (address >>> shift) & 0xff;
      const digits = OCTETS[octet]!;
      text[length] = digits;
      text[length + 1] = digits >>> 8;
      text[length + 2] = digits >>> 16;
      text[length + 3] = digits >>> 24;
      length += OCTET_LENGTHS[octet]!;
    }
    // Without the last dot.
    length--;
    text[length] = 0;
    const at = row * STRING_WORDS;
    const { words } = this.#pieces[0]!;
    words[at] = Math.min(length, INLINE_BYTES);
    words[at + 1] = textWords[0]!;
    words[at + 2] = textWords[1]!;
    words[at + 3] = textWords[2]!;
    if (length > INLINE_BYTES) {
      const more = this.#piece(1).words;
      more[at] = length - INLINE_BYTES;
      more[at + 1] = textWords[3]!;
    }
    this.#mark(row);
  }

  #mark(row: number): void {
    this.#rows++;
    this.present[row >>> 3]! |= 1 << (row & 7);
  }

  #piece(index: number): Piece {
    while (this.#pieces.length <= index) this.#pieces.push(new Piece());
    return this.#pieces[index]!;
  }
}

function packed(text: string): number {
  let word = 0;
  for (let i = 0; i < text.length; i++) word |= text.charCodeAt(i) << (8 * i);
  return word >>> 0;
}
