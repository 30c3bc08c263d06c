import { createInbox, type Msg, type NatsConnection, type Subscription } from "nats";
import { inboxPrefix, streamName } from "./format/subjects.js";
import type { StreamAccess } from "./stream-access.js";
import { NANOS_PER_MS } from "./stream-config.js";

/** Why a consumer must be replaced. */
export type ConsumerFailure =
  | "missedHeartbeats"
  | "deliveryGaps"
  | "sequenceHoles"
  | "refusals"
  | "excess"
  | "handovers";

/** What brings a reader the messages of a stream. */
export interface StreamConsumer {
  /** Begins. @throws NatsError */
  start(): Promise<void>;
  /** There is more room. */
  pull(): void;
  /** Ignores everything that comes from now on. */
  deafen(): void;
  /** Ends it; `reachable`: the broker answers. Never rejects, bounded. */
  delete(reachable: boolean): Promise<void>;
}

/** The place of a message, from its reply subject. */
export interface Delivery {
  stream: string;
  consumer: string;
  sequence: number;
  /** Consumer sequence, 1, 2, 3 … without holes. */
  delivered: number;
  timeMs: number;
  pending: number;
}

/** What a consumer reads, from where, and how much at a time. */
export interface PullConsumerOptions {
  client: NatsConnection;
  access: StreamAccess;
  /** Who reads, and whose stream, as the broker calls them. */
  reader: string;
  name: string;
  /** Stream sequence to begin with; 0 for the first there is. */
  startSequence: number;
  /** How much there is room for. */
  room: () => { messages: number; bytes: number };
  /** With less room than this no request is made. */
  roomMin: { messages: number; bytes: number };
  /** Gets each message once and in order. False makes the consumer fail. Must not throw. */
  onMessage: (msg: Msg, delivery: Delivery) => boolean;
  /** Called once. Must not throw. */
  onFailure: (failure: ConsumerFailure) => void;
  /** A message of another consumer came to the inbox. */
  onStray: () => void;
}

const DOT = 0x2e;
const ZERO = 0x30;
/**
 * Long, because the end of a request has a race in nats-server 2.9: about one in a hundred requests that end while
 * messages come ends silently. Until then heartbeats show that it is alive.
 */
const PULL_EXPIRES_MS = 600_000;
/** How long after its expiry a request counts as ended although the broker has not said so. */
const PULL_GRACE_MS = 100;
const HEARTBEAT_MS = 1000;
const HEARTBEATS_MISSED_MAX = 3;
const DELETE_TIMEOUT_MS = 250;

/**
 * A named, ephemeral consumer without acks, in the broker's memory. It has one request at a time, for as much as there
 * is room for, so that a slow caller makes the broker wait instead of filling the memory. It repairs nothing: at the
 * first doubt it ignores further messages and calls `onFailure`, and its owner makes another consumer.
 */
export class PullConsumer implements StreamConsumer {
  /** Its name on the broker; empty before there is one. */
  #consumer = "";
  readonly #options: PullConsumerOptions;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #heartbeats: NodeJS.Timeout;
  #ready = false;
  #deaf = false;
  #heard = true;
  #missed = 0;
  #delivered = 0;
  /** Messages that the current request may still bring; 0 when there is no request. */
  #asked = 0;
  #askedMs = 0;
  /** Bytes of payload that it may still bring. */
  #bytesLeft = 0;
  /** Messages that it has brought. */
  #received = 0;
  /** The next message is larger than the whole window: it is fetched alone. */
  #oversize = false;
  /** Counts requests, so that the end of an old one is not mistaken for the end of the current one. */
  #request = 0;

  constructor(options: PullConsumerOptions) {
    this.#options = options;
    this.#inbox = createInbox(inboxPrefix(options.reader));
    this.#subscription = options.client.subscribe(`${this.#inbox}.*`, {
      callback: (error, msg) => {
        if (error === null && !this.#deaf) this.#onMessage(msg);
      },
    });
    this.#heartbeats = setInterval(() => this.#onHeartbeatTime(), HEARTBEAT_MS);
    this.#heartbeats.unref();
  }

  /** Creates the consumer on the broker and requests messages. @throws NatsError */
  async start(): Promise<void> {
    this.#consumer = await this.#options.access.consume(this.#options.startSequence);
    this.#ready = true;
    this.pull();
  }

  /** Ignores everything that comes from now on. */
  deafen(): void {
    this.#deaf = true;
    clearInterval(this.#heartbeats);
  }

  /** Ends the subscription and, if `reachable`, deletes the consumer on the broker. Never rejects, bounded. */
  async delete(reachable: boolean): Promise<void> {
    this.deafen();
    const { client, access } = this.#options;
    if (client.isClosed()) return;
    this.#subscription.unsubscribe();
    if (!reachable || this.#consumer === "") return;
    const deleted = access.release(this.#consumer).catch(() => false);
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise((resolve) => {
      timer = setTimeout(resolve, DELETE_TIMEOUT_MS);
    });
    await Promise.race([deleted, timeout]);
    clearTimeout(timer);
  }

  /** Requests as much as there is room for, unless a request is open or there is too little room. */
  pull(): void {
    if (this.#deaf || !this.#ready || this.#asked > 0) return;
    const { client, name, room, roomMin } = this.#options;
    const { messages, bytes } = room();
    if (messages < roomMin.messages || bytes < roomMin.bytes) return;
    const batch = this.#oversize ? 1 : messages;
    const request = {
      batch,
      ...(this.#oversize ? {} : { max_bytes: Math.floor(bytes) }),
      expires: PULL_EXPIRES_MS * NANOS_PER_MS,
      idle_heartbeat: HEARTBEAT_MS * NANOS_PER_MS,
    };
    this.#bytesLeft = this.#oversize ? Number.POSITIVE_INFINITY : bytes;
    this.#oversize = false;
    this.#asked = batch;
    this.#askedMs = performance.now();
    this.#received = 0;
    this.#heard = true;
    this.#request++;
    const api = `$JS.API.CONSUMER.MSG.NEXT.${streamName(name)}.${this.#consumer}`;
    try {
      client.publish(api, JSON.stringify(request), { reply: `${this.#inbox}.${this.#request}` });
    } catch {
      this.#fail("refusals");
    }
  }

  /** Must not throw: the client's reader would end. */
  #onMessage(msg: Msg): void {
    this.#heard = true;
    if (!msg.reply?.startsWith("$JS.ACK.")) {
      this.#onStatus(msg);
      return;
    }
    const delivery = parseDelivery(msg.reply);
    // Whoever may create consumers could direct one at our inbox, but it has another name.
    if (delivery === null || delivery.consumer !== this.#consumer) {
      this.#options.onStray();
      return;
    }
    if (delivery.delivered !== this.#delivered + 1) {
      this.#fail("deliveryGaps");
      return;
    }
    this.#delivered++;
    this.#bytesLeft -= msg.data.length;
    // A broker that sends what nobody asked for would fill the memory of a caller who waits for it.
    if (this.#asked <= 0 || this.#bytesLeft < 0) {
      this.#fail("excess");
      return;
    }
    this.#asked--;
    this.#received++;
    if (!this.#options.onMessage(msg, delivery)) {
      this.#fail("sequenceHoles");
      return;
    }
    if (this.#asked <= 0) this.pull();
  }

  /** A heartbeat, or the end of a request. */
  #onStatus(msg: Msg): void {
    const code = msg.headers?.code ?? 0;
    if (code === 100) {
      const delivered = msg.headers?.get("Nats-Last-Consumer") ?? "";
      if (delivered !== "" && Number(delivered) !== this.#delivered) this.#fail("deliveryGaps");
      return;
    }
    if (!msg.subject.endsWith(`.${this.#request}`)) return;
    // "Message Size Exceeds MaxBytes": the next message does not fit into the rest of the request.
    const tooLarge = code === 409 && /max_?bytes/i.test(msg.headers?.description ?? "");
    if (code !== 404 && code !== 408 && !tooLarge) {
      this.#fail("refusals");
      return;
    }
    this.#asked = 0;
    this.#oversize = tooLarge && this.#received === 0;
    this.pull();
  }

  #onHeartbeatTime(): void {
    if (this.#asked > 0 && performance.now() - this.#askedMs > PULL_EXPIRES_MS + PULL_GRACE_MS) {
      this.#asked = 0;
      this.pull();
    }
    this.#missed = this.#heard || this.#asked <= 0 ? 0 : this.#missed + 1;
    this.#heard = false;
    if (this.#missed >= HEARTBEATS_MISSED_MAX) this.#fail("missedHeartbeats");
  }

  #fail(failure: ConsumerFailure): void {
    if (this.#deaf) return;
    this.deafen();
    this.#options.onFailure(failure);
  }
}

/**
 * `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<nanoseconds>.<pending>`; with 11
 * words or more, domain and account come before the stream. Null for anything else.
 */
export function parseDelivery(reply: string): Delivery | null {
  const dots: number[] = [];
  for (let i = 0; i < reply.length; i++) if (reply.charCodeAt(i) === DOT) dots.push(i);
  const words = dots.length + 1;
  if (words !== 9 && words < 11) return null;
  dots.push(reply.length);
  // The dots before each of the words from the stream's name on, and what ends the last of them.
  const [at = 0, afterStream = 0, afterConsumer = 0, first = 0, second = 0, third = 0, fourth = 0, end = 0] =
    dots.slice(words === 9 ? 1 : 3);
  const sequence = numberIn(reply, first + 1, second);
  const delivered = numberIn(reply, second + 1, third);
  const timeMs = numberIn(reply, third + 1, fourth) / NANOS_PER_MS;
  const pending = numberIn(reply, fourth + 1, end);
  if (!(sequence > 0 && delivered > 0 && timeMs > 0 && pending >= 0)) return null;
  const stream = reply.slice(at + 1, afterStream);
  const consumer = reply.slice(afterStream + 1, afterConsumer);
  return { stream, consumer, sequence, delivered, timeMs, pending };
}

/** The number in [from, to) of the text; NaN when there is none. The last digits of nanoseconds are lost. */
function numberIn(reply: string, from: number, to: number): number {
  let number = from === to ? Number.NaN : 0;
  for (let i = from; i < to; i++) {
    const digit = reply.charCodeAt(i) - ZERO;
    number = digit >= 0 && digit <= 9 ? number * 10 + digit : Number.NaN;
  }
  return number;
}
