import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import type { CommitReport, HookReport, HookRole, PurgeReport, RowKind } from "../../control/protocol.js";
import { ConntrailError } from "../../errors.js";
import type { Clock } from "../../flow/clock.js";
import { sameReply } from "../../flow/record-fields.js";
import type { Role } from "../../stream/format/mark.js";
import type { Follower } from "../in/follower.js";
import type { Journal } from "../out/journal.js";
import type { KernelRequests } from "../ports/kernel.js";
import { commitExternal } from "./commit.js";
import { commitExpectations, removeExpectations } from "./expectation-commit.js";
import { removeFromKernel } from "./kernel-flush.js";
import type { PassingTraffic } from "./passing.js";

/** The side that reads this node's kernel. */
export interface KernelReader {
  /** Compares the kernel's table with the internal cache. */
  resyncKernel(): Promise<unknown>;
  /** What is written from now on it need not be told of. */
  beginCommit(): void;
  /** Takes in what was written. */
  readCommitted(): Promise<unknown>;
}

/** What the roles count; the group `commit` of `stats`. */
export interface RoleCounters {
  commits: number;
  committed: number;
  commitUpdated: number;
  commitFailed: number;
  purges: number;
  purged: number;
  /** Flows that went into the kernel without their master, or without their helper, which it lacks. */
  commitWithoutMaster: number;
  commitWithoutHelper: number;
}

/** What the roles did to expectations; part of the group `expectations` of `stats`. */
export interface RoleExpectationCounters {
  committed: number;
  commitFailed: number;
  /** Removed before a commit, because they ended elsewhere, and by a purge. */
  purged: number;
}

/** VRRP has 255 groups on an interface; nobody has so many. */
const GROUPS_MAX = 64;
/** How long before a purge this kernel is looked at: a timeout of whole seconds must have had time to go down. */
const WATCH_MS = 3_000;

/**
 * What keepalived's hooks make of this node. Primary: what peers were carrying goes into the kernel. Backup: the peers'
 * streams are read anew, and what others carry now leaves this kernel after a while. Fault: as backup, without reading.
 */
export class Roles {
  readonly counters: RoleCounters = {
    commits: 0,
    committed: 0,
    commitUpdated: 0,
    commitFailed: 0,
    purges: 0,
    purged: 0,
    commitWithoutMaster: 0,
    commitWithoutHelper: 0,
  };
  readonly expectationCounters: RoleExpectationCounters = { committed: 0, commitFailed: 0, purged: 0 };
  readonly #internal: InternalCache;
  readonly #external: ExternalCache;
  readonly #kernel: KernelRequests;
  readonly #journal: Journal;
  readonly #followers: readonly Follower[];
  readonly #injects: boolean;
  readonly #reader: () => KernelReader;
  readonly #passing: PassingTraffic | null;
  readonly #commitTimeoutSeconds: number | null;
  readonly #commitWindowTracking: boolean;
  readonly #purgeAfterSeconds: number;
  readonly #clock: Clock;
  readonly #log: Logger;
  /** What keepalived said last, by sync group; the one group that most have is "". */
  readonly #groups = new Map<string, HookRole>();
  /** The role of the daemon before this one; it counts until keepalived speaks. */
  readonly #before: Role;
  #carries: boolean;
  #commitRunning: Promise<CommitReport> | null = null;
  /** What the last commit wrote is being read. */
  #reading: Promise<unknown> = Promise.resolve();
  #purgeDue: AbortController | null = null;

  constructor(options: {
    internal: InternalCache;
    external: ExternalCache;
    kernel: KernelRequests;
    journal: Journal;
    followers: readonly Follower[];
    /** Mode `inject`: the kernel has what peers say already, so there is nothing to commit. */
    injects: boolean;
    /** What it was when this node's stream was last written. */
    before: Role;
    reader: () => KernelReader;
    /** Tells whether a node that is to purge without a role still carries traffic. Left out: it does not. */
    passing?: PassingTraffic;
    commitTimeoutSeconds: number | null;
    /** Committed TCP flows keep their window tracking. */
    commitWindowTracking: boolean;
    purgeAfterSeconds: number;
    clock: Clock;
    log: Logger;
  }) {
    this.#internal = options.internal;
    this.#external = options.external;
    this.#kernel = options.kernel;
    this.#journal = options.journal;
    this.#followers = options.followers;
    this.#injects = options.injects;
    this.#before = options.before;
    this.#carries = options.before === "primary" && !options.injects;
    options.journal.role = options.before;
    this.#reader = options.reader;
    this.#passing = options.passing ?? null;
    this.#commitTimeoutSeconds = options.commitTimeoutSeconds;
    this.#commitWindowTracking = options.commitWindowTracking;
    this.#purgeAfterSeconds = options.purgeAfterSeconds;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  /** What keepalived said last. With several sync groups, primary while any of them is. */
  get role(): Role {
    if (this.#groups.size === 0) return this.#before;
    const roles = [...this.#groups.values()];
    return ["primary" as const, "backup" as const].find((role) => roles.includes(role)) ?? roles[0] ?? "unknown";
  }

  /** True from a commit on until this node steps down (mode `inject`: while one runs): what its kernel has is its own. */
  get carries(): boolean {
    return this.#carries;
  }

  /** True after this node stepped down: what its kernel has and its stream never told of is left over from before. */
  get standsBack(): boolean {
    return this.role === "backup" || this.role === "fault";
  }

  /**
   * What keepalived calls. Resolves when the role is taken; for `primary`, when the commit is done. A node that is primary for one
   * sync group carries traffic whatever it is for another: it steps down when the last one does.
   */
  async hook(role: HookRole, progress: (text: string) => void, group = ""): Promise<HookReport> {
    const startedMs = performance.now();
    const previous = this.#groups.get(group) ?? "unknown";
    if (this.#groups.size >= GROUPS_MAX && !this.#groups.has(group)) {
      throw new ConntrailError("CONTROL", `more than ${GROUPS_MAX} sync groups: is ${group} the name of one?`);
    }
    this.#groups.set(group, role);
    this.#journal.role = this.role;
    this.#journal.writeMark({ type: "role", role: role === "primary" ? role : (this.role as HookRole) });
    this.#log.info({ role, previous, ...(group === "" ? {} : { group }) }, "role");
    const commit = role === "primary" ? await this.commit(progress) : null;
    if (this.role !== "primary") {
      this.#carries = false;
      this.#schedulePurge(null);
    }
    if (role === "backup") for (const follower of this.#followers) follower.catchUp();
    return { role, previous, commit, durationMs: Math.round((performance.now() - startedMs) * 10) / 10 };
  }

  /**
   * Commits the external cache, or its flows or expectations only; a call while one runs gets that one's report. Cancels a purge
   * that is due.
   */
  commit(progress: (text: string) => void, only?: RowKind): Promise<CommitReport> {
    this.#cancelPurge();
    const begin = async (): Promise<CommitReport> => {
      // What the last one wrote is in the external cache until it is read.
      await this.#reading;
      return only === "expect" ? this.#commitOnlyExpectations() : this.#commit(progress, only === "ct");
    };
    this.#commitRunning ??= begin().finally(() => {
      this.#commitRunning = null;
    });
    return this.#commitRunning;
  }

  async #commitOnlyExpectations(): Promise<CommitReport> {
    const startedMs = performance.now();
    const none = { committed: 0, updated: 0, skipped: 0, failed: {}, stale: 0 };
    const expected = this.#injects ? {} : await this.#commitExpectations(Math.floor(this.#clock.wallMs() / 1000));
    const report = { ...none, ...expected, durationMs: Math.round((performance.now() - startedMs) * 10) / 10 };
    this.#log.info(report, "commit of expectations");
    return report;
  }

  async #commit(progress: (text: string) => void, flowsOnly: boolean): Promise<CommitReport> {
    // What it carries for another sync group is alive here, whoever else has seen an end of it.
    const carriesOther = this.#carries && this.#groups.size > 1;
    this.#carries = true;
    if (this.#injects) return this.#claimAll();
    this.#reader().beginCommit();
    try {
      const report = await this.#writeKernel(progress, flowsOnly, carriesOther);
      this.#reading = this.#readBack(report);
      return report;
    } catch (error) {
      this.#reading = this.#readBack(null);
      throw error;
    }
  }

  /** Takes in what a commit wrote, and then says in the stream that there was one: the claims stand before that. */
  async #readBack(report: CommitReport | null): Promise<void> {
    try {
      await this.#reader().readCommitted();
    } catch (error) {
      this.#log.error({ err: error }, "what the commit wrote could not be read");
    }
    if (report === null) return;
    const { committed, updated, stale, durationMs } = report;
    this.#journal.writeMark({ type: "commit", committed, updated, failed: failures(report), stale, durationMs });
  }

  async #writeKernel(
    progress: (text: string) => void,
    flowsOnly: boolean,
    carriesOther: boolean,
  ): Promise<CommitReport> {
    const { table } = this.#internal;
    const sameTuples = (words: Uint32Array, base: number): boolean => {
      const slot = table.find(words, base);
      return slot >= 0 && sameReply(table.slab(slot), table.base(slot), words, base);
    };
    const options = {
      timeoutSeconds: this.#commitTimeoutSeconds,
      liberal: !this.#commitWindowTracking,
      nowSeconds: Math.floor(this.#clock.wallMs() / 1000),
    };
    const stale = await removeFromKernel(
      this.#internal,
      this.#kernel,
      (slot) => !carriesOther && this.#internal.hasEndedElsewhere(slot),
    );
    const flows = await commitExternal(this.#external, this.#kernel, sameTuples, options, (done, total) =>
      progress(`committed ${done} of ${total}`),
    );
    const expectations = flowsOnly ? {} : await this.#commitExpectations(options.nowSeconds);
    const report = { ...flows, ...expectations, stale };
    this.counters.commits++;
    this.counters.committed += report.committed;
    this.counters.commitUpdated += report.updated;
    this.counters.commitFailed += failures(report);
    this.counters.commitWithoutMaster += report.withoutMaster ?? 0;
    this.counters.commitWithoutHelper += report.withoutHelper ?? 0;
    this.#log.info(report, "commit");
    return report;
  }

  async #commitExpectations(nowSeconds: number): Promise<Pick<CommitReport, "expectations">> {
    const counters = this.expectationCounters;
    counters.purged += await removeExpectations(this.#internal.expectations.superseded(true), this.#kernel);
    if (this.#external.expectations.size === 0) return {};
    const expectations = await commitExpectations(this.#external.expectations, this.#kernel, nowSeconds);
    counters.committed += expectations.committed;
    for (const count of Object.values(expectations.failed)) counters.commitFailed += count;
    return { expectations };
  }

  /**
   * Mode `inject`: the kernel has what peers carried. It becomes this node's own, so that the old primary's return, with an
   * empty kernel, does not end it.
   */
  async #claimAll(): Promise<CommitReport> {
    const startedMs = performance.now();
    const before = this.#external.table.size;
    try {
      await this.#reader().resyncKernel();
    } finally {
      this.#carries = false;
    }
    const skipped = this.#external.table.size;
    const updated = Math.max(0, before - skipped);
    const durationMs = Math.round((performance.now() - startedMs) * 10) / 10;
    this.counters.commits++;
    this.counters.commitUpdated += updated;
    this.#journal.writeMark({ type: "commit", committed: 0, updated, failed: 0, stale: 0, durationMs });
    this.#log.info({ committed: 0, updated, skipped, durationMs }, "commit");
    return { committed: 0, updated, skipped, failed: {}, stale: 0, durationMs };
  }

  /**
   * Schedules the removal of the flows that a newer owner holds elsewhere, unless it turns out that this node still carries some
   * of them. A purge that is due already is put off. In mode `inject` those are to be in every kernel, so none is removed.
   */
  purge(): PurgeReport {
    return this.#schedulePurge(this.#passing);
  }

  #schedulePurge(passing: PassingTraffic | null): PurgeReport {
    this.#cancelPurge();
    if (this.#injects) return { afterSeconds: this.#purgeAfterSeconds };
    const due = new AbortController();
    this.#purgeDue = due;
    this.#purgeWhenDue(passing, due.signal).catch((error: unknown) => {
      if (!due.signal.aborted) this.#log.error({ err: error }, "purge failed");
    });
    return { afterSeconds: this.#purgeAfterSeconds };
  }

  async #purgeWhenDue(passing: PassingTraffic | null, signal: AbortSignal): Promise<void> {
    const afterMs = this.#purgeAfterSeconds * 1000;
    const watchMs = passing === null ? 0 : Math.min(afterMs, WATCH_MS);
    await delay(afterMs - watchMs, undefined, { signal });
    const before = await passing?.look();
    await delay(watchMs, undefined, { signal });
    const passes = passing !== null && before !== undefined && (await passing.passes(before));
    signal.throwIfAborted();
    this.#purgeDue = null;
    if (passes) {
      this.#log.info("nothing is purged: what another node claims passes here, as with a second sync group");
      return;
    }
    // It was told to step down and has: what its kernel has left over is not its own.
    if (this.role !== "primary") this.#carries = false;
    await this.#purgeNow();
  }

  async #purgeNow(): Promise<void> {
    const internal = this.#internal;
    const removed = await removeFromKernel(internal, this.#kernel, (slot) => internal.isSuperseded(slot));
    // Those of purged flows have gone with their masters.
    const left = this.#internal.expectations.superseded(false);
    this.expectationCounters.purged += await removeExpectations(left, this.#kernel);
    this.counters.purges++;
    this.counters.purged += removed;
    this.#log.info({ removed }, "purged flows that another node carries now");
  }

  #cancelPurge(): void {
    this.#purgeDue?.abort();
    this.#purgeDue = null;
  }

  /** Resolves when no commit runs, and what the last one wrote is read. */
  async committed(): Promise<void> {
    await this.#commitRunning?.catch(() => undefined);
    await this.#reading;
  }

  /** Cancels what is due; waits for a commit that runs. */
  async stop(): Promise<void> {
    this.#cancelPurge();
    await this.committed();
  }
}

function failures({ failed }: CommitReport): number {
  return Object.values(failed).reduce((sum, count) => sum + count, 0);
}
