/** Words and variables that make up a state, and their hash. */

/** Longest list of words, or of variables, of one part of a state. */
const PART_MAX = 4096;

/** A part of a state: a hash of its words, and the variables that only their order gives a meaning. */
export interface Digest {
  readonly a: number;
  readonly b: number;
  /** Stamps, epochs and marks of connections: two states that differ only in their values, not in their order, are one. */
  readonly variables: readonly number[];
}

/** Gathers the words and variables of a part. */
export class DigestWriter {
  readonly #words = new Int32Array(PART_MAX);
  readonly #variables = new Float64Array(PART_MAX);
  readonly #sorted = new Float64Array(PART_MAX);
  #count = 0;
  #variableCount = 0;

  word(value: number): void {
    this.#words[this.#count++] = value;
  }

  variable(value: number): void {
    this.#variables[this.#variableCount++] = value;
  }

  /** Adds a part that was digested before. */
  part({ a, b, variables }: Digest): void {
    this.word(a);
    this.word(b);
    this.word(variables.length);
    for (let i = 0; i < variables.length; i++) this.#variables[this.#variableCount++] = variables[i]!;
  }

  /** The part so far; the writer is empty afterwards. */
  take(): Digest {
    const variables: number[] = [];
    for (let i = 0; i < this.#variableCount; i++) variables.push(this.#variables[i]!);
    const digest = { a: this.#hash(0x9747b28c), b: this.#hash(0x3c6ef372), variables };
    this.#count = 0;
    this.#variableCount = 0;
    return digest;
  }

  /** As `take`, with the variables replaced by their ranks: the digest of a whole state. */
  takeRanked(): Digest {
    const sorted = this.#sorted;
    let distinct = 0;
    for (let i = 0; i < this.#variableCount; i++) {
      const value = this.#variables[i]!;
      const at = this.#place(value, distinct);
      if (at < distinct && sorted[at] === value) continue;
      for (let to = distinct++; to > at; to--) sorted[to] = sorted[to - 1]!;
      sorted[at] = value;
    }
    for (let i = 0; i < this.#variableCount; i++) this.word(this.#place(this.#variables[i]!, distinct));
    this.#variableCount = 0;
    return this.take();
  }

  /** The index of a value among the first `count` of the sorted ones, or where it belongs. */
  #place(value: number, count: number): number {
    const sorted = this.#sorted;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle]! < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** MurmurHash3 over the words. */
  #hash(seed: number): number {
    let hash = seed;
    for (let i = 0; i < this.#count; i++) {
      let k = Math.imul(this.#words[i]!, 0xcc9e2d51);
      k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
      hash ^= k;
      hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64) | 0;
    }
    hash = Math.imul(hash ^ (hash >>> 16) ^ this.#count, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return hash ^ (hash >>> 16);
  }
}
