import { flowFromRecord } from "../../flow/flow.js";
import { type RareAttributes, RECORD_WORDS } from "../../flow/record.js";
import type { Connection, PathStep } from "../connection.js";
import { VECTOR_ROWS } from "./duckdb.js";

/** What is said of a connection's end, by code. */
export const OUTCOMES = ["ended", "lost", "open"] as const satisfies readonly Connection["end"][];
/** Counters of a row: packets and bytes of the original direction, then of the reply. */
export const COUNTERS = 4;

/** As many connections as a vector of DuckDB has rows, as they come: what a file has of them is made of it page by page. */
export class StagedPage {
  rows = 0;
  readonly words = new Uint32Array(VECTOR_ROWS * RECORD_WORDS);
  /** The stamp that the uid is named after. */
  readonly birth = new Float64Array(VECTOR_ROWS);
  /** Milliseconds; NaN: none. */
  readonly startMs = new Float64Array(VECTOR_ROWS);
  readonly endMs = new Float64Array(VECTOR_ROWS);
  /** NaN: not counted. */
  readonly counters = new Float64Array(VECTOR_ROWS * COUNTERS);
  /** Of the first step: the number of its node, and since when. */
  readonly node = new Uint8Array(VECTOR_ROWS);
  readonly sinceMs = new Float64Array(VECTOR_ROWS);
  /** Index in OUTCOMES. */
  readonly outcome = new Uint8Array(VECTOR_ROWS);
  readonly timed = new Uint8Array(VECTOR_ROWS);
  readonly mayMiss = new Uint8Array(VECTOR_ROWS);
  /** Day of the end, since 1970. */
  readonly day = new Int32Array(VECTOR_ROWS);
  /** It may be in the archive already. */
  readonly late = new Uint8Array(VECTOR_ROWS);
  /** By row: names of those whose birth is not known, attributes that few have, and paths of more than one step. */
  readonly uids = new Map<number, string>();
  readonly attributes = new Map<number, string>();
  readonly steps = new Map<number, string>();

  /** Makes it empty. */
  reset(): void {
    this.rows = 0;
    this.uids.clear();
    this.attributes.clear();
    this.steps.clear();
  }

  /** Takes in a connection that ended on that day, and whose first node has that number. `late`: it may be in the archive already. */
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

  /** What few flows have, as the JSON of a flow has it (src/flow/flow.ts). */
  #setAttributes(row: number, words: Uint32Array, rare: RareAttributes): void {
    const { labels, helper, secctx, master, seqadj, synproxy } = flowFromRecord(words, 0, rare);
    const text = JSON.stringify({ labels, helper, secctx, master, seqadj, synproxy });
    if (text !== "{}") this.attributes.set(row, text);
  }
}

function stepText({ node, sinceMs }: PathStep): string {
  return `${node}@${Math.round(sinceMs * 1000)}`;
}
