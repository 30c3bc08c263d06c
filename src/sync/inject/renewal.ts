/** An entry that expires, or is about to, is written again for as long as its owner has the flow and is heard. */
import type { ExternalCache } from "../../cache/external.js";
import { isClosing } from "../../flow/record-fields.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { WorkList } from "./work-list.js";

/** An entry is renewed when it has less left than this. */
const RENEW_AHEAD_SECONDS = 3;

/** Puts rows whose entries expire back on the work list. */
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

  /** The kernel has no entry of the row any more, or not for long: it is written now, or when its owner is heard again. */
  renew(slot: number): void {
    if (!this.#hears(this.#external.ownerName(slot))) {
      this.#work.addMissed(slot);
      return;
    }
    this.#counters.renewed++;
    this.#work.addChanged(slot);
  }

  /** This kernel has ended a flow by itself. If a peer still has it, it is written again. */
  expired(words: Uint32Array, base: number): void {
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(words, base);
    if (slot < 0) return;
    this.#entries.forget(slot);
    this.#entries.noteRemoved(words, base);
    // One that is closing is about to end at its owner as well.
    if (isClosing(table.slab(slot), table.base(slot))) return;
    this.renew(slot);
  }

  /**
   * To be called every second. An entry that is about to expire is renewed ahead of time, because a minute may pass between
   * its end and the kernel's event of it. Those that expired while their owner was away follow when it is heard.
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
