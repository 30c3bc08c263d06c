import type { Logger } from "pino";
import { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { HybridClock } from "../flow/clock.js";
import { W_ID } from "../flow/record.js";
import type { Replica } from "../stream/replica.js";
import { Applier } from "./applier.js";
import type { Continuation } from "./journal.js";
import type { PeerStream } from "./peer-stream.js";

/** A replay that takes longer says how far it is, this often. */
const PROGRESS_MS = 1000;

/** Applies the copy of a peer's stream from its last complete snapshot to its end. */
export async function replayCopy(
  stream: PeerStream,
  replica: Replica,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  if (replica.lastSequence === 0) return;
  const startedMs = performance.now();
  await replay(stream, Math.max(1, replica.snapshotSequence), applier, log, signal);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ peer: applier.node, flows: applier.flows, durationMs }, "rebuilt the peer's flows from the own broker");
}

/**
 * Rebuilds the internal cache from this node's own stream, with the flow ids it had, and says where that ended; null when
 * the stream does not hold the whole table (a first start, a wiped or damaged store): then the cache stays empty.
 */
export async function restoreInternal(
  stream: PeerStream,
  node: string,
  internal: InternalCache,
  hybridClock: HybridClock,
  log: Logger,
  signal: AbortSignal,
): Promise<Continuation | null> {
  const startedMs = performance.now();
  const last = await stream.readLast("mark", signal);
  if (last === null) return null;
  const external = new ExternalCache(internal.table.flowsMax);
  // What it once said of itself is no news.
  const quiet = log.child({}, { level: "warn" });
  const applier = new Applier({ node, external, local: null, hybridClock, log: quiet });
  const snapshotSequence = applier.snapshotSequenceOf(last.payload);
  if (snapshotSequence === 0) return null;
  await replay(stream, snapshotSequence, applier, log, signal);
  if (!applier.exact) {
    log.warn("this node's own stream does not hold its whole table any more: beginning with a snapshot");
    return null;
  }
  const { table } = external;
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (!table.isLive(slot)) continue;
    const slab = table.slab(slot);
    const base = table.base(slot);
    internal.adopt(slab[base + W_ID]!, slab, base, table.rare.get(slot) ?? null, external.stamp(slot));
  }
  internal.sealAdopted();
  for (const row of external.expectations.rows()) internal.expectations.adopt(row, row.stamp);
  const durationMs = Math.round(performance.now() - startedMs);
  log.info({ flows: internal.table.size, durationMs }, "rebuilt this node's own flows from its stream");
  return { ...applier.position, snapshotSequence: applier.lastSnapshotSequence };
}

/** Applies a stream from a sequence to its end, as it stands when that is reached. */
async function replay(
  stream: PeerStream,
  start: number,
  applier: Applier,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const end = new AbortController();
  let toldMs = performance.now();
  for await (const items of stream.read(start, AbortSignal.any([signal, end.signal]))) {
    for (const item of items) {
      if (item.type === "reset") return;
      if (item.type !== "message") continue;
      applier.apply(item, item.timeMs);
      if (item.pending === 0) end.abort();
      if (performance.now() - toldMs < PROGRESS_MS) continue;
      toldMs = performance.now();
      log.info({ stream: applier.node, flows: applier.flows, messagesLeft: item.pending }, "replaying");
    }
    if (end.signal.aborted) return;
  }
}
