import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { isOtherFlow, recordDiffers } from "../../cache/row-changes.js";
import {
  EVENT_DESTROY,
  EVENT_NEW,
  EVENT_UPDATE,
  type EventKind,
  type EventSink,
} from "../../ctnetlink/event-socket.js";
import type { DumpResult } from "../../ctnetlink/request-socket.js";
import type { Clock } from "../../flow/clock.js";
import { type Expectation, expectationKey, setExpectationZone } from "../../flow/expectation.js";
import { DecodedFlow, HAS_ID, HAS_MASK, HAS_PROTOINFO, RECORD_WORDS, W_HAS, W_PROTOINFO } from "../../flow/record.js";
import type { Claim } from "../../ownership/claim.js";
import { BATCH_ROWS_MAX } from "../../stream/format/columns.js";
import { type HelperNames, type Injection, isChosen, type KernelSource } from "../ports/kernel.js";
import { EarlyExpectations } from "./early-expectations.js";
import type { Journal } from "./journal.js";
import { findMasterZone } from "./master.js";
import { Pacer } from "./pacer.js";
import { newReplicatorCounters } from "./replicator-counters.js";
import { SequenceWatch } from "./sequence-watch.js";

/** Slots swept in one turn of the event loop after a dump: all of them may have ended, and are published in that turn. */
const SWEEP_SLOTS = 4096;
/** Who carries a flow that a node which stepped down finds in its kernel, and that nobody ever told of. */
const NOBODY: Claim = { node: "", stamp: 0 };
/** Dumps that failed or were interrupted are repeated this often. */
const DUMP_ATTEMPTS_MAX = 5;
/** Turns in which the socket is to be read empty, before the resync after an overrun and after a commit. */
const QUEUED_TURNS_MAX = 256;

/**
 * The way out: kernel events and dumps into the internal cache, and from there, paced, into this node's stream.
 * A local event is newer than whatever peers said of the flow, so it retires the flow's external row.
 */
export class Replicator implements EventSink {
  readonly counters = newReplicatorCounters();
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #journal: Journal;
  readonly #kernel: KernelSource;
  readonly #ownPorts: ReadonlySet<number>;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #pacer: Pacer;
  readonly #carries: () => boolean;
  readonly #standsBack: () => boolean;
  readonly #ignoresOwn: boolean;
  readonly #helpers: HelperNames;
  readonly #injection: Injection | null;
  readonly #overrunResyncMs: number | null;
  readonly sequenceWatch: SequenceWatch;
  readonly #early = new EarlyExpectations();
  #keeps: (words: Uint32Array, base: number) => boolean;
  /** Taken once for all events of a turn. */
  #nowSeconds: number;
  #inTurn = false;
  /** Above 0: an overrun waits for its resync. */
  #turnsToResync = 0;
  #overrunTimer: NodeJS.Timeout | null = null;
  #resyncRunning: Promise<boolean> | null = null;
  #resyncAgain = false;
  /** Flows that begin are not told of, and were not read yet. */
  #committing = false;

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    journal: Journal;
    kernel: KernelSource;
    /** Port ids of this daemon's request sockets. */
    ownPorts: ReadonlySet<number>;
    filter: (words: Uint32Array, base: number) => boolean;
    /** True where peers' flows are injected: events that our own requests caused then say nothing new. */
    ignoresOwn: boolean;
    /** Whose expectations are replicated; by default everybody's. */
    helpers?: HelperNames;
    /** What writes peers' flows into this kernel; left out where nothing does. */
    injection?: Injection | null;
    /** How long after an overrun the table is compared; null: not at all. By default at once. */
    overrunResyncMs?: number | null;
    /** True while this node is the one that carries traffic: then what its kernel has is its own. */
    carries: () => boolean;
    /** True after this node stepped down: then what its kernel has and nobody told of is nobody's until an event comes. */
    standsBack: () => boolean;
    publishIntervalMs: number;
    clock: Clock;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#internal = options.internal;
    this.#external = options.external;
    this.#journal = options.journal;
    this.#kernel = options.kernel;
    this.#ownPorts = options.ownPorts;
    this.#keeps = options.filter;
    this.#carries = options.carries;
    this.#standsBack = options.standsBack;
    this.#ignoresOwn = options.ignoresOwn;
    this.#helpers = options.helpers ?? true;
    this.#injection = options.injection ?? null;
    this.#overrunResyncMs = options.overrunResyncMs === undefined ? 0 : options.overrunResyncMs;
    this.sequenceWatch = new SequenceWatch({
      lookUp: async (words, base) => (await this.#kernel.get?.(words, base)) ?? null,
      found: (flow) => {
        if (this.#internal.refresh(flow, this.#seconds())) this.#pacer.poke(false);
      },
      log: options.log,
    });
    this.#clock = options.clock;
    this.#log = options.log;
    this.#signal = options.signal;
    this.#nowSeconds = this.#seconds();
    this.#pacer = new Pacer({
      intervalMs: options.publishIntervalMs,
      flush: () => this.#journal.writePending(),
      nowMs: () => performance.now(),
    });
  }

  onEvent(kind: EventKind, flow: DecodedFlow, portId: number): void {
    const { counters } = this;
    if (!this.#inTurn) {
      this.#inTurn = true;
      this.#nowSeconds = this.#seconds();
    }
    // The state in which a flow ends need not be one that is replicated: what was told of ends all the same.
    if (!this.#keeps(flow.words, 0) && (kind !== EVENT_DESTROY || this.#internal.table.find(flow.words, 0) < 0)) {
      counters.filtered++;
      return;
    }
    if (portId !== 0 && this.#ownPorts.has(portId)) {
      counters.eventsOwn++;
      if (this.#ignoresOwn) {
        if (kind === EVENT_DESTROY) this.#removed(flow);
        return;
      }
    }
    if (kind === EVENT_DESTROY) {
      counters.eventsDestroy++;
      if (this.#committing && !this.#ownPorts.has(portId)) this.#takeUntold(flow);
      this.#internal.destroy(flow, this.#nowSeconds);
      this.#injection?.expired(flow.words, 0);
      return;
    }
    if (kind === EVENT_NEW) counters.eventsNew++;
    else counters.eventsUpdate++;
    this.#take(flow, this.#injection !== null || (this.#committing && kind === EVENT_UPDATE));
    if (kind !== EVENT_NEW) return;
    for (const expectation of this.#early.takeOf(flow)) this.onExpectation(EVENT_NEW, expectation, 0);
  }

  /** An injected flow is gone, as its owner wanted. A dump that is under way may have listed it before. */
  #removed(flow: DecodedFlow): void {
    const internal = this.#internal;
    if (this.#resyncRunning === null && internal.table.find(flow.words, 0) < 0) return;
    internal.destroy(flow, this.#nowSeconds);
  }

  /** The kernel's flow is this node's own. `inherits`: it is the one that a peer told of, and that this node wrote there. */
  #take(flow: DecodedFlow, inherits = this.#injection !== null): void {
    if (inherits) this.#inherit(flow);
    const slot = this.#internal.upsert(flow, this.#nowSeconds);
    this.#internal.table.inheritBirth(slot, this.#external.retire(flow.words, 0));
    if (slot >= 0 && this.#internal.lacksState(slot)) this.#injection?.doubt(flow.words);
  }

  onExpectation(kind: EventKind, expectation: Expectation, portId: number): void {
    if (this.#ignoresOwn && portId !== 0 && this.#ownPorts.has(portId)) return;
    const internal = this.#internal.expectations;
    if (kind === EVENT_DESTROY) {
      this.#early.drop(expectation);
      internal.destroy(expectation);
      return;
    }
    if (!this.#placeExpectation(expectation)) return;
    internal.upsert(expectation, this.#seconds());
    this.sequenceWatch.note(expectation.master);
    this.#external.expectations.retire(expectationKey(expectation));
  }

  /** True when it is one to replicate: of a chosen helper, its master being one that the filter keeps. Its zone is set then. */
  #placeExpectation(expectation: Expectation): boolean {
    const chosen = isChosen(this.#helpers, expectation.helper);
    const zone = chosen ? findMasterZone(this.#internal.table, expectation.master) : null;
    if (zone === null) {
      this.counters.expectationsFiltered++;
      if (chosen) this.#early.hold(expectation);
      return false;
    }
    setExpectationZone(expectation, zone);
    this.counters.expectations++;
    return true;
  }

  /**
   * An event names what changed. Of a flow that a peer has carried, this kernel has the rest from the peer; what an internal
   * row may still have of it is older.
   */
  #inherit(flow: DecodedFlow): void {
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(flow.words, 0);
    if (slot < 0) return;
    const slab = table.slab(slot);
    const base = table.base(slot);
    if ((flow.words[W_HAS]! & HAS_PROTOINFO) === 0 && (slab[base + W_HAS]! & HAS_PROTOINFO) !== 0) {
      for (let i = 0; i < 3; i++) flow.words[W_PROTOINFO + i] = slab[base + W_PROTOINFO + i]!;
      flow.words[W_HAS]! |= HAS_PROTOINFO;
    }
    const rare = table.rare.get(slot);
    if (rare !== undefined) flow.rare = { ...rare, ...flow.rare };
  }

  /** Makes a peer's flow this node's own, as this kernel has it, and tells everybody. */
  claim(flow: DecodedFlow): void {
    this.#nowSeconds = this.#seconds();
    this.#take(flow);
    this.#pacer.poke(false);
  }

  /**
   * A flow has ended whose beginning was not told: a commit wrote it, or it was a short one. It was this node's for a while, and
   * the peers hear of that.
   */
  #takeUntold(flow: DecodedFlow): void {
    if (this.#internal.table.find(flow.words, 0) >= 0) return;
    const { table } = this.#external;
    const slot = table.size === 0 ? -1 : table.find(flow.words, 0);
    if (slot < 0) {
      this.#take(flow);
      return;
    }
    const committed = new DecodedFlow();
    const base = table.base(slot);
    committed.words.set(table.slab(slot).subarray(base, base + RECORD_WORDS));
    // The id is the peer's.
    committed.words[W_HAS]! &= HAS_MASK & ~HAS_ID;
    committed.rare = table.rare.get(slot) ?? null;
    this.#take(committed);
  }

  /** A commit begins: this kernel does not tell of flows that begin, most of which it writes. `readCommitted` is to follow. */
  beginCommit(): void {
    this.#committing = true;
    this.#kernel.hearNew(false);
  }

  /** The commit is over: reads the kernel, which brings in what has begun meanwhile. False when that could not be read. */
  async readCommitted(): Promise<boolean> {
    this.#kernel.hearNew(true);
    try {
      const whole = await this.resyncKernel();
      // What ended before the dump came to it, its event may still be queued.
      for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#kernel.readEvents(); turns++) {
        await new Promise(setImmediate);
      }
      return whole;
    } finally {
      this.#committing = false;
    }
  }

  onMalformed(): void {
    this.counters.malformed++;
  }

  /**
   * The kernel dropped events: a larger buffer from now on, and the table is compared as a whole. Not before the events
   * that were queued when it happened are read, or one of them could revive a flow whose end was dropped.
   */
  onOverrun(): void {
    this.counters.overruns++;
    this.#kernel.growBuffer();
    this.#journal.writeMark({ type: "gap", reason: "event socket overrun" });
    if (this.#overrunResyncMs !== null) this.#turnsToResync = QUEUED_TURNS_MAX;
  }

  onDrained(_events: number, more: boolean): void {
    this.#inTurn = false;
    if (this.#turnsToResync > 0) {
      this.#turnsToResync = more ? this.#turnsToResync - 1 : 0;
      if (this.#turnsToResync === 0) this.#resyncAfterOverrun();
    }
    this.poke();
  }

  /** Takes in what the kernel has told so far, as far as a turn's bound goes. */
  readEvents(): void {
    for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#kernel.readEvents(); turns++);
  }

  /** One resync for all overruns until then. */
  #resyncAfterOverrun(): void {
    if (this.#overrunResyncMs === 0) {
      void this.resyncKernel();
      return;
    }
    this.#overrunTimer ??= setTimeout(() => {
      this.#overrunTimer = null;
      void this.resyncKernel();
    }, this.#overrunResyncMs ?? 0);
  }

  /** Something may wait to be published: it goes out at its pace. */
  poke(): void {
    const pending = this.#internal.pendingCount + this.#internal.expectations.pendingCount;
    if (pending > 0) this.#pacer.poke(this.#internal.pendingCount >= BATCH_ROWS_MAX);
  }

  /** Another filter from now on (SIGHUP); flows that it no longer keeps leave with the next kernel resync. */
  setFilter(filter: (words: Uint32Array, base: number) => boolean): void {
    this.#keeps = filter;
  }

  /** Publishes what waits, now. */
  flush(): void {
    this.#pacer.flushNow();
  }

  /**
   * Dumps the kernel table and brings the internal cache in line, publishing the difference only. One at a time: a call
   * while one runs makes it run once more. False when the kernel could not be dumped.
   */
  resyncKernel(): Promise<boolean> {
    if (this.#resyncRunning !== null) {
      this.#resyncAgain = true;
      return this.#resyncRunning;
    }
    return this.#startResync(false);
  }

  /**
   * In place of events: dumps the kernel table, and takes what differs from the last dump for what events would have told of.
   * While another dump runs, that one stands for it. False when the kernel could not be dumped; the next one tries again.
   */
  pollKernel(): Promise<boolean> {
    return this.#resyncRunning ?? this.#startResync(true);
  }

  #startResync(polled: boolean): Promise<boolean> {
    this.#resyncRunning = this.#resyncLoop(polled).finally(() => {
      this.#resyncRunning = null;
    });
    return this.#resyncRunning;
  }

  async #resyncLoop(polled: boolean): Promise<boolean> {
    for (let attempt = 1; attempt <= DUMP_ATTEMPTS_MAX && !this.#signal.aborted; attempt++) {
      this.#resyncAgain = false;
      const whole = await this.#resyncOnce(polled);
      if (polled) this.counters[whole ? "polls" : "pollsFailed"]++;
      else this.counters[whole ? "kernelResyncs" : "kernelResyncsFailed"]++;
      if (this.#resyncAgain) polled = false;
      else if (whole || polled) return whole;
    }
    if (!this.#signal.aborted) this.#log.error("kernel resync gave up: the table changes faster than it can be read");
    return false;
  }

  async #resyncOnce(polled: boolean): Promise<boolean> {
    this.#internal.beginDump();
    this.#injection?.beginDump();
    this.#nowSeconds = this.#seconds();
    const whole = (await this.#resyncFlows(polled)) && (await this.#resyncExpectations(polled));
    this.#injection?.endDump(whole);
    if (whole) this.#pacer.flushNow();
    return whole;
  }

  async #resyncFlows(polled: boolean): Promise<boolean> {
    const internal = this.#internal;
    let result: DumpResult;
    try {
      result = await this.#kernel.dump((flow) => {
        // What peers carry is in the kernel whatever this node's filter says.
        if (!this.#keeps(flow.words, 0)) this.#injection?.present(flow);
        else if (polled) this.#polled(flow);
        else this.#dumped(flow);
        if (internal.pendingCount >= BATCH_ROWS_MAX) this.#pacer.flushNow();
      }, this.#signal);
    } catch (error) {
      internal.abandonDump();
      if (!this.#signal.aborted) this.#log.warn({ err: error }, "kernel resync: the dump failed; trying again");
      return false;
    }
    this.counters.malformed += result.malformed;
    if (result.interrupted) {
      internal.abandonDump();
      return false;
    }
    while (!internal.sweep(SWEEP_SLOTS)) {
      if (internal.pendingCount >= BATCH_ROWS_MAX) this.#pacer.flushNow();
      await new Promise(setImmediate);
    }
    return true;
  }

  async #resyncExpectations(polled: boolean): Promise<boolean> {
    const { expectations } = this.#internal;
    if (this.#kernel.dumpExpectations === undefined) {
      // A daemon that replicated them before it was told not to.
      expectations.endAll();
      return true;
    }
    expectations.beginDump();
    try {
      const result = await this.#kernel.dumpExpectations((expectation) => {
        if (!this.#placeExpectation(expectation)) return;
        if (polled) this.#polledExpectation(expectation);
        else this.#dumpedExpectation(expectation);
      }, this.#signal);
      this.counters.malformed += result.malformed;
      if (!result.interrupted) {
        expectations.endDump();
        return true;
      }
    } catch (error) {
      if (!this.#signal.aborted) this.#log.warn({ err: error }, "kernel resync: the dump of expectations failed");
    }
    expectations.abandonDump();
    return false;
  }

  #dumpedExpectation(expectation: Expectation): void {
    const carries = this.#carries();
    const external = this.#external.expectations;
    const key = expectationKey(expectation);
    if (carries) external.retire(key);
    const claim = carries ? null : external.claim(key);
    if (claim !== null && this.#ignoresOwn) return;
    this.#internal.expectations.dumped(expectation, this.#seconds(), claim, carries);
  }

  #dumped(flow: DecodedFlow): void {
    if (this.#internal.hasEnded(flow)) return;
    if (this.#injection !== null && !this.#carries() && this.#injection.present(flow)) return;
    const birth = this.#injection !== null || this.#carries() ? this.#external.retire(flow.words, 0) : -1;
    // A peer's flow of which this kernel knows more is this node's own as well.
    const carries = this.#carries() || birth >= 0;
    const leftover = !carries && this.#standsBack() ? NOBODY : null;
    const claimed = carries ? null : (this.#external.claim(flow.words, 0) ?? leftover);
    const slot = this.#internal.dumped(flow, this.#nowSeconds, claimed, carries);
    this.#internal.table.inheritBirth(slot, birth);
  }

  /**
   * A flow as a poll lists it. One that was not there, or that is another or in another state than a peer took over, would have
   * come as an event: it is this node's own. What else has changed `dumped` finds.
   */
  #polled(flow: DecodedFlow): void {
    const { words } = flow;
    if (this.#injection?.present(flow) === true) return;
    const { table } = this.#internal;
    const slot = table.find(words, 0);
    const slab = slot < 0 ? words : table.slab(slot);
    const base = slot < 0 ? 0 : table.base(slot);
    const superseded = slot >= 0 && this.#internal.isSuperseded(slot);
    const differs = superseded && (isOtherFlow(slab, base, words) || recordDiffers(slab, base, words));
    if (slot < 0 || differs) {
      this.#take(flow);
      return;
    }
    const birth = this.#injection === null ? -1 : this.#external.retire(words, 0);
    table.inheritBirth(this.#internal.dumped(flow, this.#nowSeconds, null, birth >= 0), birth);
  }

  #polledExpectation(expectation: Expectation): void {
    const { expectations } = this.#internal;
    const before = expectations.counters.created;
    expectations.dumped(expectation, this.#seconds(), null, false);
    if (expectations.counters.created > before) this.#external.expectations.retire(expectationKey(expectation));
  }

  /** Stops the pace; what waits is published first. */
  stop(): void {
    if (this.#overrunTimer !== null) clearTimeout(this.#overrunTimer);
    this.sequenceWatch.stop();
    this.#pacer.flushNow();
    this.#pacer.stop();
  }

  #seconds(): number {
    return Math.floor(this.#clock.wallMs() / 1000);
  }
}
