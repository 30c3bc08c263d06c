import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { Config, PeerConfig } from "../config/config.js";
import { Discovery } from "../discovery/discovery.js";
import { errorText } from "../errors.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { hostPort } from "../stream/broker/broker-config.js";
import { type BrokerConnection, connectBroker } from "../stream/connection.js";
import { StreamReader } from "../stream/reader.js";
import { Replica } from "../stream/replica.js";
import { askSnapshot } from "../stream/snapshot-request.js";
import { Applier, type LocalFlows } from "../sync/in/applier.js";
import { Follower } from "../sync/in/follower.js";
import type { CopySource } from "../sync/ports/peer-stream.js";
import type { OwnBroker, TakeDown } from "./streams.js";

/** How long a peer that announced itself may take to answer; it announces itself again. */
const REACH_TIMEOUT_MS = 3000;

/** A follower and where its peer is. */
export interface Peer {
  readonly follower: Follower;
  readonly address: string;
  readonly discovered: boolean;
  /** True while its broker is connected. */
  readonly reached: () => boolean;
}

/** What all followers of a node share. */
export interface PeerParts {
  readonly external: ExternalCache;
  /** Null on an observer, which has no kernel. */
  readonly local: LocalFlows | null;
  readonly hybridClock: HybridClock;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A follower for each peer, not running yet. */
export function createPeers(config: Config, broker: OwnBroker, parts: PeerParts, down: TakeDown): Peer[] {
  return config.peers.map((peer) => createPeer(config, peer, broker, parts, down));
}

/** A follower for a peer, not running yet. */
export function createPeer(
  config: Config,
  peer: PeerConfig,
  broker: OwnBroker,
  parts: PeerParts,
  down: TakeDown,
): Peer {
  const { node, address } = peer;
  const { clock, log } = parts;
  const shared = config.broker.mode === "shared";
  const connection = shared ? broker.connection : connectPeer(config, peer, log.child({ peer: node }));
  if (!shared) down.push(() => connection.close());
  const applier = new Applier({ ...parts, node });
  const follower = new Follower({
    stream: new StreamReader({ connection, node, log: log.child({ peer: node }) }),
    copy: shared ? null : copySource(node, broker, log.child({ copyOf: node })),
    applier,
    whole: config.mode === "observer",
    ask: () => askSnapshot(connection, node),
    clock,
    log,
  });
  if (!shared) {
    const unwatch = broker.connection.watch((connected) => {
      if (connected) follower.resumeCopy();
    });
    down.push(unwatch);
  }
  return { follower, address, discovered: peer.discovered === true, reached: () => connection.connected };
}

function connectPeer(config: Config, peer: PeerConfig, log: Logger): BrokerConnection {
  return connectBroker({
    servers: [hostPort(peer.address, config.broker.port)],
    node: config.node,
    purpose: `follows ${peer.node}`,
    serverName: peer.node,
    ...(config.tls === null ? {} : { tls: config.tls }),
    log,
  });
}

/** Null when the peer's broker answers, which with `tls` proves its name; else why not. */
export async function reachPeer(
  config: Config,
  peer: PeerConfig,
  log: Logger,
  stopping: AbortSignal,
): Promise<string | null> {
  const connection = connectPeer(config, peer, log.child({}, { level: "silent" }));
  const close = (): Promise<void> => connection.close();
  stopping.addEventListener("abort", close, { once: true });
  try {
    await connection.ready(REACH_TIMEOUT_MS);
    return null;
  } catch (error) {
    return errorText(error);
  } finally {
    stopping.removeEventListener("abort", close);
    await close();
  }
}

function copySource(node: string, broker: OwnBroker, log: Logger): CopySource {
  const { connection, retention } = broker;
  return {
    open: (onLost) => Replica.open({ node, connection, retention, log, onLost }),
    stream: new StreamReader({ connection, node, log }),
  };
}

/** Lets the followers run until the signal, and waits for them at the end. */
export function runPeers(peers: readonly Peer[], stopping: AbortSignal, down: TakeDown): void {
  const running = peers.map(({ follower }) => follower.run(stopping));
  down.push(async () => {
    await Promise.all(running);
  });
}

/**
 * Null where the configuration does not want it. Peers that it finds join `known`, which the whole node looks at, and are followed;
 * `start` begins.
 */
export function createDiscovery(
  config: Config,
  broker: OwnBroker,
  parts: PeerParts,
  known: { readonly peers: Peer[]; readonly followers: Follower[] },
  stopping: AbortSignal,
  down: TakeDown,
): Discovery | null {
  const { discover } = config;
  if (discover === null) return null;
  const onPeer = async (peerConfig: PeerConfig): Promise<void> => {
    if (stopping.aborted) return;
    const peer = createPeer(config, peerConfig, broker, parts, down);
    await peer.follower.restore(stopping);
    if (stopping.aborted) return;
    known.peers.push(peer);
    known.followers.push(peer.follower);
    runPeers([peer], stopping, down);
  };
  const reach = (peer: PeerConfig): Promise<string | null> => reachPeer(config, peer, parts.log, stopping);
  return new Discovery({ config, discover, reach, onPeer, log: parts.log });
}

/** Lets discovery begin, and end before the peers that it found. */
export function startDiscovery(discovery: Discovery | null, down: TakeDown): void {
  if (discovery === null) return;
  down.push(() => discovery.close());
  discovery.start();
}
