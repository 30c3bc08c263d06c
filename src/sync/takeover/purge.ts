import type { Logger } from "pino";
import type { InternalCache } from "../../cache/internal.js";
import type { PurgeReport } from "../../control/protocol.js";
import { pause } from "../../os/pause.js";
import type { Carrying } from "../ports/carrying.js";
import type { KernelRequests } from "../ports/kernel.js";
import { removeExpectations } from "./expectation-commit.js";
import { removeFromKernel } from "./kernel-flush.js";
import type { PassingTraffic } from "./passing.js";

/** Time for which the kernel is watched before a purge. A timeout of whole seconds must have had time to fall. */
const WATCH_MS = 3_000;

/** Removes from this kernel, after a delay, the flows that another node owns with a newer claim. */
export class Purge {
  readonly counters = { purges: 0, purged: 0 };
  /** Expectations that were removed. */
  expectationsPurged = 0;
  readonly #internal: InternalCache;
  readonly #kernel: KernelRequests;
  readonly #carrying: Carrying;
  readonly #passing: PassingTraffic;
  readonly #injects: boolean;
  /** How long after the request a purge takes place. */
  afterSeconds: number;
  readonly #log: Logger;
  #due: AbortController | null = null;

  constructor(options: {
    internal: InternalCache;
    kernel: KernelRequests;
    carrying: Carrying;
    passing: PassingTraffic;
    /** Mode `inject`: every kernel is to have the flows of other owners, so none is removed. */
    injects: boolean;
    purgeAfterSeconds: number;
    log: Logger;
  }) {
    this.#internal = options.internal;
    this.#kernel = options.kernel;
    this.#carrying = options.carrying;
    this.#passing = options.passing;
    this.#injects = options.injects;
    this.afterSeconds = options.purgeAfterSeconds;
    this.#log = options.log;
  }

  /** Schedules a purge, because this node has stepped down. A purge that is due already is postponed. */
  schedule(): PurgeReport {
    return this.#schedule(null);
  }

  /**
   * As `schedule`, for a caller that names no role. Nothing is purged if this node turns out to still carry some of the
   * flows.
   */
  scheduleUnlessPassing(): PurgeReport {
    return this.#schedule(this.#passing);
  }

  #schedule(passing: PassingTraffic | null): PurgeReport {
    this.cancel();
    if (this.#injects) return { afterSeconds: this.afterSeconds };
    const due = new AbortController();
    this.#due = due;
    this.#purgeWhenDue(passing, due.signal).catch((error: unknown) => {
      if (!due.signal.aborted) this.#log.error({ err: error }, "purge failed");
    });
    return { afterSeconds: this.afterSeconds };
  }

  async #purgeWhenDue(passing: PassingTraffic | null, signal: AbortSignal): Promise<void> {
    const afterMs = this.afterSeconds * 1000;
    const watchMs = passing === null ? 0 : Math.min(afterMs, WATCH_MS);
    await pause(afterMs - watchMs, signal);
    signal.throwIfAborted();
    const before = await passing?.look();
    await pause(watchMs, signal);
    signal.throwIfAborted();
    const passes = passing !== null && before !== undefined && (await passing.passes(before));
    signal.throwIfAborted();
    this.#due = null;
    if (passes) {
      this.#log.info("nothing is purged: what another node claims passes here, as with a second sync group");
      return;
    }
    await this.#purge();
  }

  async #purge(): Promise<void> {
    // This node was called to step down and has done so: what its kernel still holds is not its own.
    if (this.#carrying.heldRole !== "primary") this.#carrying.carries = false;
    const internal = this.#internal;
    const removed = await removeFromKernel(internal, this.#kernel, (slot) => internal.isSuperseded(slot));
    // The expectations of purged flows have gone with their masters.
    const left = internal.expectations.superseded(false);
    this.expectationsPurged += await removeExpectations(left, this.#kernel);
    this.counters.purges++;
    this.counters.purged += removed;
    this.#log.info({ removed }, "purged flows that another node carries now");
  }

  /** Cancels the purge that is due. */
  cancel(): void {
    this.#due?.abort();
    this.#due = null;
  }
}
