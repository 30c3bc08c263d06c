/** Between which times the connections of a file ended. */
import { type Database, quoted } from "./duckdb.js";
import type { HeldFile } from "./held-files.js";

/** A range of time, milliseconds since the Unix epoch, both ends included. */
export interface Range {
  readonly fromMs: number;
  readonly untilMs: number;
}

/** The range of a file that does not say. */
export const ANY_TIME: Range = { fromMs: Number.NEGATIVE_INFINITY, untilMs: Number.POSITIVE_INFINITY };

/** The ranges of files, each looked up once: files never change. */
export class EndRanges {
  readonly #database: Database;
  readonly #known = new Map<string, Range>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** Those of these files. A file whose metadata cannot be read has any time, and is reported when its rows are read. */
  async of(files: readonly HeldFile[]): Promise<Range[]> {
    const ranges: Range[] = [];
    for (const { path, readPath, entry } of files) {
      let range = entry === null ? this.#known.get(path) : { fromMs: entry.ends[0], untilMs: entry.ends[1] };
      range ??= await this.#read(readPath).catch(() => ANY_TIME);
      this.#known.set(path, range);
      ranges.push(range);
    }
    return ranges;
  }

  async #read(path: string): Promise<Range> {
    const time = (value: string): string => `epoch_us(${value}::TIMESTAMPTZ)::DOUBLE / 1000`;
    const [row] = await this.#database.rows(
      `SELECT ${time("min(stats_min_value)")} AS first, ${time("max(stats_max_value)")} AS last
       FROM parquet_metadata(${quoted(path)}) WHERE path_in_schema = 'end_time'`,
    );
    const { first, last } = row ?? {};
    if (typeof first !== "number" || typeof last !== "number") return ANY_TIME;
    return { fromMs: first, untilMs: last };
  }
}
