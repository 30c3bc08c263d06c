import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { CommitReport, RowKind } from "../../control/protocol.js";
import type { Clock } from "../../flow/clock.js";
import { sameReply } from "../../flow/record-fields.js";
import type { Journal } from "../out/journal.js";
import type { Replicator } from "../out/replicator.js";
import type { Carrying } from "../ports/carrying.js";
import type { AheadWriter, CommitKernel } from "../ports/kernel.js";
import { commitExternal } from "./commit.js";
import { commitExpectations, removeExpectations } from "./expectation-commit.js";
import { removeFromKernel } from "./kernel-flush.js";
import { BY_COMMAND, commitMark, failures, LastTakeover, type Occasion } from "./takeover-record.js";

/** The settings of a commit, which may change while the node runs. */
export interface CommitSettings {
  /** Kernel timeout of committed entries; null: the time that the owner's entry had left. */
  commitTimeoutSeconds: number | null;
  /** Committed TCP flows keep their window tracking. */
  commitWindowTracking: boolean;
}

/** The parts that a takeover acts on, and the settings. */
export interface TakeoverOptions extends CommitSettings {
  internal: InternalCache;
  external: ExternalCache;
  kernel: CommitKernel;
  journal: Journal;
  replicator: Replicator;
  carrying: Carrying;
  /** The kernel is given the peers' flows beforehand, so they need not be committed. */
  injects: boolean;
  /** Gives it those that it does not have yet; null in mode `inject`, which gives it all at once, and in mode `cache`. */
  ahead: AheadWriter | null;
  /** Kernel timeout of committed entries; null: the time that the owner's entry had left. */
  commitTimeoutSeconds: number | null;
  /** Committed TCP flows keep their window tracking. */
  commitWindowTracking: boolean;
  clock: Clock;
  log: Logger;
}

/**
 * Takes over the flows that peers carried: writes them into this kernel and makes them this node's own. Only one commit
 * runs at a time.
 */
export class Takeover {
  readonly counters = {
    commits: 0,
    committed: 0,
    commitUpdated: 0,
    commitFailed: 0,
    /** Flows that needed the removal of an entry which held their reply tuple. */
    commitRepaired: 0,
    /** Flows that were written without their master or their helper, because this kernel lacks it. */
    commitWithoutMaster: 0,
    commitWithoutHelper: 0,
  };
  readonly expectationCounters = {
    committed: 0,
    commitFailed: 0,
    /** Flows removed before a commit, because they ended elsewhere. */
    purged: 0,
  };
  /** The last takeover, for `stats`. */
  readonly last = new LastTakeover();
  readonly #options: TakeoverOptions;
  #settings: CommitSettings;
  #running: Promise<CommitReport> | null = null;
  /** Resolves when this kernel has all flows; null: at the end of the running commit. */
  #written: Promise<CommitReport> | null = null;
  #isOutdated = false;

  constructor(options: TakeoverOptions) {
    this.#options = options;
    this.#settings = options;
  }

  /** Sets what later commits are made with. */
  set(settings: CommitSettings): void {
    this.#settings = settings;
  }

  /**
   * Commits the external cache, or only its flows or its expectations. A call while a commit runs gets the report of
   * that one. The written entries are read back afterwards.
   */
  commit(progress: (text: string) => void, only?: RowKind, occasion: Occasion = BY_COMMAND): Promise<CommitReport> {
    if (this.#running === null) {
      this.#written = this.#options.injects && only !== "expect" ? this.#writeRest() : null;
      this.#running = this.#begin(progress, only, occasion).finally(() => {
        this.#running = null;
        this.#isOutdated = false;
      });
    }
    return this.#running;
  }

  /**
   * As `commit`, for a node that has become primary. Where this kernel was given the peers' flows beforehand, it returns
   * when it has all of them, and they are still being claimed.
   */
  async takeOver(progress: (text: string) => void, occasion: Occasion): Promise<CommitReport> {
    const commit = this.commit(progress, undefined, occasion);
    if (this.#written === null) return commit;
    commit.catch((error: unknown) => this.#options.log.error({ err: error }, "the peers' flows could not be claimed"));
    return { ...(await this.#written), underWay: true };
  }

  /** Writes what this kernel was not given beforehand: nothing in mode `inject`. */
  async #writeRest(): Promise<CommitReport> {
    const { ahead: writer, external, clock } = this.#options;
    const startedMs = performance.now();
    if (writer === null) return { ...NOTHING, ahead: external.table.size };
    const { ahead, created, changed, failed } = await writer.writeAll();
    const expectations = await this.#commitExpectations(Math.floor(clock.wallMs() / 1000));
    const counts = { committed: created, updated: changed, failed: failed === 0 ? {} : { refused: failed }, ahead };
    return { ...NOTHING, ...counts, ...expectations, durationMs: sinceMs(startedMs) };
  }

  /** Keepalived has withdrawn the role during a commit. A later commit takes over what this one leaves out. */
  outdate(): void {
    this.#isOutdated = this.#running !== null;
  }

  /** The commit that still runs after keepalived withdrew the role; null: none. */
  get outdated(): Promise<CommitReport> | null {
    return this.#isOutdated ? this.#running : null;
  }

  /** Resolves when no commit runs and the entries of the last one have been read back. */
  async committed(): Promise<void> {
    await this.#running?.catch(() => undefined);
    await this.#options.replicator.committed;
  }

  async #begin(progress: (text: string) => void, only: RowKind | undefined, occasion: Occasion): Promise<CommitReport> {
    const { replicator, carrying, injects, clock } = this.#options;
    const beganMs = clock.wallMs();
    // Until they have been read back, the entries of the last commit are still in the external cache.
    await replicator.committed;
    if (only === "expect") return this.#commitOnlyExpectations();
    // The flows that this node carries for another sync group are alive here, even if another node has seen them end.
    const carriesOther = carrying.carries && carrying.groups.size > 1;
    if (injects) return this.#claimAll((await this.#written) ?? NOTHING, occasion, beganMs);
    carrying.carries = true;
    return replicator.commit(
      () => this.#writeKernel(progress, only === "ct", carriesOther),
      (report) => this.#wasRead(report, carriesOther, occasion, beganMs),
    );
  }

  /**
   * The entries of a commit have been read back. Those of flows that ended meanwhile are removed. The stream holds the
   * claims before the mark of the commit.
   */
  async #wasRead(report: CommitReport, carriesOther: boolean, occasion: Occasion, beganMs: number): Promise<void> {
    const stale = report.stale + (await this.#removeStale(carriesOther));
    this.#record({ ...report, stale }, occasion, beganMs);
  }

  #record(report: CommitReport, occasion: Occasion, beganMs: number): void {
    const mark = commitMark(report, occasion, beganMs);
    this.#options.journal.writeMark(mark);
    this.last.note(mark);
  }

  /** Removes entries of flows that have ended elsewhere, unless this node carries them for another sync group. */
  #removeStale(carriesOther: boolean): Promise<number> {
    const { internal, kernel } = this.#options;
    return removeFromKernel(internal, kernel, (slot) => !carriesOther && internal.hasEndedElsewhere(slot));
  }

  async #commitOnlyExpectations(): Promise<CommitReport> {
    const { injects, ahead, clock, log } = this.#options;
    const startedMs = performance.now();
    const expected = injects && ahead === null ? {} : await this.#commitExpectations(Math.floor(clock.wallMs() / 1000));
    const report = { ...NOTHING, ...expected, durationMs: sinceMs(startedMs) };
    log.info(report, "commit of expectations");
    return report;
  }

  async #writeKernel(
    progress: (text: string) => void,
    flowsOnly: boolean,
    carriesOther: boolean,
  ): Promise<CommitReport> {
    const { internal, external, kernel, clock, log } = this.#options;
    const { commitTimeoutSeconds, commitWindowTracking } = this.#settings;
    const { table } = internal;
    const sameTuples = (words: Uint32Array, base: number): boolean => {
      const slot = table.find(words, base);
      return slot >= 0 && sameReply(table.slab(slot), table.base(slot), words, base);
    };
    const options = {
      timeoutSeconds: commitTimeoutSeconds,
      liberal: !commitWindowTracking,
      nowSeconds: Math.floor(clock.wallMs() / 1000),
    };
    const stale = await this.#removeStale(carriesOther);
    const flows = await commitExternal(external, kernel, sameTuples, options, (done, total) =>
      progress(`committed ${done} of ${total}`),
    );
    const expectations = flowsOnly ? {} : await this.#commitExpectations(options.nowSeconds);
    const report = { ...flows, ...expectations, stale };
    this.counters.commits++;
    this.counters.committed += report.committed;
    this.counters.commitUpdated += report.updated;
    this.counters.commitFailed += failures(report);
    this.counters.commitRepaired += report.repaired ?? 0;
    this.counters.commitWithoutMaster += report.withoutMaster ?? 0;
    this.counters.commitWithoutHelper += report.withoutHelper ?? 0;
    log.info(report, "commit");
    return report;
  }

  async #commitExpectations(nowSeconds: number): Promise<Pick<CommitReport, "expectations">> {
    const { internal, external, kernel } = this.#options;
    const counters = this.expectationCounters;
    counters.purged += await removeExpectations(internal.expectations.superseded(true), kernel);
    if (external.expectations.size === 0) return {};
    const expectations = await commitExpectations(external.expectations, kernel, nowSeconds);
    counters.committed += expectations.committed;
    for (const count of Object.values(expectations.failed)) counters.commitFailed += count;
    return { expectations };
  }

  /**
   * The kernel already has the flows that peers carried. They become this node's own, so that the old primary cannot end
   * them when it returns with an empty kernel.
   */
  async #claimAll(written: CommitReport, occasion: Occasion, beganMs: number): Promise<CommitReport> {
    const { ahead: writer, external, replicator, carrying, log } = this.#options;
    const startedMs = performance.now();
    const before = external.table.size;
    let isRead = false;
    carrying.carries = true;
    try {
      isRead = await replicator.resyncKernel();
    } finally {
      carrying.carries = false;
    }
    if (!isRead) log.warn("not all of the peers' flows are claimed: the kernel's table could not be read");
    const skipped = external.table.size;
    const claimed = Math.max(0, before - skipped);
    const claimMs = sinceMs(startedMs);
    // Mode `inject` has nothing else to report.
    const own = writer === null ? { updated: claimed, durationMs: claimMs } : {};
    const report: CommitReport = { ...written, ...own, skipped };
    this.counters.commits++;
    this.counters.committed += report.committed;
    this.counters.commitUpdated += report.updated;
    this.counters.commitFailed += failures(report);
    this.#record(report, occasion, beganMs);
    log.info({ ...report, claimed, claimMs }, "commit");
    return report;
  }
}

/** The report of a commit that has written nothing. */
const NOTHING: CommitReport = { committed: 0, updated: 0, skipped: 0, failed: {}, stale: 0, durationMs: 0 };

function sinceMs(startedMs: number): number {
  return Math.round((performance.now() - startedMs) * 10) / 10;
}
