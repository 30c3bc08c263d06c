/**
 * Rebuilds tables from streams when a node starts: the peers' flows from the copies, and this node's own flows from its
 * own stream. The own table stays empty unless its stream holds all of it.
 */
import type { Logger } from "pino";
import { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { HybridClock } from "../../flow/clock.js";
import { W_ID } from "../../flow/record.js";
import { Turn } from "../../os/turn.js";
import type { Formats } from "../../stream/format/versions.js";
import type { CopyTail } from "../../stream/replica.js";
import type { Continuation } from "../out/journal.js";
import type { PeerStream } from "../ports/peer-stream.js";
import { Applier } from "./applier.js";

/** A longer replay logs its progress this often. */
const PROGRESS_MS = 1000;
/** Longest wait for a stream of a shared cluster that has no leader at present. */
const SHARED_LOOK_MS = 5000;

/**
 * Applies the copy of a peer's stream, from its last complete snapshot to its end. False if a message in its middle
 * could not be read.
 */
export async function replayCopy(
  stream: PeerStream,
  tail: CopyTail,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
): Promise<boolean> {
  // Also when age has removed all messages: nothing would ever come.
  if (tail.epoch === 0) return true;
  const startedMs = performance.now();
  const start = Math.max(1, tail.snapshotSequence);
  const { holes } = await replay(stream, start, tail.lastSequence, applier, log, signal);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ peer: applier.node, flows: applier.flows, durationMs }, "rebuilt the peer's flows from the own broker");
  return holes === 0;
}

/**
 * Applies a peer's stream on a shared broker, from its last complete snapshot to about its end. Returns the sequence of
 * the last message that was applied; 0 for none.
 */
export async function replayShared(
  stream: PeerStream,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
): Promise<number> {
  const startedMs = performance.now();
  const looking = AbortSignal.any([signal, AbortSignal.timeout(SHARED_LOOK_MS)]);
  const mark = await stream.readLast("mark", looking);
  if (mark === null) return 0;
  const event = await stream.readLast("ev", looking);
  const end = Math.max(mark.sequence, event?.sequence ?? 0);
  const start = Math.max(1, applier.snapshotSequenceOf(mark.payload));
  const { applied } = await replay(stream, start, end, applier, log, signal, true);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ peer: applier.node, flows: applier.flows, durationMs }, "rebuilt the peer's flows from the shared broker");
  return applied;
}

/** The end of this node's own stream, as the server reports it that decides what the stream holds. */
export interface OwnTail {
  /** The last mark; null when there is none. */
  readonly lastMark: Uint8Array | null;
  readonly lastSequence: number;
  /** The last message, if it is no mark. */
  readonly last?: Uint8Array | null;
  /** When the broker stored the last message, milliseconds since the Unix epoch; absent where that is unknown. */
  readonly timeMs?: number;
  /** Only for a stream whose store is damaged: its last readable message; null for none. */
  readonly damage?: { readonly lastSound: Uint8Array | null };
}

/**
 * Rebuilds the internal cache from this node's own stream, with the same flow ids, and returns where that ended.
 * Returns null when the stream does not hold the whole table (a first start, or a wiped or damaged store). The cache is
 * then empty.
 */
export async function restoreInternal(
  stream: PeerStream,
  tail: OwnTail,
  parts: { node: string; internal: InternalCache; formats: Formats; hybridClock: HybridClock; log: Logger },
  signal: AbortSignal,
): Promise<Continuation | null> {
  const { node, internal, formats, hybridClock, log } = parts;
  const startedMs = performance.now();
  if (tail.lastMark === null) return null;
  const external = new ExternalCache(internal.table.flowsMax);
  // This is not a peer, and this node's own old marks and gaps are no news, so only errors are logged.
  const quiet = log.child({}, { level: "error" });
  const applier = new Applier({ node, external, local: null, formats, hybridClock, log: quiet });
  const snapshotSequence = applier.snapshotSequenceOf(tail.lastMark);
  if (snapshotSequence === 0) return null;
  await replay(stream, snapshotSequence, tail.lastSequence, applier, log, signal);
  if (!applier.exact) {
    log.warn("this node's own stream does not hold its whole table any more: beginning with a snapshot");
    return null;
  }
  const { table } = external;
  const origin = external.origin(node);
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (!table.isLive(slot)) continue;
    const slab = table.slab(slot);
    const base = table.base(slot);
    // A row that no flow id refers to has moved to another node.
    if (external.slotOf(origin, slab[base + W_ID]!) !== slot) continue;
    const rare = table.rare.get(slot) ?? null;
    internal.adopt(slab[base + W_ID]!, slab, base, rare, external.stamp(slot), table.birth(slot));
  }
  internal.sealAdopted();
  for (const row of external.expectations.rows()) internal.expectations.adopt(row, row.stamp);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ flows: internal.table.size, durationMs }, "rebuilt this node's own flows from its stream");
  return { ...applier.position, snapshotSequence: applier.lastSnapshotSequence };
}

/**
 * Applies a stream from a sequence to `endSequence`, or with `andOn` to whatever its end is when that is reached. In a
 * cluster, the server that is read from may lag behind, so having no more to read is not the end. Returns the sequence
 * of the last message that was applied (0 when the stream no longer holds the start), and how often messages were
 * missing between two others.
 */
async function replay(
  stream: PeerStream,
  start: number,
  endSequence: number,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
  andOn = false,
): Promise<{ applied: number; holes: number }> {
  const end = new AbortController();
  let toldMs = performance.now();
  let applied = 0;
  let holes = 0;
  let before = 0;
  const turn = new Turn();
  for await (const items of stream.read(start, AbortSignal.any([signal, end.signal]))) {
    for (const item of items) {
      // Yielding also helps the replay itself: more is read meanwhile.
      if (turn.over) await turn.yield();
      if (item.type === "reset") return { applied: 0, holes };
      if (item.type === "state") continue;
      // Of several skipped messages in a row only the last is an item.
      if (item.type === "message" && before > 0 && item.sequence !== before + 1) holes++;
      before = item.sequence;
      if (item.type === "message") {
        applier.apply(item, item.timeMs);
        applied = item.sequence;
      }
      // A damaged stream counts messages after this one that never come.
      if (item.sequence >= endSequence && (!andOn || item.pending === 0)) end.abort();
      if (performance.now() - toldMs < PROGRESS_MS) continue;
      toldMs = performance.now();
      log.info({ stream: applier.node, flows: applier.flows, messagesLeft: item.pending }, "replaying");
    }
    if (end.signal.aborted) break;
  }
  return { applied, holes };
}
