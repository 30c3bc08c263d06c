/**
 * The package as a program sees it: `import { connections, follow, who } from "conntrail"`. It is what the commands `history` and
 * `who` use, with the objects that they print with `--json`. A program needs the rights that the commands need: it logs in to this
 * node's broker by the keys of the configuration.
 */
import { DEFAULT_CONFIG_PATH } from "../config/config-text.js";
import { ConntrailError } from "../errors.js";
import { formatAddress, parseAddress } from "../flow/address.js";
import type { FlowQuery } from "../flow/filter.js";
import { protocolNumber } from "../flow/protocol.js";
import type { HistorySource } from "../history/archive/archived-history.js";
import type { ConnectionChange, HistoryQuery } from "../history/connection.js";
import { type ConnectionJson, connectionToJson, type GapJson, gapToJson } from "../history/format/connection-json.js";
import { parseTime } from "../history/time.js";
import { collectWho, type WhoAnswer } from "../history/who-answer.js";
import { openHistory } from "./open-history.js";

/** A point in time: a Date, milliseconds since the Unix epoch, or a text as the commands take it (`"2 hours ago"`). */
export type Time = Date | number | string;

/** Where history is read from, and how long. */
export interface ReadOptions {
  /** The node's configuration file; left out: /etc/conntrail/conntrail.yaml. */
  readonly config?: string;
  /** Ends the reading; what was read until then has been given. */
  readonly signal?: AbortSignal;
  /** Called once, when all is read: where events may be missing in the range. */
  readonly onGaps?: (gaps: readonly GapJson[]) => void;
  /** Called with each file of the archive that cannot be read, and the reason. */
  readonly onDamaged?: (path: string, why: string) => void;
}

/** Which connections. All conditions must hold. */
export interface ConnectionsQuery extends FlowQuery {
  /** Connections that lived then or later; of `follow`: changes from then on. */
  readonly since?: Time;
  /** Connections that lived then or before. */
  readonly until?: Time;
  /** Connections that one of these nodes carried. */
  readonly nodes?: readonly string[];
  /** The newest so many; of `follow`: the reading ends after so many changes. */
  readonly limit?: number;
}

/** Which host had a public address. */
export interface WhoQuery {
  /** IPv4 or IPv6. */
  readonly address: string;
  /** A port, of ICMP the id; left out for protocols that have neither. */
  readonly port?: number;
  /** A protocol by name or number; left out: every protocol with ports. */
  readonly proto?: string;
  /** Left out: now. A text that names a whole second means all of it. */
  readonly at?: Time;
  /** So many answers at the most; left out: 1000. */
  readonly limit?: number;
}

/** Who it was. */
export interface WhoResult {
  readonly answers: readonly (WhoAnswer & { readonly connection: ConnectionJson })[];
  readonly gaps: readonly GapJson[];
}

/** A change of a connection. */
export type ChangeJson = { readonly change: ConnectionChange["type"] } & ConnectionJson;

const ANSWERS_DEFAULT = 1000;

/**
 * The connections of all nodes, out of streams and archive, each once, in the order of their ends, then those that are alive.
 * @throws ConntrailError USAGE for a query that cannot be read, CONFIG, BROKER, STORE
 */
export async function* connections(
  query: ConnectionsQuery = {},
  options: ReadOptions = {},
): AsyncGenerator<ConnectionJson, void, undefined> {
  const asked = historyQuery(query);
  yield* read(options, async function* (source, signal) {
    const answer = source.connections(asked, signal);
    for await (const batch of answer.connections) for (const each of batch) yield connectionToJson(each);
    options.onGaps?.(answer.gaps().map(gapToJson));
  });
}

/**
 * Changes as they are published, from now or `since` on, until the signal. Each end comes once, 20 s later, when no node can continue
 * the connection any more.
 * @throws as `connections`
 */
export async function* follow(
  query: ConnectionsQuery = {},
  options: ReadOptions = {},
): AsyncGenerator<ChangeJson, void, undefined> {
  const { limit = Number.POSITIVE_INFINITY } = query;
  const asked = historyQuery(query);
  yield* read(options, async function* (source, signal) {
    let left = limit;
    for await (const batch of source.follow(asked, signal, true)) {
      for (const { type, connection } of batch) {
        yield { change: type, ...connectionToJson(connection) };
        if (--left <= 0) return;
      }
    }
  });
}

/** The hosts that had a public address and port at a time; no answers where nobody had it. @throws as `connections` */
export async function who(query: WhoQuery, options: ReadOptions = {}): Promise<WhoResult> {
  const { address, port = 0, proto, at = Date.now(), limit = ANSWERS_DEFAULT } = query;
  const parsed = parseAddress(address);
  if (parsed === undefined) throw usage(`address: "${address}" is no IPv4 or IPv6 address`);
  if (!Number.isInteger(port) || port < 0 || port > 0xffff) throw usage(`port: ${port} is no number from 0 to 65535`);
  const protocol = proto === undefined ? null : protocolNumber(proto);
  if (protocol === undefined) throw usage(`proto: "${proto}" is no protocol`);
  const { ms, spanMs } = timeOf("at", at);
  const question = {
    address: formatAddress(parsed.words, 0, parsed.family),
    port,
    protocol,
    sinceMs: ms,
    untilMs: ms + spanMs - 1,
  };
  const results = read(options, async function* (source, signal) {
    const answer = source.who(question, signal);
    const found = await collectWho(answer, question, limit);
    const answers = found.map((each) => ({ ...each, connection: connectionToJson(each.connection) }));
    yield { answers, gaps: answer.gaps().map(gapToJson) };
  });
  for await (const result of results) {
    options.onGaps?.(result.gaps);
    return result;
  }
  return { answers: [], gaps: [] };
}

/** Runs a generator with the history, as one: the history is closed when the reader ends. */
async function* read<T>(
  { config = DEFAULT_CONFIG_PATH, signal = new AbortController().signal, onDamaged = () => undefined }: ReadOptions,
  use: (source: HistorySource, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
): AsyncGenerator<T, void, undefined> {
  const ended = new AbortController();
  const stop = AbortSignal.any([signal, ended.signal]);
  let opened: (source: HistorySource) => void = () => undefined;
  let release: () => void = () => undefined;
  const source = new Promise<HistorySource>((resolve) => {
    opened = resolve;
  });
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const closed = openHistory(config, onDamaged, (history) => {
    opened(history);
    return held;
  });
  try {
    const history = await Promise.race([source, closed.then(() => source)]);
    yield* use(history, stop);
  } finally {
    ended.abort();
    release();
    await closed;
  }
}

function historyQuery({ since, until, nodes = undefined, limit, ...filter }: ConnectionsQuery): HistoryQuery {
  return {
    sinceMs: since === undefined ? null : timeOf("since", since).ms,
    untilMs: until === undefined ? null : timeOf("until", until).ms,
    filter,
    nodes: nodes ?? null,
    limit: limit ?? null,
  };
}

function timeOf(name: string, time: Time): { readonly ms: number; readonly spanMs: number } {
  if (typeof time === "string") return parseTime(name, time, Date.now());
  const ms = Number(time);
  if (!Number.isFinite(ms)) throw usage(`${name}: ${String(time)} is no time`);
  return { ms, spanMs: 1 };
}

function usage(text: string): ConntrailError {
  return new ConntrailError("USAGE", text);
}
