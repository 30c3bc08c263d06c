import type { RareAttributes } from "../flow/record.js";
import { decodeJson, decodeRare, decodeRecords, type Frame, type RareJson } from "./protocol.js";
import { COUNTERS } from "./record-writer.js";

/** Flows of a dump, up to a few thousand at a time. */
export interface RecordBatch {
  /** The flows, RECORD_WORDS words each. */
  readonly words: Uint32Array;
  /** Rare attributes by index of the flow in this batch. */
  readonly rare: ReadonlyMap<number, RareAttributes>;
  /** The counters of the flow at this index of the batch; undefined where the kernel does not count. */
  countersOf(index: number): Float64Array | undefined;
}

const NO_RARE: ReadonlyMap<number, RareAttributes> = new Map();

/** Puts the frames R, A and C of a dump together again. */
export class RecordReader {
  #batch: ReceivedBatch | null = null;

  /** Takes a frame. Returns the batch before it, if this frame begins another one. */
  take(frame: Frame): RecordBatch | null {
    const batch = this.#batch;
    if (frame.type === "R") {
      this.#batch = new ReceivedBatch(decodeRecords(frame.payload));
      return batch;
    }
    if (frame.type === "A" && batch !== null) batch.rare = decodeRareFrame(frame);
    if (frame.type === "C" && batch !== null) batch.counters = decodeCounters(frame.payload);
    return null;
  }

  /** The batch after which no frame came. */
  rest(): RecordBatch | null {
    return this.#batch;
  }
}

class ReceivedBatch implements RecordBatch {
  readonly words: Uint32Array;
  rare = NO_RARE;
  counters: Float64Array = new Float64Array(0);

  constructor(words: Uint32Array) {
    this.words = words;
  }

  countersOf(index: number): Float64Array | undefined {
    const own = this.counters.subarray(index * COUNTERS, (index + 1) * COUNTERS);
    return own.length < COUNTERS || Number.isNaN(own[0]) ? undefined : own;
  }
}

function decodeCounters(payload: Uint8Array): Float64Array {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  return Float64Array.from({ length: Math.floor(bytes.length / 8) }, (_, i) => bytes.readDoubleLE(i * 8));
}

function decodeRareFrame(frame: Frame): ReadonlyMap<number, RareAttributes> {
  const list = decodeJson(frame.payload) as readonly (readonly [number, RareJson])[];
  return new Map(list.map(([index, json]) => [index, decodeRare(json)]));
}
