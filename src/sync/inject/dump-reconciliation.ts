/** Of each flow that a dump lists, this says whether it is a peer's; what peers carry and no dump lists is written again. */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { type DecodedFlow, W_TIMEOUT } from "../../flow/record.js";
import { isClosing, sameReply } from "../../flow/record-fields.js";
import type { Doubts } from "./doubts.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import { isAhead, sameState } from "./injected-flow.js";
import type { Renewal } from "./renewal.js";
import type { WorkList } from "./work-list.js";

/** Compares a dump of the kernel with what peers carry and with what was written. */
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
   * The dump lists a flow. True when a peer carries it, so that it is not this node's own; false when nobody else does, or
   * when this kernel knows more of it than the peer has published.
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
    // The entry was written since the dump began, which may list what was there before: that proves nothing.
    if (this.#entries.isSeen(slot)) {
      if (!sameAll) this.#doubts.add(words);
      return true;
    }
    // Written, and not to be written again: packets here have changed what differs.
    const settled = this.#entries.expiresSeconds(slot) > 0 && !this.#work.isChanged(slot);
    const isAnother = this.#entries.isAnother(slot, table.birth(slot));
    if (same && !isAnother && ((settled && !sameAll) || isAhead(words, slab, base))) return false;
    this.#entries.noteListed(slot, words, words[W_TIMEOUT]!, listedSeconds);
    if (sameAll) this.#work.dropChanged(slot);
    else this.#work.addChanged(slot);
    return true;
  }

  /**
   * True for a flow that ended and waits to be removed, or was removed while the dump ran: it is nobody's. But this node's
   * own flow may have the tuple of one that ended long ago, which a daemon that starts reads of once more.
   */
  #hasEnded(words: Uint32Array): boolean {
    const ended = this.#work.waitsForEnd(words) || this.#entries.wasRemoved(words);
    return ended && this.#internal.ownFlow(words, 0) === null;
  }

  /** The dump is over. If it was complete, what peers carry and it did not list is written. */
  end(complete: boolean): void {
    this.#entries.endDump();
    if (!complete) return;
    const { table } = this.#external;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (!table.isLive(slot) || this.#entries.isSeen(slot) || this.#work.isChanged(slot)) continue;
      this.#entries.forget(slot);
      if (!isClosing(table.slab(slot), table.base(slot))) this.#renewal.renew(slot);
    }
  }
}
