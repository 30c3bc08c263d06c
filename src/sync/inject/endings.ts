/**
 * Removes an entry when its owner ends the flow. If this node's own packets have kept the entry alive, this node claims
 * the flow instead.
 */
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

/** Difference between the kernel's timeout and the computed one that does not prove a packet. */
const TOLERANCE_SECONDS = 2;

/** Removes the flows that their owners end from this kernel. */
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
    // The entry is unknown when a peer's stream is read again. Anything that the kernel has there was made by packets.
    const isKnown = !this.#entries.isUntouched(slot) || this.#internal.table.find(slab, base) >= 0;
    if (isStarted && !isKnown) return;
    // While the entry is being written, its expiry is unknown.
    const expiresSeconds = this.#entries.isWriting(slot) ? 0 : this.#entries.expiresSeconds(slot);
    this.#work.addEnded(slab, base, table.birth(slot), expiresSeconds, this.#entries.withinSeconds(slot));
  }

  /** Removes the flows that have ended so far, a batch at a time. */
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

  /**
   * If a row now has the tuple of the ended flow, the entry still belongs to the ended flow. The row is created
   * afterwards.
   */
  #withSuccessor(flow: EndedFlow): EndedFlow {
    const slot = this.#external.table.find(flow.words, 0);
    if (slot < 0) return flow;
    this.#entries.forget(slot);
    this.#work.addChanged(slot);
    return { ...flow, expiresSeconds: 0, withinSeconds: 0 };
  }

  async #removeBatch(flows: readonly EndedFlow[], carrier: Carrier): Promise<void> {
    const kept = await this.#claimKept(flows, carrier);
    // Packets may have made such a flow this node's own, and their events wait.
    carrier.readEvents();
    const isOwn = ({ words }: EndedFlow): boolean => this.#internal.ownFlow(words, 0) !== null;
    const removed = flows.filter((flow) => !kept.has(flow) && !isOwn(flow));
    // Writes for the ended flow may have changed this node's own flow with that tuple.
    for (const flow of flows) if (isOwn(flow)) this.#doubts.add(flow.words);
    const refused = await this.#requests.send("delete", removed);
    this.#counters.removed += removed.length - refused.size;
    for (const { words } of removed) this.#entries.noteRemoved(words, 0);
    this.#work.dropEnded(flows);
  }

  /**
   * Claims the flows whose timeout differs from the written one less the time passed, because packets have set it.
   * Returns those flows.
   */
  async #claimKept(flows: readonly EndedFlow[], carrier: Carrier): Promise<ReadonlySet<EndedFlow>> {
    const kept = new Set<EndedFlow>();
    const asked = flows.filter(({ words, expiresSeconds }) => expiresSeconds > 0 && !isClosing(words, 0));
    const fromSeconds = nowSeconds() - TOLERANCE_SECONDS;
    const found = await this.#requests.read(asked);
    const untilSeconds = nowSeconds() + TOLERANCE_SECONDS;
    // Events that come after an answer are newer.
    carrier.readEvents();
    for (const [ended, flow] of found) {
      const leftSeconds = flow.words[W_TIMEOUT]!;
      const { expiresSeconds, withinSeconds } = ended;
      const isSooner = untilSeconds + leftSeconds < expiresSeconds;
      const isLater = fromSeconds + leftSeconds > expiresSeconds + withinSeconds;
      if (!isSooner && !isLater) continue;
      kept.add(ended);
      if (this.#internal.ownFlow(ended.words, 0) !== null) {
        this.#doubts.add(ended.words);
        continue;
      }
      this.#counters.claimed++;
      carrier.claim(flow);
    }
    return kept;
  }
}
