import { type RareAttributes, RECORD_WORDS } from "../flow/record.js";
import { encodeRare, type FrameType, type RareJson, RECORD_BYTES, toLittleEndian } from "./protocol.js";

/** Where a dump writes its flows. */
export interface RecordSink {
  /**
   * Copies the flow at `words[base]` into the answer, so the table may change afterwards.
   * False when the frame is full: `await drain()` before the next flow. `counters`: the kernel's, COUNTERS of them.
   */
  write(words: Uint32Array, base: number, rare: RareAttributes | null, counters?: Float64Array): boolean;
  /** Resolves when there is room again; rejects when the client has gone. */
  drain(): Promise<void>;
}

/** Flows in one R frame: 256 KiB. */
export const RECORDS_PER_FRAME = 2048;

/** Counters of a flow. */
export const COUNTERS = 4;

const RARE_BYTES_PER_FRAME = 256 * 1024;
const RARE_BYTES_MAX = 64 * 1024;

/** Sends one frame; resolves when there is room for more. */
export type FrameSender = (type: FrameType, payload: Uint8Array | string) => Promise<void>;

function countersFrame(counters: Float64Array): Uint8Array {
  const bytes = Buffer.alloc(counters.length * 8);
  for (const [i, counter] of counters.entries()) bytes.writeDoubleLE(counter, i * 8);
  return bytes;
}

/** Gathers flows into R and A frames. Holds at most one frame of each, so dumps of any size need the same memory. */
export class RecordWriter implements RecordSink {
  /** Flows written so far. */
  records = 0;
  /** Flows whose rare attributes were left out because no kernel makes any that large. */
  rareDropped = 0;
  readonly #send: FrameSender;
  readonly #words = new Uint32Array(RECORDS_PER_FRAME * RECORD_WORDS);
  /** Null: no flow of the frame has counters. */
  #counters: Float64Array | null = null;
  #count = 0;
  #rare: [number, RareJson][] = [];
  #rareBytes = 0;

  constructor(send: FrameSender) {
    this.#send = send;
  }

  write(words: Uint32Array, base: number, rare: RareAttributes | null, counters?: Float64Array): boolean {
    if (this.#full) throw new Error("flow written to a full sink: await drain() after write() said false");
    const to = this.#count * RECORD_WORDS;
    for (let i = 0; i < RECORD_WORDS; i++) this.#words[to + i] = words[base + i]!;
    if (rare !== null) this.#addRare(rare);
    if (counters !== undefined) {
      this.#counters ??= new Float64Array(RECORDS_PER_FRAME * COUNTERS).fill(Number.NaN);
      this.#counters.set(counters, this.#count * COUNTERS);
    }
    this.#count++;
    this.records++;
    return !this.#full;
  }

  async drain(): Promise<void> {
    if (this.#count === 0) return;
    const payload = new Uint8Array(this.#words.buffer, 0, this.#count * RECORD_BYTES);
    toLittleEndian(payload);
    const rare = this.#rare;
    const counters = this.#counters?.slice(0, this.#count * COUNTERS);
    this.#counters = null;
    this.#count = 0;
    this.#rare = [];
    this.#rareBytes = 0;
    await this.#send("R", payload);
    if (rare.length > 0) await this.#send("A", JSON.stringify(rare));
    if (counters !== undefined) await this.#send("C", countersFrame(counters));
  }

  get #full(): boolean {
    return this.#count === RECORDS_PER_FRAME || this.#rareBytes >= RARE_BYTES_PER_FRAME;
  }

  #addRare(rare: RareAttributes): void {
    const json = encodeRare(rare);
    const bytes = Buffer.byteLength(JSON.stringify(json)) + 16;
    if (bytes > RARE_BYTES_MAX) {
      this.rareDropped++;
      return;
    }
    this.#rare.push([this.#count, json]);
    this.#rareBytes += bytes;
  }
}
