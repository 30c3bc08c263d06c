import type { Role } from "../../stream/format/mark.js";

/** The roles that keepalived can report for a sync group. */
export type SpokenRole = Exclude<Role, "unknown">;

/** The roles that this node had before its daemon started. */
export interface EarlierRoles {
  /** What keepalived reported to earlier daemons since the boot, by sync group. */
  readonly groups: ReadonlyMap<string, SpokenRole>;
  /** The role during which the kernel's table was built; `unknown` if the kernel has booted since. */
  readonly table: Role;
}

/**
 * The role that keepalived gave this node, and who owns the flows in its kernel because of it. This is plain state: the
 * roles write it, and every part that reads the kernel reads it.
 */
export class Carrying {
  /**
   * True from a commit until this node steps down (mode `inject`: while a commit runs). The flows of its kernel are its
   * own.
   */
  carries: boolean;
  /** What keepalived last reported, by sync group. Most nodes have only one group, named "". */
  readonly #groups: Map<string, SpokenRole>;
  readonly #tableRole: Role;
  #role: Role;

  constructor({ earlier, injects }: { readonly earlier: EarlierRoles; readonly injects: boolean }) {
    this.#groups = new Map(earlier.groups);
    this.#tableRole = earlier.table;
    this.#role = highestRole(this.#groups);
    this.carries = this.heldRole === "primary" && !injects;
  }

  /** The last role that keepalived reported since the boot. With several sync groups: primary while any of them is. */
  get role(): Role {
    return this.#role;
  }

  /**
   * The role that explains the kernel's table. Until keepalived reports one, this is the role during which it was
   * built.
   */
  get heldRole(): Role {
    return this.#groups.size === 0 ? this.#tableRole : this.#role;
  }

  /**
   * True after this node stepped down. A flow in its kernel that its stream never published is left over from before.
   */
  get standsBack(): boolean {
    const role = this.heldRole;
    return role === "backup" || role === "fault";
  }

  /** The sync groups that keepalived has named. */
  get groups(): ReadonlyMap<string, SpokenRole> {
    return this.#groups;
  }

  /** Records the role that keepalived reports for a sync group. */
  hear(group: string, role: SpokenRole): void {
    this.#groups.set(group, role);
    this.#role = highestRole(this.#groups);
  }

  /** keepalived has no such sync group any more. */
  forget(group: string): void {
    this.#groups.delete(group);
    this.#role = highestRole(this.#groups);
  }
}

function highestRole(groups: ReadonlyMap<string, SpokenRole>): Role {
  const roles = new Set(groups.values());
  return (["primary", "backup", "fault"] as const).find((role) => roles.has(role)) ?? "unknown";
}
