/** Decides for each flow in a dump whether it is a peer's. Peers' flows that no dump lists are written again. */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { type DecodedFlow, W_TIMEOUT } from "../../flow/record.js";
import { sameReply } from "../../flow/record-fields.js";
import type { Doubts } from "./doubts.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import { isAhead, sameState } from "./injected-flow.js";
import type { Renewal } from "./renewal.js";
import type { WorkList } from "./work-list.js";

/** Compares a dump of the kernel with the flows that peers carry and with the entries that were written. */
export class DumpReconciliation {
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #doubts: Doubts;
  readonly #renewal: Renewal;

  constructor(parts: {
    internal: InternalCache;
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    doubts: Doubts;
    renewal: Renewal;
  }) {
    this.#internal = parts.internal;
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#doubts = parts.doubts;
    this.#renewal = parts.renewal;
  }

  /** A dump of the kernel begins. */
  begin(): void {
    this.#entries.beginDump(nowSeconds());
  }

  /**
   * The dump lists a flow. True when a peer carries it, so it is not this node's own. False when nobody else carries
   * it, or when this kernel knows more about it than the peer has published.
   */
  present({ words }: DecodedFlow): boolean {
    const listedSeconds = nowSeconds();
    this.#entries.countListed(listedSeconds);
    if (this.#hasEnded(words)) return true;
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(words, 0);
    if (slot < 0) return false;
    const slab = table.slab(slot);
    const base = table.base(slot);
    const same = sameReply(slab, base, words, 0);
    const sameAll = same && sameState(words, slab, base);
    // The entry was written after the dump began. The dump may show the entry before that, and so proves nothing. A row
    // that is not due yet was never written: that was the row before it in its slot.
    if (this.#entries.isSeen(slot)) {
      this.#entries.noteSeen(slot);
      if (!sameAll || this.#work.isYoung(slot)) this.#doubts.add(words);
      return true;
    }
    // The entry is written and has no write pending, so any difference was made by packets here.
    const settled = this.#entries.expiresSeconds(slot) > 0 && !this.#work.isChanged(slot);
    const isAnother = this.#entries.isAnother(slot, table.birth(slot));
    if (same && !isAnother && ((settled && !sameAll) || isAhead(words, slab, base))) return false;
    this.#entries.noteListed(slot, words, words[W_TIMEOUT]!, listedSeconds);
    if (sameAll) this.#work.dropChanged(slot);
    else this.#work.addChanged(slot);
    return true;
  }

  /**
   * True for a flow that has ended and waits for its removal, or was removed during the dump: nobody owns it. But this
   * node's own flow may have the tuple of one that ended long ago, which a starting daemon reads in the stream again.
   */
  #hasEnded(words: Uint32Array): boolean {
    const ended = this.#work.waitsForEnd(words) || this.#entries.wasRemoved(words);
    return ended && this.#internal.ownFlow(words, 0) === null;
  }

  /** The dump is over. If it was complete, peers' flows that it did not list are written. */
  end(complete: boolean): void {
    this.#entries.endDump();
    if (!complete) return;
    const { table } = this.#external;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (!table.isLive(slot) || this.#work.isChanged(slot)) continue;
      if (this.#entries.isUncertain(slot)) this.#doubts.addRow(slot);
      else if (!this.#entries.isSeen(slot)) this.#renewal.lost(slot);
    }
  }
}
