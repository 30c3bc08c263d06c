import type { NatsConnection } from "nats";
import type { Logger } from "pino";
import { errorText } from "../errors.js";
import { Backoff } from "../os/backoff.js";
import { pause } from "../os/pause.js";
import { API_TIMEOUT_MS, type BrokerConnection } from "./connection.js";
import { DirectConsumer } from "./direct-consumer.js";
import { kindOfSubject, type MessageKind } from "./format/subjects.js";
import { directGet, directLast, type StoredMessage } from "./own-stream.js";
import { type ConsumerFailure, PullConsumer, type StreamConsumer } from "./pull-consumer.js";
import { type StreamAccess, type StreamPlace, streamAccess } from "./stream-access.js";

/** One message of a stream. */
export interface StreamMessage {
  type: "message";
  kind: MessageKind;
  /** Sequence in the stream. A broker that lost its tail reuses sequences: epoch and batch number give the order. */
  sequence: number;
  /** When the broker stored it, milliseconds since the Unix epoch. */
  timeMs: number;
  /** A view into the client's receive buffer: copy what must last. */
  payload: Uint8Array;
  /** How many messages the stream had after this one. */
  pending: number;
}

/** A place of a stream whose message is none of ours. Of several in a row only the last is told. */
export interface SkippedMessage {
  type: "skipped";
  sequence: number;
  /** How many more there were in the stream behind this one. */
  pending: number;
}

/**
 * What a reader yields. `state`: it follows the stream, or cannot at present and will resume by itself. `reset`, the
 * last item: the place to resume at is gone, so the caller must choose another start and read again.
 */
export type ReaderItem =
  | StreamMessage
  | SkippedMessage
  | { type: "state"; connected: boolean }
  | { type: "reset"; reason: ResetReason };

/**
 * `trimmed`: the next messages were removed by age or size. `truncated`: the stream ends before the last message that
 * was read, or has another message in its place. `recreated`: it is another stream of the same name.
 */
export type ResetReason = "trimmed" | "truncated" | "recreated";

/** What a reader counts, all at zero. */
function newCounters() {
  return {
    messages: 0,
    bytes: 0,
    /** Consumers made: one at the start, one more for each interruption. */
    attaches: 0,
    /** Interruptions by cause. */
    disconnects: 0,
    missedHeartbeats: 0,
    deliveryGaps: 0,
    sequenceHoles: 0,
    refusals: 0,
    /** The broker sent more than was asked for. */
    excess: 0,
    /** The daemon of the stream is there again: its stream was read without it, on a shared broker. */
    handovers: 0,
    /** Skipped messages: their subject is none of ours, or they have no place. */
    malformed: 0,
    resets: 0,
  };
}

/** The counters of a reader. */
export type ReaderCounters = ReturnType<typeof newCounters>;

/** Which stream to read, over which connection. */
export interface StreamReaderOptions {
  connection: BrokerConnection;
  /** Whose stream. */
  node: string;
  log: Logger;
  /**
   * Messages and bytes in memory at a time, including those that the caller is working on. Readers that share a
   * connection share READ_AHEAD_BYTES_MAX.
   */
  windowMessagesMax?: number;
  windowBytesMax?: number;
}

const RETRY_MS = 200;
const WINDOW_MESSAGES_MAX = 1000;
/**
 * What all readers of one connection together may ask for. A broker that cannot send as fast as it reads its store keeps
 * that much for the connection, and closes it above `max_pending`.
 */
export const READ_AHEAD_BYTES_MAX = 8 * 1024 * 1024;
const ATTACH_RETRY_MS_MIN = 20;
const ATTACH_RETRY_MS_MAX = 1000;
/** After a consumer that brought nothing, a stream on a shared broker is read without one for this time. */
const HANDOVER_MS = 10_000;
const CLOSE_TIMEOUT_MS = 500;
/** The broker gives a message's time in two ways, which round differently. */
const TIME_TOLERANCE_MS = 1;
/** What subject, reply, headers and our own object add to the size of a payload. */
const ENVELOPE_BYTES = 256;

/**
 * Reads the stream of one node from one broker, in order and each message once. If stream or broker are not there, it
 * waits.
 */
export class StreamReader {
  readonly counters: ReaderCounters = newCounters();
  readonly #options: StreamReaderOptions;

  constructor(options: StreamReaderOptions) {
    this.#options = options;
  }

  /**
   * The last message of one kind; null when there is none, or no stream. With a signal it waits for a broker that is
   * away, and resolves with null when the signal comes first.
   * @throws ConntrailError BROKER when the broker is away and there is no signal
   */
  async readLast(kind: MessageKind, signal?: AbortSignal): Promise<StreamMessage | null> {
    for (;;) {
      if (signal?.aborted) return null;
      try {
        return await this.#readLast(kind);
      } catch (error) {
        if (signal === undefined) throw error;
        await pause(RETRY_MS, signal);
      }
    }
  }

  /**
   * Everything from `startSequence` on (1 or less: from the first message there is), in order, each message once,
   * until the signal or a reset. An array holds what one turn of the event loop brought. Taking the next array
   * releases the last one, and only then is more fetched: at most one window is in memory.
   */
  async *read(startSequence: number, signal: AbortSignal): AsyncGenerator<readonly ReaderItem[], void, undefined> {
    if (signal.aborted) return;
    const {
      connection,
      node,
      log,
      windowMessagesMax = WINDOW_MESSAGES_MAX,
      windowBytesMax = READ_AHEAD_BYTES_MAX,
    } = this.#options;
    const session = new ReadSession({
      connection,
      node,
      log,
      windowMessagesMax,
      windowBytesMax,
      startSequence,
      signal,
      counters: this.counters,
    });
    try {
      for (;;) {
        const items = await session.take();
        if (items === null) return;
        yield items;
      }
    } finally {
      await session.close();
    }
  }

  async #readLast(kind: MessageKind): Promise<StreamMessage | null> {
    const { connection, node } = this.#options;
    const client = await connection.ready(API_TIMEOUT_MS);
    // A standalone broker does not answer at all for a stream that does not exist.
    const access = await streamAccess(connection, client, node);
    if ((await access.find()) === null) return null;
    const message = await directLast(client, connection.nameOf(node), kind, API_TIMEOUT_MS);
    return message === null ? null : { type: "message", ...message, kind, pending: 0 };
  }
}

/** What one run of `read` needs. */
interface SessionOptions extends Required<StreamReaderOptions> {
  startSequence: number;
  signal: AbortSignal;
  counters: ReaderCounters;
}

/**
 * One run of a reader: the items that were not taken yet, and the consumer that brings them. At the first doubt the
 * consumer is replaced by one that begins after the last message seen.
 */
class ReadSession {
  readonly #options: SessionOptions;
  readonly #log: Logger;
  readonly #counters: ReaderCounters;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #consumer: StreamConsumer | null = null;
  #interrupt: (() => void) | null = null;

  /** Sequence of the next message; 0: the first one there is. */
  #next: number;
  #created = "";
  /** The last message seen: after an interruption it must still be the same. */
  #lastSequence = 0;
  #lastTimeMs = 0;
  /** A message that came instead of `#next`. If the stream still begins before it, `#next` is a hole in its middle. */
  #jumpedTo = 0;
  #connected = false;
  /** The last consumer on the broker has brought nothing. */
  #isBarren = false;

  #queue: ReaderItem[] = [];
  #queueBytes = 0;
  #queueMessages = 0;
  /** What the caller is working on. */
  #takenMessages = 0;
  #takenBytes = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#counters = options.counters;
    this.#next = options.startSequence <= 1 ? 0 : options.startSequence;
    options.signal.addEventListener("abort", this.#onAbort, { once: true });
    this.#running = this.#run().catch((error: unknown) => {
      this.#log.error({ err: error, node: options.node }, "reading ended");
      this.#end();
    });
  }

  /** The items since the last call, waiting for the first; null at the end. Releases what was taken before. */
  async take(): Promise<ReaderItem[] | null> {
    this.#takenMessages = 0;
    this.#takenBytes = 0;
    this.#consumer?.pull();
    while (this.#queue.length === 0) {
      if (this.#ended || this.#stop.signal.aborted) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#stop.signal.aborted) return null;
    const items = this.#queue;
    this.#takenMessages = this.#queueMessages;
    this.#takenBytes = this.#queueBytes;
    this.#queue = [];
    this.#queueMessages = 0;
    this.#queueBytes = 0;
    this.#consumer?.pull();
    return items;
  }

  /** Ends the run, and deletes its consumer if the broker answers. Returns within a second. */
  async close(): Promise<void> {
    this.#onAbort();
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    await Promise.race([this.#running, pause(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
  }

  readonly #onAbort = (): void => {
    this.#stop.abort();
    this.#interrupt?.();
    this.#wakeUp();
  };

  async #run(): Promise<void> {
    const backoff = new Backoff({ minMs: ATTACH_RETRY_MS_MIN, maxMs: ATTACH_RETRY_MS_MAX });
    while (!this.#stop.signal.aborted && !this.#ended) {
      if (await this.#follow()) backoff.reset();
      if (this.#stop.signal.aborted || this.#ended) break;
      await pause(backoff.nextMs(), this.#stop.signal);
    }
    this.#end();
  }

  /** Waits for the connection, or follows until something interrupts. True when there was progress. Never rejects. */
  async #follow(): Promise<boolean> {
    const { connection, node } = this.#options;
    const interrupted = new Promise<void>((resolve) => {
      this.#interrupt = resolve;
    });
    const unwatch = connection.watch((connected) => {
      if (connected) this.#interrupt?.();
      else this.#onDisconnect();
    });
    try {
      const client = connection.client;
      if (client !== null && !(await this.#attach(client))) return false;
      if (!this.#stop.signal.aborted) await interrupted;
      return true;
    } catch (error) {
      // The broker went away while it was asked: try again.
      this.#log.debug({ error: errorText(error), node }, "cannot follow the stream yet");
      return false;
    } finally {
      unwatch();
      await this.#detach();
    }
  }

  /**
   * Makes a consumer that begins after the last message read. False when there is nothing to follow, yet or any more.
   */
  async #attach(client: NatsConnection): Promise<boolean> {
    const { connection, node } = this.#options;
    const access = await streamAccess(connection, client, node);
    const place = await access.find();
    const reason = place === null ? null : await this.#whyReset(client, place);
    if (this.#stop.signal.aborted) return false;
    if (place === null) {
      this.#tell(false);
      return false;
    }
    if (reason !== null) {
      this.#counters.resets++;
      this.#queue.push({ type: "reset", reason });
      this.#end();
      return false;
    }
    this.#consumer = this.#consumerOf(client, access, place);
    await this.#consumer.start();
    this.#counters.attaches++;
    this.#tell(connection.connected);
    return true;
  }

  #consumerOf(client: NatsConnection, access: StreamAccess, place: StreamPlace): StreamConsumer {
    const { connection, node, windowMessagesMax, windowBytesMax } = this.#options;
    const common = {
      client,
      name: connection.nameOf(node),
      room: () => ({
        messages: windowMessagesMax - this.#queueMessages - this.#takenMessages,
        bytes: windowBytesMax - this.#queueBytes - this.#takenBytes,
      }),
      onFailure: (failure: ConsumerFailure) => this.#onFailure(failure),
    };
    const isBarren = connection.isShared && this.#isBarren;
    this.#isBarren = false;
    if (place.created === null || isBarren) {
      return new DirectConsumer({
        ...common,
        startSequence: Math.max(this.#next, place.first, 1),
        lastSequence: place.last,
        handoverMs: isBarren ? HANDOVER_MS : 0,
        onMessage: (message, pending) => this.#onMessage(message, pending),
      });
    }
    this.#isBarren = true;
    return new PullConsumer({
      ...common,
      access,
      reader: connection.nameOf(connection.node),
      startSequence: this.#next,
      roomMin: { messages: windowMessagesMax / 4, bytes: windowBytesMax / 4 },
      onMessage: ({ subject, data }, { sequence, timeMs, pending }) =>
        this.#onMessage({ kind: kindOfSubject(subject), payload: data, sequence, timeMs }, pending),
      onStray: () => {
        this.#counters.malformed++;
      },
    });
  }

  async #detach(): Promise<void> {
    const consumer = this.#consumer;
    this.#consumer = null;
    await consumer?.delete(this.#options.connection.connected);
  }

  /** Null when the next message still follows the last one that was read, else why not. */
  async #whyReset(client: NatsConnection, { created, first, last }: StreamPlace): Promise<ResetReason | null> {
    if (created !== null) {
      if (this.#created !== "" && this.#created !== created) return "recreated";
      this.#created = created;
    }
    // Without the stream's daemon a server may have been asked that lags behind.
    if (created !== null && this.#next > last + 1) return "truncated";
    if (this.#next !== 0 && this.#next < first) return "trimmed";
    if (this.#jumpedTo > this.#next) {
      const hole = { node: this.#options.node, first: this.#next, last: this.#jumpedTo - 1 };
      this.#log.warn(hole, "the stream has a hole in its middle");
      this.#next = this.#jumpedTo;
    }
    this.#jumpedTo = 0;
    if (this.#lastSequence === 0 || this.#lastSequence < first) return null;
    const name = this.#options.connection.nameOf(this.#options.node);
    const stored = await directGet(client, name, this.#lastSequence, API_TIMEOUT_MS);
    return stored !== null && Math.abs(stored.timeMs - this.#lastTimeMs) > TIME_TOLERANCE_MS ? "truncated" : null;
  }

  /** False when it is not the next message. */
  #onMessage(
    { kind, payload, sequence, timeMs }: Pick<StoredMessage, "kind" | "payload" | "sequence" | "timeMs">,
    pending: number,
  ): boolean {
    if (this.#next !== 0 && sequence !== this.#next) {
      this.#jumpedTo = sequence;
      return false;
    }
    this.#isBarren = false;
    this.#next = sequence + 1;
    this.#lastSequence = sequence;
    this.#lastTimeMs = timeMs;
    if (kind === null) {
      this.#counters.malformed++;
      this.#skip({ type: "skipped", sequence, pending });
      return true;
    }
    this.#counters.messages++;
    this.#counters.bytes += payload.length;
    this.#queue.push({ type: "message", kind, sequence, timeMs, payload, pending });
    this.#queueMessages++;
    this.#queueBytes += payload.length + ENVELOPE_BYTES;
    this.#wakeUp();
    return true;
  }

  /** Who waits for the end of what is stored must see it pass. */
  #skip(item: SkippedMessage): void {
    if (this.#queue.at(-1)?.type === "skipped") this.#queue.pop();
    this.#queue.push(item);
    this.#wakeUp();
  }

  #onFailure(failure: ConsumerFailure): void {
    this.#counters[failure]++;
    if (failure === "missedHeartbeats") this.#tell(false);
    this.#interrupt?.();
  }

  #onDisconnect(): void {
    this.#consumer?.deafen();
    this.#counters.disconnects++;
    this.#tell(false);
    this.#interrupt?.();
  }

  #tell(connected: boolean): void {
    if (this.#connected === connected) return;
    this.#connected = connected;
    this.#queue.push({ type: "state", connected });
    this.#wakeUp();
  }

  #end(): void {
    this.#ended = true;
    this.#wakeUp();
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}
