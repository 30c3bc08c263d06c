/**
 * How a reader reaches a stream. On its own broker it asks JetStream itself. On a peer's broker it may not: whoever may
 * create consumers, or ask JetStream for anything with an answer, can direct what comes at any subject of that account, a
 * purge among them. So a peer's daemon makes the consumer, and the reader may only request its messages.
 */
import { randomUUID } from "node:crypto";
import { AckPolicy, DeliverPolicy, type JetStreamManager, type Msg, type NatsConnection } from "nats";
import { z } from "zod";
import { pause } from "../os/pause.js";
import { API_TIMEOUT_MS, type BrokerConnection, jetStreamOf } from "./connection.js";
import { readSubject, streamName } from "./format/subjects.js";
import { directEnd, directNext, findStream } from "./own-stream.js";
import { NANOS_PER_MS } from "./stream-config.js";

/** Which stream it is, and where it begins and ends. */
export interface StreamPlace {
  /** Another value: another stream of the same name. Null: its daemon was not there to say, nor to make a consumer. */
  readonly created: string | null;
  readonly first: number;
  readonly last: number;
}

/** What a reader needs of the stream of one node. Each call may reject with a NatsError, or when there is no answer. */
export interface StreamAccess {
  /** Null when there is no stream. */
  find(): Promise<StreamPlace | null>;
  /** Makes a consumer that begins at a sequence (0: at the first message), and resolves with its name. */
  consume(startSequence: number): Promise<string>;
  /** Deletes a consumer; false when there is none. */
  release(consumer: string): Promise<boolean>;
}

/** How long the consumer of a killed reader remains. A reader that is only slow makes a new one. */
const INACTIVE_THRESHOLD_MS = 10_000;
/** A reader has one consumer. More of its consumers are those that it has not released yet. */
const CONSUMERS_MAX = 4;
const REQUEST_BYTES_MAX = 256;
/**
 * When a reader asks where a stream is. A broker that was just started passes the first question on to nobody, because its
 * daemon does not listen yet.
 */
const FIND_AT_MS: readonly number[] = [0, 150, 450, 1050];
/** How long the daemon of a stream on a shared broker has to answer before the stream is read without it. */
const DAEMON_MS = 500;
/** A reader has few questions open at a time. What is more is no reader, and is not answered. */
const REQUESTS_MAX = 8;
/** The broker lets only nodes in that it knows, but one without keys lets everybody in. */
const READERS_MAX = 256;

/** The access that a connection gives to the stream of `node`. */
export async function streamAccess(
  connection: BrokerConnection,
  client: NatsConnection,
  node: string,
  timeoutMs = API_TIMEOUT_MS,
): Promise<StreamAccess> {
  const name = connection.nameOf(node);
  if (!connection.asksDaemonOf(node)) {
    return new JetStreamAccess(await jetStreamOf(client, timeoutMs), name, connection.node);
  }
  const asked = new AskedAccess(client, name, connection.node);
  return connection.isShared ? new SharedAccess(client, name, asked) : asked;
}

/** Through JetStream's own interface. */
class JetStreamAccess implements StreamAccess {
  readonly #jsm: JetStreamManager;
  readonly #name: string;
  readonly #reader: string;

  constructor(jsm: JetStreamManager, name: string, reader: string) {
    this.#jsm = jsm;
    this.#name = name;
    this.#reader = reader;
  }

  async find(): Promise<z.infer<typeof placeSchema> | null> {
    const info = await findStream(this.#jsm, streamName(this.#name));
    if (info === null) return null;
    return { created: String(info.created), first: info.state.first_seq, last: info.state.last_seq };
  }

  async consume(startSequence: number): Promise<string> {
    // Who knows the name can request its messages.
    const name = `${consumerPrefix(this.#reader)}${randomUUID()}`;
    await this.#jsm.consumers.add(streamName(this.#name), {
      name,
      ack_policy: AckPolicy.None,
      mem_storage: true,
      num_replicas: 1,
      inactive_threshold: INACTIVE_THRESHOLD_MS * NANOS_PER_MS,
      ...(startSequence === 0
        ? { deliver_policy: DeliverPolicy.All }
        : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: startSequence }),
    });
    return name;
  }

  release(consumer: string): Promise<boolean> {
    return this.#jsm.consumers.delete(streamName(this.#name), consumer);
  }
}

function consumerPrefix(reader: string): string {
  return `conntrail_${reader}_`;
}

const requestSchema = z.union([
  z.strictObject({ find: z.literal(true) }),
  z.strictObject({ consume: z.int().min(0) }),
  z.strictObject({ release: z.string().max(128) }),
]);
type Request = z.infer<typeof requestSchema>;

const placeSchema = z.object({ created: z.string().max(64), first: z.int().min(0), last: z.int().min(0) });
const answerSchema = z.union([
  z.object({ place: placeSchema.nullable() }),
  z.object({ consumer: z.string().regex(/^[A-Za-z0-9_-]{1,128}$/) }),
  z.object({ released: z.boolean() }),
  z.object({ error: z.string().max(512) }),
]);
type Answer = z.infer<typeof answerSchema>;

/** By requests to the daemon that writes the stream. */
class AskedAccess implements StreamAccess {
  readonly #client: NatsConnection;
  readonly #subject: string;

  constructor(client: NatsConnection, name: string, reader: string) {
    this.#client = client;
    this.#subject = readSubject(name, reader);
  }

  async find(): Promise<StreamPlace | null> {
    const answer = await this.#askAgain({ find: true });
    if ("place" in answer) return answer.place;
    throw refusal(answer);
  }

  async consume(startSequence: number): Promise<string> {
    const answer = await this.#ask({ consume: startSequence });
    if ("consumer" in answer) return answer.consumer;
    throw refusal(answer);
  }

  async release(consumer: string): Promise<boolean> {
    const answer = await this.#ask({ release: consumer });
    return "released" in answer && answer.released;
  }

  /** Asks several times, and takes the first answer. Only for what changes nothing. */
  async #askAgain(request: Request): Promise<Answer> {
    const answered = new AbortController();
    const { signal } = answered;
    const asks = FIND_AT_MS.map(async (atMs) => {
      if (atMs > 0) await pause(atMs, signal, { ref: false });
      if (signal.aborted) throw new Error("there is an answer already");
      return this.#ask(request, API_TIMEOUT_MS - atMs);
    });
    try {
      return await Promise.any(asks);
    } catch (error) {
      throw error instanceof AggregateError ? error.errors[0] : error;
    } finally {
      answered.abort();
    }
  }

  async #ask(request: Request, timeoutMs = API_TIMEOUT_MS): Promise<Answer> {
    const message = await this.#client.request(this.#subject, JSON.stringify(request), { timeout: timeoutMs });
    return answerSchema.parse(JSON.parse(message.string()));
  }
}

/** By requests to the daemon, and where that is silent by requests for single messages: the stream outlives the daemon. */
class SharedAccess implements StreamAccess {
  readonly #client: NatsConnection;
  readonly #name: string;
  readonly #asked: AskedAccess;

  constructor(client: NatsConnection, name: string, asked: AskedAccess) {
    this.#client = client;
    this.#name = name;
    this.#asked = asked;
  }

  async find(): Promise<StreamPlace | null> {
    const silent = new AbortController();
    const asked = this.#asked.find().finally(() => silent.abort());
    // Whoever is asked below may be sooner to refuse than the daemon is to answer.
    asked.catch(() => undefined);
    await pause(DAEMON_MS, silent.signal, { ref: false });
    const found = silent.signal.aborted ? await asked.catch(() => undefined) : undefined;
    return found === undefined ? this.#look().catch(() => asked) : found;
  }

  consume(startSequence: number): Promise<string> {
    return this.#asked.consume(startSequence);
  }

  release(consumer: string): Promise<boolean> {
    return this.#asked.release(consumer);
  }

  async #look(): Promise<StreamPlace> {
    const first = await directNext(this.#client, this.#name, 1, null, API_TIMEOUT_MS);
    const last = await directEnd(this.#client, this.#name, API_TIMEOUT_MS);
    return { created: null, first: first?.sequence ?? 1, last: last?.sequence ?? 0 };
  }
}

function refusal(answer: Answer): Error {
  return new Error("error" in answer ? answer.error : "the peer's daemon gave another answer");
}

/**
 * Answers those who read this node's stream through its own broker, also after reconnects, until the returned function
 * is called. A reader can make consumers and delete its own, nothing else.
 */
export function serveReaders(connection: BrokerConnection, node: string): () => void {
  const name = connection.nameOf(node);
  const consumers = new Map<string, string[]>();
  /** Requests that are being answered, by reader. */
  const open = new Map<string, number>();
  const answer = async (client: NatsConnection, message: Msg): Promise<void> => {
    const reader = message.subject.slice(readSubject(name, "").length);
    const before = open.get(reader) ?? 0;
    if (before >= REQUESTS_MAX) return;
    open.set(reader, before + 1);
    const reply = await answerTo(client, { name, reader, consumers }, message).catch(() => ({ error: "refused" }));
    const left = (open.get(reader) ?? 1) - 1;
    if (left > 0) open.set(reader, left);
    else open.delete(reader);
    if (!client.isClosed()) message.respond(JSON.stringify(reply));
  };
  return connection.subscribe(readSubject(name, "*"), (client, message) => void answer(client, message));
}

interface Readers {
  /** Whose stream, as the broker calls it. */
  readonly name: string;
  readonly reader: string;
  readonly consumers: Map<string, string[]>;
}

async function answerTo(client: NatsConnection, readers: Readers, message: Msg): Promise<Answer> {
  if (message.data.length > REQUEST_BYTES_MAX) return { error: "the request is too long" };
  const { name, reader, consumers } = readers;
  const request = requestSchema.parse(JSON.parse(message.string()));
  const access = new JetStreamAccess(await jetStreamOf(client), name, reader);
  if ("find" in request) return { place: await access.find() };
  const names = consumers.get(reader) ?? [];
  if ("release" in request) {
    if (!request.release.startsWith(consumerPrefix(reader))) return { error: "this consumer is another's" };
    consumers.set(
      reader,
      names.filter((name) => name !== request.release),
    );
    return { released: await access.release(request.release) };
  }
  if (names.length === 0 && consumers.size >= READERS_MAX) return { error: "there are too many readers" };
  const consumer = await access.consume(request.consume);
  const kept = [...(consumers.get(reader) ?? []), consumer];
  consumers.set(reader, kept.slice(-CONSUMERS_MAX));
  for (const old of kept.slice(0, -CONSUMERS_MAX)) void access.release(old).catch(() => false);
  return { consumer };
}
