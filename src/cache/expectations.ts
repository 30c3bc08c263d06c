import { type Expectation, expectationKey } from "../flow/expectation.js";
import { isNewerClaim } from "../ownership/claim.js";

/** Expectations of each table at the most: some hundreds are many, and what is beyond is counted and left out. */
export const EXPECTATIONS_MAX = 4096;

/** One expectation in a table. */
export interface ExpectationRow {
  readonly expectation: Expectation;
  /** Seconds since the Unix epoch: when it was first seen, and when its timeout was as it stands in it. */
  readonly createdSeconds: number;
  readonly updatedSeconds: number;
}

/** Seconds that are left of the time that it is waited for; 0 or less when it is over. */
export function secondsLeft(row: ExpectationRow, nowSeconds: number): number {
  return row.expectation.timeoutSeconds - Math.max(0, nowSeconds - row.updatedSeconds);
}

interface InternalRow extends ExpectationRow {
  /** Stamp of this node's last claim. */
  stamp: number;
  /** This node's stream says that it is here. */
  told: boolean;
  /** A peer holds it by a newer claim; that peer has seen it end. */
  superseded: boolean;
  endedElsewhere: boolean;
  /** The dump since whose begin it was touched. */
  generation: number;
  /** The cache was flushed since anything told of it. */
  hidden: boolean;
}

/** What internal expectations count. */
export interface InternalExpectationCounters {
  created: number;
  destroyed: number;
  /** Ends of expectations that are not here. */
  destroyUnknown: number;
  createFailedFull: number;
  sweptByDump: number;
}

/** One that this node claims. `stamp`: of a claim that is told once more; null when the message's own is the claim's. */
export interface ClaimedExpectation extends ExpectationRow {
  readonly stamp: number | null;
}

/** What one publication says: expectations that are here, and those that have ended. */
export interface PendingExpectations {
  readonly keys: readonly string[];
  readonly rows: readonly ClaimedExpectation[];
  readonly ended: readonly Expectation[];
}

/** What waits to be told of one: a claim, a claim once more, or that it has ended. */
type Change = "claim" | "restate" | Expectation;

/**
 * The expectations of this node's own kernel and the list of those that the peers have yet to be told of. All that happens to
 * one between two publications is one change. Pure state.
 */
export class InternalExpectations {
  readonly counters: InternalExpectationCounters = {
    created: 0,
    destroyed: 0,
    destroyUnknown: 0,
    createFailedFull: 0,
    sweptByDump: 0,
  };
  readonly #rows = new Map<string, InternalRow>();
  readonly #pending = new Map<string, Change>();
  #generation = 0;
  /** CTA_EXPECT_IDs that ended while a dump runs: the dump may still list them. */
  #endedDuringDump: Set<number> | null = null;

  /** How many there are. */
  get size(): number {
    return this.#rows.size;
  }

  /** How many wait to be published. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** All of them that no flush hides, with those that a peer holds by a newer claim. */
  *rows(): Iterable<ExpectationRow> {
    for (const row of this.#rows.values()) if (!row.hidden) yield row;
  }

  /** Those that this node's stream says are here, or is about to, by the stamps of their claims. */
  *claimed(): Iterable<ExpectationRow & { readonly stamp: number }> {
    for (const row of this.#rows.values()) if (!row.superseded) yield row;
  }

  /** The kernel has it, as an event or our own request says. False when there is no room. */
  upsert(expectation: Expectation, nowSeconds: number): boolean {
    const key = expectationKey(expectation);
    const before = this.#rows.get(key);
    if (before === undefined && this.#rows.size >= EXPECTATIONS_MAX) {
      this.counters.createFailedFull++;
      return false;
    }
    if (before === undefined) this.counters.created++;
    this.#rows.set(key, {
      expectation,
      createdSeconds: nowSeconds,
      updatedSeconds: nowSeconds,
      stamp: before?.stamp ?? 0,
      told: before?.told ?? false,
      superseded: false,
      endedElsewhere: false,
      generation: this.#generation,
      hidden: false,
    });
    this.#pending.set(key, "claim");
    return true;
  }

  /** The kernel has it no more. Its zone need not be known: the master may have ended before. */
  destroy(expectation: Expectation): void {
    const { id } = expectation;
    if (id !== undefined) this.#endedDuringDump?.add(id);
    const key = this.#find(expectation);
    if (key === null) {
      this.counters.destroyUnknown++;
      return;
    }
    this.#end(key);
    this.counters.destroyed++;
  }

  /** The key of the very expectation, by its id where that is known. */
  #find(expectation: Expectation): string | null {
    const key = expectationKey(expectation);
    const row = this.#rows.get(key);
    if (row !== undefined && sameId(row.expectation, expectation)) return key;
    if (expectation.id === undefined) return null;
    for (const [other, { expectation: known }] of this.#rows) if (known.id === expectation.id) return other;
    return null;
  }

  #end(key: string): void {
    const row = this.#rows.get(key)!;
    this.#rows.delete(key);
    if (row.told) this.#pending.set(key, row.expectation);
    else this.#pending.delete(key);
  }

  /** A dump of the kernel's expectations begins. */
  beginDump(): void {
    this.#generation++;
    this.#endedDuringDump = new Set();
  }

  /**
   * One as the dump lists it; what an event told since the dump began is newer. `claim`: by what stamp a peer holds it.
   * One that a peer holds is superseded, and stays so, unless this node is the one that carries traffic now (`carries`).
   */
  dumped(expectation: Expectation, nowSeconds: number, claim: number | null, carries: boolean): void {
    const key = expectationKey(expectation);
    const row = this.#rows.get(key);
    if (row?.generation === this.#generation) return;
    if (expectation.id !== undefined && this.#endedDuringDump?.has(expectation.id)) return;
    if (row !== undefined && sameId(row.expectation, expectation) && !(row.superseded && carries)) {
      const seen = { updatedSeconds: nowSeconds, generation: this.#generation, hidden: false };
      this.#rows.set(key, { ...row, expectation, ...seen });
      return;
    }
    if (!this.upsert(expectation, nowSeconds)) return;
    if (claim !== null && !carries) this.supersede(key);
  }

  /** The dump is over, and it was whole: what neither it nor an event has named since it began has ended. */
  endDump(): void {
    this.#endedDuringDump = null;
    for (const [key, { generation }] of this.#rows) {
      if (generation === this.#generation) continue;
      this.#end(key);
      this.counters.sweptByDump++;
    }
  }

  /** The dump is not whole: nothing follows from what it did not list. */
  abandonDump(): void {
    this.#endedDuringDump = null;
  }

  /** Up to `max` changes that wait. `settle` takes them off. */
  pending(max: number): PendingExpectations {
    const keys: string[] = [];
    const rows: ClaimedExpectation[] = [];
    const ended: Expectation[] = [];
    for (const [key, change] of this.#pending) {
      if (keys.length >= max) break;
      keys.push(key);
      if (typeof change === "object") ended.push(change);
      else if (change === "restate") rows.push(this.#rows.get(key)!);
      else rows.push({ ...this.#rows.get(key)!, stamp: null });
    }
    return { keys, rows, ended };
  }

  /** They were published under `stamp`. */
  settle({ keys }: PendingExpectations, stamp: number): void {
    for (const key of keys) {
      const restated = this.#pending.get(key) === "restate";
      this.#pending.delete(key);
      const row = this.#rows.get(key);
      if (row === undefined) continue;
      row.told = true;
      if (!restated) row.stamp = stamp;
    }
  }

  /** Stamp of this node's last claim; Infinity while a newer one waits to be published; null when it is not here. */
  stamp(key: string): number | null {
    const row = this.#rows.get(key);
    if (row === undefined) return null;
    return this.#pending.get(key) === "claim" ? Number.POSITIVE_INFINITY : row.stamp;
  }

  /** A peer holds it by a newer claim: this node's stream says no more of it. The kernel keeps it until it is purged. */
  supersede(key: string): void {
    const row = this.#rows.get(key);
    if (row === undefined) return;
    row.superseded = true;
    row.endedElsewhere = false;
    row.told = false;
    this.#pending.delete(key);
  }

  /** The peer that holds it by a newer claim has seen it end. */
  endElsewhere(key: string): void {
    const row = this.#rows.get(key);
    if (row?.superseded) row.endedElsewhere = true;
  }

  /** Tells the peers once more of a claim, by the stamp that it had. */
  restate(key: string): void {
    const row = this.#rows.get(key);
    // What waits already is newer than the claim, and one that a peer holds is no claim of ours any more.
    if (row !== undefined && !row.superseded && !this.#pending.has(key)) this.#pending.set(key, "restate");
  }

  /** What this kernel has and a peer holds: all of it, or only what has ended there. */
  superseded(onlyEnded: boolean): Expectation[] {
    const found: Expectation[] = [];
    for (const { expectation, superseded, endedElsewhere } of this.#rows.values()) {
      if (superseded && (endedElsewhere || !onlyEnded)) found.push(expectation);
    }
    return found;
  }

  /** Takes one over that this node's own stream says was here. For a daemon that starts; a dump of the kernel follows. */
  adopt(row: ExpectationRow, stamp: number): void {
    const fate = { told: true, superseded: false, endedElsewhere: false, generation: this.#generation, hidden: false };
    this.#rows.set(expectationKey(row.expectation), { ...row, stamp, ...fate });
  }

  /** Shows none of them until an event or a dump tells of them again; the peers are told nothing. */
  flush(): void {
    for (const row of this.#rows.values()) row.hidden = true;
  }

  /** Forgets all, as if they had ended. */
  endAll(): void {
    for (const key of [...this.#rows.keys()]) this.#end(key);
  }
}

/** True unless both are known by an id of the kernel and those differ. */
function sameId(a: Expectation, b: Expectation): boolean {
  return a.id === undefined || b.id === undefined || a.id === b.id;
}

interface ExternalRow extends ExpectationRow {
  readonly owner: string;
  readonly stamp: number;
  readonly generation: number;
}

/** What external expectations count. */
export interface ExternalExpectationCounters {
  created: number;
  updated: number;
  destroyed: number;
  /** Rows that changed owner, because the new owner's stamp was newer. */
  taken: number;
  /** Rows dropped because what is here is newer. */
  stale: number;
  /** Ends of expectations that the sender does not own here. */
  unknown: number;
  createFailedFull: number;
  /** Rows that ended here because a local event was newer. */
  retired: number;
  sweptBySnapshot: number;
  /** Rows whose time was over without a word of their end. */
  expired: number;
}

/**
 * The expectations of all peers, each with its owner and the owner's stamp, by the rules of the external cache: a newer stamp
 * takes a row over, an older one is dropped, only the owner ends a row. Pure state.
 */
export class ExternalExpectations {
  readonly counters: ExternalExpectationCounters = {
    created: 0,
    updated: 0,
    destroyed: 0,
    taken: 0,
    stale: 0,
    unknown: 0,
    createFailedFull: 0,
    retired: 0,
    sweptBySnapshot: 0,
    expired: 0,
  };
  readonly #rows = new Map<string, ExternalRow>();
  /** Snapshots begun, by owner. */
  readonly #generations = new Map<string, number>();

  /** How many there are. */
  get size(): number {
    return this.#rows.size;
  }

  /** All of them, with the names of their owners. */
  rows(): Iterable<ExpectationRow & { readonly owner: string; readonly stamp: number }> {
    return this.#rows.values();
  }

  /** A peer says that it has this one. False when what is here is newer, or when there is no room. */
  upsert(owner: string, row: ExpectationRow, stamp: number): boolean {
    const key = expectationKey(row.expectation);
    const before = this.#rows.get(key);
    const { counters } = this;
    if (before === undefined) {
      if (this.#rows.size >= EXPECTATIONS_MAX) this.expire(row.updatedSeconds);
      if (this.#rows.size >= EXPECTATIONS_MAX) {
        counters.createFailedFull++;
        return false;
      }
      counters.created++;
    } else if (before.owner === owner) {
      counters.updated++;
    } else if (isNewerClaim(stamp, owner, before.stamp, before.owner)) {
      counters.taken++;
    } else {
      counters.stale++;
      return false;
    }
    this.#rows.set(key, { ...row, owner, stamp, generation: this.#generations.get(owner) ?? 0 });
    return true;
  }

  /** A peer says that this one has ended. */
  destroy(owner: string, expectation: Expectation): void {
    const key = expectationKey(expectation);
    if (this.#rows.get(key)?.owner !== owner) {
      this.counters.unknown++;
      return;
    }
    this.#rows.delete(key);
    this.counters.destroyed++;
  }

  /** A local event is newer than what peers said of it. */
  retire(key: string): void {
    if (this.#rows.delete(key)) this.counters.retired++;
  }

  /** The stamp by which a peer holds it; null when none does. */
  claim(key: string): number | null {
    return this.#rows.get(key)?.stamp ?? null;
  }

  /** A snapshot of a peer begins: what it does not name until its end has ended. */
  beginSnapshot(owner: string): void {
    this.#generations.set(owner, (this.#generations.get(owner) ?? 0) + 1);
  }

  /** It was read whole. */
  endSnapshot(owner: string): void {
    const generation = this.#generations.get(owner) ?? 0;
    for (const [key, row] of this.#rows) {
      if (row.owner !== owner || row.generation === generation) continue;
      this.#rows.delete(key);
      this.counters.sweptBySnapshot++;
    }
  }

  /** Drops those whose time is over: their owner died before it could say so. */
  expire(nowSeconds: number): void {
    for (const [key, row] of this.#rows) {
      if (secondsLeft(row, nowSeconds) > 0) continue;
      this.#rows.delete(key);
      this.counters.expired++;
    }
  }

  /** Forgets all rows, of one peer or of all. */
  flush(owner?: string): void {
    for (const [key, row] of this.#rows) if (owner === undefined || row.owner === owner) this.#rows.delete(key);
  }
}
