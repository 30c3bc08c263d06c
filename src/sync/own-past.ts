import type { Logger } from "pino";
import type { InternalCache } from "../cache/internal.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { MarkCodec, type Role } from "../stream/format/mark.js";
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
  if (last !== null) hybridClock.observe(last.envelope.stamp);
  const continues = await restoreInternal(stream, tail, node, internal, hybridClock, log, signal);
  const lastEpoch = continues?.epoch ?? last?.envelope.epoch ?? 0;
  const epoch = Math.max(clock.wallMs(), lastEpoch + 1);
  const lastMarkMs = last?.envelope.wallMs ?? null;
  return { internal, hybridClock, continues, lastEpoch, lastRole: last?.role ?? "unknown", lastMarkMs, epoch };
}

/** Why an epoch begins, as its mark says. */
export function epochReason({ lastEpoch, continues }: OwnPast): string {
  if (lastEpoch === 0) return "first start";
  return continues === null ? "start without the last table" : "start";
}
