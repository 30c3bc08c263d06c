/** Writes an entry again that has expired or is about to, while its owner has the flow and its stream is followed. */
import type { ExternalCache } from "../../cache/external.js";
import { isClosing } from "../../flow/record-fields.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { WorkList } from "./work-list.js";

/** An entry that has less time left than this is renewed. */
const RENEW_AHEAD_SECONDS = 3;

/** Puts the rows whose entries expire back on the work list. */
export class Renewal {
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #counters: InjectorCounters;
  readonly #hears: (node: string) => boolean;

  constructor(parts: {
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    counters: InjectorCounters;
    /** True while the stream of a peer is followed. */
    hears: (node: string) => boolean;
  }) {
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#counters = parts.counters;
    this.#hears = parts.hears;
  }

  /**
   * The kernel has lost the row's entry or is about to. The row is written now, or when its owner's stream is followed
   * again.
   */
  renew(slot: number): void {
    if (!this.#hears(this.#external.ownerName(slot))) {
      this.#work.addMissed(slot);
      return;
    }
    this.#counters.renewed++;
    this.#work.addChanged(slot);
  }

  /** This kernel has ended a flow by itself. If a peer still has it, the flow is written again. */
  expired(words: Uint32Array, base: number): void {
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(words, base);
    if (slot < 0) return;
    this.#entries.noteRemoved(words, base);
    this.lost(slot);
  }

  /** This kernel does not have the row's entry. A closing flow is about to end at its owner as well. */
  lost(slot: number): void {
    const { table } = this.#external;
    this.#entries.forget(slot);
    if (!isClosing(table.slab(slot), table.base(slot))) this.renew(slot);
  }

  /**
   * Renews entries shortly before they expire, because the kernel's event may come a minute after the end. Entries that
   * expired while their owner could not be followed are written when it can. Call it every second.
   */
  tick(): void {
    const { table } = this.#external;
    const end = Math.min(table.slotsUsed, this.#entries.end);
    const dueSeconds = nowSeconds() + RENEW_AHEAD_SECONDS;
    for (let slot = 0; slot < end; slot++) {
      const expiresSeconds = this.#entries.expiresSeconds(slot);
      if (expiresSeconds === 0 || expiresSeconds > dueSeconds || this.#work.isChanged(slot)) continue;
      if (table.isLive(slot) && !isClosing(table.slab(slot), table.base(slot))) this.renew(slot);
    }
    for (const slot of this.#work.takeMissed()) this.renew(slot);
  }
}
