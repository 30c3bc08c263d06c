import { secondsLeft } from "../../cache/expectation-row.js";
import type { ExternalExpectations } from "../../cache/external-expectations.js";
import type { ExpectationCommit } from "../../control/protocol.js";
import { RequestBatch } from "../../ctnetlink/encode.js";
import { BATCH_MESSAGES } from "../../ctnetlink/request-socket.js";
import type { Expectation } from "../../flow/expectation.js";
import { EEXIST, errnoName } from "../../os/errno.js";
import type { KernelRequests } from "../ports/kernel.js";

/** An expectation and the time that it has left. */
interface Due {
  readonly expectation: Expectation;
  readonly leftSeconds: number;
}

/**
 * Writes the expectations of all peers into the kernel. This follows the flows, because an expectation needs its
 * master. An expectation that the kernel already has is replaced. Rows stay until the kernel's own events retire them,
 * except that expired ones are removed.
 */
export async function commitExpectations(
  external: ExternalExpectations,
  kernel: KernelRequests,
  nowSeconds: number,
): Promise<ExpectationCommit> {
  external.expire(nowSeconds);
  const due: Due[] = [];
  for (const row of external.rows()) {
    due.push({ expectation: row.expectation, leftSeconds: secondsLeft(row, nowSeconds) });
  }
  const failed: Record<string, number> = {};
  let committed = 0;
  for (let first = 0; first < due.length; first += BATCH_MESSAGES) {
    const part = due.slice(first, first + BATCH_MESSAGES);
    committed += await commitPart(part, kernel, failed);
  }
  return { committed, failed };
}

async function commitPart(
  part: readonly Due[],
  kernel: KernelRequests,
  failed: Record<string, number>,
): Promise<number> {
  const refused = await send(kernel, part, (batch, { expectation }) => batch.createExpectation(expectation));
  const existing: Due[] = [];
  for (const [due, errno] of refused) {
    if (errno === EEXIST) existing.push(due);
    else count(failed, errno);
  }
  if (existing.length > 0) {
    await send(kernel, existing, (batch, { expectation }) => batch.deleteExpectation(expectation));
    const again = await send(kernel, existing, (batch, { expectation }) => batch.createExpectation(expectation));
    for (const due of existing) if (!again.has(due)) refused.delete(due);
    for (const errno of again.values()) count(failed, errno);
  }
  const created = part.filter((due) => !refused.has(due));
  // The kernel starts with the helper's own timeout. An expectation that is used in the meantime needs no timeout.
  await send(kernel, created, (batch, { expectation, leftSeconds }) =>
    batch.expectationTimeout(expectation, leftSeconds),
  );
  return created.length;
}

/** Removes expectations from the kernel. Returns how many of them it still had. */
export async function removeExpectations(
  expectations: readonly Expectation[],
  kernel: KernelRequests,
): Promise<number> {
  let removed = 0;
  for (let first = 0; first < expectations.length; first += BATCH_MESSAGES) {
    const part = expectations.slice(first, first + BATCH_MESSAGES);
    const refused = await send(kernel, part, (batch, expectation) => batch.deleteExpectation(expectation, true));
    removed += part.length - refused.size;
  }
  return removed;
}

/**
 * Sends one request for each item. Returns those that the kernel refused, with the errno. At most BATCH_MESSAGES items,
 * so that they fit a batch.
 */
async function send<T>(
  kernel: KernelRequests,
  items: readonly T[],
  add: (batch: RequestBatch, item: T) => boolean,
): Promise<Map<T, number>> {
  if (items.length === 0) return new Map();
  const batch = new RequestBatch();
  for (const item of items) add(batch, item);
  const { errors } = await kernel.send(batch);
  const refused = new Map<T, number>();
  const errnoOf = new Map(errors.map(({ index, errno }) => [index, errno]));
  for (const [index, item] of items.entries()) {
    const errno = errnoOf.get(index);
    if (errno !== undefined) refused.set(item, errno);
  }
  return refused;
}

function count(failed: Record<string, number>, errno: number): void {
  const reason = errnoName(errno);
  failed[reason] = (failed[reason] ?? 0) + 1;
}
