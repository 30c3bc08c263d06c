import type { Logger } from "pino";
import { type ExpectationRow, secondsLeft } from "../cache/expectation-row.js";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type {
  BulkReport,
  ExpectationView,
  FlushReport,
  FlushTarget,
  ResyncReport,
  ResyncSource,
  RowKind,
} from "../control/protocol.js";
import type { RecordSink } from "../control/record-writer.js";
import type { NodeHandlers, ProgressListener } from "../control/server.js";
import { ConntrailError, errorText } from "../errors.js";
import { expectationToJson } from "../flow/expectation.js";
import type { FlowTable } from "../flow/flow-table.js";
import { type DecodedFlow, HAS_COUNTERS, type RareAttributes, RECORD_WORDS, W_HAS } from "../flow/record.js";
import type { Follower } from "./in/follower.js";
import type { FirewallNode } from "./node.js";
import type { Journal } from "./out/journal.js";
import type { KernelTable } from "./ports/kernel.js";
import type { Rehearsal } from "./rehearsal/rehearsal.js";
import type { Reports } from "./reports.js";
import { removeExpectations } from "./takeover/expectation-commit.js";
import { removeFromKernel } from "./takeover/kernel-flush.js";

/** Longest time that `resync peers` waits. A table of a million flows takes about a second. */
const RESYNC_TIMEOUT_MS = 60_000;

/** Slots that a dump reads before it yields to the event loop. */
const DUMP_SLOTS_PER_TURN = 8192;

/** Flows of a kernel dump that share one piece of memory. */
const DUMP_SLAB_FLOWS = 4096;

/** The parts of a running node that commands act on. */
export type NodeParts = Pick<
  FirewallNode,
  "internal" | "external" | "kernel" | "journal" | "replicator" | "followers" | "roles" | "injects" | "signal" | "log"
>;

/** The commands that a node's control socket accepts. Each answers from the node's state at that moment. */
export function createHandlers(
  parts: NodeParts,
  reports: Pick<Reports, "status" | "stats">,
  rehearsal: Pick<Rehearsal, "run">,
): NodeHandlers {
  const { internal, external, kernel, journal, replicator, roles } = parts;
  const begun = new Begun(parts);
  return {
    status: () => reports.status(),
    stats: () => reports.stats(),
    dump: (table, sink, signal, replicated = false) => {
      if (table === "kernel" && replicated) {
        return dumpKernel(kernel, sink, signal, (words) => replicator.filter(words, 0));
      }
      if (table === "kernel") return dumpKernel(kernel, sink, signal, null);
      if (table === "external") return dumpTable(external.table, () => true, sink, signal);
      return dumpTable(internal.table, (slot) => internal.isShown(slot), sink, signal);
    },
    expectations: async (table) => {
      if (table === "kernel") return listKernel(kernel, parts.signal);
      return listExpectations(table === "external" ? external.expectations.rows() : internal.expectations.rows());
    },
    commit: (progress, only) => roles.commit(progress, only),
    flush: async (table, only) => {
      // A running commit still reads from the external cache.
      if (table === "external" || table === "caches") await roles.committed();
      return flush(parts, table, only);
    },
    resync: async (source, progress, wait = true) => {
      if (wait) return resync(parts, source, progress);
      const flows = source === "kernel" ? internal.size : external.table.size;
      begun.begin(`resync ${source}`, () => resync(parts, source, () => {}));
      return { source, flows, changed: 0, durationMs: 0 };
    },
    bulk: async (_, wait = true) => {
      if (wait) return bulk(journal, internal, parts.signal);
      begun.begin("bulk", () => bulk(journal, internal, parts.signal));
      return { flows: internal.size, durationMs: 0 };
    },
    purge: () => roles.purge(),
    rehearse: (progress) => rehearsal.run(progress),
    hook: async (role, progress, group) => {
      replicator.flush();
      return roles.hook(role, progress, group);
    },
  };
}

/** The parts of an observer. */
export interface ObserverParts {
  readonly external: ExternalCache;
  readonly followers: readonly Follower[];
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** Work that continues after its request was answered. Only one of each kind runs at a time. */
class Begun {
  readonly #log: Logger;
  readonly #running = new Set<string>();

  constructor({ log }: { readonly log: Logger }) {
    this.#log = log;
  }

  begin(what: string, work: () => Promise<object>): void {
    if (this.#running.has(what)) return;
    this.#running.add(what);
    const [kind] = what.split(" ");
    work()
      .then((report) => this.#log.info({ event: `${kind}.done`, ...report }, what))
      .catch((error: unknown) => this.#log.warn({ event: `${kind}.failed`, error: errorText(error) }, `${what} failed`))
      .finally(() => this.#running.delete(what));
  }
}

/** The commands that an observer's control socket accepts: reports, dumps of what it knows, and `resync peers`. */
export function createObserverHandlers(parts: ObserverParts, reports: Pick<Reports, "status" | "stats">): NodeHandlers {
  const { external } = parts;
  const begun = new Begun(parts);
  const refuse = (): never => {
    throw new ConntrailError("CONTROL", "this node is an observer: it has no kernel side; ask one of the firewalls");
  };
  return {
    status: () => reports.status(),
    stats: () => reports.stats(),
    dump: async (table, sink, signal) =>
      table === "external" ? dumpTable(external.table, () => true, sink, signal) : refuse(),
    expectations: async (table) => (table === "external" ? listExpectations(external.expectations.rows()) : refuse()),
    commit: async () => refuse(),
    flush: async (table) => {
      if (table !== "external" && table !== "caches") return refuse();
      const flows = external.table.size;
      external.flush();
      return { internal: null, external: flows, kernel: null };
    },
    resync: async (source, progress, wait = true) => {
      if (source !== "peers") return refuse();
      if (wait) return resyncPeers(parts, progress);
      begun.begin("resync peers", () => resyncPeers(parts, () => {}));
      return { source, flows: external.table.size, changed: 0, durationMs: 0 };
    },
    bulk: async () => refuse(),
    purge: async () => refuse(),
    rehearse: async () => refuse(),
    hook: async () => refuse(),
  };
}

function listExpectations(rows: Iterable<ExpectationRow & { readonly owner?: string }>): ExpectationView[] {
  const nowSeconds = Math.floor(Date.now() / 1000);
  const views: ExpectationView[] = [];
  for (const row of rows) {
    const activeSeconds = Math.max(0, nowSeconds - row.createdSeconds);
    const timeoutSeconds = Math.max(0, secondsLeft(row, nowSeconds));
    const view = { ...expectationToJson(row.expectation), timeoutSeconds, activeSeconds };
    views.push(row.owner === undefined ? view : { ...view, node: row.owner });
  }
  return views;
}

async function listKernel(kernel: KernelTable, signal: AbortSignal): Promise<ExpectationView[]> {
  const views: ExpectationView[] = [];
  await kernel.dumpExpectations({ signal }, (expectation) => views.push(expectationToJson(expectation)));
  return views;
}

async function dumpTable(
  table: FlowTable,
  isShown: (slot: number) => boolean,
  sink: RecordSink,
  signal: AbortSignal,
): Promise<void> {
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (slot % DUMP_SLOTS_PER_TURN === DUMP_SLOTS_PER_TURN - 1) await new Promise(setImmediate);
    if (signal.aborted) return;
    if (!table.isLive(slot) || !isShown(slot)) continue;
    if (!sink.write(table.slab(slot), table.base(slot), table.rare.get(slot) ?? null)) await sink.drain();
  }
  await sink.drain();
}

/**
 * The kernel does not wait for a slow client, so the whole dump is gathered first; nf_conntrack_max bounds it. It is
 * gathered in slabs, because the garbage collector would copy a million objects again and again. With `keeps` only the
 * flows that pass it are dumped, with the kernel's counters.
 */
async function dumpKernel(
  kernel: KernelTable,
  sink: RecordSink,
  signal: AbortSignal,
  keeps: ((words: Uint32Array) => boolean) | null,
): Promise<void> {
  const counters = new Map<number, Float64Array>();
  const slabs: Uint32Array[] = [];
  const rare = new Map<number, RareAttributes>();
  let flows = 0;
  let filling = new Uint32Array(0);
  await kernel.dump({ signal }, (flow) => {
    if (keeps !== null && !keeps(flow.words)) return;
    const at = flows % DUMP_SLAB_FLOWS;
    if (at === 0) {
      filling = new Uint32Array(DUMP_SLAB_FLOWS * RECORD_WORDS);
      slabs.push(filling);
    }
    filling.set(flow.words, at * RECORD_WORDS);
    if (flow.rare !== null) rare.set(flows, flow.rare);
    if (keeps !== null && hasCounters(flow)) counters.set(flows, Float64Array.from(flow.counters));
    flows++;
  });
  for (const [number, slab] of slabs.entries()) {
    const first = number * DUMP_SLAB_FLOWS;
    for (let at = 0; at < DUMP_SLAB_FLOWS && first + at < flows; at++) {
      if (signal.aborted) return;
      const flow = first + at;
      if (!sink.write(slab, at * RECORD_WORDS, rare.get(flow) ?? null, counters.get(flow))) await sink.drain();
    }
  }
  await sink.drain();
}

function hasCounters({ words }: DecodedFlow): boolean {
  return ((words[W_HAS] ?? 0) & HAS_COUNTERS) !== 0;
}

async function flush(parts: NodeParts, target: FlushTarget, only?: RowKind): Promise<FlushReport> {
  const { internal, external, kernel, replicator } = parts;
  const report = { internal: null as number | null, external: null as number | null, kernel: null as number | null };
  if (target === "kernel") {
    await replicator.resyncKernel();
    replicator.countKernelFlush();
    report.kernel = only === "expect" ? 0 : await removeFromKernel(internal, kernel, () => true);
    // The expectations of removed flows have gone with them.
    const expected = Array.from(internal.expectations.rows(), ({ expectation }) => expectation);
    if (only !== "ct") report.kernel += await removeExpectations(expected, kernel);
  }
  if (target === "internal" || target === "caches") {
    report.internal = internal.size;
    internal.flush();
  }
  if (target === "external" || target === "caches") {
    // In mode `inject`, the external cache holds no flows that wait for a commit. It only records those in the kernel.
    report.external = parts.injects ? 0 : external.table.size;
    if (!parts.injects) external.flush();
  }
  return report;
}

async function resync(parts: NodeParts, source: ResyncSource, progress: ProgressListener): Promise<ResyncReport> {
  if (source === "peers") return resyncPeers(parts, progress);
  const startedMs = performance.now();
  const { internal, replicator } = parts;
  const { created, updated, sweptByDump } = internal.counters;
  if (!(await replicator.resyncKernel())) {
    throw new ConntrailError("KERNEL", "the kernel table could not be read; the log has the reason");
  }
  const { counters } = internal;
  const changed = counters.created - created + counters.updated - updated + counters.sweptByDump - sweptByDump;
  return { source, flows: internal.table.size, changed, durationMs: Math.round(performance.now() - startedMs) };
}

/**
 * Reads again the peers that can be reached, and waits until their tables are held exactly. Throws ConntrailError
 * TIMEOUT with the names of the peers that were not in time. A peer's broker may answer while its daemon, which alone
 * can write a snapshot, does not run.
 */
export async function resyncPeers(
  { external, followers, signal }: Pick<NodeParts, "external" | "followers" | "signal">,
  progress: ProgressListener,
  timeoutMs = RESYNC_TIMEOUT_MS,
): Promise<ResyncReport> {
  const startedMs = performance.now();
  const inTime = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  const late: string[] = [];
  const before = changesOf(external);
  const waits = followers.map(async (follower) => {
    if (!follower.state.connected) return;
    follower.resync();
    if (await follower.exact(inTime)) progress(`${follower.node}: in sync`);
    else late.push(follower.node);
  });
  await Promise.all(waits);
  if (late.length > 0) {
    const who = late.join(", ");
    const waited = `within ${timeoutMs / 1000} s`;
    throw new ConntrailError("TIMEOUT", `${who} not in sync ${waited}: does conntrail run there? see conntrail status`);
  }
  const changed = changesOf(external) - before;
  return {
    source: "peers",
    flows: external.table.size,
    changed,
    durationMs: Math.round(performance.now() - startedMs),
  };
}

function changesOf({ counters }: ExternalCache): number {
  return counters.created + counters.taken + counters.destroyed + counters.sweptBySnapshot;
}

async function bulk(journal: Journal, internal: InternalCache, signal: AbortSignal): Promise<BulkReport> {
  const startedMs = performance.now();
  if (!(await journal.writeSnapshot(signal))) {
    throw new ConntrailError("BROKER", "the snapshot was not confirmed by the broker: see `conntrail status`");
  }
  return { flows: internal.table.size, durationMs: Math.round(performance.now() - startedMs) };
}
