/**
 * Finds every write that replaced what packets here had changed. The flow is looked up while nothing is being written,
 * and the kernel's state wins.
 */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { type DecodedFlow, RECORD_WORDS, W_TIMEOUT } from "../../flow/record.js";
import { sameReply } from "../../flow/record-fields.js";
import type { Carrier } from "../ports/kernel.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import { isSame, sameState } from "./injected-flow.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { InjectorRequests } from "./injector-requests.js";
import type { Renewal } from "./renewal.js";
import type { DoubtfulFlow, WorkList } from "./work-list.js";

/** Looks up the flows whose state in this kernel is uncertain. */
export class Doubts {
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #requests: InjectorRequests;
  readonly #renewal: Renewal;
  readonly #counters: InjectorCounters;
  /** Hashes of the flows that are being looked up, and of those that the kernel has reported meanwhile. */
  readonly #asked = new Set<number>();
  readonly #reported = new Set<number>();

  constructor(parts: {
    internal: InternalCache;
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    requests: InjectorRequests;
    renewal: Renewal;
    counters: InjectorCounters;
  }) {
    this.#internal = parts.internal;
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#requests = parts.requests;
    this.#renewal = parts.renewal;
    this.#counters = parts.counters;
  }

  /** The flow of a record at base 0 is to be looked up while nothing is being written. */
  add(words: Uint32Array): void {
    this.#work.addDoubtful(words, this.#internal.hasRoom);
  }

  /** The kernel has reported a flow. If it is being looked up, the answer may be older. */
  report(words: Uint32Array): void {
    if (this.#asked.size === 0) return;
    const hash = this.#external.table.hash(words, 0);
    if (this.#asked.has(hash)) this.#reported.add(hash);
  }

  /** As `add`, for a flow of a row. */
  addRow(slot: number): void {
    const { table } = this.#external;
    const base = table.base(slot);
    this.add(table.slab(slot).subarray(base, base + RECORD_WORDS));
  }

  /**
   * Looks up at most a batch of flows. If packets made a flow this node's own, its state in this kernel is published,
   * whoever wrote it. An entry that was written and that nobody owns is removed. If a flow has news since the lookup
   * began, it is looked up again, because the kernel may have changed after its answer.
   */
  async verify(flows: readonly DoubtfulFlow[], carrier: Carrier): Promise<void> {
    if (flows.length === 0) return;
    const { table } = this.#external;
    const wasOwn = flows.map(({ words }) => this.#internal.ownFlow(words, 0) !== null);
    // A lookup that failed has left its flows.
    this.#asked.clear();
    this.#reported.clear();
    for (const { words } of flows) this.#asked.add(table.hash(words, 0));
    const found = await this.#requests.read(flows);
    carrier.readEvents();
    const reported = new Set(this.#reported);
    this.#asked.clear();
    this.#reported.clear();
    const leftOver: DoubtfulFlow[] = [];
    for (const [index, doubtful] of flows.entries()) {
      const { words } = doubtful;
      const flow = found.get(doubtful);
      const slot = table.find(words, 0);
      if (slot >= 0) this.#verifyRow(slot, flow, carrier);
      if (slot >= 0 || flow === undefined) continue;
      const own = this.#internal.ownFlow(words, 0);
      const isNews = wasOwn[index] !== (own !== null) || reported.has(table.hash(words, 0));
      if (isNews || this.#work.waitsForEnd(words)) this.add(words);
      else if (own !== null && !isSame(flow.words, own)) this.#claim(flow, carrier);
      else if (own === null && doubtful.mayGo && this.#internal.hasRoom) leftOver.push(doubtful);
    }
    await this.#requests.send("delete", leftOver);
    for (const { words } of leftOver) this.#entries.noteRemoved(words, 0);
  }

  /**
   * Nothing is being written, so any difference from the last write was made by packets. A different flow is replaced,
   * and an entry that is gone is written again.
   */
  #verifyRow(slot: number, flow: DecodedFlow | undefined, carrier: Carrier): void {
    // A row that is not due yet, and whose entry is there already: from a write for the row before it.
    const isWrittenEarly = flow !== undefined && this.#work.isYoung(slot);
    if (this.#work.isChanged(slot) && !isWrittenEarly) return;
    if (flow === undefined) {
      this.#renewal.lost(slot);
      return;
    }
    const { table } = this.#external;
    const [slab, base] = [table.slab(slot), table.base(slot)];
    if (this.#entries.expiresSeconds(slot) === 0 || !sameReply(slab, base, flow.words, 0)) {
      this.#entries.note(slot, flow.words, nowSeconds() + flow.words[W_TIMEOUT]!);
      this.#work.addChanged(slot);
    } else if (!sameState(flow.words, slab, base)) this.#claim(flow, carrier);
  }

  #claim(flow: DecodedFlow, carrier: Carrier): void {
    this.#counters.claimed++;
    carrier.claim(flow);
  }
}
