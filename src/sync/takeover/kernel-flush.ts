import type { InternalCache } from "../../cache/internal.js";
import { RequestBatch } from "../../ctnetlink/encode.js";
import { BATCH_MESSAGES } from "../../ctnetlink/request-socket.js";
import { Turn } from "../../os/turn.js";
import type { KernelRequests } from "../ports/kernel.js";

/** Slots read between two looks at the clock. */
const SLOTS_PER_LOOK = 1024;

/**
 * Removes the flows that `chosen` picks in the internal cache from the kernel, in batches. The kernel's destroy events
 * then remove them from the cache. A flow is removed only if the kernel still has the one that the cache knows
 * (CTA_ID). Returns how many flows the kernel removed.
 */
export async function removeFromKernel(
  internal: InternalCache,
  kernel: KernelRequests,
  chosen: (slot: number) => boolean,
): Promise<number> {
  const { table } = internal;
  // Most often there is nothing to remove, and a batch takes a lot of memory.
  let batch: RequestBatch | null = null;
  let removed = 0;
  const send = async (): Promise<void> => {
    if (batch === null || batch.count === 0) return;
    const count = batch.count;
    const { errors } = await kernel.send(batch);
    removed += count - errors.length;
    batch.reset();
  };
  const turn = new Turn();
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (slot % SLOTS_PER_LOOK === 0 && turn.over) await turn.yield();
    if (!internal.isFlow(slot) || !chosen(slot)) continue;
    batch ??= new RequestBatch();
    batch.delete(table.slab(slot), table.base(slot), true);
    if (batch.count >= BATCH_MESSAGES) await send();
  }
  await send();
  return removed;
}
