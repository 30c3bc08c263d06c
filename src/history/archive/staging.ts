import type { DuckDBDataChunk, DuckDBType } from "@duckdb/node-api";
import type { Connection } from "../connection.js";
import { ARCHIVE_COLUMNS, type ColumnType, StagedValues, TEXT_PIECES } from "./columns.js";
import { type Database, type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";
import { StagedPage } from "./staged-page.js";

const TABLE = "staged";
const DAY_MS = 86_400_000;
/** Pages kept for the next connections, so that filling them costs no allocation. */
const SPARE_PAGES = 64;
const NOTHING = new ArrayBuffer(VECTOR_ROWS * 16);

/** Connections that were taken in together. */
export interface StagedBatch {
  readonly pages: readonly StagedPage[];
  readonly rows: number;
  /** Days since 1970 on which they ended, and how many did on each. */
  readonly days: Map<number, number>;
  /** How many may be in the archive already. */
  readonly late: number;
}

/** A column of the table that a batch is for DuckDB. */
interface StagedColumn {
  readonly name: string;
  readonly type: DuckDBType;
  /** Copies it into its vector. */
  readonly copy: (page: StagedPage, output: DuckDBDataChunk, index: number) => void;
}

/**
 * Connections on their way into a file: pages of plain numbers and short texts, filled here and copied to DuckDB a column at a
 * time when its query asks for them. Handing over value by value would cost more than all the rest.
 */
export class Staging {
  readonly #duckdb: DuckdbPackage;
  readonly #spare: StagedPage[] = [];
  #pages: StagedPage[] = [];
  #days = new Map<number, number>();
  #rows = 0;
  #late = 0;
  #page: StagedPage | null = null;
  /** What the table function gives. */
  #offered: { readonly pages: readonly StagedPage[]; readonly columns: readonly StagedColumn[] } = {
    pages: [],
    columns: [],
  };

  private constructor(duckdb: DuckdbPackage) {
    this.#duckdb = duckdb;
  }

  /** Staging for a database that has none yet. */
  static create({ duckdb, connection }: Database): Staging {
    const staging = new Staging(duckdb);
    connection.registerTableFunction(
      duckdb.api.DuckDBTableFunction.create({
        name: TABLE,
        bindFunction: (info) => {
          for (const { name, type } of staging.#offered.columns) info.addResultColumn(name, type);
        },
        initFunction: (info) => info.setInitData({ next: 0 }),
        mainFunction: (info, output) => {
          const scan = info.initData as { next: number };
          const { pages, columns } = staging.#offered;
          const page = pages[scan.next++];
          output.rowCount = page?.rows ?? 0;
          if (page !== undefined) for (const [i, { copy }] of columns.entries()) copy(page, output, i);
        },
      }),
    );
    return staging;
  }

  /** Rows in it. */
  get rows(): number {
    return this.#rows;
  }

  /** Takes a connection in. `late`: it may be in the archive already. */
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
    page.add(connection, day, late);
  }

  /** Takes out all that is in it. */
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
   * The columns of the files as a SELECT over a batch; with `day` those of one, with `known` without late ones whose uid that
   * query gives. One at a time.
   */
  select({ pages }: StagedBatch, day: number | null, known: string | null): string {
    const pieces = piecesOf(pages);
    this.#offered = { pages, columns: stagedColumns(this.#duckdb, pieces) };
    const columns = ARCHIVE_COLUMNS.map(({ name }) => `${columnSql(name, pieces)} AS ${name}`).join(", ");
    const tests = [
      ...(day === null ? [] : [`day = ${day}`]),
      ...(known === null ? [] : [`(NOT late OR ${textSql("uid", pieces)} NOT IN (${known}))`]),
    ];
    return `SELECT ${columns} FROM ${TABLE}()${tests.length === 0 ? "" : ` WHERE ${tests.join(" AND ")}`}`;
  }

  /** Gives a batch back that is not needed any more. */
  release({ pages }: StagedBatch): void {
    this.#offered = { pages: [], columns: [] };
    for (const page of pages) {
      if (this.#spare.length >= SPARE_PAGES) return;
      page.reset();
      this.#spare.push(page);
    }
  }
}

type TextName = keyof typeof TEXT_PIECES;
type Pieces = Readonly<Record<TextName, number>>;

const TEXT_NAMES = Object.keys(TEXT_PIECES) as TextName[];
const VALUE_NAMES = Object.keys(new StagedValues()) as (keyof StagedValues)[];

/** How many pieces the texts of a batch have, by column. */
function piecesOf(pages: readonly StagedPage[]): Pieces {
  const most = (name: TextName): number => pages.reduce((max, { texts }) => Math.max(max, texts[name].pieces), 0);
  return Object.fromEntries(TEXT_NAMES.map((name) => [name, most(name)])) as Record<TextName, number>;
}

function columnSql(name: string, pieces: Pieces): string {
  if (Object.hasOwn(pieces, name)) return textSql(name as TextName, pieces);
  return name === "path" ? pathSql(pieces) : name;
}

/** A text of the staged row, its pieces joined; null where its row has none. */
function textSql(name: TextName, pieces: Pieces): string {
  if (pieces[name] === 0) return "NULL::VARCHAR";
  return Array.from({ length: pieces[name] }, (_, i) => `${name}_${i}`).join(" || ");
}

function pathSql(pieces: Pieces): string {
  const only = `[{'node': ${textSql("path_node", pieces)}, 'since': path_since}]`;
  if (pieces.path_steps === 0) return only;
  const steps = textSql("path_steps", pieces);
  const step = "{'node': split_part(x, '@', 1), 'since': make_timestamptz(split_part(x, '@', 2)::BIGINT)}";
  return `CASE WHEN ${steps} IS NULL THEN ${only} ELSE list_transform(string_split(${steps}, ','), lambda x: ${step}) END`;
}

/** The columns of a batch whose texts have so many pieces. */
function stagedColumns(duckdb: DuckdbPackage, pieces: Pieces): StagedColumn[] {
  const { api, bindings } = duckdb;
  const texts = TEXT_NAMES.flatMap((name) =>
    Array.from({ length: pieces[name] }, (_, piece): StagedColumn => {
      const copy: StagedColumn["copy"] = ({ texts: { [name]: column }, rows }, output, index) => {
        const vector = bindings.data_chunk_get_vector(output.chunk, index);
        bindings.copy_data_to_vector(vector, 0, column.bytes(piece) ?? NOTHING, 0, rows * 16);
        if (piece > 0) return;
        for (const { row, text } of column.long) bindings.vector_assign_string_element(vector, row, text);
        bindings.vector_ensure_validity_writable(vector);
        bindings.copy_data_to_vector_validity(vector, 0, column.present.buffer, 0, column.present.length);
      };
      return { name: `${name}_${piece}`, type: api.VARCHAR, copy };
    }),
  );
  const presence = new Map(ARCHIVE_COLUMNS.map(({ name, present }) => [name, present]));
  const values = VALUE_NAMES.map((name): StagedColumn => {
    const present = presence.get(name) ?? null;
    const copy: StagedColumn["copy"] = (page, output, index) => {
      const vector = bindings.data_chunk_get_vector(output.chunk, index);
      const bytes = page.values[name].buffer as ArrayBuffer;
      bindings.copy_data_to_vector(vector, 0, bytes, 0, bytes.byteLength);
      if (present === null) return;
      const { buffer, length } = page.presence[present];
      bindings.vector_ensure_validity_writable(vector);
      bindings.copy_data_to_vector_validity(vector, 0, buffer as ArrayBuffer, 0, length);
    };
    return { name, type: duckdbType(duckdb, valueType(name)), copy };
  });
  return [...texts, ...values];
}

function valueType(name: keyof StagedValues): ColumnType {
  switch (name) {
    case "path_since":
      return "TIMESTAMPTZ";
    case "day":
      return "INTEGER";
    case "late":
      return "BOOLEAN";
    default:
      return ARCHIVE_COLUMNS.find((column) => column.name === name)!.type;
  }
}

function duckdbType({ api }: DuckdbPackage, type: ColumnType): DuckDBType {
  switch (type) {
    case "BOOLEAN":
      return api.BOOLEAN;
    case "UTINYINT":
      return api.UTINYINT;
    case "USMALLINT":
      return api.USMALLINT;
    case "UINTEGER":
      return api.UINTEGER;
    case "INTEGER":
      return api.INTEGER;
    case "BIGINT":
      return api.BIGINT;
    case "TIMESTAMPTZ":
      return api.TIMESTAMPTZ;
    default:
      throw new RangeError(`no values of ${type} are staged`);
  }
}
