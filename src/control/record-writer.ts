import { type RareAttributes, RECORD_WORDS } from "../flow/record.js";
import { encodeRare, type FrameType, type RareJson, RECORD_BYTES, toLittleEndian } from "./protocol.js";

/** Where a dump writes its flows. */
export interface RecordSink {
  /**
   * Copies the flow at `words[base]` into the answer, so the table may change afterwards.
   * False when the frame is full: `await drain()` before the next flow.
   */
  write(words: Uint32Array, base: number, rare: RareAttributes | null): boolean;
  /** Resolves when there is room again; rejects when the client has gone. */
  drain(): Promise<void>;
}

/** Flows in one R frame: 256 KiB. */
export const RECORDS_PER_FRAME = 2048;

const RARE_BYTES_PER_FRAME = 256 * 1024;
const RARE_BYTES_MAX = 64 * 1024;

/** Sends one frame; resolves when there is room for more. */
export type FrameSender = (type: FrameType, payload: Uint8Array | string) => Promise<void>;

/** Gathers flows into R and A frames. Holds at most one frame of each, so dumps of any size need the same memory. */
export class RecordWriter implements RecordSink {
  /** Flows written so far. */
  records = 0;
  /** Flows whose rare attributes were left out because no kernel makes any that large. */
  rareDropped = 0;
  readonly #send: FrameSender;
  readonly #words = new Uint32Array(RECORDS_PER_FRAME * RECORD_WORDS);
  #count = 0;
  #rare: [number, RareJson][] = [];
  #rareBytes = 0;

  constructor(send: FrameSender) {
    this.#send = send;
  }

  write(words: Uint32Array, base: number, rare: RareAttributes | null): boolean {
    if (this.#full) throw new Error("flow written to a full sink: await drain() after write() said false");
    const to = this.#count * RECORD_WORDS;
    for (let i = 0; i < RECORD_WORDS; i++) this.#words[to + i] = words[base + i]!;
    if (rare !== null) this.#addRare(rare);
    this.#count++;
    this.records++;
    return !this.#full;
  }

  async drain(): Promise<void> {
    if (this.#count === 0) return;
    const payload = new Uint8Array(this.#words.buffer, 0, this.#count * RECORD_BYTES);
    toLittleEndian(payload);
    const rare = this.#rare;
    this.#count = 0;
    this.#rare = [];
    this.#rareBytes = 0;
    await this.#send("R", payload);
    if (rare.length > 0) await this.#send("A", JSON.stringify(rare));
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
