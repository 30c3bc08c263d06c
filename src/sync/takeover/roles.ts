import type { CommitReport, HookReport, HookRole, PurgeReport, RowKind } from "../../control/protocol.js";
import { ConntrailError } from "../../errors.js";
import type { Role } from "../../stream/format/mark.js";
import type { Follower } from "../in/follower.js";
import type { KernelTable } from "../ports/kernel.js";
import { PassingTraffic } from "./passing.js";
import { Purge } from "./purge.js";
import { Takeover, type TakeoverOptions } from "./takeover.js";

/** What the roles act on, and how. */
export interface RolesOptions extends TakeoverOptions {
  kernel: TakeoverOptions["kernel"] & KernelTable;
  followers: readonly Follower[];
  /** Addresses of this machine now, virtual ones included, as inet_ntop prints them. */
  addresses: () => ReadonlySet<string>;
  purgeAfterSeconds: number;
}

/** VRRP has 255 groups on an interface; nobody has so many. */
const GROUPS_MAX = 64;

/**
 * What keepalived's hooks make of this node. Primary: what peers were carrying goes into the kernel. Backup: the peers'
 * streams are read anew, and what others carry now leaves this kernel after a while. Fault: as backup, without reading.
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

  /** The group `commit` of `stats`. */
  get counters() {
    const { commitWithoutMaster, commitWithoutHelper, ...commits } = this.#takeover.counters;
    return { ...commits, ...this.#purge.counters, commitWithoutMaster, commitWithoutHelper };
  }

  /** What became of expectations; part of the group `expectations` of `stats`. */
  get expectationCounters() {
    const { purged, ...commits } = this.#takeover.expectationCounters;
    return { ...commits, purged: purged + this.#purge.expectationsPurged };
  }

  /** What keepalived said last of each sync group that has a name. */
  get namedGroups(): Readonly<Record<string, Role>> {
    return Object.fromEntries([...this.#options.carrying.groups].filter(([group]) => group !== ""));
  }

  /** What keepalived said last since the boot. With several sync groups, primary while any of them is. */
  get role(): Role {
    return this.#options.carrying.role;
  }

  /**
   * What keepalived calls. Resolves when the role is taken; for `primary`, when the commit is done. A node that is primary for one
   * sync group carries traffic whatever it is for another: it steps down when the last one does.
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
    // The last word counts when the commit is over.
    const { outdated } = this.#takeover;
    if (outdated !== null) await outdated.catch(() => undefined);
    const commit = role === "primary" ? await this.commit(progress) : null;
    if (carrying.role !== "primary") {
      carrying.carries = false;
      this.#purge.schedule();
    }
    if (role === "backup") for (const follower of followers) follower.catchUp();
    return { role, previous, commit, durationMs: Math.round((performance.now() - startedMs) * 10) / 10 };
  }

  /**
   * Commits the external cache, or its flows or expectations only; a call while one runs gets that one's report. Cancels a purge
   * that is due.
   */
  commit(progress: (text: string) => void, only?: RowKind): Promise<CommitReport> {
    this.#purge.cancel();
    return this.#takeover.commit(progress, only);
  }

  /**
   * Schedules the removal of the flows that a newer owner holds elsewhere, unless it turns out that this node still carries some
   * of them. A purge that is due already is put off. In mode `inject` those are to be in every kernel, so none is removed.
   */
  purge(): PurgeReport {
    return this.#purge.scheduleUnlessPassing();
  }

  /** Resolves when no commit runs, and what the last one wrote is read. */
  committed(): Promise<void> {
    return this.#takeover.committed();
  }

  /** Cancels what is due; waits for a commit that runs. */
  async stop(): Promise<void> {
    this.#purge.cancel();
    await this.committed();
  }
}
