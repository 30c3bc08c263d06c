/** What a takeover did: as a mark in this node's stream, and as figures for `stats`. */
import type { CommitReport } from "../../control/protocol.js";
import type { CommitMark } from "../../stream/format/mark.js";

/** Why a commit runs. */
export interface Occasion {
  /** `hook`: this node became primary; `command`: somebody asked for it. */
  readonly cause: "hook" | "command";
  /** The sync group that became primary; "": the hook named none. */
  readonly group: string;
}

/** Somebody asked for the commit. */
export const BY_COMMAND: Occasion = { cause: "command", group: "" };

/** The mark of a commit that began at `beganMs`. */
export function commitMark(report: CommitReport, { cause, group }: Occasion, beganMs: number): CommitMark {
  const { committed, updated, skipped, stale, durationMs } = report;
  const { ahead, repaired, withoutMaster, withoutHelper, expectations } = report;
  const reasons = Object.entries(report.failed).filter(([, count]) => count > 0);
  return {
    type: "commit",
    ...{ committed, updated, failed: failures(report), stale, durationMs },
    ...{ cause, beganMs: Math.max(0, Math.floor(beganMs)), skipped },
    ...(group === "" ? {} : { group }),
    ...(reasons.length === 0 ? {} : { reasons: Object.fromEntries(reasons) }),
    ...counted({ ahead, repaired, withoutMaster, withoutHelper, expectations: expectations?.committed }),
  };
}

/** Those of the counts that are known and above 0. */
function counted<K extends string>(counts: Readonly<Record<K, number | undefined>>): Partial<Record<K, number>> {
  const known = Object.entries<number | undefined>(counts).filter(([, count]) => count !== undefined && count > 0);
  return Object.fromEntries(known) as Partial<Record<K, number>>;
}

/** Number of entries that the kernel refused. */
export function failures({ failed }: CommitReport): number {
  return Object.values(failed).reduce((sum, count) => sum + count, 0);
}

/** The group `takeover` of `stats`: the last takeover since the daemon started. */
export class LastTakeover {
  #takeovers = 0;
  #mark: CommitMark | null = null;

  note(mark: CommitMark): void {
    this.#takeovers++;
    this.#mark = mark;
  }

  get counters(): Record<string, number> {
    const mark = this.#mark;
    return {
      takeovers: this.#takeovers,
      lastAtMs: mark?.beganMs ?? 0,
      lastCommitted: mark?.committed ?? 0,
      lastAhead: mark?.ahead ?? 0,
      lastUpdated: mark?.updated ?? 0,
      lastSkipped: mark?.skipped ?? 0,
      lastRepaired: mark?.repaired ?? 0,
      lastFailed: mark?.failed ?? 0,
      lastStale: mark?.stale ?? 0,
      lastDurationMs: mark?.durationMs ?? 0,
    };
  }
}
