/** Answers one query in SQL over all connections, in a database that can do nothing but answer it. */
import { rm } from "node:fs/promises";
import type { DuckDBConnection, DuckDBExtractedStatements } from "@duckdb/node-api";
import { ConntrailError } from "../../errors.js";
import type { Connection } from "../connection.js";
import { ARCHIVE_COLUMNS } from "./columns.js";
import { Database, duckdbText, quoted } from "./duckdb.js";
import { type HeldFile, HeldFiles } from "./held-files.js";
import { Staging } from "./staging.js";
import { type ArchiveState, type OnDamaged, readState } from "./state.js";

/** The limits of DuckDB for `sql`. They are higher, because a person waits. */
const SQL_LIMITS = { threads: 2, memoryMiB: 256 };
/** How many connections of the streams the view holds at the most. */
export const STREAM_ROWS_MAX = 2_000_000;
const VIEW = "connections";
/** Original tuple and end. A node that lost its stream publishes its connections again, with other uids but this same key. */
const END_KEY = `concat_ws(' ', orig_src, orig_dst, orig_sport, orig_dport, icmp_id, orig_src_key, protocol_number, zone_orig,
  epoch_us(end_time))`;
const STAGED_AT_A_TIME = 16_384;

/** The answer to a query: the names of its columns, and rows of values as DuckDB prints them; null is NULL. */
export interface SqlAnswer {
  readonly columns: readonly string[];
  /** The types of the columns, by their names in DuckDB. */
  readonly types: readonly string[];
  readonly rows: AsyncIterable<readonly (readonly unknown[])[]>;
}

/**
 * A database for one query over the view `connections`: the archive's files, and the connections that only the streams have. While
 * the query runs, it can do nothing but read the view: no other file, no network, no setting, no second statement.
 */
export class SqlSession {
  readonly #database: Database;
  readonly #held: HeldFiles | null;
  readonly #files: readonly HeldFile[];
  readonly #temporary: string;
  readonly #onDamaged: OnDamaged;
  #streamRows = 0;
  #locked = false;

  private constructor(
    database: Database,
    archive: { held: HeldFiles | null; files: readonly HeldFile[] },
    temporary: string,
    onDamaged: OnDamaged,
  ) {
    this.#database = database;
    this.#held = archive.held;
    this.#files = archive.files;
    this.#temporary = temporary;
    this.#onDamaged = onDamaged;
  }

  /** `directory` null: there is no archive. `temporary`: a directory for what does not fit into memory; `close` removes it. */
  static async open(directory: string | null, temporary: string, onDamaged: OnDamaged): Promise<SqlSession> {
    const database = await Database.open({ ...SQL_LIMITS, temporary });
    const held = directory === null ? null : new HeldFiles(directory, onDamaged);
    const files: HeldFile[] = [];
    for (const file of (await held?.between()) ?? []) {
      if (file.entry !== null || (await isReadable(database.connection, file, onDamaged))) files.push(file);
    }
    await database.run(
      `CREATE TABLE recent (${ARCHIVE_COLUMNS.map(({ name, type }) => `${name} ${type}`).join(", ")})`,
    );
    return new SqlSession(database, { held, files }, temporary, onDamaged);
  }

  /** How far the files reach; null where there are none. */
  async state(): Promise<ArchiveState | null> {
    const files = this.#files.map((file) => ({ ...file, path: file.readPath }));
    return readState(this.#database, files, this.#onDamaged);
  }

  /** Adds connections of the streams. Returns false when there were more than STREAM_ROWS_MAX. */
  async addStream(connections: AsyncIterable<readonly Connection[]>): Promise<boolean> {
    const staging = Staging.create(this.#database);
    const insert = async (): Promise<void> => {
      const batch = staging.take();
      await this.#database.run(`INSERT INTO recent ${staging.select(batch, null, null)}`);
      staging.release(batch);
    };
    for await (const batch of connections) {
      for (const connection of batch) {
        if (this.#streamRows++ >= STREAM_ROWS_MAX) continue;
        staging.add(connection, false);
      }
      if (staging.rows >= STAGED_AT_A_TIME) await insert();
    }
    if (staging.rows > 0) await insert();
    return this.#streamRows <= STREAM_ROWS_MAX;
  }

  /** Checks a query before anything is read for it. @throws ConntrailError USAGE for what is not a single statement */
  async check(sql: string): Promise<void> {
    await this.#statement(sql);
  }

  /** Runs a query. @throws ConntrailError USAGE for what is not a single query, or cannot be answered */
  async query(sql: string, signal: AbortSignal): Promise<SqlAnswer> {
    const { connection, duckdb } = this.#database;
    if (!this.#locked) await this.#lockDown();
    this.#locked = true;
    const statements = await this.#statement(sql);
    signal.addEventListener("abort", () => connection.interrupt(), { once: true });
    try {
      const prepared = await statements.prepare(0);
      if (prepared.statementType !== duckdb.api.StatementType.SELECT) {
        throw new ConntrailError("USAGE", "sql: only SELECT, WITH, DESCRIBE and SHOW are allowed, nothing that writes");
      }
      const result = await prepared.stream();
      const rows = async function* (): AsyncGenerator<readonly (readonly unknown[])[], void, undefined> {
        try {
          yield* result.yieldRowsJson();
        } catch (error) {
          throw new ConntrailError("STORE", `sql: ${duckdbText(error)}`, { cause: error });
        }
      };
      return { columns: result.columnNames(), types: result.columnTypes().map(String), rows: rows() };
    } catch (error) {
      if (error instanceof ConntrailError) throw error;
      throw new ConntrailError("USAGE", `sql: ${duckdbText(error)}`, { cause: error });
    }
  }

  /** Frees the database and removes its temporary directory. */
  async close(): Promise<void> {
    this.#database.close();
    this.#held?.close();
    await rm(this.#temporary, { recursive: true, force: true });
  }

  async #statement(sql: string): Promise<DuckDBExtractedStatements> {
    if (sql.trim() === "") throw new ConntrailError("USAGE", "sql: there is no statement");
    const statements = await this.#database.connection.extractStatements(sql).catch((error: unknown) => {
      throw new ConntrailError("USAGE", `sql: ${duckdbText(error)}`, { cause: error });
    });
    if (statements.count === 1) return statements;
    throw new ConntrailError("USAGE", `sql: one statement is allowed, found ${statements.count}`);
  }

  /** Removes the connections of the streams that the files have too. Files of much earlier ends are not searched. */
  async #removeKnown(list: readonly string[]): Promise<void> {
    const [row] = await this.#database.rows("SELECT (min(end_time) - INTERVAL 1 HOUR)::VARCHAR AS since FROM recent");
    if (row === undefined || row.since === null) return;
    const since = `end_time >= ${quoted(String(row.since))}::TIMESTAMPTZ`;
    const files = `read_parquet([${list.join(", ")}], hive_partitioning = false)`;
    const known = (key: string): string => `SELECT ${key} FROM ${files} WHERE ${since}`;
    const tests = ["uid", END_KEY].map((key) => `${key} IN (${known(key)})`);
    await this.#database.run(`DELETE FROM recent WHERE outcome <> 'open' AND (${tests.join(" OR ")})`);
  }

  /** Makes the view, and from then on allows nothing but reading the files behind it. */
  async #lockDown(): Promise<void> {
    const names = ARCHIVE_COLUMNS.map(({ name }) => name).join(", ");
    const list = this.#files.map(({ readPath }) => quoted(readPath));
    const archived = `SELECT ${names} FROM read_parquet([${list.join(", ")}], hive_partitioning = false, union_by_name = true)`;
    if (list.length > 0) await this.#removeKnown(list);
    const union = list.length === 0 ? "" : `${archived} UNION ALL BY NAME `;
    await this.#database.run(`CREATE VIEW ${VIEW} AS ${union}SELECT ${names} FROM recent`);
    await this.#database.run(`SET allowed_paths = [${list.join(", ")}]`);
    await this.#database.run("SET enable_external_access = false");
    await this.#database.run("SET lock_configuration = true");
  }
}

/** True when DuckDB can read a file. One that it cannot read is reported. */
async function isReadable(
  connection: DuckDBConnection,
  { path, readPath }: HeldFile,
  onDamaged: OnDamaged,
): Promise<boolean> {
  try {
    await connection.run(`SELECT count(*) FROM parquet_schema(${quoted(readPath)})`);
    return true;
  } catch (error) {
    onDamaged(path, duckdbText(error));
    return false;
  }
}
