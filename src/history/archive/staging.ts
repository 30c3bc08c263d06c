/**
 * Connections that gather for a file. They are kept in pages, and become a table in DuckDB, one page at a time, when a query asks
 * for them.
 */
import assert from "node:assert/strict";
import type { DuckDBDataChunk, DuckDBTableFunctionBindInfo } from "@duckdb/node-api";
import type { Connection } from "../connection.js";
import { ARCHIVE_COLUMNS } from "./columns.js";
import { type Database, type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";
import { Hashing, PageColumns } from "./staged-columns.js";
import { StagedPage } from "./staged-page.js";

const TABLE = "staged";
const DAY_MS = 86_400_000;
/** How many empty pages are kept for the next connections, so that filling them allocates nothing. */
const SPARE_PAGES = 64;
/** How many pages a row group of a file has. */
const PAGES_AHEAD = 8;

/** Connections that were taken out of the staging together. */
export interface StagedBatch {
  readonly pages: readonly StagedPage[];
  readonly rows: number;
  /** Days since 1970 on which they ended, and how many did on each. */
  readonly days: Map<number, number>;
  /** How many of them the archive may hold already. */
  readonly late: number;
}

/** Connections on their way into a file, and the table function of DuckDB that gives their columns. */
export class Staging {
  readonly #duckdb: DuckdbPackage;
  /** The columns of the pages that DuckDB asks for next, by page number modulo PAGES_AHEAD. */
  readonly #ahead: readonly PageColumns[];
  /** The numbers of the nodes that began a path, by name. There are no more of them than a projection has nodes. */
  readonly #nodes = new Map<string, number>();
  readonly #spare: StagedPage[] = [];
  #pages: StagedPage[] = [];
  #days = new Map<number, number>();
  #rows = 0;
  #late = 0;
  #page: StagedPage | null = null;
  /** The pages of the table function, how many of them it has given, and of how many the columns are made. */
  #offered: readonly StagedPage[] = [];
  #given = 0;
  #made = 0;
  #making = false;

  private constructor(duckdb: DuckdbPackage) {
    this.#duckdb = duckdb;
    const hashing = new Hashing();
    this.#ahead = Array.from({ length: PAGES_AHEAD }, () => new PageColumns(duckdb, hashing));
  }

  /** Makes a staging for a database that has none yet. */
  static create({ duckdb, connection }: Database): Staging {
    const staging = new Staging(duckdb);
    connection.registerTableFunction(
      duckdb.api.DuckDBTableFunction.create({
        name: TABLE,
        bindFunction: (info) => staging.#describe(info),
        initFunction: () => staging.#begin(),
        mainFunction: (_, output) => staging.#give(output),
      }),
    );
    return staging;
  }

  /** How many connections it holds. */
  get rows(): number {
    return this.#rows;
  }

  /** Adds a connection. `late`: the archive may hold it already. */
  add(connection: Connection, late: boolean): void {
    let page = this.#page;
    if (page === null || page.rows === VECTOR_ROWS) {
      page = this.#spare.pop() ?? new StagedPage();
      this.#page = page;
      this.#pages.push(page);
    }
    const day = connection.endMs === null ? -1 : Math.floor(connection.endMs / DAY_MS);
    this.#days.set(day, (this.#days.get(day) ?? 0) + 1);
    this.#rows++;
    if (late) this.#late++;
    page.add(connection, day, this.#node(connection.path[0]?.node ?? ""), late);
  }

  #describe(info: DuckDBTableFunctionBindInfo): void {
    const { ENUM } = this.#duckdb.api;
    for (const { name, type } of this.#columnsOf(0).columns)
      info.addResultColumn(name, type ?? ENUM([...this.#nodes.keys()]));
  }

  #columnsOf(page: number): PageColumns {
    const columns = this.#ahead[page % PAGES_AHEAD];
    assert(columns !== undefined);
    return columns;
  }

  #begin(): void {
    this.#given = 0;
    this.#made = 0;
  }

  #give(output: DuckDBDataChunk): void {
    const page = this.#given;
    if (page === this.#offered.length) {
      output.rowCount = 0;
      return;
    }
    if (page === this.#made) this.#make();
    this.#columnsOf(page).copy(output);
    this.#given++;
    this.#makeAhead();
  }

  /** Makes the columns of the next row group in advance. DuckDB takes a row group at once, and is then busy for long. */
  #makeAhead(): void {
    if (this.#making) return;
    this.#making = true;
    setImmediate(() => {
      this.#making = false;
      if (this.#made >= Math.min(this.#offered.length, this.#given + PAGES_AHEAD)) return;
      this.#make();
      this.#makeAhead();
    });
  }

  #make(): void {
    const page = this.#offered[this.#made];
    assert(page !== undefined);
    this.#columnsOf(this.#made).make(page);
    this.#made++;
  }

  #node(name: string): number {
    const known = this.#nodes.get(name);
    if (known !== undefined) return known;
    this.#nodes.set(name, this.#nodes.size);
    return this.#nodes.size - 1;
  }

  /** Takes out all connections. */
  take(): StagedBatch {
    const batch = { pages: this.#pages, rows: this.#rows, days: this.#days, late: this.#late };
    this.#pages = [];
    this.#page = null;
    this.#days = new Map();
    this.#rows = 0;
    this.#late = 0;
    return batch;
  }

  /**
   * A SELECT of the columns of a file over a batch, for one batch at a time. `day`: only the connections of that day. `known`: a query
   * for uids; late connections that have one of them are left out.
   */
  select({ pages }: StagedBatch, day: number | null, known: string | null): string {
    this.#offered = pages;
    const columns = ARCHIVE_COLUMNS.map(({ name }) => (name === "path" ? `${pathSql(pages)} AS path` : name)).join(
      ", ",
    );
    const tests = [
      ...(day === null ? [] : [`day = ${day}`]),
      ...(known === null ? [] : [`(NOT late OR uid NOT IN (${known}))`]),
    ];
    return `SELECT ${columns} FROM ${TABLE}()${tests.length === 0 ? "" : ` WHERE ${tests.join(" AND ")}`}`;
  }

  /** Gives a batch back that is no longer needed. */
  release({ pages }: StagedBatch): void {
    this.#offered = [];
    for (const page of pages) {
      if (this.#spare.length >= SPARE_PAGES) return;
      page.reset();
      this.#spare.push(page);
    }
  }
}

/** SQL for the path: its only step, or all steps of a path that has more. */
function pathSql(pages: readonly StagedPage[]): string {
  if (pages.every(({ steps }) => steps.size === 0)) return "[{'node': path_node, 'since': path_since}]";
  const only = "[{'node': path_node::VARCHAR, 'since': path_since}]";
  const step = "{'node': split_part(x, '@', 1), 'since': make_timestamptz(split_part(x, '@', 2)::BIGINT)}";
  return `CASE WHEN path_steps IS NULL THEN ${only} ELSE list_transform(string_split(path_steps, ','), lambda x: ${step}) END`;
}
