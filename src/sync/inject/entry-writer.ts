import { type DecodedFlow, W_PROTOINFO, W_STATUS } from "../../flow/record.js";
import { sameReply } from "../../flow/record-fields.js";
import { EBUSY, EEXIST, ENOENT, ENOSPC, EOPNOTSUPP } from "../../os/errno.js";
import type { InjectedEntries } from "./injected-entries.js";
import { isFurther, isOlder, MONOTONIC_STATUS } from "./injected-flow.js";
import type { InjectorCounters } from "./injector-counters.js";
import type { InjectorNode } from "./injector-node.js";
import { type InjectorItem, type InjectorRequests, withoutHelp } from "./injector-requests.js";

/** Writes peers' flows into this kernel, a batch at a time, whatever that has there already. */
export class EntryWriter {
  readonly #requests: InjectorRequests;
  readonly #entries: InjectedEntries;
  readonly #counters: InjectorCounters;
  readonly #node: InjectorNode;
  readonly #claim: (flow: DecodedFlow) => void;
  readonly #now: () => number;

  /** `now`: seconds of the monotonic clock. */
  constructor(parts: {
    requests: InjectorRequests;
    entries: InjectedEntries;
    counters: InjectorCounters;
    node: InjectorNode;
    /** Makes a flow this node's own. */
    claim: (flow: DecodedFlow) => void;
    now: () => number;
  }) {
    this.#requests = parts.requests;
    this.#entries = parts.entries;
    this.#counters = parts.counters;
    this.#node = parts.node;
    this.#claim = parts.claim;
    this.#now = parts.now;
  }

  /** What this kernel has of a flow is updated, or replaced where it is another one; else the flow is created. */
  async write(items: readonly InjectorItem[]): Promise<void> {
    const fresh: InjectorItem[] = [];
    const known: InjectorItem[] = [];
    const stale: InjectorItem[] = [];
    for (const item of items) {
      if (this.#entries.expires(item.slot) === 0) fresh.push(item);
      else if (this.#entries.hasReply(item.slot, item.words)) known.push(item);
      else stale.push(item);
    }
    // Before the requests, not after: rows may go while they are on their way.
    this.#entries.writing(items, this.#now());
    try {
      await this.#update(known, fresh);
      const existing = await this.#create(fresh);
      if (existing.length > 0) await this.#settle(existing, stale);
      if (stale.length > 0) await this.#replace(stale);
    } finally {
      this.#entries.written(this.#now());
    }
  }

  /** Updates entries that are there; those that are not join `missing`, those that know more than the peer are claimed. */
  async #update(items: readonly InjectorItem[], missing: InjectorItem[]): Promise<void> {
    const richer: InjectorItem[] = [];
    const refused = await this.#requests.send("update", items);
    for (const [item, errno] of refused) {
      if (errno === ENOENT) missing.push(item);
      else if (errno === EBUSY) richer.push(item);
      // No rule here uses labels; all else is done by then.
      else if (errno === ENOSPC) this.#counters.updated++;
      else this.#fail(item);
    }
    this.#counters.updated += items.length - refused.size;
    if (richer.length > 0) await this.#merge(richer);
  }

  /** Masters before the flows that they expected. Gives the flows that exist already. */
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
      // No such master, no such helper here: the flow is let through without.
      else if (errno === ENOENT || errno === EOPNOTSUPP) lacking.push(withoutHelp(item));
      else this.#fail(item);
    }
    const failed = await this.#requests.send("create", lacking);
    for (const item of failed.keys()) this.#fail(item);
    this.#counters.injected += items.length - refused.size + lacking.length - failed.size;
    return existing;
  }

  /** Flows that were there before this daemon wrote them: the same are updated, others join `stale`. */
  async #settle(existing: readonly InjectorItem[], stale: InjectorItem[]): Promise<void> {
    const found = await this.#requests.read(existing);
    const same: InjectorItem[] = [];
    for (const item of existing) {
      const flow = found.get(item);
      // Its original tuple is free: the reply tuple is another flow's, translated to the same port by this node.
      if (flow === undefined) this.#fail(item);
      else if (sameReply(item.words, 0, flow.words, 0)) same.push(item);
      else stale.push(item);
    }
    const missing: InjectorItem[] = [];
    await this.#update(same, missing);
    for (const item of missing) this.#fail(item);
  }

  /** But not where packets have made the entry this node's own meanwhile. */
  async #replace(stale: readonly InjectorItem[]): Promise<void> {
    const items = stale.filter(({ words }) => this.#node.own(words, 0) === null);
    await this.#requests.send("delete", items);
    const refused = await this.#requests.send("create", items);
    for (const item of refused.keys()) this.#fail(item);
    this.#counters.replaced += items.length - refused.size;
  }

  /**
   * The kernel takes no status back: it has seen a reply that the peer has not. What both know is one flow, this node's
   * own now. Only one that the peer has just seen begin is another: the old one of that tuple goes.
   */
  async #merge(richer: readonly InjectorItem[]): Promise<void> {
    const items = richer.filter(({ words }) => this.#node.own(words, 0) === null);
    const found = await this.#requests.read(items);
    const replaced: InjectorItem[] = [];
    const merged: InjectorItem[] = [];
    for (const item of items) {
      const flow = found.get(item);
      if (flow === undefined || item.isAnother || isOlder(flow.words, item.words[W_STATUS]!)) {
        replaced.push(item);
        continue;
      }
      item.words[W_STATUS]! |= flow.words[W_STATUS]! & MONOTONIC_STATUS;
      if (isFurther(flow.words, item.words, 0)) item.words[W_PROTOINFO] = flow.words[W_PROTOINFO]!;
      merged.push(item);
    }
    if (replaced.length > 0) await this.#replace(replaced);
    if (merged.length === 0) return;
    const refused = await this.#requests.send("update", merged);
    for (const [item, flow] of await this.#requests.read(merged)) {
      if (refused.has(item)) this.#fail(item);
      else this.#claim(flow);
    }
  }

  #fail({ slot }: InjectorItem): void {
    this.#counters.failed++;
    this.#entries.forget(slot);
  }
}
