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
import { Roomless } from "./roomless.js";

interface InternalRow extends ExpectationRow {
  /** The stamp of this node's last claim. */
  stamp: number;
  /** Who carries it, as in ownership/state.ts. */
  state: number;
  /** Number of the last dump that had begun when the row was last touched. */
  generation: number;
  /** True when the cache was flushed and neither an event nor a dump has reported the expectation since. */
  hidden: boolean;
}

/** The counters of internal expectations. */
export interface InternalExpectationCounters {
  created: number;
  destroyed: number;
  /** Ends of expectations that are unknown here. */
  destroyUnknown: number;
  createFailedFull: number;
  sweptByDump: number;
}

/**
 * An expectation that this node claims. `stamp`: that of a claim that is published again; null for a new claim, which
 * gets the message's stamp.
 */
export interface ClaimedExpectation extends ExpectationRow {
  readonly stamp: number | null;
}

/** The content of one publication: expectations that exist, and expectations that have ended. */
export interface PendingExpectations {
  readonly keys: readonly string[];
  readonly rows: readonly ClaimedExpectation[];
  readonly ended: readonly Expectation[];
}

/**
 * The expectations of this node's own kernel, and the list of those that are pending. All changes of one expectation
 * between two publications are published as one. Pure state.
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
  /** Pending changes, oldest first: an expectation that has ended, or null to publish the state of the row. */
  readonly #pending = new Map<string, Expectation | null>();
  readonly #dump = new DumpGeneration();
  readonly #roomless = new Roomless<string>();

  /** Number of the kernel's expectations that found no room. */
  get unpublished(): number {
    return this.#roomless.count;
  }

  /** True when a dump would find room for some of those. */
  get hasRoomForUnpublished(): boolean {
    return this.#roomless.count > 0 && this.#rows.size < EXPECTATIONS_MAX;
  }

  /** Number of expectations. */
  get size(): number {
    return this.#rows.size;
  }

  /** Number of pending changes. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** All expectations that no flush hides, including those to which a peer has a newer claim. */
  *rows(): Iterable<ExpectationRow> {
    for (const row of this.#rows.values()) if (!row.hidden) yield row;
  }

  /** Those that this node's stream reports, or is about to report, with the stamps of their claims. */
  *claimed(): Iterable<ExpectationRow & { readonly stamp: number }> {
    for (const row of this.#rows.values()) if (!isSuperseded(row.state)) yield row;
  }

  /** The kernel has the expectation, as an event or this node's own request shows. False when there is no room. */
  upsert(expectation: Expectation, nowSeconds: number): boolean {
    const key = expectationKey(expectation);
    const before = this.#rows.get(key);
    if (before === undefined && this.#rows.size >= EXPECTATIONS_MAX) {
      this.counters.createFailedFull++;
      this.#roomless.add(key);
      return false;
    }
    this.#roomless.delete(key);
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

  /** The kernel no longer has the expectation. Its zone may be unknown, because the master may have ended before. */
  destroy(expectation: Expectation): void {
    const { id } = expectation;
    if (id !== undefined) this.#dump.ended(id);
    const found = this.#find(expectation);
    if (found === null) {
      this.counters.destroyUnknown++;
      this.#roomless.delete(expectationKey(expectation));
      return;
    }
    this.#end(...found);
    this.counters.destroyed++;
  }

  /** Finds exactly this expectation, by its ID where that is known. */
  #find(expectation: Expectation): [key: string, row: InternalRow] | null {
    const key = expectationKey(expectation);
    const row = this.#rows.get(key);
    if (row !== undefined && sameId(row.expectation, expectation)) return [key, row];
    if (expectation.id === undefined) return null;
    for (const known of this.#rows) if (known[1].expectation.id === expectation.id) return known;
    return null;
  }

  /** The end of an expectation that is not in this node's stream is not published. */
  #end(key: string, { state, expectation }: InternalRow): void {
    this.#rows.delete(key);
    if (isInStream(state)) this.#pending.set(key, expectation);
    else this.#pending.delete(key);
  }

  /** A dump of the kernel's expectations begins. */
  beginDump(): void {
    this.#dump.begin();
    this.#roomless.beginDump();
  }

  /**
   * Applies an expectation that the dump lists. An event since the dump began is newer. `claim` is the stamp of a
   * peer's claim. An expectation with such a claim is superseded, and stays so unless this node carries traffic now
   * (`carries`).
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

  /** The dump is complete. What neither it nor an event since its begin has named has ended. */
  endDump(): void {
    this.#dump.end();
    this.#roomless.endDump();
    for (const [key, row] of this.#rows) {
      if (row.generation === this.#dump.number) continue;
      this.#end(key, row);
      this.counters.sweptByDump++;
    }
  }

  /** The dump is incomplete: what it did not list may still exist. */
  abandonDump(): void {
    this.#dump.end();
    this.#roomless.abandonDump();
  }

  /** At most `max` pending changes. `settle` removes them from the list. */
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

  /** The changes were published under `stamp`. */
  settle({ keys }: PendingExpectations, stamp: number): void {
    for (const key of keys) {
      this.#pending.delete(key);
      const row = this.#rows.get(key);
      if (row === undefined) continue;
      if (awaitsStamp(row.state)) row.stamp = stamp;
      this.#enter(key, row, PUBLISH);
    }
  }

  /** The stamp of this node's last claim; Infinity while a newer one is pending; null when it is not here. */
  stamp(key: string): number | null {
    const row = this.#rows.get(key);
    if (row === undefined) return null;
    return awaitsStamp(row.state) ? Number.POSITIVE_INFINITY : row.stamp;
  }

  /** A peer's claim is newer, so this node's stream reports it no more. The kernel keeps it until it is purged. */
  supersede(key: string): void {
    const row = this.#rows.get(key);
    if (row === undefined) return;
    // A stream has no row that gives an expectation up, so it has left the stream at once.
    row.state = after(after(row.state, SUPERSEDE), PUBLISH);
    this.#pending.delete(key);
  }

  /** The peer with the newer claim, if there is one, has seen it end. */
  endElsewhere(key: string): void {
    const row = this.#rows.get(key);
    if (row !== undefined) this.#enter(key, row, END_ELSEWHERE);
  }

  /** A peer's claim was older than this node's, which is published again with its original stamp. */
  claimAgain(key: string): void {
    const row = this.#rows.get(key);
    if (row !== undefined) this.#enter(key, row, CLAIM_AGAIN);
  }

  /** The expectations that this kernel has and a peer owns: all of them, or only those that ended there. */
  superseded(onlyEnded: boolean): Expectation[] {
    const found: Expectation[] = [];
    for (const { expectation, state } of this.#rows.values()) {
      if (onlyEnded ? hasEndedElsewhere(state) : isSuperseded(state)) found.push(expectation);
    }
    return found;
  }

  /** Restores an expectation from this node's own stream. For a daemon that starts; a dump follows. */
  adopt(row: ExpectationRow, stamp: number): void {
    const { expectation, createdSeconds, updatedSeconds } = row;
    const generation = this.#dump.number;
    const state = PUBLISHED;
    const adopted = { expectation, createdSeconds, updatedSeconds, stamp, state, generation, hidden: false };
    this.#rows.set(expectationKey(expectation), adopted);
  }

  /** Hides all expectations until an event or a dump reports them again. Nothing is published. */
  flush(): void {
    for (const row of this.#rows.values()) row.hidden = true;
  }

  /** Removes all expectations, as if they had ended. */
  endAll(): void {
    for (const [key, row] of this.#rows) this.#end(key, row);
  }
}

/** False only when the kernel's IDs of both are known and differ. */
function sameId(a: Expectation, b: Expectation): boolean {
  return a.id === undefined || b.id === undefined || a.id === b.id;
}
