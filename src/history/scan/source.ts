import { ConntrailError } from "../../errors.js";
import { stampMs } from "../../flow/clock.js";
import { createMessageOpener } from "../../stream/format/batch-view.js";
import { aheadMs, type OpenedMessage } from "../../stream/format/envelope.js";
import type { ReaderItem, StreamMessage } from "../../stream/reader.js";
import type { NodeState } from "./node-state.js";

/** A stretch of a stream to be read: from a sequence to another, both included; `until` Infinity: without end. */
export interface Segment {
  readonly from: number;
  readonly until: number;
}

/** Reads a stream from a sequence on (1 or less: from the first that is there), as StreamReader does. */
export type ReadStream = (from: number, signal: AbortSignal) => AsyncIterable<readonly ReaderItem[]>;

/** A reader that says nothing for so long has no broker any more. */
const STALL_MS = 30_000;
/** So many messages in a row beyond the end are the end. */
const BEYOND_MAX = 2;

/**
 * One node's stream as messages in order, opened one at a time: `head` is the next, until `advance`. Read segment by segment, the
 * last one up to a time.
 */
export class StreamSource {
  readonly node: NodeState;
  /** The next message; null: `fill` first, or ended. */
  head: OpenedMessage | null = null;
  /** When the broker stored the head, milliseconds since the Unix epoch. */
  headTimeMs = 0;
  /** The head does not follow on the message before it. */
  jump = true;
  ended = false;
  /** Of a stream without end: all that it holds was read, and more comes only when it is written. */
  idle: boolean;
  readonly #read: ReadStream;
  readonly #segments: readonly Segment[];
  readonly #live: boolean;
  readonly #untilMs: number;
  readonly #onDamaged: () => void;
  readonly #onBeyond: ((message: OpenedMessage) => void) | undefined;
  readonly #open = createMessageOpener();
  readonly #stop = new AbortController();
  readonly #batches: AsyncGenerator<readonly StreamMessage[], void, undefined>;
  #queue: readonly StreamMessage[] = [];
  #at = 0;
  #filling = false;
  #jumps = true;
  /** Messages beyond the end in a row. */
  #beyond = 0;
  #failure: unknown = null;

  /** Messages that were written after `untilMs` are not read; Infinity: all. */
  constructor(options: {
    node: NodeState;
    read: ReadStream;
    segments: readonly Segment[];
    /** How many messages there are at least. */
    messages: number;
    untilMs: number;
    onDamaged: () => void;
    /** Told of the first message with such a stamp. */
    onBeyond?: (message: OpenedMessage) => void;
  }) {
    this.node = options.node;
    this.#read = options.read;
    this.#segments = options.segments;
    this.#untilMs = options.untilMs;
    this.#onDamaged = options.onDamaged;
    this.#onBeyond = options.onBeyond;
    this.#batches = this.#messages();
    this.ended = options.segments.length === 0;
    this.#live = options.segments.at(-1)?.until === Number.POSITIVE_INFINITY;
    this.idle = this.#live && options.messages === 0;
  }

  /** When the head was written, by its writer's clock. */
  get timeMs(): number {
    return this.head === null ? 0 : stampMs(this.head.envelope.stamp) - aheadMs(this.head.envelope);
  }

  /** Opens the next message that is sound. */
  advance(): void {
    this.head = null;
    while (this.head === null && !this.ended && this.#at < this.#queue.length) {
      const message = this.#queue[this.#at++]!;
      this.head = this.#open(message.payload);
      this.headTimeMs = message.timeMs;
      this.jump = this.#jumps;
      if (this.head === null) this.#onDamaged();
      else if (this.timeMs > this.#untilMs && this.#isLast(message)) this.#passEnd();
      else {
        this.#jumps = false;
        this.#beyond = 0;
      }
    }
    this.idle = this.#live && this.head === null && (this.#queue.at(-1)?.pending ?? 0) === 0;
  }

  /** Fetches more; calls `wake` when the head, the end or a failure is there. Only where there is no head. */
  fill(wake: () => void): void {
    if (this.#filling || this.ended || this.head !== null) return;
    this.#filling = true;
    this.#batches.next().then(
      (result) => {
        this.#filling = false;
        if (result.done === true) this.ended = true;
        else {
          this.#queue = result.value;
          this.#at = 0;
          this.advance();
        }
        wake();
      },
      (error: unknown) => {
        this.#filling = false;
        this.#failure = error;
        this.ended = true;
        wake();
      },
    );
  }

  /** Throws what ended the reading before its time. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Ends the reading at once. */
  close(): void {
    this.#end();
  }

  /** A stamp beyond the end ends the last segment only: those before it have their own ends. */
  #isLast(message: StreamMessage): boolean {
    return message.sequence >= (this.#segments.at(-1)?.from ?? 0);
  }

  /** One stamp beyond the end may be a damaged one. */
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

  async *#messages(): AsyncGenerator<readonly StreamMessage[], void, undefined> {
    for (const segment of this.#segments) {
      this.#jumps = true;
      let from = segment.from;
      // What retention cuts off while it is read is passed over; once, or the reader would run after it for ever.
      for (let attempt = 0; attempt < 2; attempt++) {
        const reset = yield* this.#stretch(from, segment.until);
        if (!reset) break;
        this.#jumps = true;
        this.node.gaps.open(this.node.heard, "the stream was cut off while it was read");
        from = 0;
      }
    }
  }

  /** One segment; true when its reader was reset. */
  async *#stretch(from: number, until: number): AsyncGenerator<readonly StreamMessage[], boolean, undefined> {
    const live = until === Number.POSITIVE_INFINITY;
    const end = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, end.signal]);
    const items = this.#read(from, signal)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const result = live ? await items.next() : await beforeStall(items.next(), this.node.name);
        if (result.done === true) return false;
        const messages: StreamMessage[] = [];
        for (const item of result.value) {
          if (item.type === "reset") return true;
          if (item.type !== "message") continue;
          if (item.sequence > until) break;
          messages.push(item);
        }
        if (messages.length > 0) yield messages;
        const last = result.value.at(-1);
        if (last?.type === "message" && (last.sequence >= until || (!live && last.pending === 0))) return false;
      }
    } finally {
      end.abort();
      // Its consumer is deleted meanwhile; nobody has to wait for that.
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
