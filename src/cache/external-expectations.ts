import { type Expectation, expectationKey } from "../flow/expectation.js";
import { outcomeOfClaim } from "../ownership/claim.js";
import { EXPECTATIONS_MAX, type ExpectationRow, secondsLeft } from "./expectation-row.js";

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
 * The expectations of all peers, each with its owner and the owner's stamp, by the rules of the external cache: a newer
 * claim takes a row over, an older one is dropped, only the owner ends a row. Pure state.
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
  /** When a full table was last looked through. */
  #expiredSeconds = 0;

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
      // Once a second: with a table that is full to stay, each one more would cost a look at all.
      if (this.#rows.size >= EXPECTATIONS_MAX && row.updatedSeconds > this.#expiredSeconds) {
        this.#expiredSeconds = row.updatedSeconds;
        this.expire(row.updatedSeconds);
      }
      if (this.#rows.size >= EXPECTATIONS_MAX) {
        counters.createFailedFull++;
        return false;
      }
      counters.created++;
    } else {
      const outcome = outcomeOfClaim(stamp, owner, before.stamp, before.owner);
      counters[outcome]++;
      if (outcome === "stale") return false;
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
