import type { Logger } from "pino";
import type { InternalCache } from "../cache/internal.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { type Envelope, implausible } from "../stream/format/envelope.js";
import { createEnvelopeReader, MarkCodec, type Role } from "../stream/format/mark.js";
import type { Formats } from "../stream/format/versions.js";
import { type OwnTail, restoreInternal } from "./in/restore.js";
import type { Continuation } from "./out/journal.js";
import type { PeerStream } from "./ports/peer-stream.js";

/** While the clock is behind, an epoch is at most so much greater than the last one. */
const EPOCH_SPREAD_MS = 4096;

/** What the previous daemon left in this node's own stream, and the epoch that begins now. */
export interface OwnPast {
  /** Holds the flows of the last epoch if its table could be restored; else it is empty. */
  readonly internal: InternalCache;
  /** Ahead of every stamp that this node has ever written. */
  readonly hybridClock: HybridClock;
  /** Null: the stream does not hold the last table, so the new epoch begins with a snapshot. */
  readonly continues: Continuation | null;
  /** The last epoch in the stream; 0: none. */
  readonly lastEpoch: number;
  /** This node's role when it last wrote a mark. */
  readonly lastRole: Role;
  /** When the last mark was written, milliseconds by this node's clock; null: the stream has no mark. */
  readonly lastMarkMs: number | null;
  /** The new epoch. */
  readonly epoch: number;
  /** The stream was damaged, and what the last daemon wrote there is lost. */
  readonly damaged: boolean;
}

/**
 * Rebuilds the internal cache from this node's own stream. Fills the given cache, sets the given clock, and returns
 * both as part of the result.
 */
export async function readOwnPast(
  stream: PeerStream,
  tail: OwnTail,
  parts: {
    node: string;
    internal: InternalCache;
    formats: Formats;
    clock: Clock;
    hybridClock: HybridClock;
    log: Logger;
  },
  signal: AbortSignal,
): Promise<OwnPast> {
  const { node, clock, hybridClock } = parts;
  const last = tail.lastMark === null ? null : new MarkCodec(parts.formats).decode(tail.lastMark);
  // Never later than now: all peers would refuse what this node writes with a stamp in the future.
  const nowMs = Math.max(clock.wallMs(), tail.timeMs ?? 0);
  // Known even if the previous daemon wrote a version that this one does not read.
  const end = lastEnvelope(tail, (found) => implausible(found, node, nowMs) === null);
  if (end !== null) hybridClock.observe(end.stamp);
  const continues = await restoreInternal(stream, tail, parts, signal);
  const lastEpoch = continues?.epoch ?? end?.epoch ?? 0;
  const epoch = nextEpoch(clock.wallMs(), lastEpoch);
  const lastRole = last?.role ?? "unknown";
  const lastMarkMs = last?.envelope.wallMs ?? null;
  const damaged = tail.damage !== undefined;
  return { internal: parts.internal, hybridClock, continues, lastEpoch, lastRole, lastMarkMs, epoch, damaged };
}

/**
 * The time, if that is after the last epoch. A clock that is behind gives another one as well with each start: the broker
 * may have lost an epoch that peers have read, and two with one number would be taken for one.
 */
export function nextEpoch(wallMs: number, lastEpoch: number): number {
  return wallMs > lastEpoch ? wallMs : lastEpoch + 1 + (wallMs % EPOCH_SPREAD_MS);
}

/** The envelope of the last message that is `sound`; null when there is none. */
function lastEnvelope(tail: OwnTail, sound: (envelope: Envelope) => boolean): Envelope | null {
  const read = createEnvelopeReader();
  for (const payload of [tail.last, tail.lastMark, tail.damage?.lastSound]) {
    const envelope = payload ? read(payload) : null;
    if (envelope !== null && sound(envelope)) return envelope;
  }
  return null;
}

/** The reason for the new epoch, as its mark reports it. */
export function epochReason({ lastEpoch, continues, damaged }: OwnPast): string {
  if (damaged) return "start after the store was damaged";
  if (lastEpoch === 0) return "first start";
  return continues === null ? "start without the last table" : "start";
}
