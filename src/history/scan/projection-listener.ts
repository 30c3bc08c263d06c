import type { Connection, ConnectionChange } from "../connection.js";

/** What a projection counts. */
export interface ProjectionCounters {
  messages: number;
  /** Rows of all messages, also of those passed over. */
  events: number;
  /** Messages that are damaged, of another version, or another node's. */
  malformed: number;
  /** Messages that came before. */
  outdated: number;
  /** Connections that found no place in the table. */
  full: number;
}

/** Which message told of an end. */
export interface EndTold {
  readonly node: string;
  readonly stamp: number;
  /** The connection's beginning was read, and no end of it before. */
  readonly whole: boolean;
}

/** Hears what becomes of connections. */
export interface ProjectionListener {
  /** Once for each, when no node will take it up again. */
  ended(connection: Connection, told: EndTold): void;
  /** Left out: only that matters. At once when its owner says that it has ended, though another node may take it up again. */
  over?(connection: Connection): void;
  /** Null: only ends matter. */
  readonly changed: ((type: Exclude<ConnectionChange["type"], "ended">, slot: number) => void) | null;
}
