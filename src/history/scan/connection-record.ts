/** A connection as the history answers with it, made from a copy of its row in the live table and how it ended. */
import type { RareAttributes } from "../../flow/record.js";
import type { Connection, ConnectionCounters, PathStep } from "../connection.js";
import type { UidOf } from "../uid.js";
import { type Ending, endMsOf } from "./ending.js";
import type { NodeState } from "./node-state.js";

/** A node that carried a connection, and since when. */
export interface CarriedSince {
  readonly node: NodeState;
  readonly stamp: number;
  /** The same by that node's clock, milliseconds since the Unix epoch. */
  readonly sinceMs: number;
}

/** A copy of a row of the live table, which outlives the row. */
export interface RowCopy {
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  readonly birth: number;
  /** The birth by the clock of the node that published it. */
  readonly startMs: number;
  /** The nodes that carried it, in order; at least one. */
  readonly path: readonly [CarriedSince, ...CarriedSince[]];
  readonly mayMiss: boolean;
}

/** A finished answer. Its uid is computed when it is first asked for. */
export class ConnectionRecord implements Connection {
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  readonly startMs: number | null;
  readonly endMs: number | null;
  readonly timedByKernel: boolean;
  readonly end: Connection["end"];
  readonly counters: ConnectionCounters | null;
  readonly path: Connection["path"];
  readonly mayMiss: boolean;
  readonly birth: number;
  readonly #uidOf: UidOf;
  #uid = "";

  constructor(copy: RowCopy, ending: Ending, uidOf: UidOf) {
    const timed = ending.endMs > 0;
    // On a node that took the connection over, the kernel's entry is younger than the connection.
    const startMs = timed && ending.startMs > 0 ? Math.min(copy.startMs, ending.startMs) : copy.startMs;
    this.words = copy.words;
    this.rare = copy.rare;
    this.end = ending.end;
    this.endMs = ending.end === "open" ? null : endMsOf(ending);
    this.startMs = this.endMs === null ? startMs : Math.min(startMs, this.endMs);
    this.timedByKernel = timed;
    this.counters = ending.counters;
    const { path } = copy;
    const [first] = path;
    // The first node to publish a connection has carried it from its start, however late the row was published.
    const begins = {
      node: first.node.name,
      sinceMs: first.stamp === copy.birth ? this.startMs : first.sinceMs,
    };
    this.path = path.length === 1 ? [begins] : [begins, ...path.slice(1).map((step) => stepOf(step))];
    this.mayMiss = copy.mayMiss || ending.end === "lost";
    this.birth = copy.birth;
    this.#uidOf = uidOf;
  }

  get uid(): string {
    if (this.#uid === "") this.#uid = this.#uidOf(this.birth, this.words);
    return this.#uid;
  }
}

function stepOf({ node, sinceMs }: CarriedSince): PathStep {
  return { node: node.name, sinceMs };
}
