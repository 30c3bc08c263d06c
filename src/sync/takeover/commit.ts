import assert from "node:assert/strict";
import type { ExternalCache } from "../../cache/external.js";
import type { CommitReport } from "../../control/protocol.js";
import { type EncodeOptions, RequestBatch } from "../../ctnetlink/encode.js";
import type { FlowTable } from "../../flow/flow-table.js";
import { type RareAttributes, RECORD_WORDS, W_TIMEOUT, W_UPDATED } from "../../flow/record.js";
import { isClosing } from "../../flow/record-fields.js";
import { EAGAIN, EEXIST, ENOENT, EOPNOTSUPP, errnoName } from "../../os/errno.js";
import { type CommitKernel, type KernelRequests, TIMEOUT_FLOOR_SECONDS } from "../ports/kernel.js";
import { CommitOrder } from "./commit-order.js";
import { ReplyHolders } from "./reply-holders.js";

/** The settings that apply to all entries of a commit. */
interface CommitOptions {
  /** Kernel timeout of every entry; null: the time that the owner's entry had left, but never less than a floor. */
  readonly timeoutSeconds: number | null;
  /** Sets BE_LIBERAL on TCP flows: this kernel has not seen their windows. */
  readonly liberal: boolean;
  readonly nowSeconds: number;
}

/**
 * True when this kernel's flow with the same original tuple also has the same reply tuple, so that it can be updated.
 */
type SameTuples = (words: Uint32Array, base: number) => boolean;

/** A TCP flow that is closing (after ESTABLISHED) gets the time it had left, but at least this. It is never revived. */
const CLOSING_FLOOR_SECONDS = 10;
/**
 * Flows in a batch. Between two batches, the kernel waits for this process about 0.1 ms. The kernel works on a batch
 * for 4 ms. A pool thread sends it, so the event loop is not delayed, but other programs' requests are.
 */
const BATCH_FLOWS = 1024;
/** Batches under way: while the kernel works on one, the next is being encoded. */
const PIPELINE = 2;

/** Copies of the flows of one batch. While the kernel works on them, events may change or end the rows. */
class Staging {
  readonly words = new Uint32Array(BATCH_FLOWS * RECORD_WORDS);
  readonly rare: (RareAttributes | null)[] = [];
  /** The flows whose helper the kernel has loaded on request. */
  readonly loaded = new Set<number>();
  readonly batch = new RequestBatch();

  /** Removes all flows. */
  reset(): void {
    this.rare.length = 0;
    this.loaded.clear();
  }

  /** Copies a flow as it is now. */
  add(table: FlowTable, slot: number): void {
    const slab = table.slab(slot);
    const base = table.base(slot);
    this.words.set(slab.subarray(base, base + RECORD_WORDS), this.rare.length * RECORD_WORDS);
    this.rare.push(table.rare.get(slot) ?? null);
  }

  get count(): number {
    return this.rare.length;
  }
}

/** The outcome of a commit before its first entry. */
function newTally() {
  const failed: Record<string, number> = {};
  return { committed: 0, updated: 0, skipped: 0, failed, withoutMaster: 0, withoutHelper: 0, repaired: 0 };
}

/** The outcome of a commit, counted by entry. */
type Tally = ReturnType<typeof newTally>;

/** The parts of a commit that all of its batches share. */
interface Commit {
  readonly kernel: CommitKernel;
  readonly sameTuples: SameTuples;
  readonly options: CommitOptions;
  readonly holders: ReplyHolders;
  readonly tally: Tally;
}

/**
 * Writes the external cache into the kernel: the most recently active flows first, and masters before the flows that
 * they expected. Each batch is awaited, so that events are read in between. An entry that the kernel already has is updated in place, or replaced if its NAT
 * differs. Rows stay in the external cache until they have been read back from this kernel.
 */
export async function commitExternal(
  external: ExternalCache,
  kernel: CommitKernel,
  sameTuples: SameTuples,
  options: CommitOptions,
  progress: (done: number, total: number) => void,
): Promise<CommitReport> {
  const startedMs = performance.now();
  const tally = newTally();
  const commit: Commit = { kernel, sameTuples, options, holders: new ReplyHolders(kernel), tally };
  const total = external.table.size;
  const order = await CommitOrder.of(external.table, options.nowSeconds);
  const spare = total === 0 ? [] : Array.from({ length: PIPELINE }, () => new Staging());
  let done = 0;
  for (const related of total === 0 ? [] : [false, true]) {
    const running: Promise<void>[] = [];
    for await (const staging of stagings(external.table, order, related, spare)) {
      const { count } = staging;
      const written = commitStaging(staging, commit).then(() => {
        done += count;
        progress(done, total);
        spare.push(staging);
      });
      // Its failure is handled where it is awaited.
      written.catch(() => {});
      running.push(written);
      if (running.length >= PIPELINE) await running.shift();
    }
    await Promise.all(running);
  }
  const { withoutMaster, withoutHelper, repaired, ...counts } = tally;
  return {
    ...counts,
    ...(withoutMaster > 0 ? { withoutMaster } : {}),
    ...(withoutHelper > 0 ? { withoutHelper } : {}),
    ...(repaired > 0 ? { repaired } : {}),
    stale: 0,
    durationMs: Math.round((performance.now() - startedMs) * 10) / 10,
  };
}

/**
 * Yields the table's flows with (`related`) or without a master, batch by batch, each as it is when its batch is made.
 * A staging is taken from `spare`, and whoever has finished with it puts it back there.
 */
async function* stagings(
  table: FlowTable,
  order: CommitOrder,
  related: boolean,
  spare: Staging[],
): AsyncGenerator<Staging> {
  if (related && table.rare.size === 0) return;
  let staging = takeSpare(spare);
  for await (const slots of order.runs()) {
    for (const slot of slots) {
      if (!table.isLive(slot) || (table.rare.get(slot)?.master !== undefined) !== related) continue;
      staging.add(table, slot);
      if (staging.count < BATCH_FLOWS) continue;
      yield staging;
      staging = takeSpare(spare);
    }
  }
  if (staging.count > 0) yield staging;
  else spare.push(staging);
}

function takeSpare(spare: Staging[]): Staging {
  const staging = spare.pop();
  assert.ok(staging !== undefined, "no more batches are under way than there are stagings");
  staging.reset();
  return staging;
}

/** Creates the flows of a staging in the kernel. What the kernel already has is updated or replaced. */
async function commitStaging(staging: Staging, commit: Commit): Promise<void> {
  const { kernel, sameTuples, options, tally } = commit;
  const all = Array.from({ length: staging.count }, (_, index) => index);
  const refused = await create(staging, all, commit);
  tally.committed += staging.count - refused.length;
  const existing: number[] = [];
  for (const { index, errno } of refused) {
    if (errno === EEXIST) existing.push(index);
    else countFailure(tally, errno);
  }
  if (existing.length === 0) return;
  // The peer's row is newer than our kernel's entry, or a local event would have retired the row. An entry that no
  // event has reported yet was created by packets of this very connection, just before this commit, and may be
  // translated differently.
  const same = existing.filter((index) => sameTuples(staging.words, index * RECORD_WORDS));
  const notUpdated = new Set((await send(staging, same, kernel, "update", options)).map(({ index }) => index));
  const updated = new Set(same.filter((index) => !notUpdated.has(index)));
  // A connection that was closing never replaces a new one that has begun here with its tuple meanwhile.
  const replaced = existing.filter((index) => !updated.has(index) && !isClosing(staging.words, index * RECORD_WORDS));
  await send(staging, replaced, kernel, "delete", options);
  const failed = await create(staging, replaced, commit);
  tally.updated += updated.size + replaced.length - failed.length;
  tally.skipped += existing.length - updated.size - replaced.length;
  await repair(staging, failed, commit);
}

/**
 * Creates flows whose reply tuple another entry holds, as far as that entry can go: one without a reply, which packets
 * made here before the commit.
 */
async function repair(staging: Staging, failed: readonly Refusal[], commit: Commit): Promise<void> {
  const { holders, tally } = commit;
  const freed: number[] = [];
  for (const { index, errno } of failed) {
    const isFree = errno === EEXIST && (await holders.remove(staging.words, index * RECORD_WORDS));
    if (isFree) freed.push(index);
    else countFailure(tally, errno);
  }
  const again = await create(staging, freed, commit);
  tally.committed += freed.length - again.length;
  tally.repaired += freed.length - again.length;
  for (const { errno } of again) countFailure(tally, errno);
}

/**
 * Creates the given flows, and returns those that the kernel refused. A related flow whose master this kernel lacks is
 * created without the master, and a flow whose helper it lacks without the helper. Open connections survive, although
 * no new ones are expected.
 */
async function create(staging: Staging, indexes: readonly number[], commit: Commit): Promise<Refusal[]> {
  const { kernel, options, tally } = commit;
  const refused = await send(staging, indexes, kernel, "create", options);
  const reduced = refused.filter(({ index, errno }) => reduce(staging, index, errno, tally)).map(({ index }) => index);
  if (reduced.length === 0) return refused;
  const others = refused.filter(({ index }) => !reduced.includes(index));
  // A flow without its master may still lack its helper. After that, nothing is left to remove.
  return [...others, ...(await create(staging, reduced, commit))];
}

/**
 * Removes from a refused flow what the kernel lacks; false when the refusal had another reason. A kernel that has just
 * loaded the helper's module wants the request once more.
 */
function reduce(staging: Staging, index: number, errno: number, tally: Tally): boolean {
  const { master, helper, ...rest } = staging.rare[index] ?? {};
  if (errno === EAGAIN && helper !== undefined && !staging.loaded.has(index)) {
    staging.loaded.add(index);
    return true;
  }
  if (errno === ENOENT && master !== undefined) {
    staging.rare[index] = helper === undefined ? rest : { ...rest, helper };
    tally.withoutMaster++;
    return true;
  }
  if (errno === EOPNOTSUPP && helper !== undefined) {
    staging.rare[index] = master === undefined ? rest : { ...rest, master };
    tally.withoutHelper++;
    return true;
  }
  return false;
}

interface Refusal {
  index: number;
  errno: number;
}

/**
 * Sends one kind of request for the given flows. Returns those that the kernel refused, by their index in the staging.
 */
async function send(
  staging: Staging,
  indexes: readonly number[],
  kernel: KernelRequests,
  request: "create" | "update" | "delete",
  options: CommitOptions,
): Promise<Refusal[]> {
  const { batch } = staging;
  const refused: Refusal[] = [];
  const encode: EncodeOptions = { timeoutSeconds: 0, liberal: options.liberal };
  let sent = 0;
  while (sent < indexes.length) {
    batch.reset();
    const first = sent;
    for (; sent < indexes.length; sent++) {
      const index = indexes[sent]!;
      const base = index * RECORD_WORDS;
      encode.timeoutSeconds = timeoutFor(staging.words, base, options);
      if (!add(batch, request, staging, index, encode)) break;
    }
    const result = await kernel.send(batch);
    for (const error of result.errors) refused.push({ index: indexes[first + error.index]!, errno: error.errno });
  }
  return refused;
}

/** False when the batch is full. */
function add(
  batch: RequestBatch,
  request: "create" | "update" | "delete",
  staging: Staging,
  index: number,
  options: EncodeOptions,
): boolean {
  const base = index * RECORD_WORDS;
  const rare = staging.rare[index] ?? null;
  switch (request) {
    case "create":
      return batch.create(staging.words, base, rare, options);
    case "update":
      return batch.update(staging.words, base, rare, options);
    case "delete":
      return batch.delete(staging.words, base);
  }
}

/** CTA_TIMEOUT of a flow: the configured value, or else the time that the owner's entry had left. */
function timeoutFor(words: Uint32Array, base: number, options: CommitOptions): number {
  if (options.timeoutSeconds !== null) return options.timeoutSeconds;
  const age = Math.max(0, options.nowSeconds - words[base + W_UPDATED]!);
  const left = words[base + W_TIMEOUT]! - age;
  return Math.max(left, isClosing(words, base) ? CLOSING_FLOOR_SECONDS : TIMEOUT_FLOOR_SECONDS);
}

function countFailure(tally: Tally, errno: number): void {
  const reason = errnoName(errno);
  tally.failed[reason] = (tally.failed[reason] ?? 0) + 1;
}
