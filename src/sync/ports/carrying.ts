import type { Role } from "../../stream/format/mark.js";

/** What keepalived can say of a sync group. */
export type SpokenRole = Exclude<Role, "unknown">;

/** What this node was when its daemon started. */
export interface EarlierRoles {
  /** What keepalived has told earlier daemons since the boot, by sync group. */
  readonly groups: ReadonlyMap<string, SpokenRole>;
  /** The role under which the kernel's table came about; `unknown` if the kernel has booted since. */
  readonly table: Role;
}

/**
 * What keepalived has made of this node, and whose the flows of its kernel are because of that. Plain state: the roles write it, and it is
 * read wherever the kernel is read.
 */
export class Carrying {
  /** True from a commit until this node steps down (mode `inject`: while one runs): what its kernel has is its own. */
  carries: boolean;
  /** What keepalived said last, by sync group; the one group that most have is "". */
  readonly #groups: Map<string, SpokenRole>;
  readonly #tableRole: Role;
  #role: Role;

  constructor({ earlier, injects }: { readonly earlier: EarlierRoles; readonly injects: boolean }) {
    this.#groups = new Map(earlier.groups);
    this.#tableRole = earlier.table;
    this.#role = highestRole(this.#groups);
    this.carries = this.heldRole === "primary" && !injects;
  }

  /** What keepalived said last since the boot. With several sync groups, primary while any of them is. */
  get role(): Role {
    return this.#role;
  }

  /** The role that the kernel's table goes by. Until keepalived speaks, that is the role under which it came about. */
  get heldRole(): Role {
    return this.#groups.size === 0 ? this.#tableRole : this.#role;
  }

  /** True after this node stepped down: what its kernel has and its stream never told of is left over from before. */
  get standsBack(): boolean {
    const role = this.heldRole;
    return role === "backup" || role === "fault";
  }

  /** The sync groups that keepalived has named. */
  get groups(): ReadonlyMap<string, SpokenRole> {
    return this.#groups;
  }

  /** Keepalived says what this node is for a sync group. */
  hear(group: string, role: SpokenRole): void {
    this.#groups.set(group, role);
    this.#role = highestRole(this.#groups);
  }
}

function highestRole(groups: ReadonlyMap<string, SpokenRole>): Role {
  const roles = new Set(groups.values());
  return (["primary", "backup", "fault"] as const).find((role) => roles.has(role)) ?? "unknown";
}
