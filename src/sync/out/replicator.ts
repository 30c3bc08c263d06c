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
import type { EndedFlows } from "../ports/ended-flows.js";
import type { HelperNames, Injection, KernelEvents, KernelTable } from "../ports/kernel.js";
import { CommitBracket } from "./commit-bracket.js";
import { CommitEnds } from "./commit-ends.js";
import { ExpectationIntake } from "./expectation-intake.js";
import { FlowIntake } from "./flow-intake.js";
import type { Journal } from "./journal.js";
import { KernelResync } from "./kernel-resync.js";
import { OverrunResync } from "./overrun-resync.js";
import { Pacer } from "./pacer.js";

/** Limit of turns that `readEvents` spends on reading the socket empty. */
const QUEUED_TURNS_MAX = 256;

/** The parts and settings of the way out. */
export interface ReplicatorOptions {
  internal: InternalCache;
  external: ExternalCache;
  journal: Journal;
  kernel: KernelTable;
  /** Null where the kernel is polled. */
  events: KernelEvents | null;
  /** Port IDs of this daemon's own requests. */
  ownPorts: ReadonlySet<number>;
  filter: FlowPredicate;
  /** Helpers whose expectations are replicated; null: none. */
  helpers: HelperNames | null;
  /**
   * The part that injects peers' flows into this kernel; null where there is none. With it, events that this daemon's
   * own requests caused carry no news.
   */
  injection: Injection | null;
  /** The log of ended flows; null: there is none. */
  ended: EndedFlows | null;
  /** Time from an overrun to the comparison with the kernel's table; null: no comparison. */
  overrunResyncMs: number | null;
  carrying: Carrying;
  publishIntervalMs: number;
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
}

/**
 * The way out: applies kernel events and dumps to the internal cache, and publishes pending rows to this node's stream
 * at a limited pace.
 */
export class Replicator implements EventSink {
  readonly #counters = {
    eventsNew: 0,
    eventsUpdate: 0,
    eventsDestroy: 0,
    /** Events caused by this daemon's own requests (commit, purge). */
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
    const { ended } = options;
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
    const commitEnds = new CommitEnds(external);
    const flows = new FlowIntake({ internal, external, commitEnds, injection, ended, keeps: options.filter, clock });
    this.#flows = flows;
    this.#expectations = new ExpectationIntake({
      internal,
      external,
      kernel,
      helpers,
      carrying,
      ignoresClaimed: this.#injects,
      pacer,
      clock,
      log,
    });
    const parts = {
      internal,
      external,
      kernel,
      flows,
      commitEnds,
      expectations: this.#expectations,
      injection,
      carrying,
      pacer,
      log,
      signal,
    };
    const resync = new KernelResync(parts);
    this.#resync = resync;
    this.#overruns = new OverrunResync({ delayMs: options.overrunResyncMs, resync: () => void resync.resync() });
    this.#commits = new CommitBracket({ events, resync, commitEnds, log });
  }

  /** The group `replicator` of `stats`. */
  get counters() {
    const { counters: expectations } = this.#expectations;
    return { ...this.#counters, ...expectations, ...this.#resync.counters };
  }

  /** The group `traffic` of `stats`. */
  get traffic(): Readonly<Record<"bytes" | "packets", number>> {
    return { ...this.#flows.traffic };
  }

  /** The counters of the lookups of masters; part of the group `expectations` of `stats`. */
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
    // The state in which a flow ends need not be a replicated one. The end of a flow that was published always counts.
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
      if (this.#commits.isOpen && isOwn && flows.replaced(flow)) return;
      if (this.#commits.isOpen && !isOwn) flows.takeUnheard(flow);
      flows.end(flow);
      return;
    }
    if (kind === EVENT_NEW) counters.eventsNew++;
    else counters.eventsUpdate++;
    flows.take(flow, this.#injects || (kind === EVENT_UPDATE && this.#isOfCommit(flow)));
    if (kind === EVENT_NEW) this.#expectations.masterBegan(flow);
  }

  /**
   * True for a flow that the commit under way may have written as a peer published it: unless this kernel itself has
   * reported its state since the commit is read back.
   */
  #isOfCommit({ words }: DecodedFlow): boolean {
    const { isOpen, isReading } = this.#commits;
    return isOpen && !(isReading && this.#internal.isStateReported(words, 0));
  }

  /** An injected flow is gone, as its owner wanted. A running dump may have listed it before that. */
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

  /** The kernel dropped events: enlarges the buffer and compares the whole table. */
  onOverrun(): void {
    this.#resync.counters.overruns++;
    this.#resync.noteLoss();
    this.#events?.growBuffer();
    this.#journal.writeMark({ type: "gap", reason: "event socket overrun" });
    this.#overruns.overrun();
  }

  onDrained(_events: number, more: boolean): void {
    this.#inTurn = false;
    this.#overruns.drained(more);
    this.poke();
  }

  /** Applies what the kernel has reported so far, up to a limit for one turn. */
  readEvents(): void {
    for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#events?.readNow() === true; turns++);
  }

  /** Applies and publishes what the kernel has reported so far, however much that is: in turns of the event loop. */
  async catchUp(): Promise<void> {
    for (let turns = 0; turns < QUEUED_TURNS_MAX && this.#events?.readNow() === true; turns++) {
      await new Promise(setImmediate);
    }
    this.flush();
  }

  /** Makes a peer's flow this node's own, as this kernel has it, and publishes the claim. */
  claim(flow: DecodedFlow): void {
    this.#flows.readClock();
    this.#flows.take(flow);
    this.#pacer.poke(false);
  }

  /** Something may be pending: it is published at the usual pace. */
  poke(): void {
    const pending = this.#internal.pendingCount + this.#internal.expectations.pendingCount;
    if (pending > 0) this.#pacer.poke(this.#internal.pendingCount >= BATCH_ROWS_MAX);
  }

  /** Publishes what is pending, now. */
  flush(): void {
    this.#pacer.flushNow();
  }

  /** True while the kernel's table has not been read since events of it were lost. */
  get isUnread(): boolean {
    return this.#resync.isUnread;
  }

  /** Which flows are replicated. */
  get filter(): FlowPredicate {
    return this.#flows.keeps;
  }

  /** Sets other helpers whose expectations are replicated, or none. The next kernel resync removes and adds expectations. */
  setHelpers(helpers: HelperNames | null): void {
    this.#expectations.helpers = helpers;
  }

  /** Sets another filter (SIGHUP). Flows that it drops are removed by the next kernel resync. */
  setFilter(filter: FlowPredicate): void {
    this.#flows.keeps = filter;
  }

  /**
   * Dumps the kernel table and brings the internal cache in line. Only the difference is published. Only one runs at a
   * time: a call while one runs makes it run once more. False when the kernel could not be dumped.
   */
  resyncKernel(): Promise<boolean> {
    return this.#resync.resync();
  }

  /**
   * Replaces events: dumps the kernel table, and treats a difference from the last dump as an event would have been
   * treated. If another dump is running, that one counts instead. False when the kernel could not be dumped; the next
   * poll tries again.
   */
  pollKernel(): Promise<boolean> {
    return this.#resync.poll();
  }

  /** A command empties the kernel's table. */
  countKernelFlush(): void {
    this.#resync.counters.kernelFlushes++;
  }

  /** Runs a commit; see CommitBracket. */
  commit<T>(write: () => Promise<T>, whenRead: (written: T) => Promise<void>): Promise<T> {
    return this.#commits.run(write, whenRead);
  }

  /** Resolves when the entries that the last commit wrote have been read back. */
  get committed(): Promise<void> {
    return this.#commits.read;
  }

  /** Publishes what is pending and stops the pacing. */
  stop(): void {
    this.#overruns.stop();
    this.#resync.stop();
    this.#expectations.sequenceWatch.stop();
    this.#pacer.flushNow();
    this.#pacer.stop();
  }
}
