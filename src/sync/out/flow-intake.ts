import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { isOtherFlow } from "../../cache/row-changes.js";
import type { Clock } from "../../flow/clock.js";
import type { FlowPredicate } from "../../flow/filter.js";
import {
  DecodedFlow,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MASK,
  HAS_PROTOINFO,
  RECORD_WORDS,
  W_HAS,
  W_PROTOINFO,
} from "../../flow/record.js";
import type { EndedFlows } from "../ports/ended-flows.js";
import type { Injection } from "../ports/kernel.js";
import type { CommitEnds } from "./commit-ends.js";

/**
 * Applies the flows that this node's own kernel reports to the internal cache. Such a report is newer than anything
 * that peers published about the flow, so it retires the flow's external row.
 */
export class FlowIntake {
  /** The filter: true for a flow that is replicated. */
  keeps: FlowPredicate;
  /** Time of the reports, seconds. The clock is read once for all events of a turn, and once for a dump. */
  nowSeconds = 0;
  /** What the kernel counted for flows that have ended (nf_conntrack_acct); the group `traffic` of `stats`. */
  readonly traffic = { bytes: 0, packets: 0 };
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #commitEnds: CommitEnds;
  readonly #injection: Injection | null;
  readonly #ended: EndedFlows | null;
  readonly #clock: Clock;

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    commitEnds: CommitEnds;
    /** Null where peers' flows are not injected into this kernel. */
    injection: Injection | null;
    /** Null: nobody logs ends. */
    ended: EndedFlows | null;
    keeps: FlowPredicate;
    clock: Clock;
  }) {
    this.#internal = options.internal;
    this.#external = options.external;
    this.#commitEnds = options.commitEnds;
    this.#injection = options.injection;
    this.#ended = options.ended;
    if (this.#ended !== null) this.#internal.onMissed = (slot) => this.#missed(slot);
    this.keeps = options.keeps;
    this.#clock = options.clock;
    this.readClock();
  }

  /** Reads the clock for the reports that follow. */
  readClock(): void {
    this.nowSeconds = Math.floor(this.#clock.wallMs() / 1000);
  }

  /**
   * Makes the kernel's flow this node's own. `inherits`: it is the flow that a peer published and this node wrote
   * there.
   */
  take(flow: DecodedFlow, inherits = this.#injection !== null): void {
    this.#injection?.reported(flow.words);
    const hasPeersState = inherits && this.#inherit(flow);
    const slot = this.#internal.upsert(flow, this.nowSeconds);
    // The peer may have published another state since this node wrote the entry.
    if (hasPeersState && slot >= 0 && this.#injection === null) this.#internal.doubtState(slot);
    const birth = this.#external.retire(flow.words, 0);
    if (birth >= 0) this.#internal.takeBirth(slot, birth);
    else this.#internal.table.inheritBirth(slot, this.#endedBirth(flow.words));
    if (slot >= 0 && this.#internal.lacksState(slot)) this.#injection?.doubt(flow.words);
  }

  /** The birth of a flow that has ended at its owner and is still in this kernel, where packets pass it. */
  #endedBirth(words: Uint32Array): number {
    return this.#injection === null ? this.#commitEnds.birth(words) : this.#injection.endedBirth(words);
  }

  /**
   * An event names only what changed. The rest of a flow that a peer carried reached this kernel from the peer, so
   * anything that an internal row still has of it is older. True when the state of its protocol is the peer's.
   */
  #inherit(flow: DecodedFlow): boolean {
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(flow.words, 0);
    if (slot < 0) return false;
    const slab = table.slab(slot);
    const base = table.base(slot);
    const lacksState = (flow.words[W_HAS]! & HAS_PROTOINFO) === 0 && (slab[base + W_HAS]! & HAS_PROTOINFO) !== 0;
    if (lacksState) {
      for (let i = 0; i < 3; i++) flow.words[W_PROTOINFO + i] = slab[base + W_PROTOINFO + i]!;
      flow.words[W_HAS]! |= HAS_PROTOINFO;
    }
    const rare = table.rare.get(slot);
    if (rare !== undefined) flow.rare = { ...rare, ...flow.rare };
    return lacksState;
  }

  /** The kernel's flow has ended. */
  end(flow: DecodedFlow): void {
    const isLogged = this.#ended !== null && this.#isOwn(flow);
    const slot = this.#internal.destroy(flow, this.nowSeconds);
    this.#injection?.expired(flow.words, 0);
    if (slot < 0) return;
    if ((flow.words[W_HAS]! & HAS_COUNTERS) !== 0) this.#count(flow.counters);
    if (isLogged) this.#ended?.ended(flow);
  }

  #count(counters: Float64Array): void {
    this.traffic.packets += counters[0]! + counters[2]!;
    this.traffic.bytes += counters[1]! + counters[3]!;
  }

  /** True for a flow that no flush hides and no other node carries. */
  #isOwn({ words }: DecodedFlow): boolean {
    const slot = this.#internal.table.find(words, 0);
    return slot >= 0 && this.#internal.isShown(slot) && !this.#internal.isSuperseded(slot);
  }

  #missed(slot: number): void {
    const { table } = this.#internal;
    if (!this.#internal.isShown(slot) || this.#internal.isSuperseded(slot)) return;
    this.#ended?.missed(table.slab(slot), table.base(slot), table.rare.get(slot) ?? null);
  }

  /**
   * A commit has removed an entry of this node's own flow in order to replace it by the one that a peer published. The
   * connection continues in that entry, which the dump behind the commit lists. False for every other flow.
   */
  replaced({ words }: DecodedFlow): boolean {
    const { table } = this.#internal;
    const slot = table.find(words, 0);
    if (slot < 0 || this.#internal.isSuperseded(slot)) return false;
    const slab = table.slab(slot);
    const base = table.base(slot);
    if (isOtherFlow(slab, base, words)) return false;
    slab[base + W_HAS]! &= ~HAS_ID;
    return true;
  }

  /**
   * A flow has ended whose beginning no event reported, because a commit wrote it or because it was short. This node
   * carried it for a while, and publishes that.
   */
  takeUnheard(flow: DecodedFlow): void {
    if (this.#internal.table.find(flow.words, 0) >= 0) return;
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(flow.words, 0);
    if (slot < 0) {
      this.take(flow);
      return;
    }
    const committed = new DecodedFlow();
    const base = table.base(slot);
    committed.words.set(table.slab(slot).subarray(base, base + RECORD_WORDS));
    // The flow's ID is the peer's, not this kernel's.
    committed.words[W_HAS]! &= HAS_MASK & ~HAS_ID;
    committed.rare = table.rare.get(slot) ?? null;
    this.take(committed);
  }
}
