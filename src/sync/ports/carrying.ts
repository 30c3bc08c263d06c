import type { Role } from "../../stream/format/mark.js";

/** What keepalived can say of a sync group. */
export type SpokenRole = Exclude<Role, "unknown">;

/**
 * What keepalived has made of this node, and whose the flows of its kernel are because of that. Plain state: the roles write it, and it is
 * read wherever the kernel is read.
 */
export class Carrying {
  /** True from a commit until this node steps down (mode `inject`: while one runs): what its kernel has is its own. */
  carries: boolean;
  /** What keepalived said last, by sync group; the one group that most have is "". */
  readonly #groups = new Map<string, SpokenRole>();
  #role: Role;

  /** `before`: the role when this node's stream was last written. It counts until keepalived speaks. */
  constructor({ before, injects }: { readonly before: Role; readonly injects: boolean }) {
    this.#role = before;
    this.carries = before === "primary" && !injects;
  }

  /** What keepalived said last. With several sync groups, primary while any of them is. */
  get role(): Role {
    return this.#role;
  }

  /** True after this node stepped down: what its kernel has and its stream never told of is left over from before. */
  get standsBack(): boolean {
    return this.#role === "backup" || this.#role === "fault";
  }

  /** The sync groups that keepalived has named. */
  get groups(): ReadonlyMap<string, SpokenRole> {
    return this.#groups;
  }

  /** Keepalived says what this node is for a sync group. */
  hear(group: string, role: SpokenRole): void {
    this.#groups.set(group, role);
    const roles = [...this.#groups.values()];
    this.#role = ["primary" as const, "backup" as const].find((one) => roles.includes(one)) ?? role;
  }
}
