/**
 * Finds the parts of a message in its payload without unpacking them. It knows the msgpack that the encoders write.
 * Payloads with anything else are left to msgpackr, which so decides alone what is malformed.
 */
import { envelopeOf, type MessageParts, type OpenedMessage } from "./envelope.js";
import type { MessageKind } from "./subjects.js";
import { FORMATS, type Formats, readVersion } from "./versions.js";

/** A packed part of a message: one value, in the bytes [at, end) of the payload. `rows`: the `n` of a section. */
export class PackedPart {
  readonly payload: Uint8Array;
  readonly at: number;
  readonly end: number;
  readonly rows: number;

  constructor(payload: Uint8Array, at: number, end: number, rows: number) {
    this.payload = payload;
    this.at = at;
    this.end = end;
    this.rows = rows;
  }
}

/** Deepest nesting; the encoders write four levels. */
const DEPTH_MAX = 8;

const KEY_V = codeOf("v");
const KEY_O = codeOf("o");
const KEY_E = codeOf("e");
const KEY_N = codeOf("n");
const KEY_H = codeOf("h");
const KEY_W = codeOf("w");
const KEY_K = codeOf("k");
const KEY_A = codeOf("a");
const KEY_B = codeOf("b");
const KEY_N4 = codeOf("n4");
const KEY_N6 = codeOf("n6");
const KEY_U = codeOf("u");
const KEY_D = codeOf("d");
const KEY_MV = codeOf("mv");
const KEY_MO = codeOf("mo");
const KEY_R = codeOf("r");
const KEY_X = codeOf("x");

/** A key of one or two characters as a number, as PackedReader gives it. */
export function codeOf(key: string): number {
  return key.length === 1 ? key.charCodeAt(0) : (key.charCodeAt(0) << 8) | key.charCodeAt(1);
}

/** Walks over packed bytes. At an unknown or missing byte it sets `odd`, which stays set. */
export class PackedReader {
  bytes: Uint8Array = new Uint8Array(0);
  at = 0;
  odd = false;
  readonly #double = new Float64Array(1);
  readonly #doubleBytes = new Uint8Array(this.#double.buffer);

  begin(bytes: Uint8Array, at: number): void {
    this.bytes = bytes;
    this.at = at;
    this.odd = false;
  }

  /** Number of entries of the map that begins here; 0 when none does. */
  map(): number {
    const tag = this.bytes[this.at++]!;
    if (tag === 0xde) return this.#uint(2);
    return tag >= 0x80 && tag < 0x90 ? tag & 0x0f : this.#isOdd();
  }

  /** The code of a key; 0 when it is empty or longer than two characters. */
  key(): number {
    const { bytes, at } = this;
    const tag = bytes[at]!;
    this.at = at + 1 + (tag & 0x1f);
    if (tag === 0xa1) return bytes[at + 1]!;
    if (tag === 0xa2) return (bytes[at + 1]! << 8) | bytes[at + 2]!;
    return tag >= 0xa0 && tag < 0xc0 ? this.#text(at + 1, this.at) : this.#isOdd();
  }

  number(): number {
    const tag = this.bytes[this.at++]!;
    if (tag < 0x80) return tag;
    if (tag >= 0xcc && tag <= 0xce) return this.#uint(1 << (tag - 0xcc));
    if (tag !== 0xcb) return this.#isOdd();
    const { bytes, at } = this;
    for (let i = 0; i < 8; i++) this.#doubleBytes[7 - i] = bytes[at + i]!;
    this.at = at + 8;
    return this.#double[0]!;
  }

  /** Skips the binary that begins here and returns its length: its bytes are the last ones before `at`. */
  binary(): number {
    const tag = this.bytes[this.at++]!;
    const length = tag >= 0xc4 && tag <= 0xc6 ? this.#uint(1 << (tag - 0xc4)) : this.#isOdd();
    this.at += length;
    return length;
  }

  /** Skips a value of any kind. */
  skip(depth = 0): void {
    const tag = this.bytes[this.at]!;
    if (tag < 0x80 || tag >= 0xe0 || tag === 0xc0 || tag === 0xc2 || tag === 0xc3) this.at++;
    else if (tag < 0x90 || tag === 0xde) this.#skipMap(depth);
    else if (tag < 0xa0) this.#skipList(1, tag & 0x0f, depth);
    else if (tag === 0xdc) this.#skipList(3, (this.bytes[this.at + 1]! << 8) | this.bytes[this.at + 2]!, depth);
    else if (tag < 0xc0) this.key();
    else if (tag <= 0xc6) this.binary();
    else if (tag === 0xcb || (tag >= 0xcc && tag <= 0xce)) this.number();
    else if (tag >= 0xd0 && tag <= 0xd2) this.at += 1 + (1 << (tag - 0xd0));
    else if (tag >= 0xd9 && tag <= 0xda) this.#skipText(1 << (tag - 0xd9));
    else this.#isOdd();
  }

  #skipMap(depth: number): void {
    if (depth >= DEPTH_MAX) this.#isOdd();
    for (let left = this.map(); left > 0 && !this.odd; left--) {
      this.key();
      this.skip(depth + 1);
    }
  }

  #skipList(head: number, length: number, depth: number): void {
    this.at += head;
    if (depth >= DEPTH_MAX) this.#isOdd();
    for (let left = length; left > 0 && !this.odd; left--) this.skip(depth + 1);
  }

  #skipText(lengthBytes: number): void {
    this.at++;
    const length = this.#uint(lengthBytes);
    this.at += length;
    this.#text(this.at - length, this.at);
  }

  /** Text beyond ASCII is left to msgpackr. */
  #text(from: number, to: number): 0 {
    for (let i = from; i < to; i++) if (!(this.bytes[i]! < 0x80)) return this.#isOdd();
    return 0;
  }

  #uint(length: number): number {
    const { bytes, at } = this;
    this.at = at + length;
    if (this.at > bytes.length) return this.#isOdd();
    if (length === 1) return bytes[at]!;
    if (length === 2) return (bytes[at]! << 8) | bytes[at + 1]!;
    return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
  }

  #isOdd(): 0 {
    this.odd = true;
    return 0;
  }
}

/** All keys from the start, so that every message has the same shape. */
const NO_PARTS: MessageParts = {
  n4: undefined,
  n6: undefined,
  u: undefined,
  d: undefined,
  mv: undefined,
  mo: undefined,
  r: undefined,
  x: undefined,
  a: undefined,
  b: undefined,
};

/** Opens messages of one stream. It remembers the node that they name, which hardly ever changes. */
export class PackedOpener {
  readonly #reader = new PackedReader();
  readonly #formats: Formats;
  #node = "";

  constructor(formats: Formats = FORMATS) {
    this.#formats = formats;
  }

  /** Null when the payload must be left to msgpackr. Never throws. */
  open(payload: Uint8Array): OpenedMessage | null {
    const reader = this.#reader;
    reader.begin(payload, 0);
    const envelope = { v: -1, o: null as string | null, e: -1, n: -1, h: -1, w: -1 };
    const parts: { -readonly [key in keyof MessageParts]: unknown } = { ...NO_PARTS };
    let kind: MessageKind | null = null;
    for (let left = reader.map(); left > 0; left--) {
      switch (reader.key()) {
        case KEY_V:
          envelope.v = reader.number();
          break;
        case KEY_O:
          envelope.o = this.#name();
          break;
        case KEY_E:
          envelope.e = reader.number();
          break;
        case KEY_N:
          envelope.n = reader.number();
          break;
        case KEY_H:
          envelope.h = reader.number();
          break;
        case KEY_W:
          envelope.w = reader.number();
          break;
        case KEY_K:
          kind = this.#kind();
          break;
        case KEY_A:
          parts.a = reader.number();
          break;
        case KEY_B:
          parts.b = reader.number();
          break;
        case KEY_N4:
          parts.n4 = this.#section();
          break;
        case KEY_N6:
          parts.n6 = this.#section();
          break;
        case KEY_U:
          parts.u = this.#section();
          break;
        case KEY_D:
          parts.d = this.#section();
          break;
        case KEY_MV:
          parts.mv = this.#section();
          break;
        case KEY_MO:
          parts.mo = this.#part();
          break;
        case KEY_R:
          parts.r = this.#part();
          break;
        case KEY_X:
          parts.x = this.#part();
          break;
        default:
          reader.skip();
      }
      if (reader.odd) return null;
    }
    if (reader.at !== payload.length || kind === null || !this.#isOpened(envelope.v)) return null;
    const sound = envelopeOf(envelope);
    return sound === null ? null : { kind, envelope: sound, payload, parts };
  }

  /** The maps of other versions are translated, so msgpackr unpacks them. */
  #isOpened(version: number): boolean {
    return readVersion(this.#formats, version)?.fromWire === null;
  }

  #section(): PackedPart {
    const reader = this.#reader;
    const { at } = reader;
    let rows = -1;
    for (let left = reader.map(); left > 0 && !reader.odd; left--) {
      if (reader.key() === KEY_N) rows = reader.number();
      else reader.binary();
    }
    return new PackedPart(reader.bytes, at, reader.at, rows);
  }

  #part(): PackedPart {
    const { at, bytes } = this.#reader;
    this.#reader.skip();
    return new PackedPart(bytes, at, this.#reader.at, 0);
  }

  #kind(): MessageKind | null {
    const reader = this.#reader;
    const { at, bytes } = reader;
    reader.skip();
    if (bytes[at] === 0xa2) return textAt(bytes, at + 1, "ev") ? "ev" : null;
    if (bytes[at] !== 0xa4) return null;
    if (textAt(bytes, at + 1, "snap")) return "snap";
    return textAt(bytes, at + 1, "mark") ? "mark" : null;
  }

  #name(): string {
    const reader = this.#reader;
    const { at, bytes } = reader;
    const tag = bytes[at]!;
    const isLong = tag === 0xd9;
    const from = isLong ? at + 2 : at + 1;
    const length = isLong ? bytes[at + 1]! : tag - 0xa0;
    if (!isLong && !(length >= 0 && length < 0x20)) reader.odd = true;
    else if (length === this.#node.length && textAt(bytes, from, this.#node)) reader.at = from + length;
    else {
      reader.skip();
      if (!reader.odd && reader.at <= bytes.length)
        this.#node = String.fromCharCode(...bytes.subarray(from, reader.at));
    }
    return this.#node;
  }
}

function textAt(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}
