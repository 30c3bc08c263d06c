import { canonicalAddress, hostAddress } from "../config/address.js";
import type { Config, PeerConfig } from "../config/config.js";
import { parseName } from "../config/schema.js";
import type { Signature } from "../keys/signature.js";

/**
 * The announcement that a node sends to the group of `discover`: one datagram with one JSON object. Unknown keys are
 * ignored.
 *
 *   {"conntrail":1,"cluster":"edge","node":"fw1","address":"10.77.0.1","port":4222}
 *
 * `conntrail` is the version, `address` the node's `listen`, which must also be the datagram's source, `port` its
 * `broker.port`. With keys it also has `time`, `certificate` and `signature` (`signed-announcement.ts`).
 */
export interface Announcement {
  readonly cluster: string;
  readonly node: string;
  readonly address: string;
  readonly port: number;
}

/** What an announcement has in addition, when it is signed. */
export interface Signed extends Signature {
  /** When, in milliseconds since the Unix epoch. */
  readonly timeMs: number;
}

const VERSION = 1;

/** Longer datagrams are malformed. */
export const ANNOUNCEMENT_BYTES_MAX = 4096;

/** Most peers of a node with `discover`, including those of the configuration. */
export const PEERS_MAX = 16;

/** How many peers a node may get. */
export function peersMax({ discover, peers }: Config): number {
  return discover === null ? peers.length : Math.max(peers.length, PEERS_MAX);
}

/** Peers that may be added to a running node. */
const ADDED_MAX = 8;

/** How many peers' streams a node that was started with this configuration has room for. */
export function streamsMax(config: Config): number {
  return peersMax(config) + ADDED_MAX;
}

/** The bytes of an announcement, with its signature if there is one. */
export function encodeAnnouncement(
  { cluster, node, address, port }: Announcement,
  signed: Signed | null = null,
): Buffer {
  const more =
    signed === null ? {} : { time: signed.timeMs, certificate: signed.certificate, signature: signed.signature };
  return Buffer.from(JSON.stringify({ conntrail: VERSION, cluster, node, address, port, ...more }));
}

/** Null for anything but an announcement of a known version. */
export function decodeAnnouncement(bytes: Buffer): Announcement | null {
  return decodeSigned(bytes)?.announcement ?? null;
}

/** An announcement, and what it is signed with; null for anything else. */
export function decodeSigned(bytes: Buffer): { announcement: Announcement; signed: Signed | null } | null {
  if (bytes.length > ANNOUNCEMENT_BYTES_MAX) return null;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch {
    return null;
  }
  if (value === null || typeof value !== "object") return null;
  const { conntrail, ...found } = value as Record<string, unknown>;
  const cluster = parseName(found.cluster);
  const node = parseName(found.node);
  const address = hostAddress(found.address);
  const port = Number.isInteger(found.port) ? Number(found.port) : 0;
  if (conntrail !== VERSION || cluster === undefined || node === undefined || address === undefined) return null;
  if (port < 1 || port > 65_535) return null;
  return { announcement: { cluster, node, address, port }, signed: signatureIn(found) };
}

function signatureIn({ time, certificate, signature }: Record<string, unknown>): Signed | null {
  if (!Number.isSafeInteger(time) || typeof certificate !== "string" || typeof signature !== "string") return null;
  return { timeMs: Number(time), certificate, signature };
}

/** How a node judges an announcement. `refused` has the reason, and what to do. */
export type Verdict =
  | { readonly type: "own" | "foreign" | "known" | "found" }
  | { readonly type: "refused"; readonly reason: string };

/**
 * Judges whether an announcement comes from a new peer. It never changes a known peer's address, because anyone on the
 * link can send one.
 */
export function judgeAnnouncement(
  heard: Announcement,
  source: string,
  own: Announcement,
  peers: readonly PeerConfig[],
): Verdict {
  if (heard.cluster !== own.cluster) return { type: "foreign" };
  const { node, address, port } = heard;
  if (canonicalAddress(source) !== address) {
    return refused(`${node} announces ${address}, but from ${source}: its listen must be its address on this link`);
  }
  if (node === own.node || address === own.address) {
    if (node === own.node && address === own.address) return { type: "own" };
    return refused(`${node} at ${address} has the name or the address of this node: give each node its own`);
  }
  const same = peers.find((peer) => peer.node === node || peer.address === address);
  if (same !== undefined && (same.node !== node || same.address !== address)) {
    const where =
      same.discovered === true ? `take ${same.node} out of discovered.json in broker.store` : "correct peers";
    const remedy = `if this is right, stop the daemon, ${where}, start it`;
    return refused(`${node} announces ${address}, known is ${same.node} at ${same.address}: ${remedy}`);
  }
  if (port !== own.port) {
    return refused(`${node} has broker.port ${port}, this node ${own.port}: set the same on all nodes`);
  }
  if (same !== undefined) return { type: "known" };
  if (peers.length >= PEERS_MAX) return refused(`${node} at ${address} is one too many: ${PEERS_MAX} peers are known`);
  return { type: "found" };
}

function refused(reason: string): Verdict {
  return { type: "refused", reason };
}
