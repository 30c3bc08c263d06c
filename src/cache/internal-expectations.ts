import { type Expectation, expectationKey } from "../flow/expectation.js";
import {
  ABSENT,
  after,
  awaitsStamp,
  CLAIM,
  CLAIM_AGAIN,
  END_ELSEWHERE,
  hasEndedElsewhere,
  isInStream,
  isPending,
  isRepeated,
  isSuperseded,
  PUBLISH,
  PUBLISHED,
  SUPERSEDE,
} from "../ownership/state.js";
import { DumpGeneration } from "./dump-generation.js";
import { EXPECTATIONS_MAX, type ExpectationRow } from "./expectation-row.js";

interface InternalRow extends ExpectationRow {
  /** Stamp of this node's last claim. */
  stamp: number;
  /** Who carries it: ownership/state.ts. */
  state: number;
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

/** One that this node claims. `stamp`: of a claim that is published again; null for a new one, by the message's own. */
export interface ClaimedExpectation extends ExpectationRow {
  readonly stamp: number | null;
}

/** What one publication says: expectations that are here, and those that have ended. */
export interface PendingExpectations {
  readonly keys: readonly string[];
  readonly rows: readonly ClaimedExpectation[];
  readonly ended: readonly Expectation[];
}

/**
 * The expectations of this node's own kernel and the list of those that have yet to be published. All that happens to
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
  /** What waits, oldest first: an expectation that has ended, or null for what the state of the row says. */
  readonly #pending = new Map<string, Expectation | null>();
  readonly #dump = new DumpGeneration();

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
    for (const row of this.#rows.values()) if (!isSuperseded(row.state)) yield row;
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
    const row: InternalRow = {
      expectation,
      createdSeconds: nowSeconds,
      updatedSeconds: nowSeconds,
      stamp: before?.stamp ?? 0,
      state: before?.state ?? ABSENT,
      generation: this.#dump.number,
      hidden: false,
    };
    this.#rows.set(key, row);
    this.#enter(key, row, CLAIM);
    return true;
  }

  #enter(key: string, row: InternalRow, input: number): void {
    row.state = after(row.state, input);
    if (isPending(row.state)) this.#pending.set(key, null);
  }

  /** The kernel has it no more. Its zone need not be known: the master may have ended before. */
  destroy(expectation: Expectation): void {
    const { id } = expectation;
    if (id !== undefined) this.#dump.ended(id);
    const found = this.#find(expectation);
    if (found === null) {
      this.counters.destroyUnknown++;
      return;
    }
    this.#end(...found);
    this.counters.destroyed++;
  }

  /** The very expectation, by its id where that is known. */
  #find(expectation: Expectation): [key: string, row: InternalRow] | null {
    const key = expectationKey(expectation);
    const row = this.#rows.get(key);
    if (row !== undefined && sameId(row.expectation, expectation)) return [key, row];
    if (expectation.id === undefined) return null;
    for (const known of this.#rows) if (known[1].expectation.id === expectation.id) return known;
    return null;
  }

  /** Nobody needs to hear of one that is not in this node's stream. */
  #end(key: string, { state, expectation }: InternalRow): void {
    this.#rows.delete(key);
    if (isInStream(state)) this.#pending.set(key, expectation);
    else this.#pending.delete(key);
  }

  /** A dump of the kernel's expectations begins. */
  beginDump(): void {
    this.#dump.begin();
  }

  /**
   * One as the dump lists it; what an event told since the dump began is newer. `claim`: by what stamp a peer holds it.
   * One that a peer holds is superseded, and stays so unless this node is the one that carries traffic now (`carries`).
   */
  dumped(expectation: Expectation, nowSeconds: number, claim: number | null, carries: boolean): void {
    const key = expectationKey(expectation);
    const row = this.#rows.get(key);
    const generation = this.#dump.number;
    if (row?.generation === generation) return;
    if (expectation.id !== undefined && this.#dump.hasEnded(expectation.id)) return;
    if (row !== undefined && sameId(row.expectation, expectation) && !(isSuperseded(row.state) && carries)) {
      this.#rows.set(key, { ...row, expectation, updatedSeconds: nowSeconds, generation, hidden: false });
      return;
    }
    if (!this.upsert(expectation, nowSeconds)) return;
    if (claim !== null && !carries) this.supersede(key);
  }

  /** The dump is over, and it was whole: what neither it nor an event has named since it began has ended. */
  endDump(): void {
    this.#dump.end();
    for (const [key, row] of this.#rows) {
      if (row.generation === this.#dump.number) continue;
      this.#end(key, row);
      this.counters.sweptByDump++;
    }
  }

  /** The dump is not whole: nothing follows from what it did not list. */
  abandonDump(): void {
    this.#dump.end();
  }

  /** Up to `max` changes that wait. `settle` takes them off. */
  pending(max: number): PendingExpectations {
    const keys: string[] = [];
    const rows: ClaimedExpectation[] = [];
    const ended: Expectation[] = [];
    for (const [key, over] of this.#pending) {
      if (keys.length >= max) break;
      keys.push(key);
      const row = this.#rows.get(key);
      if (over !== null) ended.push(over);
      else if (row !== undefined) rows.push(isRepeated(row.state) ? row : { ...row, stamp: null });
    }
    return { keys, rows, ended };
  }

  /** They were published under `stamp`. */
  settle({ keys }: PendingExpectations, stamp: number): void {
    for (const key of keys) {
      this.#pending.delete(key);
      const row = this.#rows.get(key);
      if (row === undefined) continue;
      if (awaitsStamp(row.state)) row.stamp = stamp;
      this.#enter(key, row, PUBLISH);
    }
  }

  /** Stamp of this node's last claim; Infinity while a newer one waits to be published; null when it is not here. */
  stamp(key: string): number | null {
    const row = this.#rows.get(key);
    if (row === undefined) return null;
    return awaitsStamp(row.state) ? Number.POSITIVE_INFINITY : row.stamp;
  }

  /** A peer's claim is newer: this node's stream says no more of it. The kernel keeps it until it is purged. */
  supersede(key: string): void {
    const row = this.#rows.get(key);
    if (row === undefined) return;
    // A stream has no row that gives an expectation up: it has left at once.
    row.state = after(after(row.state, SUPERSEDE), PUBLISH);
    this.#pending.delete(key);
  }

  /** The peer that holds it by a newer claim, if there is one, has seen it end. */
  endElsewhere(key: string): void {
    const row = this.#rows.get(key);
    if (row !== undefined) this.#enter(key, row, END_ELSEWHERE);
  }

  /** A peer's claim was older than this node's: that is published once more, by the stamp that it had. */
  claimAgain(key: string): void {
    const row = this.#rows.get(key);
    if (row !== undefined) this.#enter(key, row, CLAIM_AGAIN);
  }

  /** What this kernel has and a peer holds: all of it, or only what has ended there. */
  superseded(onlyEnded: boolean): Expectation[] {
    const found: Expectation[] = [];
    for (const { expectation, state } of this.#rows.values()) {
      if (onlyEnded ? hasEndedElsewhere(state) : isSuperseded(state)) found.push(expectation);
    }
    return found;
  }

  /** Takes one over that this node's own stream says was here. For a daemon that starts; a dump follows. */
  adopt(row: ExpectationRow, stamp: number): void {
    const { expectation, createdSeconds, updatedSeconds } = row;
    const generation = this.#dump.number;
    const state = PUBLISHED;
    const adopted = { expectation, createdSeconds, updatedSeconds, stamp, state, generation, hidden: false };
    this.#rows.set(expectationKey(expectation), adopted);
  }

  /** Shows none of them until an event or a dump tells of them again; nothing is published. */
  flush(): void {
    for (const row of this.#rows.values()) row.hidden = true;
  }

  /** Forgets all, as if they had ended. */
  endAll(): void {
    for (const [key, row] of this.#rows) this.#end(key, row);
  }
}

/** True unless both are known by an id of the kernel and those differ. */
function sameId(a: Expectation, b: Expectation): boolean {
  return a.id === undefined || b.id === undefined || a.id === b.id;
}
