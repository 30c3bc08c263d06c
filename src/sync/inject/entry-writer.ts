/** Writes the flows that peers publish into this kernel, a batch at a time, whatever the kernel has there already. */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { RECORD_WORDS, W_PROTOINFO, W_STATUS, W_TIMEOUT, W_UPDATED } from "../../flow/record.js";
import { isClosing, sameReply } from "../../flow/record-fields.js";
import { IPS_KEPT } from "../../flow/status.js";
import { EBUSY, EEXIST, ENOENT, ENOSPC, EOPNOTSUPP } from "../../os/errno.js";
import { type Carrier, TIMEOUT_FLOOR_SECONDS } from "../ports/kernel.js";
import type { Doubts } from "./doubts.js";
import { type InjectedEntries, nowSeconds } from "./injected-entries.js";
import { isFurther, isOlder } from "./injected-flow.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { InjectorItem, InjectorRequests } from "./injector-requests.js";
import type { WorkList } from "./work-list.js";

/** Rows of a batch: as many as a commit writes at once, so that the kernel seldom waits for this process. */
const BATCH_ROWS = 1024;
/** How much longer an injected entry lives than its owner's. The owner, not this kernel, is to end it. */
const GRACE_SECONDS = 5;

/** Writes the rows that have changed. */
export class EntryWriter {
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #work: WorkList;
  readonly #entries: InjectedEntries;
  readonly #requests: InjectorRequests;
  readonly #doubts: Doubts;
  readonly #counters: InjectorCounters;
  readonly #timeoutSeconds: number | null;
  readonly #wallSeconds: () => number;

  constructor(parts: {
    internal: InternalCache;
    external: ExternalCache;
    work: WorkList;
    entries: InjectedEntries;
    requests: InjectorRequests;
    doubts: Doubts;
    counters: InjectorCounters;
    /** Timeout of every entry; null: the time that the owner's entry had left, but never less than a floor. */
    timeoutSeconds: number | null;
    wallSeconds: () => number;
  }) {
    this.#internal = parts.internal;
    this.#external = parts.external;
    this.#work = parts.work;
    this.#entries = parts.entries;
    this.#requests = parts.requests;
    this.#doubts = parts.doubts;
    this.#counters = parts.counters;
    this.#timeoutSeconds = parts.timeoutSeconds;
    this.#wallSeconds = parts.wallSeconds;
  }

  /** Writes at most a batch of rows that have changed. */
  async writeChanged(carrier: Carrier): Promise<void> {
    const items = this.#takeChanged();
    await this.#write(items, carrier);
    // If the row is gone now, it was removed while its entry was being written.
    for (const { words } of items) if (this.#external.table.find(words, 0) < 0) this.#doubts.add(words);
  }

  #takeChanged(): InjectorItem[] {
    const { table } = this.#external;
    const items: InjectorItem[] = [];
    for (const slot of this.#work.takeChanged()) {
      if (!table.isLive(slot)) continue;
      const base = table.base(slot);
      const words = table.slab(slot).slice(base, base + RECORD_WORDS);
      const rare = table.rare.get(slot) ?? null;
      const birth = table.birth(slot);
      const isAnother = this.#entries.isAnother(slot, birth);
      this.#entries.noteBirth(slot, birth);
      items.push({ slot, words, rare, timeoutSeconds: this.#timeoutOf(words), isAnother });
      if (items.length >= BATCH_ROWS) break;
    }
    return items;
  }

  /** If the owner's packets keep a flow alive past the published expiry, the entry gets the owner's full timeout. */
  #timeoutOf(words: Uint32Array): number {
    if (this.#timeoutSeconds !== null) return this.#timeoutSeconds;
    const leftSeconds = words[W_TIMEOUT]! - Math.max(0, this.#wallSeconds() - words[W_UPDATED]!);
    const seconds = (leftSeconds > 0 ? leftSeconds : words[W_TIMEOUT]!) + GRACE_SECONDS;
    return isClosing(words, 0) ? seconds : Math.max(seconds, TIMEOUT_FLOOR_SECONDS);
  }

  /** A flow that this kernel has is updated, or replaced if it is a different one. Any other flow is created. */
  async #write(items: readonly InjectorItem[], carrier: Carrier): Promise<void> {
    const fresh: InjectorItem[] = [];
    const known: InjectorItem[] = [];
    const stale: InjectorItem[] = [];
    for (const item of items) {
      if (this.#entries.expiresSeconds(item.slot) === 0) fresh.push(item);
      else if (this.#entries.hasReply(item.slot, item.words)) known.push(item);
      else stale.push(item);
    }
    // Noted before the requests, not after: rows may be removed while the requests are under way.
    this.#entries.beginWrite(items, nowSeconds());
    try {
      await this.#update(known, fresh, carrier);
      const existing = await this.#create(fresh);
      if (existing.length > 0) await this.#settle(existing, stale, carrier);
      if (stale.length > 0) await this.#replace(stale, carrier);
    } finally {
      this.#entries.endWrite(nowSeconds());
    }
  }

  /**
   * Updates entries. Those that the kernel lacks are added to `missing`. Those that know more than the peer are
   * claimed.
   */
  async #update(items: readonly InjectorItem[], missing: InjectorItem[], carrier: Carrier): Promise<void> {
    const richer: InjectorItem[] = [];
    const refused = await this.#requests.send("update", items);
    for (const [item, errno] of refused) {
      if (errno === ENOENT) missing.push(item);
      else if (errno === EBUSY) richer.push(item);
      // No rule here uses labels, and everything else has been written.
      else if (errno === ENOSPC) this.#counters.updated++;
      else this.#fail(item);
    }
    this.#counters.updated += items.length - refused.size;
    if (richer.length > 0) await this.#merge(richer, carrier);
  }

  /** Creates masters before the flows that they expected. Returns the flows that already exist. */
  async #create(items: readonly InjectorItem[]): Promise<InjectorItem[]> {
    const isRelated = ({ rare }: InjectorItem): boolean => rare?.master !== undefined;
    const ordered = items.some(isRelated)
      ? [...items.filter((item) => !isRelated(item)), ...items.filter(isRelated)]
      : items;
    const existing: InjectorItem[] = [];
    const lacking: InjectorItem[] = [];
    const refused = await this.#requests.send("create", ordered);
    for (const [item, errno] of refused) {
      if (errno === EEXIST) existing.push(item);
      // This kernel lacks the master or the helper, so the flow is created without it.
      else if (errno === ENOENT || errno === EOPNOTSUPP) lacking.push(withoutHelp(item));
      else this.#fail(item);
    }
    const failed = await this.#requests.send("create", lacking);
    for (const item of failed.keys()) this.#fail(item);
    this.#counters.injected += items.length - refused.size + lacking.length - failed.size;
    return existing;
  }

  /**
   * Sorts flows that existed before this daemon wrote them: the same flows are updated, and others are added to
   * `stale`.
   */
  async #settle(existing: readonly InjectorItem[], stale: InjectorItem[], carrier: Carrier): Promise<void> {
    const found = await this.#requests.read(existing);
    const same: InjectorItem[] = [];
    for (const item of existing) {
      const flow = found.get(item);
      // The original tuple is free. The reply tuple belongs to another flow, which this node translated to the same
      // port.
      if (flow === undefined) this.#fail(item);
      else if (sameReply(item.words, 0, flow.words, 0)) same.push(item);
      else stale.push(item);
    }
    const missing: InjectorItem[] = [];
    await this.#update(same, missing, carrier);
    for (const item of missing) this.#fail(item);
  }

  /** Replaces entries, except where packets have made the flow this node's own, as the events up to now show. */
  async #replace(stale: readonly InjectorItem[], carrier: Carrier): Promise<void> {
    carrier.readEvents();
    const items = this.#notOwn(stale);
    await this.#requests.send("delete", items);
    const refused = await this.#requests.send("create", items);
    for (const item of refused.keys()) this.#fail(item);
    this.#counters.replaced += items.length - refused.size;
  }

  /**
   * The kernel never clears these status bits: it has seen a reply that the peer has not. Both know the same flow,
   * which is now this node's own. If the peer has just seen the flow begin, it is a different one, and the old flow
   * with that tuple is removed.
   */
  async #merge(richer: readonly InjectorItem[], carrier: Carrier): Promise<void> {
    const items = this.#notOwn(richer);
    const found = await this.#requests.read(items);
    const replaced: InjectorItem[] = [];
    const merged: InjectorItem[] = [];
    for (const item of items) {
      const flow = found.get(item);
      if (flow === undefined || item.isAnother || isOlder(flow.words, item.words[W_STATUS]!)) {
        replaced.push(item);
        continue;
      }
      item.words[W_STATUS]! |= flow.words[W_STATUS]! & IPS_KEPT;
      if (isFurther(flow.words, item.words, 0)) item.words[W_PROTOINFO] = flow.words[W_PROTOINFO]!;
      merged.push(item);
    }
    if (replaced.length > 0) await this.#replace(replaced, carrier);
    if (merged.length === 0) return;
    const refused = await this.#requests.send("update", merged);
    for (const item of merged) {
      if (refused.has(item)) this.#fail(item);
      // Packets may pass: it is claimed as it is once nothing is being written.
      else this.#doubts.add(item.words);
    }
  }

  #notOwn(items: readonly InjectorItem[]): InjectorItem[] {
    return items.filter(({ words }) => this.#internal.ownFlow(words, 0) === null);
  }

  #fail({ slot }: InjectorItem): void {
    this.#counters.failed++;
    this.#entries.forget(slot);
  }
}

/** A copy without the parts that this kernel may lack: the master and the helper. */
function withoutHelp(item: InjectorItem): InjectorItem {
  const { master: _master, helper: _helper, ...rest } = item.rare ?? {};
  return { ...item, rare: rest };
}
