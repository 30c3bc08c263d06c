/**
 * SHA-256 and SHA-1 of many short messages, four at a time, in a WebAssembly module that is assembled here. Its four 32-bit lanes
 * hash four messages in the time of one, and in Node.js calling the built-in hash costs more than hashing.
 */

/** The parts of WebAssembly in use. TypeScript declares it only for browsers. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: {
      readonly memory: { readonly buffer: ArrayBuffer };
      readonly sha256: (end: number) => void;
      readonly sha1: (end: number) => void;
    };
  };
};

/** How many messages are hashed at a time. */
export const LANES = 4;
/** Words of a message with its padding, which is one block of either hash: a message has 55 bytes at the most. */
const BLOCK_WORDS = 16;
/** Distance from a word of a message to the same word of the next group of messages. */
const GROUP_WORDS = BLOCK_WORDS * LANES;
const PAGE_BYTES = 65_536;

/** Messages of up to 13 whole words each, which their hashes replace. */
export class HashLanes {
  /** The words of all messages: word `w` of message `i` is at `at(i) + LANES * w`. */
  readonly words: Uint32Array;
  readonly #sha256: (end: number) => void;
  readonly #sha1: (end: number) => void;

  constructor(messagesMax: number) {
    const bytes = Math.ceil(messagesMax / LANES) * GROUP_WORDS * 4;
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(moduleBytes(Math.ceil(bytes / PAGE_BYTES))));
    this.words = new Uint32Array(exports.memory.buffer);
    this.#sha256 = exports.sha256;
    this.#sha1 = exports.sha1;
  }

  /** Where the words of a message begin. */
  at(message: number): number {
    return (message >>> 2) * GROUP_WORDS + (message & 3);
  }

  /** Pads a message of so many words. */
  end(message: number, count: number): void {
    const { words } = this;
    const at = this.at(message);
    words[at + LANES * count] = 0x8000_0000;
    for (let word = count + 1; word < BLOCK_WORDS - 1; word++) words[at + LANES * word] = 0;
    words[at + LANES * (BLOCK_WORDS - 1)] = 32 * count;
  }

  /** Replaces the first messages by the first three words of their SHA-256. */
  sha256(messages: number): void {
    this.#sha256(Math.ceil(messages / LANES) * GROUP_WORDS * 4);
  }

  /** Replaces the first messages by the five words of their SHA-1. */
  sha1(messages: number): void {
    this.#sha1(Math.ceil(messages / LANES) * GROUP_WORDS * 4);
  }
}

/** Instructions that leave one value on the stack, or none. */
type Code = readonly number[];

const I32 = 0x7f;
const V128 = 0x7b;
const SIMD = 0xfd;
/** Locals of both functions: the end of the messages, the present group, then vectors. */
const END = 0;
const GROUP = 1;
const STATE = 2;

const get = (local: number): Code => [0x20, local];
const set = (local: number, value: Code): Code => [...value, 0x21, local];
const xor = (a: Code, b: Code): Code => [...a, ...b, SIMD, 81];
const add = (first: Code, ...rest: Code[]): Code => [...first, ...rest.flatMap((each) => [...each, SIMD, 0xae, 1])];
const left = (value: Code, bits: number): Code => [...value, 0x41, bits, SIMD, 0xab, 1];
const right = (value: Code, bits: number): Code => [...value, 0x41, bits, SIMD, 0xad, 1];
const rotate = (value: Code, bits: number): Code => [...left(value, bits), ...right(value, 32 - bits), SIMD, 80];
/** The bits of `a` where `choice` has ones, and of `b` elsewhere. */
const choose = (choice: Code, a: Code, b: Code): Code => [...a, ...b, ...choice, SIMD, 82];
const majority = (a: Code, b: Code, c: Code): Code => choose(xor(a, b), c, a);
const load = (word: number): Code => [...get(GROUP), SIMD, 0, 4, ...leb(16 * word)];
const store = (word: number, value: Code): Code => [...get(GROUP), ...value, SIMD, 11, 4, ...leb(16 * word)];
const constant = (word: number): Code => {
  const bytes = [word & 0xff, (word >>> 8) & 0xff, (word >>> 16) & 0xff, word >>> 24];
  return [SIMD, 12, ...bytes, ...bytes, ...bytes, ...bytes];
};

const PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101];
PRIMES.push(103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199, 211);
PRIMES.push(223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307, 311);

/** The first 32 bits of the fraction of a root of a prime: such are the constants of SHA-256. */
function fraction(root: number): number {
  return ((root - Math.floor(root)) * 2 ** 32) >>> 0;
}

/** SHA-256 of a single block: FIPS 180-4, 6.2.2. */
function sha256Rounds(): Code {
  const initial = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
  const schedule = STATE + 8;
  const code: number[] = initial.flatMap((word, i) => set(STATE + i, constant(word)));
  for (let word = 0; word < BLOCK_WORDS; word++) code.push(...set(schedule + word, load(word)));
  for (const [round, prime] of PRIMES.entries()) {
    const at = (offset: number): number => STATE + ((64 + offset - round) & 7);
    const [a, b, c, e, f, g] = [get(at(0)), get(at(1)), get(at(2)), get(at(4)), get(at(5)), get(at(6))];
    const [d, h] = [at(3), at(7)];
    const w = (back: number): Code => get(schedule + ((round - back) & 15));
    if (round >= BLOCK_WORDS) {
      const s0 = xor(xor(rotate(w(15), 25), rotate(w(15), 14)), right(w(15), 3));
      const s1 = xor(xor(rotate(w(2), 15), rotate(w(2), 13)), right(w(2), 10));
      code.push(...set(schedule + (round & 15), add(w(16), s0, w(7), s1)));
    }
    const sum1 = xor(xor(rotate(e, 26), rotate(e, 21)), rotate(e, 7));
    const sum0 = xor(xor(rotate(a, 30), rotate(a, 19)), rotate(a, 10));
    const ch = choose(e, f, g);
    code.push(...set(h, add(get(h), constant(fraction(Math.cbrt(prime))), w(0), ch, sum1)));
    code.push(...set(d, add(get(d), get(h))));
    code.push(...set(h, add(get(h), majority(a, b, c), sum0)));
  }
  for (const [i, word] of initial.slice(0, 3).entries()) code.push(...store(i, add(get(STATE + i), constant(word))));
  return code;
}

/** SHA-1 of a single block: FIPS 180-4, 6.1.2. */
function sha1Rounds(): Code {
  const initial = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
  const quarters: readonly (readonly [number, (b: Code, c: Code, d: Code) => Code])[] = [
    [0x5a827999, (b, c, d) => choose(b, c, d)],
    [0x6ed9eba1, (b, c, d) => xor(xor(b, c), d)],
    [0x8f1bbcdc, (b, c, d) => majority(b, c, d)],
    [0xca62c1d6, (b, c, d) => xor(xor(b, c), d)],
  ];
  const schedule = STATE + 8;
  const code: number[] = initial.flatMap((word, i) => set(STATE + i, constant(word)));
  for (let word = 0; word < BLOCK_WORDS; word++) code.push(...set(schedule + word, load(word)));
  for (const [quarter, [k, mix]] of quarters.entries()) {
    for (let round = 20 * quarter; round < 20 * (quarter + 1); round++) {
      const at = (offset: number): number => STATE + ((80 + offset - round) % 5);
      const w = (back: number): Code => get(schedule + ((round - back) & 15));
      if (round >= BLOCK_WORDS) {
        code.push(...set(schedule + (round & 15), rotate(xor(xor(w(3), w(8)), xor(w(14), w(16))), 1)));
      }
      const [b, c, d, e] = [get(at(1)), get(at(2)), get(at(3)), get(at(4))];
      code.push(...set(at(4), add(e, constant(k), w(0), mix(b, c, d), rotate(get(at(0)), 5))));
      code.push(...set(at(1), rotate(b, 30)));
    }
  }
  for (const [i, word] of initial.entries()) code.push(...store(i, add(get(STATE + i), constant(word))));
  return code;
}

/** A loop over all groups before END, of which there is at least one. */
function functionBody(rounds: Code): Code {
  const next = [...get(GROUP), 0x41, ...leb(GROUP_WORDS * 4, true), 0x6a, 0x22, GROUP, ...get(END), 0x48];
  const locals = [2, 1, I32, 8 + BLOCK_WORDS, V128];
  const body = [...locals, 0x03, 0x40, ...rounds, ...next, 0x0d, 0, 0x0b, 0x0b];
  return [...leb(body.length), ...body];
}

function moduleBytes(pages: number): Uint8Array {
  const name = (text: string): Code => [text.length, ...Array.from(text, (char) => char.charCodeAt(0))];
  const section = (id: number, content: Code): Code => [id, ...leb(content.length), ...content];
  const types = [1, 0x60, 1, I32, 0];
  const exported = [3, ...name("memory"), 2, 0, ...name("sha256"), 0, 0, ...name("sha1"), 0, 1];
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(3, [2, 0, 0]),
    ...section(5, [1, 0, ...leb(pages)]),
    ...section(7, exported),
    ...section(10, [2, ...functionBody(sha256Rounds()), ...functionBody(sha1Rounds())]),
  ]);
}

/** LEB128; `signed` leaves room for the sign. */
function leb(value: number, signed = false): Code {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    const isLast = rest < (signed ? 0x40 : 0x80);
    bytes.push((rest & 0x7f) | (isLast ? 0 : 0x80));
    if (isLast) return bytes;
  }
}
