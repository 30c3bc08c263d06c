/**
 * Mode `inject`, for active-active and asymmetric paths: what peers publish is written into this kernel at once,
 * without a commit. The external cache records who owns each flow. The injector listens to it and writes what changed.
 *     external cache, replicator → injector → work list → write loop: endings, entry writer, doubts → kernel
 * Packets of one flow may pass through both nodes, and they change timeouts without an event. So an entry that expired
 * here while its owner has the flow is written again (renewal.ts). An entry whose owner ended the flow, but that
 * packets kept alive here, is claimed (endings.ts). Where packets and writes may have crossed, the flow is looked up
 * (doubts.ts).
 */
import type { Logger } from "pino";
import type { ExternalCache, ExternalListener } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { DecodedFlow } from "../../flow/record.js";
import type { AheadWriter, Carrier, Injection, InjectorKernel, WrittenAhead } from "../ports/kernel.js";
import { Doubts } from "./doubts.js";
import { DumpReconciliation } from "./dump-reconciliation.js";
import { Endings } from "./endings.js";
import { EntryWriter } from "./entry-writer.js";
import { InjectedEntries, nowSeconds } from "./injected-entries.js";
import { InjectorCounters } from "./injector-counters.js";
import { InjectorRequests } from "./injector-requests.js";
import { Renewal } from "./renewal.js";
import { WorkList } from "./work-list.js";
import { WriteLoop } from "./write-loop.js";

/** The parts and settings of an injector. Whoever builds it registers it as the external cache's listener. */
export interface InjectorOptions {
  internal: InternalCache;
  external: ExternalCache;
  kernel: InjectorKernel;
  /** True while the stream of a peer is followed. */
  hears: (node: string) => boolean;
  /** Timeout of every entry; null: the time that the owner's entry had left, but never less than a floor. */
  timeoutSeconds: number | null;
  /**
   * Sets BE_LIBERAL on TCP flows. Some of their packets pass through other nodes, so this kernel sees only part of
   * their windows.
   */
  liberal: boolean;
  wallSeconds: () => number;
  /** Minimum time between two writes. */
  intervalMs: number;
  /** A flow is written when it has lived for so long here, or at a takeover; 0: at once. */
  aheadSeconds: number;
  log: Logger;
}

/** Follows the changes of peers' flows and of this kernel, and keeps the kernel in line with the external cache. */
export class Injector implements ExternalListener, Injection, AheadWriter {
  readonly counters = new InjectorCounters();
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #doubts: Doubts;
  readonly #endings: Endings;
  readonly #renewal: Renewal;
  readonly #dumps: DumpReconciliation;
  readonly #loop: WriteLoop;
  readonly #aheadSeconds: number;
  /** False from a takeover on: a flow that comes then is written at once. */
  #waits = true;

  constructor(options: InjectorOptions) {
    const { internal, external, kernel, hears, timeoutSeconds, liberal, wallSeconds, intervalMs, log } = options;
    const { counters } = this;
    const work = new WorkList(counters);
    const entries = new InjectedEntries(counters);
    const requests = new InjectorRequests(kernel, liberal);
    const base = { internal, external, work, entries, requests, counters };
    const renewal = new Renewal({ ...base, hears });
    const doubts = new Doubts({ ...base, renewal });
    const endings = new Endings({ ...base, doubts });
    const writer = new EntryWriter({ ...base, doubts, timeoutSeconds, wallSeconds });
    this.#external = external;
    this.#work = work;
    this.#entries = entries;
    this.#doubts = doubts;
    this.#endings = endings;
    this.#renewal = renewal;
    this.#dumps = new DumpReconciliation({ ...base, doubts, renewal });
    this.#loop = new WriteLoop({ work, endings, writer, doubts, intervalMs, log });
    this.#aheadSeconds = options.aheadSeconds;
  }

  /**
   * Starts writing. Until then, all work is held back: the external cache is being rebuilt, the kernel has not been
   * listed, and `carrier` does not exist yet.
   */
  start(carrier: Carrier): void {
    this.#loop.start(carrier);
  }

  changed(slot: number): void {
    if (this.#waits && this.#aheadSeconds > 0 && this.#entries.isUntouched(slot)) {
      this.#work.addYoung(slot, nowSeconds() + this.#aheadSeconds);
      return;
    }
    this.#work.addChanged(slot);
    this.#loop.poke();
  }

  async writeAll(): Promise<WrittenAhead> {
    const { injected, updated, replaced, failed } = this.counters;
    const ahead = this.#external.table.size - this.#work.young;
    this.#waits = false;
    this.#work.hasten();
    await this.#loop.idle();
    const { counters } = this;
    const changed = counters.updated - updated + counters.replaced - replaced;
    return { ahead, created: counters.injected - injected, changed, failed: counters.failed - failed };
  }

  hold(): void {
    this.#waits = true;
  }

  /** Flows that the kernel does not have yet, because they are too young. */
  get young(): number {
    return this.#work.young;
  }

  ended(slot: number): void {
    this.#endings.add(slot, this.#loop.isStarted);
    this.#loop.poke();
  }

  retired(slot: number): void {
    this.#doubts.addRow(slot);
    this.#loop.poke();
  }

  forgotten(slot: number): void {
    this.#work.dropRow(slot);
    this.#entries.drop(slot);
  }

  /** The flow of a record at base 0 is to be looked up while nothing is being written. */
  doubt(words: Uint32Array): void {
    this.#doubts.add(words);
    this.#loop.poke();
  }

  reported(words: Uint32Array): void {
    this.#doubts.report(words);
  }

  endedBirth(words: Uint32Array): number {
    return this.#work.endedBirth(words);
  }

  /** This kernel has ended a flow by itself. If a peer still has it, the flow is written again. */
  expired(words: Uint32Array, base: number): void {
    this.#renewal.expired(words, base);
    this.#loop.poke();
  }

  /** Renews entries that are about to expire, and writes flows that have become old enough. Call it every second. */
  tick(): void {
    if (!this.#loop.isStarted) return;
    this.#renewal.tick();
    this.#work.takeDue(nowSeconds());
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

  /** Cancels the write that is due, and waits for the running one. */
  stop(): Promise<void> {
    return this.#loop.stop();
  }
}
