/** One stream as a source of opened messages, read in segments and with a bounded read-ahead. */
import { ConntrailError } from "../../errors.js";
import { stampMs } from "../../flow/clock.js";
import { createMessageOpener } from "../../stream/format/batch-view.js";
import { aheadMs, implausible, type OpenedMessage } from "../../stream/format/envelope.js";
import type { ReaderItem, SkippedMessage, StreamMessage } from "../../stream/reader.js";
import type { NodeState } from "./node-state.js";

/** A part of a stream to be read, by sequences, both included. `until` Infinity: the stream is followed without end. */
export interface Segment {
  readonly from: number;
  readonly until: number;
}

/** Reads a stream from a sequence on (1 or less: from the first that is there), as StreamReader does. */
export type ReadStream = (from: number, signal: AbortSignal) => AsyncIterable<readonly ReaderItem[]>;

/** What stands at a place of the stream. */
type PlacedItem = StreamMessage | SkippedMessage;

/** A reader that has been silent for so long has lost its broker. */
const STALL_MS = 30_000;
/** So many messages in a row with stamps beyond the end are the end: the stamp of a single one may be wrong. */
const BEYOND_MAX = 2;

/**
 * The messages of one node's stream in order, opened one at a time: `head` is the next one until `advance` is called. Segments are
 * read one after the other, the last of them up to a time.
 */
export class StreamSource {
  readonly node: NodeState;
  /** The next message; null: call `fill`, unless the source has ended. */
  head: OpenedMessage | null = null;
  /** When the broker stored the head, milliseconds since the Unix epoch. */
  headTimeMs = 0;
  /** A part of the stream was skipped before the head. */
  jump = true;
  /** Nothing more will come. */
  ended = false;
  readonly #read: ReadStream;
  readonly #segments: readonly Segment[];
  readonly #live: boolean;
  readonly #untilMs: number;
  readonly #onDamaged: () => void;
  readonly #nowMs: number;
  readonly #onBeyond: ((message: OpenedMessage) => void) | undefined;
  readonly #open = createMessageOpener();
  readonly #stop = new AbortController();
  readonly #batches: AsyncGenerator<readonly PlacedItem[], void, undefined>;
  #queue: readonly PlacedItem[] = [];
  #at = 0;
  #filling: Promise<unknown> | null = null;
  /** What came while it was not asked would be here: it has been asked for more over a turn of the event loop. */
  #quiet = false;
  /** Sequence of the last message that was read, and of the last that the stream is known to hold. */
  #readTo = 0;
  #tip = 0;
  /** Messages behind the last that was read, as they were when the broker sent that. */
  #pending: number;
  #jumps = true;
  /** How many messages in a row were beyond the end. */
  #beyond = 0;
  #failure: unknown = null;

  /** Messages that were written after `untilMs` are not read. Infinity: all messages are read. */
  constructor(options: {
    node: NodeState;
    read: ReadStream;
    segments: readonly Segment[];
    /** How many messages there are to read, at the most. */
    messages: number;
    untilMs: number;
    /** Called for each message that cannot be opened. */
    onDamaged: () => void;
    /** Called with the first message that was written after `untilMs`. */
    onBeyond?: (message: OpenedMessage) => void;
    /** The time of reading; a message is judged by that, or by when it was stored, where that is later. */
    nowMs?: number;
  }) {
    this.node = options.node;
    this.#read = options.read;
    this.#segments = options.segments;
    this.#untilMs = options.untilMs;
    this.#onDamaged = options.onDamaged;
    this.#onBeyond = options.onBeyond;
    this.#nowMs = options.nowMs ?? Date.now();
    this.#batches = this.#messages();
    this.ended = options.segments.length === 0;
    this.#live = options.segments.at(-1)?.until === Number.POSITIVE_INFINITY;
    this.#pending = options.messages;
  }

  /** When the head was written, by its writer's clock, milliseconds since the Unix epoch; 0 where there is no head. */
  get timeMs(): number {
    return this.head === null ? 0 : stampMs(this.head.envelope.stamp) - aheadMs(this.head.envelope);
  }

  /** Of a stream without end: all that it is known to hold was read, and nothing has come since. */
  get idle(): boolean {
    return this.#live && this.head === null && this.#pending === 0 && this.#readTo >= this.#tip && this.#quiet;
  }

  /** The stream holds messages up to this sequence, 0: none; it is not idle before they were read. */
  expect(tip: number): void {
    this.#tip = tip;
    // What was to come may have been removed meanwhile.
    if (tip <= this.#readTo) this.#pending = 0;
  }

  /** Opens the next message that is not damaged. */
  advance(): void {
    this.head = null;
    while (this.head === null && !this.ended) {
      const message = this.#queue[this.#at];
      if (message === undefined) break;
      this.#at++;
      this.#readTo = message.sequence;
      this.#pending = message.pending;
      if (message.type === "skipped") continue;
      this.head = this.#openSound(message);
      this.headTimeMs = message.timeMs;
      this.jump = this.#jumps;
      if (this.head === null) this.#onDamaged();
      else if (this.timeMs > this.#untilMs && this.#isLast(message)) this.#passEnd();
      else {
        this.#jumps = false;
        this.#beyond = 0;
      }
    }
  }

  /** Null for a damaged message, and for one that its node cannot have written: a stamp in the future would hold up the merge. */
  #openSound(message: StreamMessage): OpenedMessage | null {
    const opened = this.#open(message.payload);
    if (opened === null) return null;
    const nowMs = Math.max(this.#nowMs, message.timeMs);
    return implausible(opened.envelope, this.node.name, nowMs) === null ? opened : null;
  }

  /** Fetches more messages if there is no head. Calls `wake` when there is a head, an end or a failure. */
  fill(wake: () => void): void {
    if (this.#filling !== null || this.ended || this.head !== null) return;
    const filling = this.#batches.next();
    this.#filling = filling;
    if (this.#live) setImmediate(() => this.#noteQuiet(filling, wake));
    filling.then(
      (result) => {
        this.#filling = null;
        this.#quiet = false;
        if (result.done === true) this.ended = true;
        else {
          this.#queue = result.value;
          this.#at = 0;
          this.advance();
        }
        wake();
      },
      (error: unknown) => {
        this.#filling = null;
        this.#failure = error;
        this.ended = true;
        wake();
      },
    );
  }

  #noteQuiet(filling: Promise<unknown>, wake: () => void): void {
    if (this.#filling !== filling) return;
    this.#quiet = true;
    wake();
  }

  /** Throws the error that ended the reading early, if there was one. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Stops reading at once. */
  close(): void {
    this.#end();
  }

  /** A stamp beyond the end ends the last segment only. Earlier segments end at a sequence. */
  #isLast(message: StreamMessage): boolean {
    return message.sequence >= (this.#segments.at(-1)?.from ?? 0);
  }

  /** Drops a head whose stamp is beyond the end, and ends the source at the second in a row. */
  #passEnd(): void {
    if (this.#beyond === 0 && this.head !== null) this.#onBeyond?.(this.head);
    this.head = null;
    this.#beyond++;
    if (this.#beyond >= BEYOND_MAX) this.#end();
  }

  #end(): void {
    this.ended = true;
    this.head = null;
    this.#stop.abort();
    this.#batches.return().catch(() => undefined);
  }

  async *#messages(): AsyncGenerator<readonly PlacedItem[], void, undefined> {
    for (const segment of this.#segments) {
      this.#jumps = true;
      let from = segment.from;
      // Skips what retention has cut off meanwhile. Once only where the segment has an end, else the reader would chase
      // retention for ever.
      for (let attempt = 0; attempt < 2 || segment.until === Number.POSITIVE_INFINITY; attempt++) {
        const reset = yield* this.#segment(from, segment.until);
        if (!reset) break;
        this.#jumps = true;
        this.#readTo = 0;
        this.node.gaps.open(this.node.heard, "the stream was cut off while it was read");
        from = 0;
      }
    }
  }

  /** Reads one segment. Returns true when the stream no longer holds what was to be read next. */
  async *#segment(from: number, until: number): AsyncGenerator<readonly PlacedItem[], boolean, undefined> {
    const live = until === Number.POSITIVE_INFINITY;
    const end = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, end.signal]);
    const items = this.#read(from, signal)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const result = live ? await items.next() : await beforeStall(items.next(), this.node.name);
        if (result.done === true) return false;
        const placed: PlacedItem[] = [];
        let isEnd = false;
        for (const item of result.value) {
          if (item.type === "reset") return true;
          if (item.type === "state") continue;
          isEnd = item.sequence >= until || (!live && item.pending === 0);
          if (item.sequence > until) break;
          placed.push(item);
        }
        if (placed.length > 0) yield placed;
        if (isEnd) return false;
      }
    } finally {
      end.abort();
      // The broker deletes the consumer; nobody has to wait for that.
      void items.return?.()?.catch(() => undefined);
    }
  }
}

async function beforeStall<T>(promise: Promise<T>, node: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const stall = new Promise<never>((_, reject) => {
    const message = `the broker sends no more of the stream of ${node}: it has been silent for ${STALL_MS / 1000} s`;
    timer = setTimeout(() => reject(new ConntrailError("BROKER", message)), STALL_MS);
  });
  try {
    return await Promise.race([promise, stall]);
  } finally {
    clearTimeout(timer);
  }
}
