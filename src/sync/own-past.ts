import type { Logger } from "pino";
import type { InternalCache } from "../cache/internal.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { implausible } from "../stream/format/envelope.js";
import { createEnvelopeReader, MarkCodec, type Role } from "../stream/format/mark.js";
import { type OwnTail, restoreInternal } from "./in/restore.js";
import type { Continuation } from "./out/journal.js";
import type { PeerStream } from "./ports/peer-stream.js";

/** What this node's own stream holds of the daemon before this one, and the epoch that begins. */
export interface OwnPast {
  /** With the flows of the last epoch, where its table goes on. */
  readonly internal: InternalCache;
  /** Ahead of every stamp that this node has written. */
  readonly hybridClock: HybridClock;
  /** Null: the stream does not hold the last table, and the new epoch begins with a snapshot. */
  readonly continues: Continuation | null;
  /** The epoch that was written last; 0: none was. */
  readonly lastEpoch: number;
  /** This node's role when the stream was last written. */
  readonly lastRole: Role;
  /** When its last mark was written, by this node's clock; null: it has none. */
  readonly lastMarkMs: number | null;
  /** The epoch that begins. */
  readonly epoch: number;
  /** The stream was damaged: what the last daemon wrote there is gone. */
  readonly damaged: boolean;
}

/** Rebuilds the internal cache from this node's own stream. What is given is filled and set, and part of the result. */
export async function readOwnPast(
  stream: PeerStream,
  tail: OwnTail,
  parts: { node: string; internal: InternalCache; clock: Clock; hybridClock: HybridClock; log: Logger },
  signal: AbortSignal,
): Promise<OwnPast> {
  const { node, internal, clock, hybridClock, log } = parts;
  const last = tail.lastMark === null ? null : new MarkCodec().decode(tail.lastMark);
  const lastSound = tail.damage?.lastSound ?? null;
  const found = last?.envelope ?? (lastSound === null ? null : createEnvelopeReader()(lastSound));
  // Not what lies in the future: all others would refuse what this node writes from then on.
  const nowMs = Math.max(clock.wallMs(), tail.timeMs ?? 0);
  const end = found === null || implausible(found, node, nowMs) !== null ? null : found;
  if (end !== null) hybridClock.observe(end.stamp);
  const continues = await restoreInternal(stream, tail, node, internal, hybridClock, log, signal);
  const lastEpoch = continues?.epoch ?? end?.epoch ?? 0;
  const epoch = Math.max(clock.wallMs(), lastEpoch + 1);
  const lastRole = last?.role ?? "unknown";
  const lastMarkMs = last?.envelope.wallMs ?? null;
  const damaged = tail.damage !== undefined;
  return { internal, hybridClock, continues, lastEpoch, lastRole, lastMarkMs, epoch, damaged };
}

/** Why an epoch begins, as its mark says. */
export function epochReason({ lastEpoch, continues, damaged }: OwnPast): string {
  if (damaged) return "start after the store was damaged";
  if (lastEpoch === 0) return "first start";
  return continues === null ? "start without the last table" : "start";
}
