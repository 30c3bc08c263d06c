import type { CommitReport, HookReport, HookRole, PurgeReport, RowKind } from "../../control/protocol.js";
import { ConntrailError } from "../../errors.js";
import type { Role } from "../../stream/format/mark.js";
import type { Follower } from "../in/follower.js";
import type { KernelTable } from "../ports/kernel.js";
import { PassingTraffic } from "./passing.js";
import { Purge } from "./purge.js";
import { type CommitSettings, Takeover, type TakeoverOptions } from "./takeover.js";

/** The parts that the roles act on, and the settings. */
export interface RolesOptions extends TakeoverOptions {
  kernel: TakeoverOptions["kernel"] & KernelTable;
  followers: readonly Follower[];
  /** Current addresses of this machine, virtual and broadcast ones included, as inet_ntop prints them. */
  addresses: () => ReadonlySet<string>;
  purgeAfterSeconds: number;
}

/** Limit of sync groups. VRRP allows 255 on an interface, but no real setup has this many. */
const GROUPS_MAX = 64;

/**
 * Applies the roles that keepalived's hooks report. Primary: the flows that peers carried are written into the kernel.
 * Backup: the peers' streams are read again, and after a delay the flows that others now own leave this kernel. Fault:
 * as backup, without reading the streams.
 */
export class Roles {
  readonly #options: RolesOptions;
  readonly #takeover: Takeover;
  readonly #purge: Purge;

  constructor(options: RolesOptions) {
    const { internal, kernel, addresses } = options;
    this.#options = options;
    options.journal.role = options.carrying.role;
    this.#takeover = new Takeover(options);
    const passing = new PassingTraffic({ internal, list: (visit) => kernel.dump({}, visit), addresses });
    this.#purge = new Purge({ ...options, passing });
  }

  /** Sets what later commits and purges are made with. */
  set({ purgeAfterSeconds, ...commits }: CommitSettings & { purgeAfterSeconds: number }): void {
    this.#takeover.set(commits);
    this.#purge.afterSeconds = purgeAfterSeconds;
  }

  /** The group `commit` of `stats`. */
  get counters() {
    const { commitRepaired, commitWithoutMaster, commitWithoutHelper, ...commits } = this.#takeover.counters;
    return { ...commits, ...this.#purge.counters, commitWithoutMaster, commitWithoutHelper, commitRepaired };
  }

  /** The group `takeover` of `stats`. */
  get lastTakeover(): Readonly<Record<string, number>> {
    return this.#takeover.last.counters;
  }

  /** The counters of expectations that a role change wrote or removed; part of the group `expectations` of `stats`. */
  get expectationCounters() {
    const { purged, ...commits } = this.#takeover.expectationCounters;
    return { ...commits, purged: purged + this.#purge.expectationsPurged };
  }

  /** The role that keepalived last reported for each named sync group. */
  get namedGroups(): Readonly<Record<string, Role>> {
    return Object.fromEntries([...this.#options.carrying.groups].filter(([group]) => group !== ""));
  }

  /** The last role that keepalived reported since the boot. With several sync groups: primary while any of them is. */
  get role(): Role {
    return this.#options.carrying.role;
  }

  /**
   * Handles a hook of keepalived. Resolves when the role is taken; for `primary`, when the peers' flows are in the
   * kernel. In mode `inject` they are there already, and this node still claims them then (`committed`). A node that
   * is primary for one sync group carries traffic whatever it is for the others. It steps down with its last one.
   */
  async hook(role: HookRole, progress: (text: string) => void, group = ""): Promise<HookReport> {
    const { carrying, journal, followers, log } = this.#options;
    const startedMs = performance.now();
    const previous = carrying.groups.get(group) ?? "unknown";
    if (carrying.groups.size >= GROUPS_MAX && !carrying.groups.has(group)) {
      throw new ConntrailError("CONTROL", `more than ${GROUPS_MAX} sync groups: is ${group} the name of one?`);
    }
    carrying.hear(group, role);
    journal.role = carrying.role;
    journal.writeMark({ type: "role", role: role === "primary" ? role : (carrying.role as HookRole) });
    log.info({ role, previous, ...(group === "" ? {} : { group }) }, "role");
    if (role !== "primary") this.#takeover.outdate();
    // When the commit is over, the last reported role counts.
    const { outdated } = this.#takeover;
    if (outdated !== null) await outdated.catch(() => undefined);
    const commit = role === "primary" ? await this.#takeOver(progress, group) : null;
    if (carrying.role !== "primary") {
      this.#options.ahead?.hold();
      carrying.carries = false;
      this.#purge.schedule();
    }
    if (role === "backup") for (const follower of followers) follower.catchUp();
    return { role, previous, commit, durationMs: Math.round((performance.now() - startedMs) * 10) / 10 };
  }

  /** A sync group that is no longer keepalived's. Another one must get its role at once: this changes nothing else. */
  forget(group: string): void {
    const { carrying, journal } = this.#options;
    carrying.forget(group);
    journal.role = carrying.role;
  }

  /**
   * Commits the external cache, or only its flows or its expectations. A call while a commit runs gets the report of
   * that one. Cancels a purge that is due.
   */
  commit(progress: (text: string) => void, only?: RowKind): Promise<CommitReport> {
    this.#purge.cancel();
    return this.#takeover.commit(progress, only);
  }

  #takeOver(progress: (text: string) => void, group: string): Promise<CommitReport> {
    this.#purge.cancel();
    return this.#takeover.takeOver(progress, { cause: "hook", group });
  }

  /**
   * Schedules the removal of the flows that another node owns with a newer claim. None is removed if this node turns
   * out to still carry some of them. A purge that is due already is postponed. In mode `inject`, every kernel is to
   * have those flows, so none is removed.
   */
  purge(): PurgeReport {
    return this.#purge.scheduleUnlessPassing();
  }

  /** Resolves when no commit runs and the entries of the last one have been read back. */
  committed(): Promise<void> {
    return this.#takeover.committed();
  }

  /** Cancels what is due, and waits for a running commit. */
  async stop(): Promise<void> {
    this.#purge.cancel();
    await this.committed();
  }
}
