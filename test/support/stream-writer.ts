import { BatchEncoder } from "../../src/stream/format/batch.js";
import type { Envelope } from "../../src/stream/format/envelope.js";
import { type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import { FORMAT_1, type FormatVersion } from "../../src/stream/format/versions.js";

/** A message of a node's stream, as tests put it together. */
export interface WrittenMessage {
  readonly kind: MessageKind;
  readonly payload: Uint8Array;
}

/** Writes messages of one node by hand: every field of the envelope may be set, so that a test can leave any order. */
export class StreamWriter {
  epoch = 10;
  /** Number of the last message. */
  number = 0;
  /** Stamp of the last message; grows by 10 with each. */
  stamp = 1000;
  wallMs = 1_800_000_000_000;
  snapshotSequence = 0;
  format: FormatVersion = FORMAT_1;
  readonly #node: string;
  readonly #encoder = new BatchEncoder();
  readonly #marks = new MarkCodec();

  constructor(node: string) {
    this.#node = node;
  }

  /** A batch of events. */
  events(fill: (encoder: BatchEncoder) => void): WrittenMessage {
    fill(this.#encoder);
    return { kind: "ev", payload: Uint8Array.from(this.#encoder.encode(this.#next(), null, this.format)) };
  }

  /** A snapshot chunk that states the flow ids [from, to). */
  chunk(from: number, to: number, fill: (encoder: BatchEncoder) => void): WrittenMessage {
    fill(this.#encoder);
    return { kind: "snap", payload: Uint8Array.from(this.#encoder.encode(this.#next(), { from, to }, this.format)) };
  }

  mark(mark: Mark): WrittenMessage {
    const { snapshotSequence, format } = this;
    const payload = this.#marks.encode(this.#next(), mark, snapshotSequence, "unknown", format);
    return { kind: "mark", payload: Uint8Array.from(payload) };
  }

  /** A daemon starts: the next epoch's first message. With `goesOn`, it took the table over where this writer is. */
  restart(goesOn: boolean): WrittenMessage {
    const { epoch: previousEpoch, number } = this;
    this.epoch++;
    this.number = 0;
    return this.mark({ type: "epoch", reason: "test", previousEpoch, previousNumber: goesOn ? number : 0 });
  }

  #next(): Envelope {
    this.number++;
    this.stamp += 10;
    return { node: this.#node, epoch: this.epoch, number: this.number, stamp: this.stamp, wallMs: this.wallMs };
  }
}
