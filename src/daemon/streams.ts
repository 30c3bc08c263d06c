/**
 * This node's own broker and stream. A node starts only if its broker answers, and it begins a new epoch only after it
 * has read where its stream ends.
 */

import type { Logger } from "pino";
import type { InternalCache } from "../cache/internal.js";
import type { Config } from "../config/config.js";
import type { BrokerStatus, PublisherStatus } from "../control/protocol.js";
import { peersMax, streamsMax } from "../discovery/announcement.js";
import { ConntrailError, errorText } from "../errors.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { pause } from "../os/pause.js";
import { SHARED_REPLICAS } from "../stream/broker/access.js";
import { EmbeddedBroker, warnOfHoles } from "../stream/broker/broker.js";
import { parseBrokerVersion } from "../stream/broker/broker-config.js";
import { storedStreams } from "../stream/broker/broker-host.js";
import { type BrokerConnection, connectBroker, OWN_QUIET_MS, readSecret } from "../stream/connection.js";
import type { Heartbeat } from "../stream/format/heartbeat.js";
import { createEnvelopeReader } from "../stream/format/mark.js";
import { streamName } from "../stream/format/subjects.js";
import type { Formats } from "../stream/format/versions.js";
import { sendHeartbeat } from "../stream/heartbeats.js";
import { readLastOf, readLastSound, readTip } from "../stream/own-stream.js";
import { Publisher } from "../stream/publisher.js";
import { StreamReader } from "../stream/reader.js";
import { onAsked } from "../stream/requests.js";
import { serveReaders } from "../stream/stream-access.js";
import type { Retention } from "../stream/stream-config.js";
import type { OwnTail } from "../sync/in/restore.js";
import { type OwnPast, readOwnPast } from "../sync/own-past.js";
import type { OwnStream, OwnStreamListener } from "../sync/ports/own-stream.js";
import type { TakeDown } from "../sync/take-down.js";
import type { LinkKeys } from "./link-keys.js";
import { ownBrokerAccess } from "./own-broker.js";
import { StoreWatch } from "./store-watch.js";

/** Time that the own broker has to answer at the start. It reads a large store first. */
const CONNECT_TIMEOUT_MS = 60_000;
const TAIL_RETRY_MS = 500;
/** The broker's timers may be as late as a message may wait, which wakes it less often, but never later than this. */
const BROKER_TIMER_SLACK_MS_MAX = 5;
/** Limit of other nodes' streams that get room. Anyone who reaches the broker could create any number of them. */
const LEFT_OVER_MAX = 16;

/** This node's access to its own streams: the broker, if it is a child of this daemon, and a connection to it. */
export interface OwnBroker {
  readonly embedded: EmbeddedBroker | null;
  readonly connection: BrokerConnection;
  readonly retention: Retention;
  status(): BrokerStatus;
}

/** Starts the embedded broker if this node has one, and connects. Throws ConntrailError if that fails. */
export async function openBroker(config: Config, keys: LinkKeys, log: Logger, down: TakeDown): Promise<OwnBroker> {
  const { mode, port, store, bytesMax, maxAgeSeconds, encryptionKey, login } = config.broker;
  const tls = config.tls === null ? {} : { tls: config.tls };
  let embedded: EmbeddedBroker | null = null;
  if (mode === "embedded") {
    const leftOver = await leftOverStreams(config, log);
    embedded = new EmbeddedBroker({
      node: config.node,
      listen: { host: config.listen, port },
      storeDir: store,
      // One stream for each node of the cluster: the own one, and a copy for each peer.
      storeBytesMax: bytesMax * (streamsMax(config) + 1 + leftOver),
      ...(encryptionKey === null ? {} : { encryptionKey }),
      ...tls,
      ...(keys.readers === null ? {} : { readers: keys.readers }),
      ...(login === null ? {} : { login, token: secretOf(login.file) }),
      timerSlackMs: Math.min(BROKER_TIMER_SLACK_MS_MAX, config.publishIntervalMs),
      log: log.child({ part: "broker" }),
    });
    down.push(() => embedded?.stop());
    await embedded.start();
    const started = embedded;
    keys.onReaders((readers) => started.reload(keys.readers === null ? undefined : readers));
  }
  const access = ownBrokerAccess(config);
  const connection = connectBroker({
    ...access,
    purpose: "own streams",
    ...(embedded === null ? {} : { quietMs: OWN_QUIET_MS }),
    log,
  });
  down.push(() => connection.close());
  // Before anything else: readers that come now get no answer from anybody, and ask again only after a while.
  down.push(serveReaders(connection, config.node));
  await connection.ready(CONNECT_TIMEOUT_MS);
  const version = embedded === null ? parseBrokerVersion(`v${connection.version}`) : null;
  if (version !== null) warnOfHoles(version, log);
  const replicas = mode === "shared" ? { replicas: SHARED_REPLICAS } : {};
  return {
    embedded,
    connection,
    retention: { maxAgeMs: maxAgeSeconds * 1000, bytesMax, ...replicas },
    status: () => ({
      mode,
      state: connection.connected ? "up" : (embedded?.state ?? "unreachable"),
      url: access.servers.join(","),
      version: connection.version,
      restarts: embedded?.restarts ?? 0,
    }),
  };
}

function secretOf(path: string): string {
  try {
    return readSecret(path);
  } catch (error) {
    throw new ConntrailError("CONFIG", `broker.login: ${errorText(error)}`, { cause: error });
  }
}

/**
 * Number of streams of nodes that the configuration no longer names, because a node was replaced, renamed or moved to
 * another address. They keep their room until they are removed by hand, and must not keep this node from starting.
 */
async function leftOverStreams(config: Config, log: Logger): Promise<number> {
  const known = new Set([config, ...config.peers].map(({ node }) => streamName(node)));
  const streams = (await storedStreams(config.broker.store)).filter((name) => !known.has(name));
  if (streams.length === 0) return 0;
  log.warn(
    { store: config.broker.store, streams },
    "the store has streams of nodes that the configuration does not name",
  );
  return Math.min(streams.length, LEFT_OVER_MAX);
}

/**
 * Reads where the own stream ends. Its leader is asked, because another server of a shared cluster may lag behind. Such
 * a cluster may have no leader for a while.
 */
async function readOwnTail(connection: BrokerConnection, node: string, stopping: AbortSignal): Promise<OwnTail> {
  const deadlineMs = performance.now() + CONNECT_TIMEOUT_MS;
  for (;;) {
    const client = await connection.ready(CONNECT_TIMEOUT_MS);
    try {
      const jsm = await client.jetstreamManager({ checkAPI: false });
      const name = connection.nameOf(node);
      const lastMark = await readLastOf(jsm, name, "mark");
      const tip = await readTip(jsm, name);
      const lastSequence = tip?.lastSequence ?? 0;
      const last = tip?.last ?? null;
      const timeMs = last?.timeMs ?? 0;
      if (!tip?.damaged)
        return { lastMark: lastMark?.payload ?? null, last: last?.payload ?? null, lastSequence, timeMs };
      const sound = await readLastSound(jsm, name);
      const damage = { lastSound: sound?.payload ?? null };
      return { lastMark: null, lastSequence, timeMs: sound?.timeMs ?? 0, damage };
    } catch (error) {
      if (stopping.aborted || performance.now() > deadlineMs) {
        const why = `${errorText(error)}; does its JetStream run, and has a cluster enough of its servers up?`;
        throw new ConntrailError("BROKER", `the broker does not tell of the stream of ${node}: ${why}`, {
          cause: error,
        });
      }
      await pause(TAIL_RETRY_MS, stopping);
    }
  }
}

/** Rebuilds the internal cache from the own stream. */
export async function readPast(
  config: Config,
  { connection }: OwnBroker,
  parts: { internal: InternalCache; formats: Formats; clock: Clock; hybridClock: HybridClock; log: Logger },
  stopping: AbortSignal,
): Promise<OwnPast> {
  const { node } = config;
  const tail = await readOwnTail(connection, node, stopping);
  const reader = new StreamReader({ connection, node, log: parts.log });
  return readOwnPast(reader, tail, { ...parts, node }, stopping);
}

/** Watches the store of a node that publishes nothing and keeps copies. */
export async function watchStore(config: Config, broker: OwnBroker, log: Logger, down: TakeDown): Promise<StoreWatch> {
  const path = config.broker.store;
  const store = new StoreWatch({ path, publisher: null, broker: broker.embedded, log });
  await startStoreWatch(store, config, down);
  return store;
}

async function startStoreWatch(store: StoreWatch, config: Config, down: TakeDown): Promise<void> {
  await store.start(config.broker.bytesMax * (peersMax(config) + 1));
  down.push(() => store.stop());
}

/** This node's own stream on its broker, open for writing in a new epoch. */
export class PublishedStream implements OwnStream {
  readonly sink: Publisher;
  /** Reports why published messages do not reach the store. */
  readonly store: StoreWatch;
  readonly #node: string;
  readonly #connection: BrokerConnection;
  #listener: OwnStreamListener | null = null;

  /** Throws ConntrailError STORE or BROKER when the broker refuses the stream. */
  static async open(
    config: Config,
    broker: OwnBroker,
    epoch: number,
    log: Logger,
    down: TakeDown,
  ): Promise<PublishedStream> {
    const stream = new PublishedStream(config, broker, epoch, log);
    await stream.sink.start();
    down.push(() => stream.sink.close());
    await startStoreWatch(stream.store, config, down);
    return stream;
  }

  private constructor(config: Config, { embedded, connection, retention }: OwnBroker, epoch: number, log: Logger) {
    const { node } = config;
    this.#node = node;
    this.#connection = connection;
    const readEnvelope = createEnvelopeReader();
    this.sink = new Publisher({
      node,
      epoch,
      connection,
      retention,
      readNumber: (message) => readEnvelope(message.payload),
      log,
      onLost: (first, last, reason) => {
        log.warn({ first, last, reason }, "messages are not in the stream; a snapshot follows");
        this.#listener?.lost(reason);
      },
    });
    const path = config.broker.store;
    this.store = new StoreWatch({ path, publisher: this.sink, broker: embedded, log });
  }

  listen(listener: OwnStreamListener): () => void {
    this.#listener = listener;
    return onAsked(this.#connection, this.#node, (request) => listener.asked(request));
  }

  get trouble(): string | null {
    return this.store.trouble;
  }

  beat(heartbeat: Heartbeat): void {
    sendHeartbeat(this.#connection, heartbeat);
  }

  flush(timeoutMs: number): Promise<boolean> {
    return this.sink.flush(timeoutMs);
  }

  /** The stream as `status` reports it. */
  get status(): PublisherStatus {
    const { state, confirmedNumber, backlog } = this.sink;
    return { state, confirmedNumber, unconfirmed: backlog.messages };
  }
}
