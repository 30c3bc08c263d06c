/** Connections on their way into a file, in columns of the size of a vector of DuckDB. */
import { flowFromRecord } from "../../flow/flow.js";
import { type RareAttributes, RECORD_WORDS } from "../../flow/record.js";
import type { Connection, PathStep } from "../connection.js";
import { VECTOR_ROWS } from "./duckdb.js";

/** The outcomes of connections. A page has their index. */
export const OUTCOMES = ["ended", "lost", "open"] as const satisfies readonly Connection["end"][];
/** How many counters a row has: packets and bytes of the original direction, then of the reply. */
export const COUNTERS = 4;

/** A page of connections, as many as a vector of DuckDB has rows. The columns of a file are made from it page by page. */
export class StagedPage {
  rows = 0;
  readonly words = new Uint32Array(VECTOR_ROWS * RECORD_WORDS);
  /** The stamp of the birth, which is part of the uid; 0 where `uids` has the uid. */
  readonly birth = new Float64Array(VECTOR_ROWS);
  /** Milliseconds since the Unix epoch; NaN: none. */
  readonly startMs = new Float64Array(VECTOR_ROWS);
  readonly endMs = new Float64Array(VECTOR_ROWS);
  /** The first of a row is NaN where nothing was counted. */
  readonly counters = new Float64Array(VECTOR_ROWS * COUNTERS);
  /** The first step of the path: the number of its node, and since when. */
  readonly node = new Uint8Array(VECTOR_ROWS);
  readonly sinceMs = new Float64Array(VECTOR_ROWS);
  /** Index in OUTCOMES. */
  readonly outcome = new Uint8Array(VECTOR_ROWS);
  readonly timed = new Uint8Array(VECTOR_ROWS);
  readonly mayMiss = new Uint8Array(VECTOR_ROWS);
  /** Day of the end, since 1970. */
  readonly day = new Int32Array(VECTOR_ROWS);
  /** 1 where the archive may hold the connection already. */
  readonly late = new Uint8Array(VECTOR_ROWS);
  /** By row: uids of connections whose birth is not known, attributes that few flows have, and paths of more than one step. */
  readonly uids = new Map<number, string>();
  readonly attributes = new Map<number, string>();
  readonly steps = new Map<number, string>();

  /** Empties the page. */
  reset(): void {
    this.rows = 0;
    this.uids.clear();
    this.attributes.clear();
    this.steps.clear();
  }

  /** Adds a connection that ended on that day, and whose first node has that number. `late`: the archive may hold it already. */
  add(connection: Connection, day: number, node: number, late: boolean): void {
    const row = this.rows++;
    const { birth, words, rare, path, counters } = connection;
    const at = row * RECORD_WORDS;
    for (let i = 0; i < RECORD_WORDS; i++) this.words[at + i] = words[i]!;
    if (birth === undefined) this.uids.set(row, connection.uid);
    this.birth[row] = birth ?? 0;
    this.startMs[row] = connection.startMs ?? Number.NaN;
    this.endMs[row] = connection.endMs ?? Number.NaN;
    this.counters[COUNTERS * row] = counters?.origPackets ?? Number.NaN;
    this.counters[COUNTERS * row + 1] = counters?.origBytes ?? 0;
    this.counters[COUNTERS * row + 2] = counters?.replyPackets ?? 0;
    this.counters[COUNTERS * row + 3] = counters?.replyBytes ?? 0;
    this.node[row] = node;
    this.sinceMs[row] = path[0]?.sinceMs ?? 0;
    this.outcome[row] = OUTCOMES.indexOf(connection.end);
    this.timed[row] = connection.timedByKernel ? 1 : 0;
    this.mayMiss[row] = connection.mayMiss ? 1 : 0;
    this.day[row] = day;
    this.late[row] = late ? 1 : 0;
    if (rare !== null) this.#setAttributes(row, words, rare);
    if (path.length > 1) this.steps.set(row, path.map(stepText).join(","));
  }

  /** Sets the attributes that few flows have, in the JSON form of a flow (src/flow/flow.ts). */
  #setAttributes(row: number, words: Uint32Array, rare: RareAttributes): void {
    const { labels, helper, secctx, master, seqadj, synproxy } = flowFromRecord(words, 0, rare);
    const text = JSON.stringify({ labels, helper, secctx, master, seqadj, synproxy });
    if (text !== "{}") this.attributes.set(row, text);
  }
}

function stepText({ node, sinceMs }: PathStep): string {
  return `${node}@${Math.round(sinceMs * 1000)}`;
}
