import { pause } from "../../src/os/pause.js";
import { compareTables, type FlowTable, type Loss } from "./flow-table.js";
import type { SoakNode } from "./soak-node.js";

/** A second in which `status` said yes and a takeover would have lost something. */
export interface Lie {
  readonly atMs: number;
  /** Who said it of whom. */
  readonly node: string;
  readonly primary: string;
  /** How long ago the flows were seen in the primary's kernel, at least. */
  readonly ageMs: number;
  readonly compared: number;
  readonly losses: readonly Loss[];
}

/** What was checked. */
export interface CheckCounters {
  /** Seconds with a primary and two reads of its kernel. */
  seconds: number;
  /** Answers of a node about the primary: that it is in sync, and that it is not; one a second, more after a fault. */
  yes: number;
  no: number;
  /** Times that its daemon did not answer. */
  silent: number;
  flows: number;
  /** Flows that were only in the own kernel of a node that was primary before. */
  inOwnKernel: number;
}

/** A read of the primary's kernel; times are monotonic. */
interface KernelRead {
  readonly primary: SoakNode;
  readonly beganMs: number;
  readonly endedMs: number;
  readonly table: FlowTable;
}

/** What a node held while it said yes. */
interface Claim {
  readonly node: SoakNode;
  readonly before: KernelRead;
  /** When it was asked; monotonic. */
  readonly askedMs: number;
  readonly answeredMs: number;
  readonly external: FlowTable;
  readonly kernel: FlowTable;
}

/**
 * How old a flow must be to count. `status` may be 2 s behind (PEER_TIMEOUT); the rest is for heartbeats and for reads that
 * wait for a processor.
 */
const AGE_MS = 2000 + 250;
const KERNEL_READ_MS = 500;
const CHECK_MS = 1000;
const KERNEL_READS_MAX = 20;
const BURST_MS = 1500;
const BURST_PAUSE_MS = 50;

/**
 * Holds `status` against the primary's kernel once a second. The order of reads decides: the primary's kernel, 2 s later the
 * other node's status, its external cache and its status again, then the primary's kernel again. A flow that both reads of the
 * kernel have, and the cache has not while both answers said yes, would have been lost.
 */
export class EvidenceCheck {
  readonly counters: CheckCounters = { seconds: 0, yes: 0, no: 0, silent: 0, flows: 0, inOwnKernel: 0 };
  readonly #nodes: readonly SoakNode[];
  readonly #onLie: (lie: Lie) => void;
  readonly #end = new AbortController();
  #primary: SoakNode | null = null;
  #reads: KernelRead[] = [];
  #claims: Claim[] = [];
  #running: Promise<unknown> = Promise.resolve();

  constructor(nodes: readonly SoakNode[], onLie: (lie: Lie) => void) {
    this.#nodes = nodes;
    this.#onLie = onLie;
  }

  /** Who is primary from now on; null while that changes, when nothing is compared. */
  set primary(node: SoakNode | null) {
    this.#primary = node;
    this.#reads = [];
    this.#claims = [];
  }

  get primary(): SoakNode | null {
    return this.#primary;
  }

  start(): void {
    this.#running = Promise.all([
      this.#every(KERNEL_READ_MS, () => this.#readKernel()),
      this.#every(CHECK_MS, () => this.#check()),
    ]);
  }

  /** Looks again and again for a moment: a node that has just been put right may say yes too early. */
  async burst(): Promise<void> {
    const endMs = performance.now() + BURST_MS;
    while (performance.now() < endMs && !this.#end.signal.aborted) {
      await this.#askAll();
      await pause(BURST_PAUSE_MS, this.#end.signal);
    }
  }

  /** Ends it; rejects with what it failed of. */
  async stop(): Promise<void> {
    this.#end.abort();
    await this.#running;
  }

  async #every(intervalMs: number, act: () => Promise<void>): Promise<void> {
    const { signal } = this.#end;
    while (!signal.aborted) {
      const startMs = performance.now();
      await act();
      await pause(Math.max(0, startMs + intervalMs - performance.now()), signal);
    }
  }

  async #readKernel(): Promise<void> {
    const primary = this.#primary;
    if (primary === null) return;
    const beganMs = performance.now();
    const table = await primary.kernel();
    if (this.#primary !== primary) return;
    const read = { primary, beganMs, endedMs: performance.now(), table };
    this.#reads = [...this.#reads, read].slice(-KERNEL_READS_MAX);
    const ripe = this.#claims.filter((claim) => claim.answeredMs <= beganMs);
    this.#claims = this.#claims.filter((claim) => claim.answeredMs > beganMs);
    for (const claim of ripe) this.#compare(claim, read);
  }

  async #check(): Promise<void> {
    if (await this.#askAll()) this.counters.seconds++;
  }

  /** False: the primary is not primary for long enough. */
  async #askAll(): Promise<boolean> {
    const askedMs = performance.now();
    const before = this.#reads.filter((read) => read.endedMs <= askedMs - AGE_MS).at(-1);
    if (before === undefined) return false;
    const others = this.#nodes.filter((node) => node !== before.primary);
    await Promise.all(others.map((node) => this.#ask(node, before)));
    return true;
  }

  async #ask(node: SoakNode, before: KernelRead): Promise<void> {
    const askedMs = performance.now();
    const first = await node.statusOf(before.primary);
    if (first === null) this.counters.silent++;
    else if (!first.inSync) this.counters.no++;
    if (first?.inSync !== true) return;
    const [external, kernel] = await Promise.all([node.external(), node.kernel()]);
    const second = await node.statusOf(before.primary);
    if (external === null || second?.inSync !== true || this.#primary !== before.primary) return;
    this.#claims.push({ node, before, askedMs, answeredMs: performance.now(), external, kernel });
  }

  #compare({ node, before, askedMs, external, kernel }: Claim, after: KernelRead): void {
    const { compared, inOwnKernel, losses } = compareTables({
      before: before.table,
      after: after.table,
      external,
      kernel,
    });
    this.counters.yes++;
    this.counters.flows += compared;
    this.counters.inOwnKernel += inOwnKernel;
    if (losses.length === 0) return;
    const ageMs = Math.round(askedMs - before.endedMs);
    const primary = before.primary.name;
    this.#onLie({ atMs: askedMs, node: node.name, primary, ageMs, compared, losses });
  }
}
