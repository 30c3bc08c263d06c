import type { Logger } from "pino";
import { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { HybridClock } from "../../flow/clock.js";
import { W_ID } from "../../flow/record.js";
import { Turn } from "../../os/turn.js";
import type { CopyTail } from "../../stream/replica.js";
import type { Continuation } from "../out/journal.js";
import type { PeerStream } from "../ports/peer-stream.js";
import { Applier } from "./applier.js";

/** A replay that takes longer says how far it is, this often. */
const PROGRESS_MS = 1000;
/** A stream of a shared cluster that nobody leads at present is not waited for longer. */
const SHARED_LOOK_MS = 5000;

/** Applies the copy of a peer's stream from its last complete snapshot to its end. */
export async function replayCopy(
  stream: PeerStream,
  tail: CopyTail,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  // Also when all of it has been removed by age: nothing would ever come.
  if (tail.epoch === 0) return;
  const startedMs = performance.now();
  await replay(stream, Math.max(1, tail.snapshotSequence), tail.lastSequence, applier, log, signal);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ peer: applier.node, flows: applier.flows, durationMs }, "rebuilt the peer's flows from the own broker");
}

/**
 * Applies a peer's stream on a shared broker from its last complete snapshot to about its end; gives the sequence of the
 * last message that was applied, 0 for none.
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
  const applied = await replay(stream, start, end, applier, log, signal, true);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ peer: applier.node, flows: applier.flows, durationMs }, "rebuilt the peer's flows from the shared broker");
  return applied;
}

/** This node's own stream, as the server says that has the last word on it. */
export interface OwnTail {
  /** The last mark; null when there is none. */
  readonly lastMark: Uint8Array | null;
  readonly lastSequence: number;
  /** When the broker stored the last mark, milliseconds since the Unix epoch; left out where that is not known. */
  readonly timeMs?: number;
  /** Only of a stream whose store is damaged: its last message that can be read, null for none. */
  readonly damage?: { readonly lastSound: Uint8Array | null };
}

/**
 * Rebuilds the internal cache from this node's own stream, with the flow ids it had, and says where that ended; null
 * when the stream does not hold the whole table (a first start, a wiped or damaged store): then the cache stays empty.
 */
export async function restoreInternal(
  stream: PeerStream,
  tail: OwnTail,
  node: string,
  internal: InternalCache,
  hybridClock: HybridClock,
  log: Logger,
  signal: AbortSignal,
): Promise<Continuation | null> {
  const startedMs = performance.now();
  if (tail.lastMark === null) return null;
  const external = new ExternalCache(internal.table.flowsMax);
  // What it once said of itself, and what it missed, is no news, and it is no peer.
  const quiet = log.child({}, { level: "error" });
  const applier = new Applier({ node, external, local: null, hybridClock, log: quiet });
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
    // A row that no flow id stands for has moved to another node.
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
 * Applies a stream from a sequence to `endSequence`. `andOn`: to its end as it stands when that is reached; in a
 * cluster the server that is read from may be behind, and nothing more to come is then not the end. Gives the sequence
 * of the last message applied; 0 when the stream does not hold the start any more.
 */
async function replay(
  stream: PeerStream,
  start: number,
  endSequence: number,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
  andOn = false,
): Promise<number> {
  const end = new AbortController();
  let toldMs = performance.now();
  let applied = 0;
  const turn = new Turn();
  for await (const items of stream.read(start, AbortSignal.any([signal, end.signal]))) {
    for (const item of items) {
      // Also for its own sake: more is read meanwhile.
      if (turn.over) await turn.yield();
      if (item.type === "reset") return 0;
      if (item.type === "state") continue;
      if (item.type === "message") {
        applier.apply(item, item.timeMs);
        applied = item.sequence;
      }
      // A damaged stream counts messages behind it that never come.
      if (item.sequence >= endSequence && (!andOn || item.pending === 0)) end.abort();
      if (performance.now() - toldMs < PROGRESS_MS) continue;
      toldMs = performance.now();
      log.info({ stream: applier.node, flows: applier.flows, messagesLeft: item.pending }, "replaying");
    }
    if (end.signal.aborted) break;
  }
  return applied;
}
