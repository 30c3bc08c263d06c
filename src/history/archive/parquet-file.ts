/** A Parquet file of an answer: the columns of the archive's files, and connections that are alive too (outcome `open`). */
import { rename, rm } from "node:fs/promises";
import { ConntrailError } from "../../errors.js";
import type { Connection } from "../connection.js";
import { ARCHIVE_COLUMNS } from "./columns.js";
import { Database, duckdbText, quoted } from "./duckdb.js";
import { Staging } from "./staging.js";

/** The rows of the file wait in a table, which goes to a temporary folder where it does not fit into memory. */
const LIMITS = { threads: 2, memoryMiB: 192, temporaryMiB: 8192 };
const STAGED_AT_A_TIME = 16_384;
const ROWS = "answer";

/** A file while it is being written. It gets its name when it is complete. */
export class ParquetFile {
  readonly #path: string;
  readonly #database: Database;
  readonly #staging: Staging;
  readonly #temporary: string;

  private constructor(path: string, database: Database, temporary: string) {
    this.#path = path;
    this.#database = database;
    this.#temporary = temporary;
    this.#staging = Staging.create(database);
  }

  /** `temporary`: a folder of its own, which `close` removes. @throws ConntrailError STORE where DuckDB is missing */
  static async open(path: string, temporary: string): Promise<ParquetFile> {
    const database = await Database.open({ ...LIMITS, temporary });
    await database.run(
      `CREATE TABLE ${ROWS} (${ARCHIVE_COLUMNS.map(({ name, type }) => `${name} ${type}`).join(", ")})`,
    );
    return new ParquetFile(path, database, temporary);
  }

  /** Adds connections. */
  async add(connections: readonly Connection[]): Promise<void> {
    for (const connection of connections) this.#staging.add(connection, false);
    if (this.#staging.rows >= STAGED_AT_A_TIME) await this.#insert();
  }

  /** Writes the file and gives it its name. @throws ConntrailError STORE when it cannot be written */
  async finish(): Promise<void> {
    const partial = `${this.#path}.tmp`;
    try {
      if (this.#staging.rows > 0) await this.#insert();
      await this.#database.run(
        `COPY ${ROWS} TO ${quoted(partial)} (FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, USE_TMP_FILE false)`,
      );
      await rename(partial, this.#path);
    } catch (error) {
      await rm(partial, { force: true }).catch(() => undefined);
      throw new ConntrailError("STORE", `--output ${this.#path} cannot be written: ${duckdbText(error)}`, {
        cause: error,
      });
    }
  }

  /** Frees the database. */
  async close(): Promise<void> {
    this.#database.close();
    await rm(this.#temporary, { recursive: true, force: true });
  }

  async #insert(): Promise<void> {
    const batch = this.#staging.take();
    await this.#database.run(`INSERT INTO ${ROWS} ${this.#staging.select(batch, null, null)}`);
    this.#staging.release(batch);
  }
}
