/** An entry goes when its owner ends the flow; this node claims it instead where its own packets have kept it alive. */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { BATCH_MESSAGES } from "../../ctnetlink/request-socket.js";
import { W_TIMEOUT } from "../../flow/record.js";
import { isClosing } from "../../flow/record-fields.js";
import type { Carrier } from "../ports/kernel.js";
import type { Doubts } from "./doubts.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { InjectorRequests } from "./injector-requests.js";
import type { EndedFlow, WorkList } from "./work-list.js";

/** The kernel's idea of a timeout and ours differ by so much without a packet having come. */
const TOLERANCE_SECONDS = 2;

/** Takes the flows that their owners end out of this kernel. */
export class Endings {
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #requests: InjectorRequests;
  readonly #doubts: Doubts;
  readonly #counters: InjectorCounters;

  constructor(parts: {
    internal: InternalCache;
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    requests: InjectorRequests;
    doubts: Doubts;
    counters: InjectorCounters;
  }) {
    this.#internal = parts.internal;
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#requests = parts.requests;
    this.#doubts = parts.doubts;
    this.#counters = parts.counters;
  }

  /** The flow of a row, which can still be read, has ended. `isStarted`: the kernel has been listed. */
  add(slot: number, isStarted: boolean): void {
    const { table } = this.#external;
    const [slab, base] = [table.slab(slot), table.base(slot)];
    // Nothing to remove: a peer's stream is read once more. Whatever the kernel has there, packets have made.
    const isKnown = !this.#entries.isUntouched(slot) || this.#internal.table.find(slab, base) >= 0;
    if (isStarted && !isKnown) return;
    // While it is being written, nobody can tell when it expires.
    const expiresSeconds = this.#entries.isWriting(slot) ? 0 : this.#entries.expiresSeconds(slot);
    this.#work.addEnded(slab, base, expiresSeconds, this.#entries.withinSeconds(slot));
  }

  /** Removes the flows that have ended up to now, a batch at a time. */
  async remove(carrier: Carrier): Promise<void> {
    let batch: EndedFlow[] = [];
    for (const flow of this.#work.takeEnded()) {
      batch.push(this.#withSuccessor(flow));
      if (batch.length < BATCH_MESSAGES) continue;
      await this.#removeBatch(batch, carrier);
      batch = [];
    }
    await this.#removeBatch(batch, carrier);
  }

  /** Where a row has the tuple of the flow again, the entry is that of the flow that ended: the row is created anew. */
  #withSuccessor(flow: EndedFlow): EndedFlow {
    const slot = this.#external.table.find(flow.words, 0);
    if (slot < 0) return flow;
    this.#entries.forget(slot);
    this.#work.addChanged(slot);
    return { ...flow, expiresSeconds: 0, withinSeconds: 0 };
  }

  async #removeBatch(flows: readonly EndedFlow[], carrier: Carrier): Promise<void> {
    const kept = await this.#claimKept(flows, carrier);
    const isOwn = ({ words }: EndedFlow): boolean => this.#internal.ownFlow(words, 0) !== null;
    const removed = flows.filter((flow) => !kept.has(flow) && !isOwn(flow));
    // What was written for the flow that ended may have changed this node's own flow of that tuple.
    for (const flow of flows) if (isOwn(flow)) this.#doubts.add(flow.words);
    const refused = await this.#requests.send("delete", removed);
    this.#counters.removed += removed.length - refused.size;
    for (const { words } of removed) this.#entries.noteRemoved(words, 0);
    this.#work.dropEnded(flows);
  }

  /** Claims those whose timeout is not what was written, less the time since: packets have set it. Returns them. */
  async #claimKept(flows: readonly EndedFlow[], carrier: Carrier): Promise<ReadonlySet<EndedFlow>> {
    const kept = new Set<EndedFlow>();
    const asked = flows.filter(({ words, expiresSeconds }) => expiresSeconds > 0 && !isClosing(words, 0));
    const fromSeconds = nowSeconds() - TOLERANCE_SECONDS;
    const found = await this.#requests.read(asked);
    const untilSeconds = nowSeconds() + TOLERANCE_SECONDS;
    for (const [ended, flow] of found) {
      const leftSeconds = flow.words[W_TIMEOUT]!;
      const { expiresSeconds, withinSeconds } = ended;
      const isSooner = untilSeconds + leftSeconds < expiresSeconds;
      const isLater = fromSeconds + leftSeconds > expiresSeconds + withinSeconds;
      if (!isSooner && !isLater) continue;
      kept.add(ended);
      this.#counters.claimed++;
      carrier.claim(flow);
    }
    return kept;
  }
}
