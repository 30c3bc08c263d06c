/**
 * Connects the node to its peers: those of the configuration, and those that announce themselves. A discovered peer
 * joins only after its broker has answered, which with `tls` proves its name; its announcement must be signed then, too.
 */
import type { Logger } from "pino";
import type { Config, PeerConfig } from "../config/config.js";
import { peersMax, streamsMax } from "../discovery/announcement.js";
import { Discovery } from "../discovery/discovery.js";
import { AnnouncementKeys } from "../discovery/signed-announcement.js";
import { errorText } from "../errors.js";
import { hostPort } from "../stream/broker/broker-config.js";
import { type BrokerConnection, connectBroker } from "../stream/connection.js";
import { askCheck } from "../stream/flow-checks.js";
import { implausible } from "../stream/format/envelope.js";
import { createEnvelopeReader } from "../stream/format/mark.js";
import type { Formats } from "../stream/format/versions.js";
import { onHeartbeat } from "../stream/heartbeats.js";
import { READ_AHEAD_BYTES_MAX, StreamReader } from "../stream/reader.js";
import { inspectCopy, Replica } from "../stream/replica.js";
import { askNode } from "../stream/requests.js";
import type { Peers } from "../sync/peers.js";
import type { CopySource, PeerPort } from "../sync/ports/peer-stream.js";
import type { TakeDown } from "../sync/take-down.js";
import type { LinkKeys } from "./link-keys.js";
import type { Reload } from "./reload.js";
import type { StoreWatch } from "./store-watch.js";
import type { OwnBroker } from "./streams.js";

/** Time that a peer has to answer after it announced itself. If it is late, a later announcement is tried. */
const REACH_TIMEOUT_MS = 3000;

interface ReloadControls {
  readonly reload: Pick<Reload, "onReload">;
}

/** What the connections to peers need of the node. */
export interface PeerGround {
  readonly config: Config;
  readonly broker: OwnBroker;
  readonly keys: LinkKeys;
  readonly formats: Formats;
  readonly log: Logger;
  readonly stopping: AbortSignal;
}

/** Connections to the peers that the configuration lists. */
export function configuredPeers(ground: PeerGround): PeerPort[] {
  return ground.config.peers.map((peer) => openPeer(ground, peer));
}

/** Opens the connection to a peer. */
function openPeer(ground: PeerGround, peer: PeerConfig): PeerPort {
  const { config, broker, keys, log } = ground;
  const { node, address } = peer;
  const isShared = config.broker.mode === "shared";
  const connection = isShared ? broker.connection : connectPeer({ config, keys }, peer, log.child({ peer: node }));
  // A peer that was revoked is not trusted at the next connect, which is now.
  keys.onReaders(() => (isShared || keys.knows(node) ? undefined : connection.renew()));
  return {
    node,
    address,
    discovered: peer.discovered === true,
    stream: new StreamReader({
      connection,
      node,
      log: log.child({ peer: node }),
      ...(isShared ? sharedWindow(config) : {}),
    }),
    copy: isShared ? null : copySource(ground, node),
    reached: () => connection.connected,
    unreachable: () => (connection.connected ? null : unreachableText(address, connection.lastError)),
    hear: (heard) => onHeartbeat(connection, node, heard),
    ask: () => askNode(connection, node, "snapshot"),
    check: (payload) => askCheck(connection, node, payload),
    close: () => (isShared ? undefined : connection.close()),
  };
}

function unreachableText(address: string, error: string): string {
  return `its broker at ${address} does not answer${error === "" ? "" : `: ${error}`}`;
}

function connectPeer(
  { config, keys }: Pick<PeerGround, "config" | "keys">,
  peer: PeerConfig,
  log: Logger,
): BrokerConnection {
  return connectBroker({
    servers: [hostPort(peer.address, config.broker.port)],
    node: config.node,
    purpose: `follows ${peer.node}`,
    serverName: peer.node,
    ...(config.tls === null ? {} : { tls: config.tls }),
    login: config.broker.login,
    trusts: () => keys.knows(peer.node),
    onlyByName: keys.readers !== null,
    asksDaemon: keys.readers !== null,
    log,
  });
}

/**
 * Null when the peer's broker answers, which with `tls` proves its name, and has a stream that the peer has written.
 * Otherwise the reason why not.
 */
async function reachPeer(
  ground: PeerGround,
  peer: PeerConfig,
  log: Logger,
  stopping: AbortSignal,
): Promise<string | null> {
  const connection = connectPeer(ground, peer, log.child({}, { level: "silent" }));
  const close = (): Promise<void> => connection.close();
  stopping.addEventListener("abort", close, { once: true });
  try {
    await connection.ready(REACH_TIMEOUT_MS);
    const mark = await new StreamReader({ connection, node: peer.node, log }).readLast("mark");
    if (mark === null) return "its broker has no stream of that name";
    const envelope = createEnvelopeReader()(mark.payload);
    if (envelope === null) return "its stream is not one that this version reads";
    return implausible(envelope, peer.node, Math.max(Date.now(), mark.timeMs));
  } catch (error) {
    return errorText(error);
  } finally {
    stopping.removeEventListener("abort", close);
    await close();
  }
}

/** The window of a reader that shares its connection with those of all other peers. */
function sharedWindow(config: Config): { windowBytesMax: number } {
  return { windowBytesMax: Math.floor(READ_AHEAD_BYTES_MAX / Math.max(1, peersMax(config))) };
}

function copySource({ config, broker, formats, log: parent }: PeerGround, node: string): CopySource {
  const { connection, retention } = broker;
  const log = parent.child({ copyOf: node });
  return {
    inspect: () => inspectCopy(connection, node),
    open: (onLost, anew) => Replica.open({ node, connection, retention, formats, log, onLost, anew }),
    stream: new StreamReader({ connection, node, log, ...sharedWindow(config) }),
  };
}

/** Follows peers that are added to the configuration. One that is removed or moved needs a restart. */
export function reloadPeers(ground: PeerGround & { readonly controls: ReloadControls }, peers: Peers): void {
  const { controls, stopping } = ground;
  controls.reload.onReload(["peers."], async (next, changed) => {
    const known = new Set(peers.list.map(({ follower }) => follower.node));
    const added = next.peers.filter(({ node }) => changed.includes(`peers.${node}`) && !known.has(node));
    const room = Math.max(0, streamsMax(ground.config) - peers.list.length);
    const joining = added.slice(0, room);
    for (const peer of joining) await peers.join(openPeer(ground, peer), stopping);
    return changed.filter((key) => !joining.some(({ node }) => key === `peers.${node}`));
  });
}

/** Copying resumes whenever the own broker is connected again, and `store` hears of copies that it refuses. */
export function watchCopies(peers: Peers, { connection }: OwnBroker, store: StoreWatch, down: TakeDown): void {
  store.watchCopies(() => peers.followers.flatMap(({ copyRefusal }) => copyRefusal ?? []));
  down.push(
    connection.watch((connected) => {
      if (connected) peers.resumeCopies();
    }),
  );
}

/**
 * Null where the configuration does not ask for discovery. Peers that it finds join the others. `startDiscovery` starts
 * it.
 */
export function createDiscovery(ground: PeerGround, peers: Peers): Discovery | null {
  const { config, keys, log, stopping } = ground;
  const { discover } = config;
  if (discover === null) return null;
  const onPeer = async (peer: PeerConfig): Promise<void> => {
    if (!stopping.aborted) await peers.join(openPeer(ground, peer), stopping);
  };
  const reach = (peer: PeerConfig): Promise<string | null> => reachPeer(ground, peer, log, stopping);
  const announcing = config.tls === null ? null : new AnnouncementKeys(config.tls, (node) => keys.knows(node));
  if (announcing !== null) keys.onReaders(() => announcing.reload());
  return new Discovery({ config, discover, reach, onPeer, keys: announcing, log });
}

/** Starts discovery, which ends before the peers that it found do. */
export function startDiscovery(discovery: Discovery | null, down: TakeDown): void {
  if (discovery === null) return;
  down.push(() => discovery.close());
  discovery.start();
}
