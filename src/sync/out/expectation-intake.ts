import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { Clock } from "../../flow/clock.js";
import { type Expectation, expectationKey, setExpectationZone } from "../../flow/expectation.js";
import type { FlowTable } from "../../flow/flow-table.js";
import { type DecodedFlow, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_REPLY_SRC, W_ZONE } from "../../flow/record.js";
import { zoneReplyOf } from "../../flow/record-fields.js";
import type { Carrying } from "../ports/carrying.js";
import { type HelperNames, isChosen, type KernelTable } from "../ports/kernel.js";
import type { Pacer } from "./pacer.js";
import { SequenceWatch } from "./sequence-watch.js";

/** Flows with rare attributes that are looked through for a master, so that no event costs more than a moment. */
const CANDIDATES_MAX = 65_536;
/** Expectations that wait for their master at the most; then the oldest goes. */
const WAITING_MAX = 256;
/** Most flows are nobody's master: for those nothing is allocated. */
const NONE: readonly Expectation[] = [];

/**
 * What becomes of an expectation that this node's own kernel reports: a row of the internal cache, where its helper is one of those
 * chosen and its master is a flow that the filter keeps.
 */
export class ExpectationIntake {
  readonly counters = {
    /** Events and dumped entries of expectations that are replicated. */
    expectations: 0,
    /** Those of other helpers, and those whose master is unknown or yet to come. */
    expectationsFiltered: 0,
  };
  /** Looks up the masters, of whose sequence adjustment no event tells. */
  readonly sequenceWatch: SequenceWatch;
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #helpers: HelperNames;
  readonly #carrying: Carrying;
  readonly #ignoresClaimed: boolean;
  readonly #clock: Clock;
  readonly #early = new EarlyExpectations();

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    kernel: KernelTable;
    helpers: HelperNames;
    carrying: Carrying;
    /** Mode `inject`: what a peer claims is none of this node's own, though a dump lists it. */
    ignoresClaimed: boolean;
    pacer: Pacer;
    clock: Clock;
    log: Logger;
  }) {
    const { internal, kernel, pacer } = options;
    this.#internal = internal;
    this.#external = options.external;
    this.#helpers = options.helpers;
    this.#carrying = options.carrying;
    this.#ignoresClaimed = options.ignoresClaimed;
    this.#clock = options.clock;
    this.sequenceWatch = new SequenceWatch({
      lookUp: (words, base) => kernel.get(words, base),
      found: (flow) => {
        if (internal.refresh(flow, this.#seconds())) pacer.poke(false);
      },
      log: options.log,
    });
  }

  /** An event says that a helper expects something, or something else than before. */
  take(expectation: Expectation): void {
    if (!this.#place(expectation)) return;
    this.#internal.expectations.upsert(expectation, this.#seconds());
    this.sequenceWatch.note(expectation.master);
    this.#external.expectations.retire(expectationKey(expectation));
  }

  /** An event says that an expectation has ended. */
  end(expectation: Expectation): void {
    this.#early.drop(expectation);
    this.#internal.expectations.destroy(expectation);
  }

  /** A flow has begun, and is in the internal cache: takes in what was expected of it before. */
  masterBegan(flow: DecodedFlow): void {
    for (const expectation of this.#early.takeOf(flow)) this.take(expectation);
  }

  /** A dump lists it. */
  dumped(expectation: Expectation): void {
    if (!this.#place(expectation)) return;
    const { carries } = this.#carrying;
    const external = this.#external.expectations;
    const key = expectationKey(expectation);
    if (carries) external.retire(key);
    const claim = carries ? null : external.claim(key);
    if (claim !== null && this.#ignoresClaimed) return;
    this.#internal.expectations.dumped(expectation, this.#seconds(), claim, carries);
  }

  /** A poll lists it: one that is new is this node's own, as after an event. */
  polled(expectation: Expectation): void {
    if (!this.#place(expectation)) return;
    const { expectations } = this.#internal;
    const before = expectations.counters.created;
    expectations.dumped(expectation, this.#seconds(), null, false);
    if (expectations.counters.created > before) this.#external.expectations.retire(expectationKey(expectation));
  }

  /** True when it is one to replicate: of a chosen helper, its master being one that the filter keeps. Its zone is set then. */
  #place(expectation: Expectation): boolean {
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

  #seconds(): number {
    return Math.floor(this.#clock.wallMs() / 1000);
  }
}

/**
 * What a flow's first packet makes a helper expect (SIP and TFTP over UDP) the kernel tells before the flow itself. It waits here
 * for its master; that of a master which the filter does not keep makes room for others.
 */
class EarlyExpectations {
  readonly #waiting: Expectation[] = [];

  /** Nothing is known of its master yet. */
  hold(expectation: Expectation): void {
    if (this.#waiting.length >= WAITING_MAX) this.#waiting.shift();
    this.#waiting.push(expectation);
  }

  /** It has ended before its master came. */
  drop(ended: Expectation): void {
    const key = expectationKey(ended);
    const at = this.#waiting.findIndex((waiting) => expectationKey(waiting) === key);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** Those that a new flow is the master of, oldest first; they wait no longer. */
  takeOf({ words, rare }: DecodedFlow): readonly Expectation[] {
    if (this.#waiting.length === 0 || rare?.helper === undefined) return NONE;
    const taken = this.#waiting.filter(({ master }) => sameOriginalTuple(words, 0, master));
    for (const expectation of taken) this.#waiting.splice(this.#waiting.indexOf(expectation), 1);
    return taken;
  }
}

/**
 * The zone of the flow with this original tuple, null when the table has none. The kernel does not say which zone an
 * expectation is in; nearly always it is 0, and in others the master is found among the flows that have a helper.
 */
function findMasterZone(table: FlowTable, master: Uint32Array): number | null {
  if (table.size === 0) return null;
  if (table.find(master, 0) >= 0) return zoneReplyOf(master, 0);
  let left = CANDIDATES_MAX;
  for (const [slot, rare] of table.rare) {
    if (left-- === 0) return null;
    if (rare.helper === undefined || !table.isLive(slot)) continue;
    const slab = table.slab(slot);
    const base = table.base(slot);
    // CTA_EXPECT_ZONE names one zone for both directions: a master that has two cannot be named.
    const zone = slab[base + W_ZONE]!;
    if (zone >>> 16 === (zone & 0xffff) && sameOriginalTuple(slab, base, master)) return zone & 0xffff;
  }
  return null;
}

/** True when the flow at `base` has the original tuple of `master`, zones aside. */
function sameOriginalTuple(slab: Uint32Array, base: number, master: Uint32Array): boolean {
  if (slab[base + W_PROTO] !== master[W_PROTO] || slab[base + W_ORIG_L4] !== master[W_ORIG_L4]) return false;
  for (let i = W_ORIG_SRC; i < W_REPLY_SRC; i++) if (slab[base + i] !== master[i]) return false;
  return true;
}
