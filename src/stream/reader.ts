import type { Msg, NatsConnection, StreamInfo } from "nats";
import type { Logger } from "pino";
import { errorText } from "../errors.js";
import { Backoff } from "../os/backoff.js";
import { pause } from "../os/pause.js";
import { API_TIMEOUT_MS, type BrokerConnection, jetStreamOf } from "./connection.js";
import { kindOfSubject, type MessageKind, streamName } from "./format/subjects.js";
import { directGet, directLastOf, findStream } from "./own-stream.js";
import { type ConsumerFailure, type Delivery, PullConsumer } from "./pull-consumer.js";

/** One message of a stream. */
export interface StreamMessage {
  type: "message";
  kind: MessageKind;
  /** Place in the stream. A broker that lost its tail uses places again: order is told by epoch and batch number. */
  sequence: number;
  /** When the broker stored it, milliseconds since the Unix epoch. */
  timeMs: number;
  /** A view into the client's receive buffer: copy what is to be kept for long. */
  payload: Uint8Array;
  /** How many more there were in the stream behind this one. */
  pending: number;
}

/**
 * What a reader tells. `state`: following the stream, or not at present; it resumes by itself. `reset`: the last item;
 * the place to resume at is not there any more, so the caller picks another start and reads anew.
 */
export type ReaderItem = StreamMessage | { type: "state"; connected: boolean } | { type: "reset"; reason: ResetReason };

/**
 * `trimmed`: the messages needed next were removed by age or size. `truncated`: the stream ends before what was read, or
 * that place holds another message now. `recreated`: it is another stream of the same name.
 */
export type ResetReason = "trimmed" | "truncated" | "recreated";

/** What a reader counts, all at zero. */
function newCounters() {
  return {
    messages: 0,
    bytes: 0,
    /** Consumers made; one for a start, one more for each interruption. */
    attaches: 0,
    /** Interruptions by cause. */
    disconnects: 0,
    missedHeartbeats: 0,
    deliveryGaps: 0,
    sequenceHoles: 0,
    refusals: 0,
    /** Messages on subjects that are none of ours, or without a place: skipped. */
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
  /** Most messages and bytes in memory at a time, those that the caller has not finished with included. */
  windowMessagesMax?: number;
  windowBytesMax?: number;
}

const RETRY_MS = 200;
const WINDOW_MESSAGES_MAX = 1000;
const WINDOW_BYTES_MAX = 16 * 1024 * 1024;
const ATTACH_RETRY_MS_MIN = 20;
const ATTACH_RETRY_MS_MAX = 1000;
const CLOSE_TIMEOUT_MS = 500;
/** The broker's two ways of telling a message's time differ in their rounding. */
const TIME_TOLERANCE_MS = 1;
/** What subject, reply, headers and our own object add to a payload. */
const ENVELOPE_BYTES = 256;

/**
 * Reads the stream of one node from one broker. The stream need not exist and the broker need not be there: it waits.
 */
export class StreamReader {
  readonly counters: ReaderCounters = newCounters();
  readonly #options: StreamReaderOptions;

  constructor(options: StreamReaderOptions) {
    this.#options = options;
  }

  /**
   * The last message of one kind; null when there is none, or no stream. With a signal it waits for a broker that is
   * away, and gives null when the signal comes first.
   * @throws ConntrailError BROKER when the broker is away, and there is no signal
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
   * Everything from `startSequence` on (1 or less: from the first that is there), in order, each message once, until the
   * signal or a reset. Items come in arrays, all that one turn of the event loop brought; asking for the next array says
   * that the last one is done with, and only then is more fetched: at most one window is in memory.
   */
  async *read(startSequence: number, signal: AbortSignal): AsyncGenerator<readonly ReaderItem[], void, undefined> {
    if (signal.aborted) return;
    const {
      connection,
      node,
      log,
      windowMessagesMax = WINDOW_MESSAGES_MAX,
      windowBytesMax = WINDOW_BYTES_MAX,
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
    const message = await directLastOf(client, node, kind, API_TIMEOUT_MS);
    return message === null ? null : { type: "message", ...message, kind, pending: 0 };
  }
}

/** What a reader hands to one run of `read`. */
interface SessionOptions extends Required<StreamReaderOptions> {
  startSequence: number;
  signal: AbortSignal;
  counters: ReaderCounters;
}

/**
 * One run of a reader: what came and was not taken yet, and the consumer that brings it. The consumer is thrown away at the
 * first doubt and another one made behind the last message that was seen.
 */
class ReadSession {
  readonly #options: SessionOptions;
  readonly #log: Logger;
  readonly #counters: ReaderCounters;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #consumer: PullConsumer | null = null;
  #interrupt: (() => void) | null = null;

  /** Sequence of the message that is needed next; 0 while the first one there will do. */
  #next: number;
  #created = "";
  /** The last message seen, to see whether it is still the same when we come back. */
  #lastSequence = 0;
  #lastTimeMs = 0;
  /** A message that came in place of `#next`; if the stream still begins before, `#next` is a hole in its middle. */
  #jumpedTo = 0;
  #connected = false;

  #queue: ReaderItem[] = [];
  #queueBytes = 0;
  #queueMessages = 0;
  /** What the caller is at. */
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

  /** The items that have come since, waiting for the first; null at the end. What was taken before is done with. */
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

  /** Ends the run and deletes its consumer if the broker answers. Returns within a second. */
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

  /** Waits for the connection or follows over it until something interrupts. True when there was progress. Never rejects. */
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
      // A broker that goes away while it is asked is tried again.
      this.#log.debug({ error: errorText(error), node }, "cannot follow the stream yet");
      return false;
    } finally {
      unwatch();
      await this.#detach();
    }
  }

  /** Makes a consumer behind what was read. False when there is nothing to follow, yet or any more. */
  async #attach(client: NatsConnection): Promise<boolean> {
    const { connection, node, windowMessagesMax, windowBytesMax } = this.#options;
    const jsm = await jetStreamOf(client);
    const info = await findStream(jsm, streamName(node));
    const reason = info === null ? null : await this.#whyReset(client, info);
    if (this.#stop.signal.aborted) return false;
    if (info === null) {
      this.#tell(false);
      return false;
    }
    if (reason !== null) {
      this.#counters.resets++;
      this.#queue.push({ type: "reset", reason });
      this.#end();
      return false;
    }
    this.#consumer = new PullConsumer({
      client,
      jsm,
      reader: connection.node,
      node,
      startSequence: this.#next,
      room: () => ({
        messages: windowMessagesMax - this.#queueMessages - this.#takenMessages,
        bytes: windowBytesMax - this.#queueBytes - this.#takenBytes,
      }),
      roomMin: { messages: windowMessagesMax / 4, bytes: windowBytesMax / 4 },
      onMessage: (msg, delivery) => this.#onMessage(msg, delivery),
      onFailure: (failure) => this.#onFailure(failure),
      onStray: () => {
        this.#counters.malformed++;
      },
    });
    await this.#consumer.start();
    this.#counters.attaches++;
    this.#tell(connection.connected);
    return true;
  }

  async #detach(): Promise<void> {
    const consumer = this.#consumer;
    this.#consumer = null;
    await consumer?.delete(this.#options.connection.connected);
  }

  /** Whether what we would go on with is still behind what was read. */
  async #whyReset(client: NatsConnection, { created, state }: StreamInfo): Promise<ResetReason | null> {
    const { first_seq: first, last_seq: last } = state;
    if (this.#created !== "" && this.#created !== String(created)) return "recreated";
    this.#created = String(created);
    if (this.#next > last + 1) return "truncated";
    if (this.#next !== 0 && this.#next < first) return "trimmed";
    if (this.#jumpedTo > this.#next) {
      const hole = { node: this.#options.node, first: this.#next, last: this.#jumpedTo - 1 };
      this.#log.warn(hole, "the stream has a hole in its middle");
      this.#next = this.#jumpedTo;
    }
    this.#jumpedTo = 0;
    if (this.#lastSequence === 0 || this.#lastSequence < first) return null;
    const stored = await directGet(client, this.#options.node, this.#lastSequence, API_TIMEOUT_MS);
    return stored !== null && Math.abs(stored.timeMs - this.#lastTimeMs) > TIME_TOLERANCE_MS ? "truncated" : null;
  }

  /** False when it is not the message that is needed next. */
  #onMessage(msg: Msg, { sequence, timeMs, pending }: Delivery): boolean {
    if (this.#next !== 0 && sequence !== this.#next) {
      this.#jumpedTo = sequence;
      return false;
    }
    this.#next = sequence + 1;
    this.#lastSequence = sequence;
    this.#lastTimeMs = timeMs;
    const kind = kindOfSubject(msg.subject);
    if (kind === null) {
      this.#counters.malformed++;
      return true;
    }
    const payload = msg.data;
    this.#counters.messages++;
    this.#counters.bytes += payload.length;
    this.#queue.push({ type: "message", kind, sequence, timeMs, payload, pending });
    this.#queueMessages++;
    this.#queueBytes += payload.length + ENVELOPE_BYTES;
    this.#wakeUp();
    return true;
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
