/**
 * Mode `inject`: whatever peers publish goes into this kernel at once, without a commit, for active-active and asymmetric
 * paths. The external cache keeps the books (which flow is whose); the injector listens to it and writes what changed.
 *
 *     external cache, replicator → injector → work list → write loop: endings, entry writer, doubts → kernel
 *
 * Packets of one flow may pass both nodes, and those that do change timeouts without an event. So an entry that expired here
 * while its owner has the flow is written again (renewal.ts), and one that its owner ended but that packets kept alive here
 * is claimed (endings.ts). What packets and writes have done at the same time is looked up (doubts.ts).
 */
import type { Logger } from "pino";
import type { ExternalCache, ExternalListener } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { type DecodedFlow, RECORD_WORDS } from "../../flow/record.js";
import type { Carrier, Injection, InjectorKernel } from "../ports/kernel.js";
import { Doubts } from "./doubts.js";
import { DumpReconciliation } from "./dump-reconciliation.js";
import { Endings } from "./endings.js";
import { EntryWriter } from "./entry-writer.js";
import { InjectedEntries } from "./injected-entries.js";
import { InjectorCounters } from "./injector-counters.js";
import { InjectorRequests } from "./injector-requests.js";
import { Renewal } from "./renewal.js";
import { WorkList } from "./work-list.js";
import { WriteLoop } from "./write-loop.js";

/** What an injector is built of. Whoever builds it lets the external cache tell it what becomes of rows. */
export interface InjectorOptions {
  internal: InternalCache;
  external: ExternalCache;
  kernel: InjectorKernel;
  /** True while the stream of a peer is followed. */
  hears: (node: string) => boolean;
  /** Timeout of every entry; null: what was left of the owner's, never below a floor. */
  timeoutSeconds: number | null;
  /** Sets BE_LIBERAL on TCP flows: packets of theirs pass other nodes, so this kernel sees only part of their windows. */
  liberal: boolean;
  wallSeconds: () => number;
  /** Least time between two writes. */
  intervalMs: number;
  log: Logger;
}

/** Takes in what becomes of peers' flows and of this kernel, and sees that the kernel has what the external cache has. */
export class Injector implements ExternalListener, Injection {
  readonly counters = new InjectorCounters();
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #doubts: Doubts;
  readonly #endings: Endings;
  readonly #renewal: Renewal;
  readonly #dumps: DumpReconciliation;
  readonly #loop: WriteLoop;

  constructor(options: InjectorOptions) {
    const { internal, external, kernel, hears, timeoutSeconds, liberal, wallSeconds, intervalMs, log } = options;
    const { counters } = this;
    const work = new WorkList(counters);
    const entries = new InjectedEntries(counters);
    const requests = new InjectorRequests(kernel, liberal);
    const base = { internal, external, work, entries, requests, counters };
    const doubts = new Doubts(base);
    const endings = new Endings({ ...base, doubts });
    const writer = new EntryWriter({ ...base, doubts, timeoutSeconds, wallSeconds });
    const renewal = new Renewal({ ...base, hears });
    this.#external = external;
    this.#work = work;
    this.#entries = entries;
    this.#doubts = doubts;
    this.#endings = endings;
    this.#renewal = renewal;
    this.#dumps = new DumpReconciliation({ ...base, doubts, renewal });
    this.#loop = new WriteLoop({ work, endings, writer, doubts, intervalMs, log });
  }

  /**
   * Writes from now on. Before, the external cache is being rebuilt and the kernel has yet to be listed, so all work is held
   * back, and `carrier` has yet to exist.
   */
  start(carrier: Carrier): void {
    this.#loop.start(carrier);
  }

  changed(slot: number): void {
    this.#work.addChanged(slot);
    this.#loop.poke();
  }

  ended(slot: number): void {
    this.#endings.add(slot, this.#loop.isStarted);
    this.#loop.poke();
  }

  retired(slot: number): void {
    const { table } = this.#external;
    const base = table.base(slot);
    this.doubt(table.slab(slot).subarray(base, base + RECORD_WORDS));
  }

  forgotten(slot: number): void {
    this.#work.dropRow(slot);
    this.#entries.drop(slot);
  }

  /** The flow of a record at base 0 is to be looked up when nothing is being written. */
  doubt(words: Uint32Array): void {
    this.#doubts.add(words);
    this.#loop.poke();
  }

  /** This kernel has ended a flow by itself. If a peer still has it, it is written again. */
  expired(words: Uint32Array, base: number): void {
    this.#renewal.expired(words, base);
    this.#loop.poke();
  }

  /** To be called every second: renews entries that are about to expire. */
  tick(): void {
    if (!this.#loop.isStarted) return;
    this.#renewal.tick();
    this.#loop.poke();
  }

  beginDump(): void {
    this.#dumps.begin();
  }

  present(flow: DecodedFlow): boolean {
    const isPeers = this.#dumps.present(flow);
    this.#loop.poke();
    return isPeers;
  }

  endDump(complete: boolean): void {
    this.#dumps.end(complete);
    this.#loop.poke();
  }

  /** Cancels the write that is due and waits for the one that runs. */
  stop(): Promise<void> {
    return this.#loop.stop();
  }
}
