import type { Logger } from "pino";
import type { ExternalCache, ExternalListener } from "../../cache/external.js";
import { BATCH_MESSAGES } from "../../ctnetlink/request-socket.js";
import { errorText } from "../../errors.js";
import { FlowTable } from "../../flow/flow-table.js";
import {
  type DecodedFlow,
  RECORD_WORDS,
  W_PROTOINFO,
  W_TABLE_A,
  W_TABLE_B,
  W_TIMEOUT,
  W_UPDATED,
} from "../../flow/record.js";
import { isClosing, sameReply } from "../../flow/record-fields.js";
import { type InjectorKernel, TIMEOUT_FLOOR_SECONDS } from "../ports/kernel.js";
import { EntryWriter } from "./entry-writer.js";
import { InjectedEntries } from "./injected-entries.js";
import { isAhead, isSame, sameState } from "./injected-flow.js";
import { newInjectorCounters } from "./injector-counters.js";
import type { InjectorNode } from "./injector-node.js";
import { type InjectorItem, InjectorRequests } from "./injector-requests.js";

/** Room for this many ended flows between two writes, or until the first. */
const ENDINGS_MAX = 1 << 20;
/** So much longer than its owner's an injected entry lives: the owner, not this kernel, is to end it. */
const GRACE_SECONDS = 5;
/** An entry is prolonged when it has less left than this. */
const RENEW_AHEAD_SECONDS = 3;
/** Seconds by which the kernel's idea of a timeout and ours differ without a packet having come. */
const TOLERANCE_SECONDS = 2;

/** Flows that wait to be verified. */
const DOUBTFUL_MAX = 1 << 16;

/** A flow that is to be looked up. */
interface Doubtful {
  readonly words: Uint32Array;
  /** False where packets may carry it here and this node has no room to know: what the kernel has then stays. */
  readonly mayGo: boolean;
}

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
  readonly counters = newInjectorCounters();
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
  readonly #writer: EntryWriter;
  /** Flows that packets here have changed: what was on its way into the kernel then may have undone that. */
  #doubtful: Doubtful[] = [];
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
    this.#writer = new EntryWriter({
      requests: this.#requests,
      entries: this.#entries,
      counters: this.counters,
      node: this.#node,
      claim: (flow) => this.#claim(flow),
      now: () => this.#now(),
    });
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
    // Nothing to remove: a peer's stream is read once more. What the kernel has there packets have made.
    if (!this.#held && this.#entries.isUntouched(slot) && !this.#node.knows(slab, base)) return;
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

  retired(slot: number): void {
    const { table } = this.#external();
    const base = table.base(slot);
    this.doubt(table.slab(slot).subarray(base, base + RECORD_WORDS));
  }

  /** What this kernel has of the flow is to be looked up, when nothing is being written. */
  doubt(words: Uint32Array): void {
    if (this.#doubtful.length < DOUBTFUL_MAX)
      this.#doubtful.push({ words: words.slice(), mayGo: this.#node.hasRoom() });
    else this.counters.unverified++;
    this.#poke();
  }

  forgotten(slot: number): void {
    this.#changed.delete(slot);
    this.#missed.delete(slot);
    this.#entries.drop(slot);
  }

  /** This kernel has ended a flow by itself. When a peer has it still, it is written again. */
  expired(words: Uint32Array, base: number): void {
    const external = this.#external();
    const slot = external.table.size === 0 ? -1 : external.table.find(words, base);
    if (slot < 0) return;
    this.#entries.forget(slot);
    this.#noteRemoved(words, base);
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
    const slab = table.slab(slot);
    const base = table.base(slot);
    // It was written since the dump began: this may be what was there before, and says nothing.
    if (this.#entries.seen(slot)) {
      if (!sameReply(slab, base, words, 0) || !sameState(words, slab, base)) this.doubt(words);
      return true;
    }
    const same = sameReply(slab, base, words, 0);
    const sameAll = same && sameState(words, slab, base);
    // Written, and not to be written: what differs was changed by packets here.
    const settled = this.#entries.expires(slot) > 0 && !this.#changed.has(slot);
    const isAnother = this.#entries.isAnother(slot, table.birth(slot));
    if (same && !isAnother && ((settled && !sameAll) || isAhead(words, slab, base))) return false;
    this.#entries.listed(slot, words, words[W_TIMEOUT]!, now);
    if (sameAll) this.#changed.delete(slot);
    else this.changed(slot);
    return true;
  }

  /**
   * True of one that ended and waits to be removed, or was removed while the dump runs: it is nobody's. But this node's own may have
   * the tuple of one that ended long ago, of which a daemon that starts reads once more.
   */
  #hasEnded(words: Uint32Array): boolean {
    return (this.#waitsForEnd(words) || this.#entries.wasRemoved(words)) && this.#node.own(words, 0) === null;
  }

  #waitsForEnd(words: Uint32Array): boolean {
    const waits = (table: FlowTable): boolean => table.size > 0 && table.find(words, 0) >= 0;
    return waits(this.#ended) || waits(this.#ending);
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
    if (this.#changed.size + this.#ended.size + this.#doubtful.length === 0) return;
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
      while (this.#ended.size + this.#changed.size + this.#doubtful.length > 0 && !this.#stopped) {
        if (this.#ended.size > 0) await this.#removeEnded();
        // Not while one waits that ended meanwhile.
        if (this.#ended.size === 0) await this.#inject(this.#takeChanged());
        if (this.#ended.size === 0) await this.#verify(this.#doubtful.splice(0, BATCH_MESSAGES));
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
      const birth = table.birth(slot);
      const isAnother = this.#entries.isAnother(slot, birth);
      this.#entries.noteBirth(slot, birth);
      items.push({ slot, words, rare, timeoutSeconds: this.#timeoutOf(words), isAnother });
      if (items.length >= BATCH_MESSAGES) break;
    }
    return items;
  }

  async #inject(items: readonly InjectorItem[]): Promise<void> {
    await this.#writer.write(items);
    // Written when nobody had told it to any more.
    for (const item of items) if (this.#external().table.find(item.words, 0) < 0) this.doubt(item.words);
  }

  /**
   * What this kernel has of flows that packets made this node's own is told to the peers, whoever wrote it; what was written for nobody
   * goes. Of one that something was heard of meanwhile, the kernel may have newer news than it gave.
   */
  async #verify(items: readonly Doubtful[]): Promise<void> {
    if (items.length === 0) return;
    const before = items.map(({ words }) => this.#node.own(words, 0));
    const found = await this.#requests.read(items);
    this.#node.readEvents();
    const { table } = this.#external();
    const left: Doubtful[] = [];
    for (const [index, item] of items.entries()) {
      const { words } = item;
      const flow = found.get(item);
      if (flow === undefined) continue;
      const slot = table.find(words, 0);
      if (slot >= 0) {
        this.#verifyRow(slot, flow);
        continue;
      }
      const own = this.#node.own(words, 0);
      if (!isSame(before[index]!, own) || this.#waitsForEnd(words)) this.doubt(words);
      else if (own !== null && !isSame(flow.words, own)) this.#claim(flow);
      else if (own === null && item.mayGo && this.#node.hasRoom()) left.push(item);
    }
    await this.#requests.send("delete", left);
    for (const { words } of left) this.#noteRemoved(words, 0);
  }

  /** Nothing is being written: what differs from what was written last, packets have changed. Another flow is replaced. */
  #verifyRow(slot: number, flow: DecodedFlow): void {
    if (this.#changed.has(slot)) return;
    const { table } = this.#external();
    const [slab, base] = [table.slab(slot), table.base(slot)];
    if (this.#entries.expires(slot) === 0 || !sameReply(slab, base, flow.words, 0)) {
      this.#entries.note(slot, flow.words, this.#now() + flow.words[W_TIMEOUT]!);
      this.changed(slot);
    } else if (!sameState(flow.words, slab, base)) this.#claim(flow);
  }

  #claim(flow: DecodedFlow): void {
    this.counters.claimed++;
    this.#node.claim(flow);
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

  #noteRemoved(words: Uint32Array, base: number): void {
    if (!this.#entries.removed(words, base)) this.counters.endingsDropped++;
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
    const removed = endings.filter((ending) => !kept.has(ending) && this.#node.own(ending.words, 0) === null);
    // What was written for the flow that ended may have gone into this node's own of its tuple.
    for (const { words } of endings) if (this.#node.own(words, 0) !== null) this.doubt(words);
    const refused = await this.#requests.send("delete", removed);
    this.counters.removed += removed.length - refused.size;
    for (const { words } of removed) this.#noteRemoved(words, 0);
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
