import type { Logger } from "pino";
import type { ExternalCache, ExternalListener } from "../cache/external.js";
import { errnoName } from "../ctnetlink/decode.js";
import { BATCH_MESSAGES } from "../ctnetlink/request-socket.js";
import { errorText } from "../errors.js";
import { FlowTable } from "../flow/flow-table.js";
import {
  type DecodedFlow,
  RECORD_WORDS,
  W_PROTOINFO,
  W_STATUS,
  W_TABLE_A,
  W_TABLE_B,
  W_TIMEOUT,
  W_UPDATED,
} from "../flow/record.js";
import { TIMEOUT_FLOOR_SECONDS } from "./commit.js";
import { InjectedEntries } from "./injected-entries.js";
import { isAhead, isClosing, isOlder, MONOTONIC_STATUS, sameReply, sameState } from "./injected-flow.js";
import { type InjectorItem, type InjectorKernel, InjectorRequests, withoutHelp } from "./injector-requests.js";

/** What an injector counts; the group `inject` of `stats`. */
export interface InjectorCounters {
  /** Flows of peers that were created in this kernel. */
  injected: number;
  updated: number;
  /** Entries of another translation, or older ones of the same tuple, that a peer's flow took the place of. */
  replaced: number;
  removed: number;
  failed: number;
  /** Entries prolonged, or written again, because their owner still has the flow. */
  renewed: number;
  /** Flows of peers that became this node's own, because its kernel knew more, or its packets kept them alive. */
  claimed: number;
  /** Ends of flows that were not remembered for want of room: their entries stay until they expire, or become this node's. */
  endingsDropped: number;
}

/** What an injector asks of the rest of the node. */
export interface InjectorNode {
  /** True when this node carries the flow with this original tuple. */
  owns(words: Uint32Array, base: number): boolean;
  /** Makes a flow of this kernel this node's own and tells the peers so. */
  claim(flow: DecodedFlow): void;
  /** True while the stream of a peer is followed. */
  hears(node: string): boolean;
  /** Compares the kernel's table with what is known of it: what became of some requests is not. */
  resync(): void;
}

/** Room for this many ended flows between two writes, or until the first. */
const ENDINGS_MAX = 1 << 20;
/** So much longer than its owner's an injected entry lives: the owner, not this kernel, is to end it. */
const GRACE_SECONDS = 5;
/** An entry is prolonged when it has less left than this. */
const RENEW_AHEAD_SECONDS = 3;
/** Seconds by which the kernel's idea of a timeout and ours differ without a packet having come. */
const TOLERANCE_SECONDS = 2;

/** A flow that its owner ended. */
interface Ending {
  /** Where it stands in the table of those that are being removed. */
  readonly at: number;
  readonly words: Uint32Array;
  /** When its entry runs out if no packet comes; 0: that is not known. */
  readonly expires: number;
  /** Or later by so many seconds. */
  readonly within: number;
}

/**
 * Mode `inject`: what peers say goes into this kernel at once, without a commit, for active-active and asymmetric paths. The
 * external cache keeps the books (which flow is whose); this listens to it and writes what changed, in batches.
 *
 * Packets of one flow may pass both nodes, and one that passes changes timeouts without an event. So an entry that expired
 * here while its owner has it is written again, and one that its owner ended but that packets kept alive here is claimed.
 */
export class Injector implements ExternalListener {
  readonly counters: InjectorCounters = {
    injected: 0,
    updated: 0,
    replaced: 0,
    removed: 0,
    failed: 0,
    renewed: 0,
    claimed: 0,
    endingsDropped: 0,
  };
  readonly #external: () => ExternalCache;
  readonly #requests: InjectorRequests;
  readonly #node: InjectorNode;
  readonly #timeoutSeconds: number | null;
  readonly #wallSeconds: () => number;
  readonly #intervalMs: number;
  readonly #log: Logger;
  /** Rows to write. Bounded by the rows of the external cache. */
  readonly #changed = new Set<number>();
  /** Rows that this kernel let expire while their owner was away. Bounded likewise. */
  readonly #missed = new Set<number>();
  #ended = new FlowTable(ENDINGS_MAX);
  /** The other one of the two, empty while nothing is written. */
  #ending = new FlowTable(ENDINGS_MAX);
  readonly #entries = new InjectedEntries();
  #held = true;
  /** Cancels the write that is due; null when none is. */
  #cancel: (() => void) | null = null;
  #writing: Promise<void> | null = null;
  #writtenMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(options: {
    external: () => ExternalCache;
    kernel: InjectorKernel;
    node: InjectorNode;
    /** Timeout of every entry; null: what was left of the owner's, never below a floor. */
    timeoutSeconds: number | null;
    /** Sets BE_LIBERAL on TCP flows: packets of theirs pass other nodes, so this kernel sees their windows in part only. */
    liberal: boolean;
    wallSeconds: () => number;
    /** Least time between two writes. */
    intervalMs: number;
    log: Logger;
  }) {
    this.#external = options.external;
    this.#requests = new InjectorRequests(options.kernel, options.liberal);
    this.#node = options.node;
    this.#timeoutSeconds = options.timeoutSeconds;
    this.#wallSeconds = options.wallSeconds;
    this.#intervalMs = options.intervalMs;
    this.#log = options.log;
  }

  /** From now on it writes; before, the external cache is being rebuilt and the kernel has yet to be listed. */
  start(): void {
    this.#held = false;
    this.#poke();
  }

  changed(slot: number): void {
    this.#changed.add(slot);
    this.#poke();
  }

  ended(slot: number): void {
    const { table } = this.#external();
    const slab = table.slab(slot);
    const base = table.base(slot);
    let at = this.#ended.find(slab, base);
    if (at < 0) at = this.#ended.insert(slab, base);
    if (at < 0) {
      this.counters.endingsDropped++;
      return;
    }
    const words = this.#ended.slab(at);
    const to = this.#ended.base(at);
    words[to + W_PROTOINFO] = slab[base + W_PROTOINFO]!;
    words[to + W_TABLE_A] = this.#entries.isWriting(slot) ? 0 : Math.round(this.#entries.expires(slot));
    words[to + W_TABLE_B] = Math.ceil(this.#entries.within(slot));
    this.#poke();
  }

  forgotten(slot: number): void {
    this.#changed.delete(slot);
    this.#missed.delete(slot);
    this.#entries.forget(slot);
  }

  /** This kernel has ended a flow by itself. When a peer has it still, it is written again. */
  expired(words: Uint32Array, base: number): void {
    const external = this.#external();
    const slot = external.table.size === 0 ? -1 : external.table.find(words, base);
    if (slot < 0) return;
    this.#entries.forget(slot);
    // One that is closing is about to end at its owner as well.
    if (isClosing(external.table.slab(slot), external.table.base(slot))) return;
    this.#renew(slot);
  }

  #renew(slot: number): void {
    if (!this.#node.hears(this.#external().ownerName(slot))) {
      this.#missed.add(slot);
      return;
    }
    this.counters.renewed++;
    this.changed(slot);
  }

  /**
   * To be called every second. Entries that are about to run out while their owner has them are prolonged: between their end
   * and the kernel's word of it a minute may pass. So are those that ran out while their owner was away.
   */
  tick(): void {
    if (this.#held) return;
    const { table } = this.#external();
    const end = Math.min(table.slotsUsed, this.#entries.end);
    const due = this.#now() + RENEW_AHEAD_SECONDS;
    for (let slot = 0; slot < end; slot++) {
      const expires = this.#entries.expires(slot);
      if (expires === 0 || expires > due || this.#changed.has(slot)) continue;
      if (table.isLive(slot) && !isClosing(table.slab(slot), table.base(slot))) this.#renew(slot);
    }
    if (this.#missed.size === 0) return;
    const missed = [...this.#missed];
    this.#missed.clear();
    for (const slot of missed) this.#renew(slot);
  }

  /** A dump of the kernel begins. */
  beginDump(): void {
    this.#entries.beginDump(this.#now());
  }

  /**
   * A dump lists a flow. True when a peer carries it, so that it is none of this node's own; false when nobody else does, or
   * when this kernel knows more of it than the peer has said.
   */
  present(flow: DecodedFlow): boolean {
    const { words } = flow;
    const now = this.#now();
    this.#entries.countListed(now);
    if (this.#hasEnded(words)) return true;
    const { table } = this.#external();
    const slot = table.size === 0 ? -1 : table.find(words, 0);
    if (slot < 0) return false;
    // It was written since the dump began: this may be what was there before, and says nothing.
    if (this.#entries.seen(slot)) return true;
    const slab = table.slab(slot);
    const base = table.base(slot);
    const same = sameReply(slab, base, words);
    const sameAll = same && sameState(words, slab, base);
    // Written, and not to be written: what differs was changed by packets here.
    const settled = this.#entries.expires(slot) > 0 && !this.#changed.has(slot);
    if (same && ((settled && !sameAll) || isAhead(words, slab, base))) return false;
    this.#entries.listed(slot, words, words[W_TIMEOUT]!, now);
    if (sameAll) this.#changed.delete(slot);
    else this.changed(slot);
    return true;
  }

  /** True of one that its owner ended, and that waits to be removed or was removed while the dump runs: it is nobody's. */
  #hasEnded(words: Uint32Array): boolean {
    const waits = (table: FlowTable): boolean => table.size > 0 && table.find(words, 0) >= 0;
    const ended = waits(this.#ended) || waits(this.#ending) || this.#entries.wasRemoved(words);
    return ended && !this.#node.owns(words, 0);
  }

  /** The dump is over. When it was complete, what peers carry and it did not list is written. */
  endDump(complete: boolean): void {
    this.#entries.endDump();
    if (!complete) return;
    const { table } = this.#external();
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (!table.isLive(slot) || this.#entries.seen(slot) || this.#changed.has(slot)) continue;
      this.#entries.forget(slot);
      if (!isClosing(table.slab(slot), table.base(slot))) this.#renew(slot);
    }
  }

  /** At once after a pause, then at intervals; one write at a time. */
  #poke(): void {
    if (this.#held || this.#stopped || this.#cancel !== null || this.#writing !== null) return;
    if (this.#changed.size === 0 && this.#ended.size === 0) return;
    const write = (): void => {
      this.#cancel = null;
      this.#writtenMs = performance.now();
      this.#writing = this.#write().finally(() => {
        this.#writing = null;
        this.#poke();
      });
    };
    const waitMs = this.#writtenMs + this.#intervalMs - performance.now();
    if (waitMs <= 0) {
      const due = setImmediate(write);
      this.#cancel = () => clearImmediate(due);
    } else {
      const due = setTimeout(write, waitMs);
      this.#cancel = () => clearTimeout(due);
    }
  }

  /** Ends first: a tuple that ended and came again within a turn is a new flow. Never rejects. */
  async #write(): Promise<void> {
    try {
      while (this.#ended.size + this.#changed.size > 0 && !this.#stopped) {
        if (this.#ended.size > 0) await this.#removeEnded();
        // Not while one waits that ended meanwhile.
        if (this.#ended.size === 0) await this.#inject(this.#takeChanged());
      }
    } catch (error) {
      this.#log.error(
        { error: errorText(error) },
        "flows of peers could not be written into the kernel: comparing with it",
      );
      this.#node.resync();
    }
  }

  #takeChanged(): InjectorItem[] {
    const { table } = this.#external();
    const items: InjectorItem[] = [];
    for (const slot of this.#changed) {
      this.#changed.delete(slot);
      if (!table.isLive(slot)) continue;
      const base = table.base(slot);
      const words = table.slab(slot).slice(base, base + RECORD_WORDS);
      const rare = table.rare.get(slot) ?? null;
      items.push({ slot, words, rare, timeoutSeconds: this.#timeoutOf(words) });
      if (items.length >= BATCH_MESSAGES) break;
    }
    return items;
  }

  /** What this kernel has of a flow is updated, or replaced where it is another one; else the flow is created. */
  async #inject(items: readonly InjectorItem[]): Promise<void> {
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
      const name = errnoName(errno);
      if (name === "ENOENT") missing.push(item);
      else if (name === "EBUSY") richer.push(item);
      // No rule here uses labels; all else is done by then.
      else if (name === "ENOSPC") this.counters.updated++;
      else this.#fail(item);
    }
    this.counters.updated += items.length - refused.size;
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
      const name = errnoName(errno);
      if (name === "EEXIST") existing.push(item);
      // No such master, no such helper here: the flow is let through without.
      else if (name === "ENOENT" || name === "EOPNOTSUPP") lacking.push(withoutHelp(item));
      else this.#fail(item);
    }
    const failed = await this.#requests.send("create", lacking);
    for (const item of failed.keys()) this.#fail(item);
    this.counters.injected += items.length - refused.size + lacking.length - failed.size;
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
      else if (sameReply(item.words, 0, flow.words)) same.push(item);
      else stale.push(item);
    }
    const missing: InjectorItem[] = [];
    await this.#update(same, missing);
    for (const item of missing) this.#fail(item);
  }

  async #replace(items: readonly InjectorItem[]): Promise<void> {
    await this.#requests.send("delete", items);
    const refused = await this.#requests.send("create", items);
    for (const item of refused.keys()) this.#fail(item);
    this.counters.replaced += items.length - refused.size;
  }

  /**
   * The kernel takes no status back: it has seen a reply that the peer has not. What both know is one flow, this node's
   * own now. Only one that the peer has just seen begin is another: the old one of that tuple goes.
   */
  async #merge(items: readonly InjectorItem[]): Promise<void> {
    const found = await this.#requests.read(items);
    const replaced: InjectorItem[] = [];
    const merged: InjectorItem[] = [];
    for (const item of items) {
      const flow = found.get(item);
      if (flow === undefined || isOlder(flow.words, item.words[W_STATUS]!)) {
        replaced.push(item);
        continue;
      }
      item.words[W_STATUS]! |= flow.words[W_STATUS]! & MONOTONIC_STATUS;
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

  #claim(flow: DecodedFlow): void {
    this.counters.claimed++;
    this.#node.claim(flow);
  }

  #fail({ slot }: InjectorItem): void {
    this.counters.failed++;
    this.#entries.forget(slot);
  }

  async #removeEnded(): Promise<void> {
    const ended = this.#ended;
    this.#ended = this.#ending;
    this.#ending = ended;
    let endings: Ending[] = [];
    for (let at = 0; at < ended.slotsUsed; at++) {
      if (!ended.isLive(at)) continue;
      endings.push(this.#endingAt(at));
      if (endings.length < BATCH_MESSAGES) continue;
      await this.#remove(endings);
      endings = [];
    }
    await this.#remove(endings);
  }

  #endingAt(at: number): Ending {
    const base = this.#ending.base(at);
    const words = this.#ending.slab(at).slice(base, base + RECORD_WORDS);
    const { table } = this.#external();
    const again = table.find(words, 0);
    if (again < 0) return { at, words, expires: words[W_TABLE_A]!, within: words[W_TABLE_B]! };
    // The entry is of the flow that ended: what came again under its tuple is created anew.
    this.#entries.forget(again);
    this.#changed.add(again);
    return { at, words, expires: 0, within: 0 };
  }

  /** Removes entries, but those that packets have kept alive here are claimed. */
  async #remove(endings: readonly Ending[]): Promise<void> {
    const asked = endings.filter(({ words, expires }) => expires > 0 && !isClosing(words, 0));
    const kept = new Set<Ending>();
    const from = this.#now() - TOLERANCE_SECONDS;
    const found = await this.#requests.read(asked);
    const until = this.#now() + TOLERANCE_SECONDS;
    for (const [ending, flow] of found) {
      const left = flow.words[W_TIMEOUT]!;
      if (from + left <= ending.expires + ending.within && until + left >= ending.expires) continue;
      kept.add(ending);
      this.#claim(flow);
    }
    const removed = endings.filter((ending) => !kept.has(ending) && !this.#node.owns(ending.words, 0));
    const refused = await this.#requests.send("delete", removed);
    this.counters.removed += removed.length - refused.size;
    for (const { words } of removed) if (!this.#entries.removed(words)) this.counters.endingsDropped++;
    for (const { at } of endings) {
      this.#ending.unlink(at);
      this.#ending.free(at);
    }
  }

  /** A flow that its owner's packets keep alive beyond what was said last gets the whole of its owner's timeout. */
  #timeoutOf(words: Uint32Array): number {
    if (this.#timeoutSeconds !== null) return this.#timeoutSeconds;
    const left = words[W_TIMEOUT]! - Math.max(0, this.#wallSeconds() - words[W_UPDATED]!);
    const seconds = (left > 0 ? left : words[W_TIMEOUT]!) + GRACE_SECONDS;
    return isClosing(words, 0) ? seconds : Math.max(seconds, TIMEOUT_FLOOR_SECONDS);
  }

  #now(): number {
    return performance.now() / 1000;
  }

  /** Cancels what is due and waits for what is being written. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel?.();
    await this.#writing;
  }
}
