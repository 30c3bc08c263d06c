/**
 * Finds every write that replaced what packets here had changed. The flow is looked up while nothing is being written,
 * and the kernel's state wins.
 */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { type DecodedFlow, W_TIMEOUT } from "../../flow/record.js";
import { sameReply } from "../../flow/record-fields.js";
import type { Carrier } from "../ports/kernel.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import { isSame, sameState } from "./injected-flow.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { InjectorRequests } from "./injector-requests.js";
import type { DoubtfulFlow, WorkList } from "./work-list.js";

/** Looks up the flows whose state in this kernel is uncertain. */
export class Doubts {
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #requests: InjectorRequests;
  readonly #counters: InjectorCounters;

  constructor(parts: {
    internal: InternalCache;
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    requests: InjectorRequests;
    counters: InjectorCounters;
  }) {
    this.#internal = parts.internal;
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#requests = parts.requests;
    this.#counters = parts.counters;
  }

  /** The flow of a record at base 0 is to be looked up while nothing is being written. */
  add(words: Uint32Array): void {
    this.#work.addDoubtful(words, this.#internal.hasRoom);
  }

  /**
   * Looks up at most a batch of flows. If packets made a flow this node's own, its state in this kernel is published,
   * whoever wrote it. An entry that was written and that nobody owns is removed. If a flow has news since the lookup
   * began, it is looked up again, because the kernel may have changed after its answer.
   */
  async verify(flows: readonly DoubtfulFlow[], carrier: Carrier): Promise<void> {
    if (flows.length === 0) return;
    const before = flows.map(({ words }) => this.#internal.ownFlow(words, 0));
    const found = await this.#requests.read(flows);
    carrier.readEvents();
    const { table } = this.#external;
    const leftOver: DoubtfulFlow[] = [];
    for (const [index, doubtful] of flows.entries()) {
      const { words } = doubtful;
      const flow = found.get(doubtful);
      if (flow === undefined) continue;
      const slot = table.find(words, 0);
      if (slot >= 0) {
        this.#verifyRow(slot, flow, carrier);
        continue;
      }
      const own = this.#internal.ownFlow(words, 0);
      if (!isSame(before[index]!, own) || this.#work.waitsForEnd(words)) this.add(words);
      else if (own !== null && !isSame(flow.words, own)) this.#claim(flow, carrier);
      else if (own === null && doubtful.mayGo && this.#internal.hasRoom) leftOver.push(doubtful);
    }
    await this.#requests.send("delete", leftOver);
    for (const { words } of leftOver) this.#entries.noteRemoved(words, 0);
  }

  /**
   * Nothing is being written, so any difference from the last write was made by packets. A different flow is replaced.
   */
  #verifyRow(slot: number, flow: DecodedFlow, carrier: Carrier): void {
    if (this.#work.isChanged(slot)) return;
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
