/**
 * Decides whether a peer is in sync. It is, only while all of this is proven:
 *
 * - its daemon was heard recently
 * - it is the node and the cluster that the configuration names
 * - this node reads its format version
 * - what it publishes reaches its stream
 * - this node has applied that stream up to the position that the daemon named
 * - nothing was refused since the last complete snapshot
 * - this node holds as many flows as the peer reports
 * - the copy of its stream on this node is sound
 *
 * Whatever is unknown counts against the peer.
 */
import type { Heartbeat } from "../../stream/format/heartbeat.js";

/** What is known about one peer at a moment. Times are milliseconds of one monotonic clock. */
export interface PeerEvidence {
  /** The peer as the configuration names it. */
  readonly expected: { readonly node: string; readonly cluster: string; readonly address: string };
  /** This node's own name. */
  readonly self: string;
  /** Why the peer's broker cannot be reached; null while it is connected. */
  readonly unreachable: string | null;
  /** The last heartbeat, and its age; null: none has come yet. */
  readonly heartbeat: Heartbeat | null;
  readonly silentMs: number;
  /** Heartbeats of two epochs alternate: two daemons use one name. */
  readonly doubled: boolean;
  /** The position up to which this node has applied the peer's stream. */
  readonly applied: { readonly epoch: number; readonly number: number };
  /**
   * The position that must be applied by now: that of the heartbeat before the last, or of the last after a silence; null
   * when there is none yet.
   */
  readonly due: { readonly epoch: number; readonly number: number } | null;
  /** The table is held exactly: a complete snapshot was read, and no batch number has been missing since. */
  readonly exact: boolean;
  /** Messages and rows refused since the last complete snapshot, and the reason for the last one. */
  readonly refused: number;
  readonly refusal: string;
  /** Flows that found no room in the external cache. */
  readonly noRoom: number;
  /**
   * Difference between the flows held here and the flows the peer reports for the same position, in two heartbeats in a
   * row.
   */
  readonly missing: number;
  /** What is wrong with the copy of the peer's stream on this node; null while it is sound, or where none is kept. */
  readonly copyTrouble: string | null;
  /** Why its stream is not read for a while; null while it is read. */
  readonly aside: string | null;
}

/** Format versions that this node reads. */
export interface EvidenceLimits {
  /** How long a daemon may be silent, milliseconds. */
  readonly silenceMsMax: number;
  readonly reads: readonly number[];
}

/**
 * Why a peer is not in sync, in words for the operator; null when it is in sync. The most serious reason comes first.
 */
export function reasonAgainst(evidence: PeerEvidence, limits: EvidenceLimits): string | null {
  return identityReason(evidence) ?? daemonReason(evidence, limits) ?? tableReason(evidence);
}

/** The peer cannot be reached, or is not the one that the configuration names. */
function identityReason({ expected, self, unreachable, heartbeat, doubled }: PeerEvidence): string | null {
  const { address } = expected;
  if (unreachable !== null) return unreachable === "" ? `its broker at ${address} does not answer` : unreachable;
  if (heartbeat === null) return null;
  const { node, cluster } = heartbeat;
  if (node === self) return `${address} is also called ${self}: give each node a name of its own`;
  if (node !== expected.node) return `${address} is node ${node}, not ${expected.node}`;
  if (cluster !== expected.cluster) return `${address} belongs to the cluster ${cluster}, not ${expected.cluster}`;
  return doubled ? `two daemons call themselves ${node}: give each node a name of its own` : null;
}

/** The peer's daemon is silent, has another version, or cannot publish. */
function daemonReason({ heartbeat, silentMs }: PeerEvidence, { silenceMsMax, reads }: EvidenceLimits): string | null {
  if (heartbeat === null) {
    return silentMs > silenceMsMax
      ? "its daemon has not been heard: does it run, and is it up to date?"
      : "waiting for its daemon";
  }
  if (silentMs > silenceMsMax) return `its daemon has been silent for ${Math.round(silentMs / 1000)} s`;
  const { writes, trouble, unpublished, unread } = heartbeat;
  if (!reads.includes(writes)) {
    const known = reads.join(" and ");
    const who = writes > Math.max(...reads) ? "this node" : "that node";
    return `speaks format ${writes}, this node reads ${known}: upgrade ${who} first`;
  }
  if (trouble !== null) return `cannot publish: ${trouble}`;
  if (unread) return "has lost events of its kernel, and has not read the kernel's table since";
  return unpublished > 0 ? `its cache is full: ${unpublished} of its flows are not replicated` : null;
}

/** This node does not hold all that the peer published. */
function tableReason(evidence: PeerEvidence): string | null {
  const { heartbeat, applied, due, exact, refused, refusal, noRoom, missing, copyTrouble, aside } = evidence;
  if (aside !== null) return aside;
  if (refused > 0) return `${refused} of its messages were refused: ${refusal}`;
  if (noRoom > 0) return `${noRoom} of its flows found no room: raise the limit of the external cache`;
  if (heartbeat !== null && applied.epoch > heartbeat.epoch) {
    return "its daemon names an earlier epoch than its stream did";
  }
  if (!exact) return "waiting for a complete snapshot of it";
  if (due === null) return "waiting for its daemon";
  if (applied.epoch < due.epoch) return "its new epoch has not been read yet";
  if (applied.epoch === due.epoch && applied.number < due.number) {
    return `${due.number - applied.number} of its messages have not been read yet`;
  }
  if (missing !== 0)
    return `${Math.abs(missing)} of its ${heartbeat?.flows ?? 0} flows are ${missing > 0 ? "missing" : "too many"} here`;
  return copyTrouble;
}
