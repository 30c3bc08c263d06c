import { createInbox, headers, type Msg, type MsgHdrs, type NatsConnection, type Subscription } from "nats";
import type { Logger } from "pino";
import { ConntrailError, errorText } from "../errors.js";
import { Backoff } from "../os/backoff.js";
import { jetStreamOf } from "./connection.js";
import { inboxPrefix, type MessageKind, streamName, subject } from "./format/subjects.js";
import { ensureStream, ORIGIN_HEADER, SNAPSHOT_HEADER, type StreamTip } from "./own-stream.js";
import {
  newPublisherCounters,
  PUBLISHER_LIMITS,
  type PublisherCounters,
  type PublisherLimits,
  type PublisherOptions,
  type PublisherState,
  type PublisherTrouble,
  type PublishOutcome,
} from "./publisher-options.js";
import { ReadBack } from "./read-back.js";
import { type CopyOrigin, type Unconfirmed, UnconfirmedRing } from "./unconfirmed.js";

const RECOVER_MS_MIN = 100;
const RECOVER_MS_MAX = 5000;
const FLUSH_POLL_MS = 10;
/** Room that the one header of a message takes of max_payload, and some. */
const HEADER_BYTES_MAX = 256;
const ERR_WRONG_LAST_SEQUENCE = 10071;
const EXPECTED_LAST_SEQUENCE = "Nats-Expected-Last-Sequence";

/**
 * The only writer of a stream: the node's own, or the copy of a peer's.
 *
 * Every message names the stream sequence that must precede it. If one is lost (a lost connection, a full disk, a
 * killed server), the stream accepts none of those after it, so it always holds a prefix of what was published. Few
 * messages ask for an answer, and an answer confirms all messages before it. When one is refused or missing, and at
 * each reconnect, the last message of the stream shows what it holds, and everything newer is sent again. Messages
 * that an old connection still delivers are refused by their sequence: no message is ever in the stream twice.
 */
export class Publisher {
  readonly counters: PublisherCounters = newPublisherCounters();
  readonly #options: PublisherOptions;
  readonly #limits: PublisherLimits;
  readonly #log: Logger;
  readonly #ring: UnconfirmedRing;
  readonly #readBack: ReadBack;
  /** The stream's node, as the broker calls it. */
  readonly #name: string;
  readonly #subjects: Record<MessageKind, string>;
  readonly #headers: MsgHdrs = headers();
  readonly #acked = new Map<number, (sequence: number | null) => void>();
  readonly #flushes = new Set<() => void>();
  readonly #inbox: string;
  #unwatch: () => void = () => undefined;
  #state: PublisherState = "down";
  #closed = false;
  #client: NatsConnection | null = null;
  #answers: Subscription | null = null;
  /** Grows with each recovery: answers to older asks are ignored. */
  #generation = 0;
  /** For recoveries; a confirmation and a new connection reset it. */
  readonly #backoff = new Backoff({ firstMs: 0, minMs: RECOVER_MS_MIN, maxMs: RECOVER_MS_MAX });
  #failure: unknown = null;
  #trouble: PublisherTrouble | null = null;
  #retry: NodeJS.Timeout | null = null;

  /** Sequence that the oldest message of the ring has or will get; valid while up. */
  #headSequence = 1;
  #confirmedSequence = 0;
  #confirmedNumber = 0;
  /** Numbers are the caller's; the first message shows where they start. */
  #firstNumber = 0;
  #lastNumber = 0;
  /** Highest number that was ever sent: messages up to it are counted as resent. */
  #sentNumber = 0;
  /** Highest number that was reported as lost. */
  #lostThrough = 0;

  #payloadBytesMax = Number.POSITIVE_INFINITY;
  #askNext = false;
  #sinceAskMessages = 0;
  #sinceAskBytes = 0;
  #asks = 0;
  #askedMs = 0;
  #sentSinceTick = false;
  /** How often the broker, connected and answering, left messages unconfirmed since it last confirmed one. */
  #unconfirmedTurns = 0;
  #probing = false;
  /** Since when probes have found the stream behind what was sent; 0 when it is not. */
  #shortSinceMs = 0;
  #timer: NodeJS.Timeout | null = null;
  #readingBack: NodeJS.Timeout | null = null;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#limits = { ...PUBLISHER_LIMITS, ...options.limits };
    const { windowMessagesMax, windowBytesMax, askMessages, askBytes } = this.#limits;
    if (windowMessagesMax < 2 * askMessages || windowBytesMax < 2 * askBytes) {
      throw new Error("the publisher's window must hold two asks");
    }
    this.#log = options.log;
    const { connection } = options;
    this.#name = connection.nameOf(options.node);
    this.#readBack = new ReadBack({ ...options, node: this.#name }, this.counters);
    this.#ring = new UnconfirmedRing(this.#limits.ringMessagesMax, this.#limits.ringBytesMax);
    const name = this.#name;
    this.#subjects = { ev: subject(name, "ev"), snap: subject(name, "snap"), mark: subject(name, "mark") };
    this.#inbox = createInbox(inboxPrefix(connection.nameOf(connection.node)));
  }

  get state(): PublisherState {
    return this.#state;
  }

  /** Stream sequence of the last confirmed message, 0 before there is one. */
  get lastSequence(): number {
    return this.#confirmedSequence;
  }

  /** Number of the last confirmed message, 0 before there is one. */
  get confirmedNumber(): number {
    return this.#confirmedNumber;
  }

  /** Why messages do not get into the stream, and since when (performance.now()); null while all is well. */
  get trouble(): PublisherTrouble | null {
    return this.#trouble;
  }

  /** Unconfirmed messages and bytes, sent or held. */
  get backlog(): { messages: number; bytes: number } {
    return { messages: this.#ring.count, bytes: this.#ring.bytes };
  }

  /**
   * Creates or updates the stream, as soon as the broker is there.
   * @throws ConntrailError STORE or BROKER when the broker refuses the stream
   */
  async start(): Promise<void> {
    this.#unwatch = this.#options.connection.watch((connected) => this.#onConnection(connected));
    if (!this.#options.connection.connected) return;
    await this.#recover("start");
    const failure = this.#failure;
    if (!(failure instanceof ConntrailError)) return;
    this.close();
    throw failure;
  }

  /**
   * Publishes a message. The payload is kept until it is confirmed and must not be changed. Numbers start above 0 and
   * grow by one. After `close` messages are dropped and counted.
   */
  publish(kind: MessageKind, number: number, payload: Uint8Array, origin: CopyOrigin | null = null): PublishOutcome {
    if (this.#lastNumber === 0) this.#firstNumber = number;
    else if (number <= this.#lastNumber) throw new Error(`batch number ${number} after ${this.#lastNumber}`);
    if (this.#closed) {
      this.counters.droppedMessages++;
      this.counters.droppedBytes += payload.length;
      return "overflow";
    }
    if (payload.length > this.#payloadBytesMax) {
      const message = `a message of ${payload.length} bytes is above max_payload of the nats-server: raise it to 2MB or more`;
      throw new ConntrailError("BROKER", message);
    }
    const overflow = this.#makeRoom(payload.length);
    this.#lastNumber = number;
    this.counters.messages++;
    this.counters.bytes += payload.length;
    this.#ring.push({ kind, number, payload, origin });
    this.#pump();
    if (overflow) return "overflow";
    return this.#sentNumber >= number ? "sent" : "held";
  }

  /**
   * Publishes a message, and resolves with its stream sequence when it is confirmed, however long the broker is away;
   * with null when it was dropped or the publisher was closed first.
   */
  publishAcked(kind: MessageKind, number: number, payload: Uint8Array): Promise<number | null> {
    return new Promise((resolve) => {
      if (this.#closed) return resolve(null);
      this.#acked.set(number, resolve);
      this.#askNext = true;
      this.publish(kind, number, payload);
    });
  }

  /** True when everything published is confirmed, false after `timeoutMs`. */
  async flush(timeoutMs: number): Promise<boolean> {
    if (this.#ring.count === 0) return true;
    let timer: NodeJS.Timeout | undefined;
    let done: () => void = () => undefined;
    const emptied = new Promise<void>((resolve) => {
      done = resolve;
      timer = setTimeout(resolve, timeoutMs);
      this.#flushes.add(resolve);
    });
    if (this.#state === "up" && this.#asks === 0) void this.#probe();
    await emptied;
    clearTimeout(timer);
    this.#flushes.delete(done);
    return this.#ring.count === 0;
  }

  /** Ends at once and drops unconfirmed messages: `flush` first. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unwatch();
    this.#generation++;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#readingBack !== null) clearInterval(this.#readingBack);
    this.#answers?.unsubscribe();
    this.#set("down");
    for (const resolve of this.#acked.values()) resolve(null);
    this.#acked.clear();
    for (const resolve of this.#flushes) resolve();
  }

  #onConnection(connected: boolean): void {
    if (connected) {
      this.#backoff.reset();
      this.#unconfirmedTurns = 0;
      void this.#recover("connected");
    } else {
      this.#note("its broker is away");
      this.#hold();
    }
  }

  /** The latest reason, and when the trouble began. */
  #note(text: string, refused = false): void {
    const { sinceMs = performance.now(), refused: before = false } = this.#trouble ?? {};
    this.#trouble = { text, sinceMs, refused: before || refused };
  }

  /** Nothing is sent until a recovery has seen what the stream holds. */
  #hold(): void {
    this.#generation++;
    this.#ring.unsend();
    this.#asks = 0;
    this.#shortSinceMs = 0;
    this.#sinceAskMessages = 0;
    this.#sinceAskBytes = 0;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#readingBack !== null) clearInterval(this.#readingBack);
    this.#timer = null;
    this.#retry = null;
    this.#readingBack = null;
    this.#set("down");
  }

  /** Never rejects: failures are retried, after longer and longer waits. */
  async #recover(reason: string): Promise<void> {
    this.#hold();
    const generation = this.#generation;
    const client = this.#options.connection.client;
    if (client === null || this.#closed) return;
    this.counters.recoveries++;
    try {
      const jsm = await jetStreamOf(client);
      const change = await ensureStream(jsm, this.#name, this.#options.retention);
      if (change !== null) {
        const fields = { stream: this.#options.node, differs: change.differs, anew: change.anew };
        this.#log.warn(fields, "the settings of the stream were put right");
      }
      const tip = await this.#readBack.tip(jsm);
      if (generation !== this.#generation) return;
      this.#failure = null;
      this.#listen(client);
      this.#readBack.resumed();
      this.#resume(tip, reason);
    } catch (error) {
      if (generation !== this.#generation) return;
      if (errorText(error) !== errorText(this.#failure)) {
        this.#log.error({ reason, error: errorText(error) }, "publishing is held up");
      }
      this.#failure = error;
      this.#note(errorText(error));
      this.#recoverLater(reason);
    }
  }

  /** Reads back what was confirmed, now and then: what cannot be read was not kept. Never rejects. */
  async #checkConfirmed(): Promise<void> {
    const generation = this.#generation;
    const confirmed = { sequence: this.#confirmedSequence, number: this.#confirmedNumber };
    if (this.#client === null || confirmed.sequence === 0 || confirmed.number <= 0) return;
    const client = this.#client;
    const kept = await this.#readBack.check(client, confirmed);
    if (kept === null || generation !== this.#generation) return;
    if (kept) {
      await this.#checkOlder(client);
      return;
    }
    this.#readBack.failed(confirmed);
    this.#recoverLater("read back");
  }

  async #checkOlder(client: NatsConnection): Promise<void> {
    const { older } = this.#options;
    if (older === undefined) return;
    const generation = this.#generation;
    const hole = await this.#readBack.checkOlder(client);
    if (hole !== null && generation === this.#generation) older.onHole(hole);
  }

  /** At once the first time, then at growing intervals until something is confirmed. */
  #recoverLater(reason: string): void {
    this.#hold();
    if (this.#closed) return;
    this.#retry = setTimeout(() => void this.#recover(reason), this.#backoff.nextMs());
    this.#retry.unref();
  }

  #listen(client: NatsConnection): void {
    if (client === this.#client) return;
    this.#answers?.unsubscribe();
    this.#client = client;
    this.#answers = client.subscribe(`${this.#inbox}.*`, { callback: (error, msg) => this.#onAnswer(error, msg) });
  }

  /** Continues at the end of the stream: drops what it holds, sends again what it lacks, reports what is lost. */
  #resume(tip: StreamTip, reason: string): void {
    const stored = this.#storedNumber(tip);
    let held = 0;
    while ((this.#ring.get(held)?.number ?? Number.POSITIVE_INFINITY) <= stored) held++;
    for (let sequence = tip.lastSequence - held + 1; sequence <= tip.lastSequence; sequence++)
      this.#confirmOne(sequence);
    const truncated = this.#confirmedNumber > 0 && stored < this.#confirmedNumber;
    const lostFirst = Math.max(stored + 1, truncated ? 0 : this.#lostThrough + 1);
    const lostLast = (this.#ring.get(0)?.number ?? this.#lastNumber + 1) - 1;
    this.#confirmedNumber = stored;
    this.#confirmedSequence = tip.lastSequence;
    this.#headSequence = tip.lastSequence + 1;
    this.#payloadBytesMax = (this.#client?.info?.max_payload ?? Number.POSITIVE_INFINITY) - HEADER_BYTES_MAX;
    this.#askNext = true;
    const resend = this.#ring.count;
    // While something waits, only a confirmation shows that it works.
    if (resend === 0) this.#trouble = null;
    this.#set("up");
    this.#readingBack = setInterval(() => void this.#checkConfirmed(), this.#limits.readBackIntervalMs);
    this.#readingBack.unref();
    this.#pump();
    this.#wakeFlushes();
    if (resend > 0 || truncated) this.#log.info({ reason, stored, held, resend }, "publishing resumes");
    if (this.#lastNumber === 0 || lostFirst > lostLast) return;
    this.#lostThrough = lostLast;
    this.counters.lostMessages += lostLast - lostFirst + 1;
    this.#log.warn({ reason, lostFirst, lostLast }, "messages are lost to the stream");
    const dropped = truncated ? "the broker's store lost them" : "messages dropped while the broker was away";
    this.#options.onLost?.(lostFirst, lostLast, tip.damaged ? "the broker's store was damaged" : dropped);
  }

  /** Number of our last message in the stream; if there is none, one less than our first number. */
  #storedNumber(tip: StreamTip): number {
    const none = this.#firstNumber - 1;
    if (tip.damaged) return none;
    // Purged: the confirmed messages were there, and the sequence is unchanged.
    const confirmed = tip.lastSequence === this.#confirmedSequence && this.#confirmedNumber > 0;
    if (tip.last === null) return confirmed ? this.#confirmedNumber : none;
    const last = this.#options.readNumber(tip.last);
    if (last !== null && last.epoch === this.#options.epoch) return last.number;
    if (this.#confirmedNumber > 0 && tip.lastSequence > this.#confirmedSequence) {
      this.#log.error({ epoch: last?.epoch, sequence: tip.lastSequence }, "another writer is in this node's stream");
    }
    return none;
  }

  /** True when the oldest message was dropped. */
  #makeRoom(bytes: number): boolean {
    let overflow = false;
    while (this.#ring.isFullFor(bytes)) {
      const wasSent = this.#ring.sent > 0;
      const oldest = this.#ring.shift();
      if (oldest === null) break;
      if (wasSent) this.#headSequence++;
      this.counters.droppedMessages++;
      this.counters.droppedBytes += oldest.payload.length;
      this.#settle(oldest.number, null);
      overflow = true;
    }
    return overflow;
  }

  #pump(): void {
    const { windowMessagesMax, windowBytesMax } = this.#limits;
    const ring = this.#ring;
    while (this.#state === "up" && ring.sent < windowMessagesMax) {
      const next = ring.get(ring.sent);
      if (next === null || (ring.sent > 0 && ring.sentBytes + next.payload.length > windowBytesMax)) return;
      ring.sendNext();
      this.#send(next, this.#headSequence + ring.sent - 1);
    }
  }

  #send({ kind, number, payload, origin }: Unconfirmed, sequence: number): void {
    this.#headers.set(EXPECTED_LAST_SEQUENCE, String(sequence - 1));
    if (origin !== null) {
      this.#headers.set(ORIGIN_HEADER, String(origin.sequence));
      this.#headers.set(SNAPSHOT_HEADER, String(origin.snapshot));
    }
    if (number <= this.#sentNumber) this.counters.resent++;
    else this.#sentNumber = number;
    this.#sinceAskMessages++;
    this.#sinceAskBytes += payload.length;
    this.#sentSinceTick = true;
    const ask =
      this.#askNext ||
      this.#acked.has(number) ||
      this.#sinceAskMessages >= this.#limits.askMessages ||
      this.#sinceAskBytes >= this.#limits.askBytes;
    if (this.#timer === null) this.#arm(this.#limits.askIntervalMs);
    try {
      if (ask) this.#ask(kind, payload);
      else this.#client?.publish(this.#subjects[kind], payload, { headers: this.#headers });
    } catch (error) {
      this.#log.error({ number, bytes: payload.length, error: errorText(error) }, "a message cannot be sent");
      this.#recoverLater("send");
    }
  }

  #ask(kind: MessageKind, payload: Uint8Array): void {
    this.#askNext = false;
    this.#sinceAskMessages = 0;
    this.#sinceAskBytes = 0;
    if (this.#asks === 0) this.#askedMs = performance.now();
    this.#asks++;
    const reply = `${this.#inbox}.${this.#generation}`;
    this.#client?.publish(this.#subjects[kind], payload, { headers: this.#headers, reply });
  }

  /** Must not throw: the client's reader would end. */
  #onAnswer(error: Error | null, msg: Msg): void {
    if (error !== null || this.#closed || !msg.subject.endsWith(`.${this.#generation}`)) return;
    const answer = parseAnswer(msg);
    if (answer.sequence > 0) {
      this.#asks = Math.max(0, this.#asks - 1);
      this.#askedMs = performance.now();
      this.#confirm(answer.sequence);
      return;
    }
    if (answer.code === ERR_WRONG_LAST_SEQUENCE) this.counters.holes++;
    this.#note(answer.text, answer.code !== ERR_WRONG_LAST_SEQUENCE);
    this.#log.warn({ answer: answer.text }, "the stream refused a message, reading what it holds");
    this.#recoverLater(answer.text);
  }

  #confirm(sequence: number): void {
    if (sequence >= this.#headSequence + this.#ring.sent) {
      this.#log.error({ sequence }, "the stream is ahead of its writer");
      this.#recoverLater("ahead");
      return;
    }
    this.counters.confirms++;
    this.#backoff.reset();
    this.#unconfirmedTurns = 0;
    this.#trouble = null;
    this.#shortSinceMs = 0;
    while (this.#headSequence <= sequence) this.#confirmOne(this.#headSequence++);
    this.#pump();
    this.#wakeFlushes();
  }

  #confirmOne(sequence: number): void {
    const oldest = this.#ring.shift();
    if (oldest === null) return;
    this.counters.confirmedMessages++;
    this.#confirmedNumber = oldest.number;
    this.#confirmedSequence = sequence;
    this.#settle(oldest.number, sequence);
  }

  #settle(number: number, sequence: number | null): void {
    if (this.#acked.size === 0) return;
    this.#acked.get(number)?.(sequence);
    this.#acked.delete(number);
  }

  #wakeFlushes(): void {
    if (this.#ring.count > 0) return;
    for (const resolve of this.#flushes) resolve();
  }

  #arm(delayMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), delayMs);
    this.#timer.unref();
  }

  /** Runs every `askIntervalMs` while anything is unconfirmed, so that a message costs no timer of its own. */
  #tick(): void {
    this.#timer = null;
    if (this.#state === "down" || this.#ring.sent === 0) return;
    const busy = this.#sentSinceTick;
    this.#sentSinceTick = false;
    if (this.#asks > 0) {
      if (performance.now() - this.#askedMs >= this.#limits.ackTimeoutMs) {
        this.#timeout("ack timeout");
        return;
      }
    } else if (busy && this.#flushes.size === 0) {
      this.#askNext = true;
    } else {
      void this.#probe();
    }
    this.#arm(this.#limits.askIntervalMs);
  }

  /** There is no message to ask with: the stream's last sequence confirms as well. Never rejects. */
  async #probe(): Promise<void> {
    const generation = this.#generation;
    const client = this.#client;
    if (this.#probing || client === null) return;
    this.#probing = true;
    try {
      const jsm = await jetStreamOf(client);
      const { state } = await jsm.streams.info(streamName(this.#name));
      if (generation !== this.#generation) return;
      if (state.last_seq >= this.#headSequence) this.#confirm(state.last_seq);
      else if (this.#ring.sent > 0 && this.#asks === 0) this.#short();
    } catch {
      if (generation === this.#generation) this.#timeout("probe");
    } finally {
      this.#probing = false;
    }
    if (this.#flushes.size > 0 && this.#ring.sent > 0 && generation === this.#generation) this.#arm(FLUSH_POLL_MS);
  }

  /** Messages may still be on their way beside the probe. A stream that stays behind for longer has a hole. */
  #short(): void {
    const nowMs = performance.now();
    if (this.#shortSinceMs === 0) this.#shortSinceMs = nowMs;
    else if (nowMs - this.#shortSinceMs >= this.#limits.ackTimeoutMs) this.#timeout("short");
  }

  #timeout(reason: string): void {
    this.counters.ackTimeouts++;
    // A slow broker may do that once. One that has answered a recovery since then, and again confirms nothing, refuses.
    if (this.#state === "up") this.#unconfirmedTurns++;
    this.#note("its broker does not confirm what it is sent", this.#unconfirmedTurns > 1);
    this.#recoverLater(reason);
  }

  #set(state: PublisherState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#options.onStateChange?.(state);
  }
}

/** The stream's answer to a message that asked for one. */
interface PublishAnswer {
  /** 0 when it was refused. */
  sequence: number;
  code: number;
  text: string;
}

/** Parses an answer; an unreadable one counts as a refusal. Never throws. */
function parseAnswer(msg: Msg): PublishAnswer {
  if (msg.headers?.code === 503) return { sequence: 0, code: 503, text: "no stream takes the subject" };
  try {
    const { seq, error } = msg.json<{ seq?: number; error?: { err_code?: number; description?: string } }>();
    if (error === undefined && typeof seq === "number" && seq > 0) return { sequence: seq, code: 0, text: "" };
    return { sequence: 0, code: error?.err_code ?? 0, text: error?.description ?? "no sequence in the answer" };
  } catch {
    return { sequence: 0, code: 0, text: "the answer is not JSON" };
  }
}
