import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { isOtherFlow, recordDiffers } from "../../cache/row-changes.js";
import type { DumpResult } from "../../ctnetlink/request-socket.js";
import type { DecodedFlow } from "../../flow/record.js";
import { Backoff } from "../../os/backoff.js";
import type { Claim } from "../../ownership/claim.js";
import { BATCH_ROWS_MAX } from "../../stream/format/columns.js";
import type { Carrying } from "../ports/carrying.js";
import type { Injection, KernelTable } from "../ports/kernel.js";
import type { CommitEnds } from "./commit-ends.js";
import type { ExpectationIntake } from "./expectation-intake.js";
import type { FlowIntake } from "./flow-intake.js";
import type { Pacer } from "./pacer.js";

/**
 * Slots swept in one turn of the event loop after a dump. All of them may have ended, and are published in that turn.
 */
const SWEEP_SLOTS = 4096;
/** The owner of a flow that a node finds in its kernel after stepping down, and that nobody ever published. */
const NOBODY: Claim = { node: "", stamp: 0 };
/** Limit of attempts for a dump that fails or is interrupted. */
const DUMP_ATTEMPTS_MAX = 5;
/** When all of them failed, it is tried again after this time. */
const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 30_000;

/** Dumps the kernel's table and brings the internal cache in line with it. Only the difference is published. */
export class KernelResync {
  readonly counters = {
    /** Kernel messages that could not be decoded, from events and dumps. */
    malformed: 0,
    overruns: 0,
    kernelResyncs: 0,
    /** Times that a command emptied the kernel's table. */
    kernelFlushes: 0,
    kernelResyncsFailed: 0,
    /** Dumps that replace events. */
    polls: 0,
    pollsFailed: 0,
  };
  /** True while the entries of a commit have yet to be read back. */
  readsCommit = false;
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #kernel: KernelTable;
  readonly #flows: FlowIntake;
  readonly #commitEnds: CommitEnds;
  readonly #expectations: ExpectationIntake;
  readonly #injection: Injection | null;
  readonly #carrying: Carrying;
  readonly #pacer: Pacer;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  #running: Promise<boolean> | null = null;
  #again = false;
  /** Times that events were lost, or a poll failed, and how many of them a whole dump has made good. */
  #losses = 0;
  #lossesRead = 0;
  readonly #backoff = new Backoff({ minMs: RETRY_MS_MIN, maxMs: RETRY_MS_MAX });
  #retry: NodeJS.Timeout | null = null;

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    kernel: KernelTable;
    flows: FlowIntake;
    commitEnds: CommitEnds;
    expectations: ExpectationIntake;
    /** Null where peers' flows are not injected into this kernel. */
    injection: Injection | null;
    carrying: Carrying;
    pacer: Pacer;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#internal = options.internal;
    this.#external = options.external;
    this.#kernel = options.kernel;
    this.#flows = options.flows;
    this.#commitEnds = options.commitEnds;
    this.#expectations = options.expectations;
    this.#injection = options.injection;
    this.#carrying = options.carrying;
    this.#pacer = options.pacer;
    this.#log = options.log;
    this.#signal = options.signal;
  }

  /** Events of the kernel were lost. */
  noteLoss(): void {
    this.#losses++;
  }

  /** True while the kernel's table has not been read as a whole since events of it were lost. */
  get isUnread(): boolean {
    return this.#losses > this.#lossesRead;
  }

  /** Cancels a resync that is to be tried again. */
  stop(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
  }

  /** True while a dump runs. */
  get isRunning(): boolean {
    return this.#running !== null;
  }

  /**
   * Only one runs at a time: a call while one runs makes it run once more. False when the kernel could not be dumped.
   */
  resync(): Promise<boolean> {
    if (this.#running !== null) {
      this.#again = true;
      return this.#running;
    }
    return this.#start(false);
  }

  /**
   * Replaces events: treats a difference from the last dump as an event would have been treated. If another dump is
   * running, that one counts instead. False when the kernel could not be dumped; the next poll tries again.
   */
  poll(): Promise<boolean> {
    return this.#running ?? this.#start(true);
  }

  #start(polled: boolean): Promise<boolean> {
    if (this.#signal.aborted) return Promise.resolve(false);
    this.#running = this.#loop(polled);
    return this.#running;
  }

  async #loop(polled: boolean): Promise<boolean> {
    try {
      for (let attempt = 1; attempt <= DUMP_ATTEMPTS_MAX && !this.#signal.aborted; attempt++) {
        this.#again = false;
        const whole = await this.#once(polled);
        if (polled) this.counters[whole ? "polls" : "pollsFailed"]++;
        else this.counters[whole ? "kernelResyncs" : "kernelResyncsFailed"]++;
        if (this.#again) polled = false;
        else if (whole || polled) return whole;
      }
      if (!this.#signal.aborted) this.#retryLater();
      return false;
    } finally {
      // In the same step as the last look at `#again`: a call that comes after it begins a new one.
      this.#running = null;
    }
  }

  /** What was lost is lost until the table has been read. */
  #retryLater(): void {
    this.#losses++;
    const waitMs = this.#backoff.nextMs();
    this.#log.error({ againInMs: waitMs }, "kernel resync gave up: the table changes faster than it can be read");
    this.stop();
    this.#retry = setTimeout(() => void this.resync(), waitMs);
    this.#retry.unref();
  }

  async #once(polled: boolean): Promise<boolean> {
    this.#begin();
    const losses = this.#losses;
    const whole = (await this.#dumpFlows(polled)) && (await this.#dumpExpectations(polled));
    this.#end(whole);
    if (whole) {
      this.#lossesRead = losses;
      this.#backoff.reset();
    } else if (polled) this.#losses++;
    return whole;
  }

  /** From here on, events are newer than what the dump lists. */
  #begin(): void {
    this.#internal.beginDump();
    this.#injection?.beginDump();
    this.#flows.readClock();
  }

  /** The dump is over. `whole`: it listed everything, and what it did not list has been swept. */
  #end(whole: boolean): void {
    this.#injection?.endDump(whole);
    if (whole) this.#pacer.flushNow();
  }

  /** Applies a flow that the dump lists. */
  #list(flow: DecodedFlow, polled: boolean): void {
    // Peers' flows are in the kernel even if this node's filter would drop them.
    if (!this.#flows.keeps(flow.words, 0)) this.#injection?.present(flow);
    else if (polled) this.#polled(flow);
    else this.#dumped(flow);
    if (this.#internal.pendingCount >= BATCH_ROWS_MAX) this.#pacer.flushNow();
  }

  async #dumpFlows(polled: boolean): Promise<boolean> {
    const internal = this.#internal;
    let result: DumpResult;
    try {
      result = await this.#kernel.dump({ signal: this.#signal }, (flow) => this.#list(flow, polled));
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

  async #dumpExpectations(polled: boolean): Promise<boolean> {
    const { expectations } = this.#internal;
    const intake = this.#expectations;
    if (intake.helpers === null) {
      // They were replicated before, by an earlier daemon or until a reload.
      expectations.endAll();
      return true;
    }
    expectations.beginDump();
    try {
      const result = await this.#kernel.dumpExpectations({ signal: this.#signal }, (expectation) => {
        if (polled) intake.polled(expectation);
        else intake.dumped(expectation);
      });
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

  /** Applies a flow that a resync lists. */
  #dumped(flow: DecodedFlow): void {
    if (this.#commitEnds.birth(flow.words) >= 0) this.#brought(flow);
    else this.#takeIn(flow);
  }

  #takeIn(flow: DecodedFlow): void {
    if (this.#internal.hasEnded(flow)) return;
    const carrying = this.#carrying;
    if (this.#injection !== null && !carrying.carries && this.#injection.present(flow)) return;
    const takes = this.#injection !== null || carrying.carries;
    const peers = this.#external.claim(flow.words, 0);
    // If this kernel knows more about a peer's flow than the peer, the flow is this node's own as well.
    const carries = carrying.carries || (takes && peers !== null);
    const leftover = !carries && carrying.standsBack ? NOBODY : null;
    const claimed = carries ? null : (peers ?? leftover);
    const slot = this.#internal.dumped(flow, this.#flows.nowSeconds, claimed, carries);
    const birth = takes ? this.#external.retire(flow.words, 0, this.readsCommit) : -1;
    this.#internal.takeBirth(slot, birth);
  }

  /**
   * Applies a flow that has ended at its owner while a commit was writing it. The next removal of such flows from this
   * kernel takes it along.
   */
  #brought(flow: DecodedFlow): void {
    const slot = this.#internal.dumped(flow, this.#flows.nowSeconds, NOBODY, false);
    if (slot >= 0) this.#internal.endElsewhere(slot);
  }

  /**
   * Applies a flow that a poll lists. If it is new, another one, or in another state than the one taken over from a
   * peer, an event would have reported it, so it is this node's own. `dumped` finds all other changes.
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
      this.#flows.take(flow);
      return;
    }
    const takes = this.#injection !== null && this.#external.claim(words, 0) !== null;
    const own = this.#internal.dumped(flow, this.#flows.nowSeconds, null, takes);
    if (takes) this.#internal.takeBirth(own, this.#external.retire(words, 0));
  }
}
