import { type Expectation, expectationKey } from "../flow/expectation.js";
import { type ClaimOutcome, outcomeOfClaim } from "../ownership/claim.js";
import { EXPECTATIONS_MAX, type ExpectationRow, secondsLeft } from "./expectation-row.js";

interface ExternalRow extends ExpectationRow {
  readonly owner: string;
  readonly stamp: number;
  readonly generation: number;
}

/** The counters of external expectations. */
export interface ExternalExpectationCounters {
  created: number;
  updated: number;
  destroyed: number;
  /** Rows that changed their owner, because the new owner's stamp was newer. */
  taken: number;
  /** Rows dropped because the existing row is newer. */
  stale: number;
  /** Ends of expectations that the sender does not own in this table. */
  unknown: number;
  createFailedFull: number;
  /** Rows that ended here because a local event was newer. */
  retired: number;
  sweptBySnapshot: number;
  /** Rows that expired without a reported end. */
  expired: number;
}

/**
 * The expectations of all peers, each with its owner and the owner's stamp. The rules are those of the external cache:
 * a newer claim takes a row over, an older one is dropped, and only the owner ends a row. Pure state.
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
  /** Number of rows, by owner. */
  readonly #counts = new Map<string, number>();
  /** Number of snapshots begun, by owner. */
  readonly #generations = new Map<string, number>();
  /** When a full table was last searched for expired rows, seconds. */
  #expiredSeconds = 0;

  /** Number of expectations. */
  get size(): number {
    return this.#rows.size;
  }

  /** All expectations, with the names of their owners. */
  rows(): Iterable<ExpectationRow & { readonly owner: string; readonly stamp: number }> {
    return this.#rows.values();
  }

  /** A peer publishes this expectation. */
  upsert(owner: string, row: ExpectationRow, stamp: number): ClaimOutcome | "created" | "full" {
    const key = expectationKey(row.expectation);
    const before = this.#rows.get(key);
    const { counters } = this;
    let outcome: ClaimOutcome | "created" = "created";
    if (before === undefined) {
      if (!this.hasRoom(owner, row.updatedSeconds)) {
        counters.createFailedFull++;
        return "full";
      }
    } else {
      outcome = outcomeOfClaim(stamp, owner, before.stamp, before.owner);
    }
    counters[outcome]++;
    if (outcome === "stale") return outcome;
    if (before !== undefined) this.#count(before.owner, -1);
    this.#count(owner, 1);
    this.#rows.set(key, { ...row, owner, stamp, generation: this.#generations.get(owner) ?? 0 });
    return outcome;
  }

  /** A peer publishes that this expectation has ended. */
  destroy(owner: string, expectation: Expectation): void {
    const key = expectationKey(expectation);
    if (this.#rows.get(key)?.owner !== owner) {
      this.counters.unknown++;
      return;
    }
    this.#delete(key);
    this.counters.destroyed++;
  }

  /** A local event is newer than what peers published about it. */
  retire(key: string): void {
    if (this.#delete(key)) this.counters.retired++;
  }

  /** The stamp of the peer's claim; null when no peer has one. */
  claim(key: string): number | null {
    return this.#rows.get(key)?.stamp ?? null;
  }

  /** A snapshot of a peer begins. Rows of the peer that it does not name by its end have ended. */
  beginSnapshot(owner: string): void {
    this.#generations.set(owner, (this.#generations.get(owner) ?? 0) + 1);
  }

  /** The snapshot was read completely. */
  endSnapshot(owner: string): void {
    const generation = this.#generations.get(owner) ?? 0;
    for (const [key, row] of this.#rows) {
      if (row.owner !== owner || row.generation === generation) continue;
      this.#delete(key);
      this.counters.sweptBySnapshot++;
    }
  }

  /** True when another row of a peer can be inserted: each has its share. Expired rows are removed for it. */
  hasRoom(owner: string, nowSeconds: number): boolean {
    // At most once a second. If a share stays full, each look would otherwise search the whole table.
    if (this.#countOf(owner) >= EXPECTATIONS_MAX && nowSeconds > this.#expiredSeconds) {
      this.#expiredSeconds = nowSeconds;
      this.expire(nowSeconds);
    }
    return this.#countOf(owner) < EXPECTATIONS_MAX;
  }

  /** Removes expired rows. Their owner may have died before it could publish the end. */
  expire(nowSeconds: number): void {
    for (const [key, row] of this.#rows) {
      if (secondsLeft(row, nowSeconds) > 0) continue;
      this.#delete(key);
      this.counters.expired++;
    }
  }

  /** Discards all rows, of one peer or of all. */
  flush(owner?: string): void {
    for (const [key, row] of this.#rows) if (owner === undefined || row.owner === owner) this.#delete(key);
  }

  #delete(key: string): boolean {
    const row = this.#rows.get(key);
    if (row !== undefined) this.#count(row.owner, -1);
    return this.#rows.delete(key);
  }

  #countOf(owner: string): number {
    return this.#counts.get(owner) ?? 0;
  }

  #count(owner: string, change: 1 | -1): void {
    this.#counts.set(owner, this.#countOf(owner) + change);
  }
}
