import {
  ErrorCode,
  type JetStreamManager,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  NatsError,
  type StreamConfig,
  type StreamInfo,
} from "nats";
import { ConntrailError, errorText } from "../errors.js";
import type { BrokerConnection } from "./connection.js";
import { kindOfSubject, type MessageKind, streamName, streamSubjects, subject } from "./format/subjects.js";
import { changeOf, type Retention, type StreamChange, streamConfig } from "./stream-config.js";

/** A message in the stream. */
export interface StoredMessage {
  kind: MessageKind | null;
  sequence: number;
  timeMs: number;
  payload: Uint8Array;
  /** In a copy of a peer's stream: the message's sequence in the peer's stream; 0 elsewhere. */
  origin: number;
  /** In a copy, for marks: where in the copy the last complete snapshot before it begins; 0 for none. */
  snapshot: number;
}

/** Headers of a message in a copy. */
export const ORIGIN_HEADER = "Ct-Origin";
export const SNAPSHOT_HEADER = "Ct-Snapshot";

/** The end of a stream. An empty stream has no `last` message, but keeps its sequence. */
export interface StreamTip {
  lastSequence: number;
  last: StoredMessage | null;
  /** The stream counts messages, but the last of them cannot be read: its store is damaged. */
  damaged: boolean;
}

const ERR_STREAM_NOT_FOUND = 10059;
const ERR_NO_MESSAGE_FOUND = 10037;
/** Insufficient storage, no limits for the account, tier and reservation limits, maximum bytes exceeded. */
const ERR_STORE_LIMITS: readonly number[] = [10023, 10028, 10047, 10120, 10121];

/**
 * Cluster incomplete, no suitable peers, not active, not assigned, not available, not the leader: servers of a shared
 * cluster are starting or away.
 */
const ERR_CLUSTER_NOT_READY: readonly number[] = [10004, 10005, 10006, 10007, 10008, 10009];

/** The number the JetStream API gives an error, or 0. */
export function apiErrorCode(error: unknown): number {
  return error instanceof NatsError ? (error.api_error?.err_code ?? 0) : 0;
}

/** True for the error of a stream that does not exist. */
function isStreamMissing(error: unknown): boolean {
  return apiErrorCode(error) === ERR_STREAM_NOT_FOUND;
}

/**
 * Creates the node's stream, or updates all of its settings to these. Returns what was changed of a stream that was there,
 * null for nothing. Single messages cannot be deleted from it: it is a record.
 * @throws ConntrailError STORE when the broker's store has no room for `bytesMax`, BROKER when it refuses otherwise;
 * a NatsError when the broker does not answer, or a cluster lacks servers: try again
 */
export async function ensureStream(
  jsm: JetStreamManager,
  node: string,
  retention: Retention,
): Promise<StreamChange | null> {
  const name = streamName(node);
  const wanted = streamConfig(node, retention);
  try {
    const found = (await findStream(jsm, name))?.config ?? null;
    if (found === null) {
      await jsm.streams.add(wanted);
      return null;
    }
    const change = changeOf(found, wanted);
    if (change === null) return null;
    const left = change.anew ? change : await update(jsm, change.config, wanted);
    if (!left?.worthNew) return change;
    await jsm.streams.delete(name);
    await jsm.streams.add(wanted);
    return { ...change, anew: true };
  } catch (error) {
    throw refusal(error, name, retention);
  }
}

/** What still differs when the server was asked to change settings in place; null for nothing. A refusal leaves all of them. */
async function update(
  jsm: JetStreamManager,
  config: Partial<StreamConfig>,
  wanted: ReturnType<typeof streamConfig>,
): Promise<StreamChange | null> {
  try {
    const updated = await jsm.streams.update(wanted.name, config);
    return changeOf(updated.config, wanted);
  } catch (error) {
    const code = apiErrorCode(error);
    if (code === 0 || ERR_CLUSTER_NOT_READY.includes(code) || ERR_STORE_LIMITS.includes(code)) throw error;
    const found = await findStream(jsm, wanted.name);
    return found === null ? null : changeOf(found.config, wanted);
  }
}

/**
 * Last sequence and last message of a stream, or null when there is no such stream. A store that a power cut tore counts messages
 * that it cannot give back, and nats-server 2.9 acknowledges more of them behind the tear: such a stream is `damaged`.
 */
export async function readTip(jsm: JetStreamManager, node: string): Promise<StreamTip | null> {
  const name = streamName(node);
  let before = -1;
  for (;;) {
    const state = (await findStream(jsm, name))?.state;
    if (state === undefined) return null;
    const lastSequence = state.last_seq;
    if (state.messages === 0) return { lastSequence, last: null, damaged: false };
    // nats-server 2.9 takes a zeroed record's sequence for the last one.
    if (lastSequence === 0) return { lastSequence, last: null, damaged: true };
    const last = await getMessage(jsm, name, { seq: lastSequence });
    // Between the two answers retention may have removed it, or more may have come; a second look tells.
    if (last !== null || lastSequence === before) return { lastSequence, last, damaged: last === null };
    before = lastSequence;
  }
}

/** The last message of a damaged stream that can be read; null when none can. Asks for some 60 messages at the most. */
export async function readLastSound(jsm: JetStreamManager, node: string): Promise<StoredMessage | null> {
  const name = streamName(node);
  const state = (await findStream(jsm, name))?.state;
  if (state === undefined || state.messages === 0) return null;
  const read = (sequence: number): Promise<StoredMessage | null> => getMessage(jsm, name, { seq: sequence });
  let unsound = state.last_seq || state.first_seq + state.messages;
  let found: StoredMessage | null = null;
  for (let back = 1; found === null && unsound > state.first_seq; back *= 2) {
    const at = Math.max(state.first_seq, unsound - back);
    found = await read(at);
    if (found === null) unsound = at;
  }
  while (found !== null && found.sequence + 1 < unsound) {
    const middle = found.sequence + Math.floor((unsound - found.sequence) / 2);
    const message = await read(middle);
    if (message === null) unsound = middle;
    else found = message;
  }
  return found;
}

/**
 * True when the stream still has a message that it confirmed, or has removed it by age or size. `isSame` tells whether what
 * stands there is that message.
 */
export async function hasKept(
  jsm: JetStreamManager,
  node: string,
  sequence: number,
  isSame: (message: StoredMessage) => boolean,
): Promise<boolean> {
  const name = streamName(node);
  const message = await getMessage(jsm, name, { seq: sequence });
  if (message !== null) return isSame(message);
  const state = (await findStream(jsm, name))?.state;
  return state !== undefined && state.first_seq > sequence;
}

/** True when the stream counts a message and does not give it back: it is damaged there. */
export async function lacksMessage(jsm: JetStreamManager, node: string, sequence: number): Promise<boolean> {
  const name = streamName(node);
  if ((await getMessage(jsm, name, { seq: sequence })) !== null) return false;
  const state = (await findStream(jsm, name))?.state;
  return state !== undefined && state.first_seq <= sequence && sequence <= state.last_seq;
}

/** Empties a damaged stream. Its sequences go on, and what is stored from now on can be read again. */
export async function emptyStream(jsm: JetStreamManager, node: string): Promise<void> {
  await jsm.streams.purge(streamName(node));
}

/** The last message of one kind, or null. Asks the stream's leader, so the answer is never outdated. */
export function readLastOf(jsm: JetStreamManager, node: string, kind: MessageKind): Promise<StoredMessage | null> {
  return getMessage(jsm, streamName(node), { last_by_subj: subject(node, kind) });
}

/** The last message of one kind, from any server that holds the stream. Needs only DIRECT.GET of it. */
export async function directLast(
  client: NatsConnection,
  node: string,
  kind: MessageKind,
  timeoutMs: number,
): Promise<StoredMessage | null> {
  const api = `$JS.API.DIRECT.GET.${streamName(node)}.${subject(node, kind)}`;
  return parseDirect(await client.request(api, "", { timeout: timeoutMs }));
}

/** The message at a sequence of the stream, or null when there is none. */
export async function directGet(
  client: NatsConnection,
  node: string,
  sequence: number,
  timeoutMs: number,
): Promise<StoredMessage | null> {
  const api = `$JS.API.DIRECT.GET.${streamName(node)}`;
  return parseDirect(await client.request(api, JSON.stringify({ seq: sequence }), { timeout: timeoutMs }));
}

/** The first message of a kind (null: of any) at or after a sequence of the stream; null when there is none. */
export async function directNext(
  client: NatsConnection,
  node: string,
  sequence: number,
  kind: MessageKind | null,
  timeoutMs: number,
): Promise<StoredMessage | null> {
  const api = `$JS.API.DIRECT.GET.${streamName(node)}`;
  const subjects = kind === null ? streamSubjects(node) : subject(node, kind);
  const query = JSON.stringify({ seq: Math.max(1, sequence), next_by_subj: subjects });
  return parseDirect(await client.request(api, query, { timeout: timeoutMs }));
}

/** The last message of any kind; null when there is none. */
export async function directEnd(
  client: NatsConnection,
  node: string,
  timeoutMs: number,
): Promise<StoredMessage | null> {
  const query = JSON.stringify({ last_by_subj: streamSubjects(node) });
  return parseDirect(await client.request(`$JS.API.DIRECT.GET.${streamName(node)}`, query, { timeout: timeoutMs }));
}

/** A direct answer is the message itself, with its place in headers. */
function parseDirect(msg: Msg): StoredMessage | null {
  const code = msg.headers?.code ?? 0;
  if (code === 404) return null;
  const sequence = Number(msg.headers?.get("Nats-Sequence"));
  const timeMs = Date.parse(msg.headers?.get("Nats-Time-Stamp") ?? "");
  if (!(sequence > 0) || Number.isNaN(timeMs)) {
    throw new ConntrailError("BROKER", `the broker's answer is no message: ${code} ${msg.headers?.description ?? ""}`);
  }
  const kind = kindOfSubject(msg.headers?.get("Nats-Subject") ?? "");
  return { kind, sequence, timeMs, payload: msg.data, ...copyHeaders(msg.headers) };
}

function copyHeaders(headers: MsgHdrs | undefined): { origin: number; snapshot: number } {
  return { origin: count(headers?.get(ORIGIN_HEADER)), snapshot: count(headers?.get(SNAPSHOT_HEADER)) };
}

function count(text: string | undefined): number {
  const value = Number(text ?? "");
  return Number.isSafeInteger(value) && value > 0 ? value : 0;
}

async function getMessage(
  jsm: JetStreamManager,
  name: string,
  query: { seq: number } | { last_by_subj: string },
): Promise<StoredMessage | null> {
  try {
    const message = await jsm.streams.getMessage(name, query);
    return {
      kind: kindOfSubject(message.subject),
      sequence: message.seq,
      timeMs: message.time.getTime(),
      payload: message.data,
      ...copyHeaders(message.header),
    };
  } catch (error) {
    const code = apiErrorCode(error);
    if (code === ERR_NO_MESSAGE_FOUND || code === ERR_STREAM_NOT_FOUND) return null;
    throw error;
  }
}

/** What a list has; nothing on a shared broker on which this node has no streams, as an observer. @throws NatsError */
export async function* oneByOne<T>(connection: BrokerConnection, list: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* list;
  } catch (error) {
    const { code } = error as { code?: unknown };
    const hasNone = code === ErrorCode.NoResponders || code === ErrorCode.JetStreamNotEnabled;
    if (!connection.isShared || !hasNone) throw error;
  }
}

/** Configuration and state of a stream, or null when there is none. */
export async function findStream(jsm: JetStreamManager, name: string): Promise<StreamInfo | null> {
  try {
    return await jsm.streams.info(name);
  } catch (error) {
    if (isStreamMissing(error)) return null;
    throw error;
  }
}

function refusal(error: unknown, name: string, retention: Retention): unknown {
  const code = apiErrorCode(error);
  if (code === 0 || ERR_CLUSTER_NOT_READY.includes(code)) return error;
  if (ERR_STORE_LIMITS.includes(code)) {
    const message = `the broker's store has no room for ${name} of ${retention.bytesMax} bytes (${errorText(error)}): lower broker.max_bytes, or raise max_file_store of the nats-server`;
    return new ConntrailError("STORE", message, { cause: error });
  }
  return new ConntrailError("BROKER", `the broker refused the stream ${name}: ${errorText(error)}`, { cause: error });
}
