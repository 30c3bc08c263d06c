import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import {
  EVENT_DESTROY,
  EVENT_NEW,
  EVENT_UPDATE,
  type EventKind,
  type EventSink,
} from "../../ctnetlink/event-socket.js";
import type { Clock } from "../../flow/clock.js";
import type { Expectation } from "../../flow/expectation.js";
import type { FlowPredicate } from "../../flow/filter.js";
import type { DecodedFlow } from "../../flow/record.js";
import { BATCH_ROWS_MAX } from "../../stream/format/columns.js";
import type { Carrying } from "../ports/carrying.js";
import type { HelperNames, Injection, KernelEvents, KernelTable } from "../ports/kernel.js";
import { CommitBracket } from "./commit-bracket.js";
import { ExpectationIntake } from "./expectation-intake.js";
import { FlowIntake } from "./flow-intake.js";
import type { Journal } from "./journal.js";
import { KernelResync } from "./kernel-resync.js";
import { OverrunResync } from "./overrun-resync.js";
import { Pacer } from "./pacer.js";

/** Turns in which `readEvents` reads the socket empty at the most. */
const QUEUED_TURNS_MAX = 256;

/** What the way out is made of and how it works. */
export interface ReplicatorOptions {
  internal: InternalCache;
  external: ExternalCache;
  journal: Journal;
  kernel: KernelTable;
  /** Null where the kernel is polled. */
  events: KernelEvents | null;
  /** Port ids of this daemon's requests. */
  ownPorts: ReadonlySet<number>;
  filter: FlowPredicate;
  /** Whose expectations are replicated; null: nobody's. */
  helpers: HelperNames | null;
  /** What writes peers' flows into this kernel; null where nothing does. Events that our own requests caused then say nothing new. */
  injection: Injection | null;
  /** How long after an overrun the table is compared; null: not at all. */
  overrunResyncMs: number | null;
  carrying: Carrying;
  publishIntervalMs: number;
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
}

/** The way out: kernel events and dumps into the internal cache, and from there, paced, into this node's stream. */
export class Replicator implements EventSink {
  readonly #counters = {
    eventsNew: 0,
    eventsUpdate: 0,
    eventsDestroy: 0,
    /** Events that our own requests (commit, purge) caused. */
    eventsOwn: 0,
    filtered: 0,
  };
  readonly #internal: InternalCache;
  readonly #journal: Journal;
  readonly #events: KernelEvents | null;
  readonly #ownPorts: ReadonlySet<number>;
  readonly #injects: boolean;
  readonly #pacer: Pacer;
  readonly #flows: FlowIntake;
  readonly #expectations: ExpectationIntake;
  readonly #resync: KernelResync;
  readonly #overruns: OverrunResync;
  readonly #commits: CommitBracket;
  #inTurn = false;

  constructor(options: ReplicatorOptions) {
    const { internal, external, journal, kernel, events, injection, helpers, carrying, clock, log, signal } = options;
    this.#internal = internal;
    this.#journal = journal;
    this.#events = events;
    this.#ownPorts = options.ownPorts;
    this.#injects = injection !== null;
    const pacer = new Pacer({
      intervalMs: options.publishIntervalMs,
      flush: () => journal.writePending(),
      nowMs: () => performance.now(),
    });
    this.#pacer = pacer;
    const flows = new FlowIntake({ internal, external, injection, keeps: options.filter, clock });
    this.#flows = flows;
    this.#expectations = new ExpectationIntake({
      internal,
      external,
      kernel,
      helpers: helpers ?? [],
      carrying,
      ignoresClaimed: this.#injects,
      pacer,
      clock,
      log,
    });
    const expectations = helpers === null ? null : this.#expectations;
    const parts = { internal, external, kernel, flows, expectations, injection, carrying, pacer, log, signal };
    const resync = new KernelResync(parts);
    this.#resync = resync;
    this.#overruns = new OverrunResync({ delayMs: options.overrunResyncMs, resync: () => void resync.resync() });
    this.#commits = new CommitBracket({ events, resync, log });
  }

  /** The group `replicator` of `stats`. */
  get counters() {
    const { counters: expectations } = this.#expectations;
    return { ...this.#counters, ...expectations, ...this.#resync.counters };
  }

  /** What the lookups of masters have counted; part of the group `expectations` of `stats`. */
  get lookupCounters(): Readonly<Record<string, number>> {
    return { ...this.#expectations.sequenceWatch.counters };
  }

  onEvent(kind: EventKind, flow: DecodedFlow, portId: number): void {
    const counters = this.#counters;
    const flows = this.#flows;
    if (!this.#inTurn) {
      this.#inTurn = true;
      flows.readClock();
    }
    // The state in which a flow ends need not be one that is replicated: what was told of ends all the same.
    if (!flows.keeps(flow.words, 0) && (kind !== EVENT_DESTROY || this.#internal.table.find(flow.words, 0) < 0)) {
      counters.filtered++;
      return;
    }
    const isOwn = portId !== 0 && this.#ownPorts.has(portId);
    if (isOwn) {
      counters.eventsOwn++;
      if (this.#injects) {
        if (kind === EVENT_DESTROY) this.#removed(flow);
        return;
      }
    }
    if (kind === EVENT_DESTROY) {
      counters.eventsDestroy++;
      if (this.#commits.isOpen && !isOwn) flows.takeUnheard(flow);
      flows.end(flow);
      return;
    }
    if (kind === EVENT_NEW) counters.eventsNew++;
    else counters.eventsUpdate++;
    flows.take(flow, this.#injects || (this.#commits.isOpen && kind === EVENT_UPDATE));
    if (kind === EVENT_NEW) this.#expectations.masterBegan(flow);
  }

  /** An injected flow is gone, as its owner wanted. A dump that is under way may have listed it before. */
  #removed(flow: DecodedFlow): void {
    const internal = this.#internal;
    if (!this.#resync.isRunning && internal.table.find(flow.words, 0) < 0) return;
    internal.destroy(flow, this.#flows.nowSeconds);
  }

  onExpectation(kind: EventKind, expectation: Expectation, portId: number): void {
    if (this.#injects && portId !== 0 && this.#ownPorts.has(portId)) return;
    if (kind === EVENT_DESTROY) this.#expectations.end(expectation);
    else this.#expectations.take(expectation);
  }

  onMalformed(): void {
    this.#resync.counters.malformed++;
  }

  /** The kernel dropped events: a larger buffer from now on, and the table is compared as a whole. */
  onOverrun(): void {
    this.#resync.counters.overruns++;
    this.#events?.growBuffer();
    this.#journal.writeMark({ type: "gap", reason: "event socket overrun" });
    this.#overruns.overrun();
  }

  onDrained(_events: number, more: boolean): void {
    this.#inTurn = false;
    this.#overruns.drained(more);
    this.poke();
  }

  /** Takes in what the kernel has told so far, as far as a turn's bound goes. */
  readEvents(): void {
    for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#events?.readNow() === true; turns++);
  }

  /** Makes a peer's flow this node's own, as this kernel has it, and tells everybody. */
  claim(flow: DecodedFlow): void {
    this.#flows.readClock();
    this.#flows.take(flow);
    this.#pacer.poke(false);
  }

  /** Something may wait to be published: it goes out at its pace. */
  poke(): void {
    const pending = this.#internal.pendingCount + this.#internal.expectations.pendingCount;
    if (pending > 0) this.#pacer.poke(this.#internal.pendingCount >= BATCH_ROWS_MAX);
  }

  /** Publishes what waits, now. */
  flush(): void {
    this.#pacer.flushNow();
  }

  /** Another filter from now on (SIGHUP); flows that it no longer keeps leave with the next kernel resync. */
  setFilter(filter: FlowPredicate): void {
    this.#flows.keeps = filter;
  }

  /**
   * Dumps the kernel table and brings the internal cache in line, publishing the difference only. One at a time: a call
   * while one runs makes it run once more. False when the kernel could not be dumped.
   */
  resyncKernel(): Promise<boolean> {
    return this.#resync.resync();
  }

  /**
   * In place of events: dumps the kernel table, and takes what differs from the last dump for what events would have told of.
   * While another dump runs, that one stands for it. False when the kernel could not be dumped; the next one tries again.
   */
  pollKernel(): Promise<boolean> {
    return this.#resync.poll();
  }

  /** Somebody has the kernel's table emptied. */
  countKernelFlush(): void {
    this.#resync.counters.kernelFlushes++;
  }

  /** Runs a commit: see CommitBracket. */
  commit<T>(write: () => Promise<T>, whenRead: (written: T) => void): Promise<T> {
    return this.#commits.run(write, whenRead);
  }

  /** Resolves when what the last commit wrote into the kernel is read. */
  get committed(): Promise<void> {
    return this.#commits.read;
  }

  /** Stops the pace; what waits is published first. */
  stop(): void {
    this.#overruns.stop();
    this.#expectations.sequenceWatch.stop();
    this.#pacer.flushNow();
    this.#pacer.stop();
  }
}
