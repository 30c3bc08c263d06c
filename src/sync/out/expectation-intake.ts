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

/** Flows with rare attributes that are searched for a master. The limit keeps the cost of one event small. */
const CANDIDATES_MAX = 65_536;
/** Limit of expectations that wait for their master; then the oldest is dropped. */
const WAITING_MAX = 256;
/** Most flows are nobody's master, so the empty answer is shared instead of allocated. */
const NONE: readonly Expectation[] = [];

/**
 * Applies the expectations that this node's own kernel reports. One becomes a row of the internal cache if its helper
 * is chosen and its master is a flow that the filter keeps.
 */
export class ExpectationIntake {
  readonly counters = {
    /** Events and dump entries of expectations that are replicated. */
    expectations: 0,
    /** Events and dump entries of other helpers, or with a master that is unknown or has not come yet. */
    expectationsFiltered: 0,
  };
  /** Looks up the masters, because no event reports their sequence adjustment. */
  readonly sequenceWatch: SequenceWatch;
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  /** Helpers whose expectations are replicated; null: none. */
  helpers: HelperNames | null;
  readonly #carrying: Carrying;
  readonly #ignoresClaimed: boolean;
  readonly #clock: Clock;
  readonly #early = new EarlyExpectations();

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    kernel: KernelTable;
    helpers: HelperNames | null;
    carrying: Carrying;
    /** Mode `inject`: an expectation that a peer claims is not this node's own, even if a dump lists it. */
    ignoresClaimed: boolean;
    pacer: Pacer;
    clock: Clock;
    log: Logger;
  }) {
    const { internal, kernel, pacer } = options;
    this.#internal = internal;
    this.#external = options.external;
    this.helpers = options.helpers;
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

  /** An event reports that a helper has a new or changed expectation. */
  take(expectation: Expectation): void {
    if (!this.#place(expectation)) return;
    this.#internal.expectations.upsert(expectation, this.#seconds());
    this.sequenceWatch.note(expectation.master);
    this.#external.expectations.retire(expectationKey(expectation));
  }

  /** An event reports that an expectation has ended. */
  end(expectation: Expectation): void {
    if (this.#early.drop(expectation)) this.#retire(expectation);
    this.#internal.expectations.destroy(expectation);
  }

  /** A commit wrote it, and it is gone before its master was read back: what peers published about it is older. */
  #retire(expectation: Expectation): void {
    const { master } = expectation;
    // A packet may have made the master this node's own meanwhile.
    const zone = findMasterZone(this.#external.table, master) ?? findMasterZone(this.#internal.table, master);
    if (zone === null) return;
    setExpectationZone(expectation, zone);
    this.#external.expectations.retire(expectationKey(expectation));
  }

  /** A flow has begun and is in the internal cache. Takes the expectations that were waiting for it as their master. */
  masterBegan(flow: DecodedFlow): void {
    for (const expectation of this.#early.takeOf(flow)) this.take(expectation);
  }

  /** A dump lists the expectation. */
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

  /** A poll lists the expectation. A new one is this node's own, as if an event had reported it. */
  polled(expectation: Expectation): void {
    if (!this.#place(expectation)) return;
    const { expectations } = this.#internal;
    const before = expectations.counters.created;
    expectations.dumped(expectation, this.#seconds(), null, false);
    if (expectations.counters.created > before) this.#external.expectations.retire(expectationKey(expectation));
  }

  /**
   * True when the expectation is replicated: its helper is chosen, and the filter keeps its master. Its zone is then
   * set.
   */
  #place(expectation: Expectation): boolean {
    const chosen = this.helpers !== null && isChosen(this.helpers, expectation.helper);
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
 * Expectations that the kernel reports before their master, as SIP and TFTP over UDP cause with a flow's first packet.
 * They wait here for the master. If the filter drops the master, they are pushed out by others in time.
 */
class EarlyExpectations {
  readonly #waiting: Expectation[] = [];

  /** Holds an expectation whose master is unknown so far. */
  hold(expectation: Expectation): void {
    if (this.#waiting.length >= WAITING_MAX) this.#waiting.shift();
    this.#waiting.push(expectation);
  }

  /** Drops an expectation that has ended before its master came. False when it does not wait here. */
  drop(ended: Expectation): boolean {
    const key = expectationKey(ended);
    const at = this.#waiting.findIndex((waiting) => expectationKey(waiting) === key);
    if (at >= 0) this.#waiting.splice(at, 1);
    return at >= 0;
  }

  /** Removes and returns the expectations whose master is this new flow, oldest first. */
  takeOf({ words, rare }: DecodedFlow): readonly Expectation[] {
    if (this.#waiting.length === 0 || rare?.helper === undefined) return NONE;
    const taken = this.#waiting.filter(({ master }) => sameOriginalTuple(words, 0, master));
    for (const expectation of taken) this.#waiting.splice(this.#waiting.indexOf(expectation), 1);
    return taken;
  }
}

/**
 * The zone of the flow with this original tuple; null when the table has none. The kernel does not report the zone of
 * an expectation. It is nearly always 0; otherwise the master is searched among the flows that have a helper.
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
    // CTA_EXPECT_ZONE names one zone for both directions, so a master with two zones cannot be named.
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
