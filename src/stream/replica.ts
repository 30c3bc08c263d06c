import type { Logger } from "pino";
import { API_TIMEOUT_MS, type BrokerConnection, jetStreamOf } from "./connection.js";
import { type Envelope, implausible, isAfter, type Position } from "./format/envelope.js";
import { createEnvelopeReader, MarkCodec } from "./format/mark.js";
import type { Formats } from "./format/versions.js";
import { emptyStream, ensureStream, readLastOf, readLastSound, readTip, type StoredMessage } from "./own-stream.js";
import { Publisher } from "./publisher.js";
import type { PublisherCounters, PublisherLimits, PublisherTrouble } from "./publisher-options.js";
import type { StreamMessage } from "./reader.js";
import type { Retention } from "./stream-config.js";
import type { Unconfirmed } from "./unconfirmed.js";

/** What a replica needs. */
export interface ReplicaOptions {
  /** The peer whose stream is copied. */
  node: string;
  /** This node's broker, which holds the copy. */
  connection: BrokerConnection;
  retention: Retention;
  /** Messages of versions that are not read are copied as well. */
  formats: Formats;
  log: Logger;
  /**
   * Messages were lost while the own broker was away: open the replica again and read from its tail. `isDamaged`: it lacks
   * a message in its middle, so open it anew.
   */
  onLost: (isDamaged: boolean) => void;
  /** Empties the copy first, because a reader has found it damaged. */
  anew?: boolean;
  limits?: Partial<PublisherLimits>;
}

/**
 * A copy is for restarts, and nobody waits for it: small messages share a write. All copies of a node are written at
 * multiples of this time, and so together.
 */
const GATHER_MS = 20;
const GATHER_MESSAGES_MAX = 64;
const GATHER_BYTES_MAX = 256 * 1024;

/** A copy has no epoch of its own: its messages are numbered by their place in it. */
const EPOCH = 0;

/** A snapshot without its end yet: its id, and where it begins in the copy. */
interface BegunSnapshot {
  readonly id: number;
  readonly sequence: number;
}

/** The snapshot that was incomplete when copying stopped, from the copy's last mark. */
function begunBy(last: StoredMessage, marks: MarkCodec): BegunSnapshot | null {
  const mark = marks.decode(last.payload)?.mark;
  return mark?.type === "snapshot-begin" ? { id: mark.id, sequence: last.sequence } : null;
}

/** The envelope of a message; null for what is none, and for what the peer cannot have written: it has no place in the copy. */
function envelopeOf(
  node: string,
  { payload, timeMs }: Pick<StoredMessage, "payload" | "timeMs">,
  read: (payload: Uint8Array) => Envelope | null,
): Envelope | null {
  const envelope = read(payload);
  if (envelope === null) return null;
  return implausible(envelope, node, Math.max(Date.now(), timeMs)) === null ? envelope : null;
}

/** What a copy holds, as far as it can be read. */
export interface CopyTail {
  /** Epoch of its last message; 0 when it is empty. */
  readonly epoch: number;
  /** Where its last complete snapshot begins, and its last message stands, in the copy. */
  readonly snapshotSequence: number;
  readonly lastSequence: number;
  /** Messages behind the last one cannot be read. */
  readonly damaged: boolean;
}

/** Looks at a copy and changes nothing. Rejects when the own broker is away. */
export async function inspectCopy(connection: BrokerConnection, node: string): Promise<CopyTail> {
  const client = await connection.ready(API_TIMEOUT_MS);
  const jsm = await client.jetstreamManager({ checkAPI: false, timeout: API_TIMEOUT_MS });
  const tip = await readTip(jsm, node);
  const damaged = tip?.damaged === true;
  const last = damaged ? await readLastSound(jsm, node) : (tip?.last ?? null);
  const envelope = last === null ? null : createEnvelopeReader()(last.payload);
  return {
    epoch: envelope?.epoch ?? 0,
    snapshotSequence: last?.snapshot ?? 0,
    lastSequence: last?.sequence ?? 0,
    damaged,
  };
}

/**
 * The copy of a peer's stream on the own broker, also named `CT_<peer>`: each message once and in the peer's order, so
 * that this node can rebuild the peer's table after the peer has died. This daemon is its only writer. A header holds
 * each message's sequence in the peer's stream, so that copying resumes there after any crash.
 */
export class Replica {
  readonly #node: string;
  readonly #connection: BrokerConnection;
  readonly #publisher: Publisher;
  readonly #envelopeOf = createEnvelopeReader();
  readonly #marks: MarkCodec;
  /** Sequence of the copy's last message, which is its number too. */
  #number: number;
  #tail: Position;
  #originSequence: number;
  #snapshotSequence: number;
  #begun: BegunSnapshot | null;
  /** Messages that were in the copy already. */
  known = 0;
  /** Messages that are none, or that the peer cannot have written. */
  malformed = 0;
  #lost = false;
  /** Messages that are appended and not handed to the publisher yet. */
  #gathered: Unconfirmed[] = [];
  #gatheredBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  readonly #onLost: ReplicaOptions["onLost"];

  private constructor(
    { node, connection, onLost }: ReplicaOptions,
    publisher: Publisher,
    marks: MarkCodec,
    state: {
      number: number;
      tail: Position;
      originSequence: number;
      snapshotSequence: number;
      begun: BegunSnapshot | null;
    },
  ) {
    this.#node = node;
    this.#connection = connection;
    this.#publisher = publisher;
    this.#marks = marks;
    this.#onLost = onLost;
    this.#number = state.number;
    this.#tail = state.tail;
    this.#originSequence = state.originSequence;
    this.#snapshotSequence = state.snapshotSequence;
    this.#begun = state.begun;
  }

  /**
   * Opens the copy, and creates it if there is none.
   * @throws ConntrailError STORE or BROKER when the broker refuses the stream; BROKER when it is away
   */
  static async open(options: ReplicaOptions): Promise<Replica> {
    const { node, connection, retention, log } = options;
    const client = await connection.ready(API_TIMEOUT_MS);
    const jsm = await jetStreamOf(client);
    await ensureStream(jsm, node, retention);
    let tip = await readTip(jsm, node);
    if (tip !== null && (tip.damaged || options.anew === true)) {
      log.error(
        { copyOf: node, lastSequence: tip.lastSequence },
        "the copy of the peer's stream is damaged, it is made anew",
      );
      await emptyStream(jsm, node);
      tip = await readTip(jsm, node);
    }
    const mark = await readLastOf(jsm, node, "mark");
    const last = tip?.last ?? null;
    const envelope = last === null ? null : envelopeOf(node, last, createEnvelopeReader());
    let replica: Replica | null = null;
    const publisher = new Publisher({
      node,
      epoch: EPOCH,
      connection,
      retention,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
      readNumber: (message) => ({ epoch: EPOCH, number: message.sequence }),
      log,
      onLost: () => {
        if (replica !== null) replica.#lose();
      },
      onDamaged: () => {
        if (replica !== null) replica.#lose();
      },
      older: {
        from: mark?.snapshot ?? 0,
        onHole: (sequence) => {
          log.error({ copyOf: node, sequence }, "the copy of the peer's stream lacks a message in its middle");
          if (replica !== null) replica.#lose(true);
        },
      },
      onStateChange: (state) => {
        if (state === "up" && replica !== null) replica.#check();
      },
    });
    await publisher.start();
    const marks = new MarkCodec(options.formats);
    replica = new Replica(options, publisher, marks, {
      number: tip?.lastSequence ?? 0,
      tail: envelope ?? { epoch: 0, number: 0 },
      originSequence: tip?.last?.origin ?? 0,
      snapshotSequence: mark?.snapshot ?? 0,
      begun: mark === null ? null : begunBy(mark, marks),
    });
    return replica;
  }

  /** Epoch and number of the last message of the copy; (0, 0) when it is empty. */
  get tail(): Position {
    return this.#tail;
  }

  /** Sequence of the copy's last message in the peer's stream; 0 when the copy is empty. */
  get originSequence(): number {
    return this.#originSequence;
  }

  /** True when it held messages and has none now: it was damaged, or all of it was removed. */
  get emptied(): boolean {
    return this.#originSequence === 0 && this.#number > 0;
  }

  /** Where in the copy its last complete snapshot begins; 0 when there is none. */
  get snapshotSequence(): number {
    return this.#snapshotSequence;
  }

  /** Stream sequence of the copy's last message. */
  get lastSequence(): number {
    return this.#number;
  }

  /** What the own broker has yet to confirm. Appending faster than it confirms loses messages: wait above a bound. */
  get backlog(): { readonly messages: number; readonly bytes: number } {
    const { messages, bytes } = this.#publisher.backlog;
    return { messages: messages + this.#gathered.length, bytes: bytes + this.#gatheredBytes };
  }

  /** Why the copy cannot be written, and since when; null while it can. */
  get trouble(): PublisherTrouble | null {
    return this.#publisher.trouble;
  }

  get counters(): Readonly<PublisherCounters> {
    return this.#publisher.counters;
  }

  /** Appends a message of the peer's stream, unless it is in the copy already. */
  append(message: StreamMessage): void {
    if (this.#lost) return;
    const envelope = envelopeOf(this.#node, message, this.#envelopeOf);
    if (envelope === null) {
      this.malformed++;
      return;
    }
    if (!isAfter(envelope, this.#tail)) {
      this.known++;
      return;
    }
    // A snapshot with a hole is useless.
    if (envelope.epoch !== this.#tail.epoch || envelope.number !== this.#tail.number + 1) this.#begun = null;
    this.#tail = { epoch: envelope.epoch, number: envelope.number };
    this.#originSequence = message.sequence;
    this.#number++;
    if (message.kind === "mark") this.#noteMark(message.payload);
    // The payload is a view into the client's buffer.
    const payload = new Uint8Array(message.payload);
    const origin = { sequence: message.sequence, snapshot: this.#snapshotSequence };
    this.#gathered.push({ kind: message.kind, number: this.#number, payload, origin });
    this.#gatheredBytes += payload.length;
    if (this.#gathered.length >= GATHER_MESSAGES_MAX || this.#gatheredBytes >= GATHER_BYTES_MAX) this.write();
    else this.#timer ??= setTimeout(() => this.write(), GATHER_MS - (performance.now() % GATHER_MS));
  }

  /** Hands what has gathered to the publisher at once. */
  write(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const messages = this.#gathered;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    for (const { kind, number, payload, origin } of messages) {
      if (this.#lost) return;
      // A message that does not fit would leave a permanent hole in the copy: end it here, and read again from its tail.
      if (this.#publisher.publish(kind, number, payload, origin) === "overflow") this.#lose();
    }
  }

  #lose(isDamaged = false): void {
    if (this.#lost) return;
    this.#lost = true;
    this.close();
    this.#onLost(isDamaged);
  }

  /** The own broker is back: it must hold everything that it confirmed. */
  #check(): void {
    if (this.#publisher.lastSequence !== this.#number - this.backlog.messages) this.#lose();
  }

  #noteMark(payload: Uint8Array): void {
    const mark = this.#marks.decode(payload)?.mark;
    if (mark?.type === "snapshot-begin") this.#begun = { id: mark.id, sequence: this.#number };
    if (mark?.type === "snapshot-end" && mark.id === this.#begun?.id) this.#snapshotSequence = this.#begun.sequence;
  }

  /**
   * Discards all that it holds: the peer's stream begins anew. Rejects when the own broker does not answer, and is then
   * as it was.
   */
  async empty(): Promise<void> {
    const client = await this.#connection.ready(API_TIMEOUT_MS);
    this.write();
    await this.#publisher.flush(API_TIMEOUT_MS);
    await emptyStream(await jetStreamOf(client), this.#node);
    this.#tail = { epoch: 0, number: 0 };
    this.#originSequence = 0;
    this.#snapshotSequence = 0;
    this.#begun = null;
  }

  /** True when everything appended is confirmed, false after `timeoutMs`. */
  flush(timeoutMs: number): Promise<boolean> {
    this.write();
    return this.#publisher.flush(timeoutMs);
  }

  /** Ends at once: `flush` first. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    this.#publisher.close();
  }
}
