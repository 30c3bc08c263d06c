/** What a projection reports: the changes and ends of connections that pass its filter, each end published once for good. */
import type { Connection, ConnectionChange } from "../connection.js";
import { createUid } from "../uid.js";
import { ConnectionRecord, type RowCopy } from "./connection-record.js";
import { type Ending, endMsOf } from "./ending.js";
import type { RowFilter } from "./row-filter.js";

/** The message that published an end. */
export interface EndSource {
  readonly node: string;
  readonly stamp: number;
  /** True where the connection's beginning was read, and no end of it before this one. */
  readonly whole: boolean;
}

/** Receives what becomes of connections. */
export interface ProjectionListener {
  /** Called once for each connection, when no node can take it up again. */
  ended(connection: Connection, source: EndSource): void;
  /** Called as soon as a connection's owner publishes its end, though another node may still take the connection up again. */
  over?(connection: Connection): void;
  /** Called for each change of a connection that is alive; null: only ends matter. */
  readonly changed: ((type: Exclude<ConnectionChange["type"], "ended">, slot: number) => void) | null;
}

/** Makes finished connections and hands those to the listener that pass the filter and did not end before the range. */
export class Reports {
  readonly #filter: RowFilter;
  readonly #sinceMs: number;
  readonly #listener: ProjectionListener;
  readonly #uidOf = createUid();

  /** `sinceMs` null: the range has no beginning. */
  constructor(filter: RowFilter, sinceMs: number | null, listener: ProjectionListener) {
    this.#filter = filter;
    this.#sinceMs = sinceMs ?? Number.NEGATIVE_INFINITY;
    this.#listener = listener;
  }

  /** True for an end that nobody asked for. */
  isBeforeRange(ending: Ending): boolean {
    return endMsOf(ending) < this.#sinceMs;
  }

  /** A connection with that ending, whatever the filter says. */
  record(copy: RowCopy, ending: Ending): ConnectionRecord {
    return new ConnectionRecord(copy, ending, this.#uidOf);
  }

  /** A connection that is alive has changed. */
  changed(type: Exclude<ConnectionChange["type"], "ended">, slot: number): void {
    this.#listener.changed?.(type, slot);
  }

  /** True where the listener wants ends before they are final. */
  get wantsOver(): boolean {
    return this.#listener.over !== undefined;
  }

  /** The owner has published an end, which may not be final. */
  over(copy: RowCopy, ending: Ending): void {
    if (this.#passes(copy, ending)) this.#listener.over?.(this.record(copy, ending));
  }

  /** An end that was reported as over before is final now. */
  ended(copy: RowCopy, ending: Ending, source: EndSource): void {
    if (this.#passes(copy, ending)) this.#listener.ended(this.record(copy, ending), source);
  }

  /** An end that is final at once. */
  overAndEnded(copy: RowCopy, ending: Ending, source: EndSource): void {
    if (!this.#passes(copy, ending)) return;
    const connection = this.record(copy, ending);
    this.#listener.over?.(connection);
    this.#listener.ended(connection, source);
  }

  #passes(copy: RowCopy, ending: Ending): boolean {
    return !this.isBeforeRange(ending) && this.#filter.accepts(copy.words, 0);
  }
}
