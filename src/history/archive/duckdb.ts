/**
 * DuckDB, an optional package that is loaded only here and only when it is needed: a plain firewall does without it
 * (docs/decisions/0006-duckdb-for-the-archive.md).
 */
import type { DuckDBConnection, DuckDBDataChunk, DuckDBInstance, DuckDBValue } from "@duckdb/node-api";
import { ConntrailError, errorText } from "../../errors.js";

/** The parts of the package in use: its API, and the C functions beneath it that fill a whole column at once. */
export interface DuckdbPackage {
  readonly api: typeof import("@duckdb/node-api");
  readonly bindings: typeof import("@duckdb/node-bindings");
}

/** How much of the machine a database may use. */
export interface DatabaseLimits {
  readonly threads: number;
  readonly memoryMiB: number;
  /** A directory for what does not fit into memory; left out: queries that do not fit fail. */
  readonly temporary?: string;
  /** How large that may become; left out: DuckDB's own bound, nine tenths of the disk. */
  readonly temporaryMiB?: number;
}

/** How many rows a vector of DuckDB has. */
export const VECTOR_ROWS = 2048;

/** @throws ConntrailError STORE where the package is not installed, or has no build for this machine */
export async function loadDuckdb(): Promise<DuckdbPackage> {
  try {
    const [api, { default: bindings }] = await Promise.all([
      import("@duckdb/node-api"),
      import("@duckdb/node-bindings"),
    ]);
    return { api, bindings };
  } catch (error) {
    const what =
      "the archive and sql need DuckDB: install the package conntrail-duckdb, or npm's @duckdb/node-api beside conntrail";
    const [why = ""] = errorText(error).split("\n", 1);
    throw new ConntrailError("STORE", `${what} (${why})`, { cause: error });
  }
}

/** A database in memory. It writes only what it is asked to write, and fetches nothing from the network. */
export class Database {
  readonly duckdb: DuckdbPackage;
  readonly connection: DuckDBConnection;
  readonly #instance: DuckDBInstance;

  private constructor(duckdb: DuckdbPackage, instance: DuckDBInstance, connection: DuckDBConnection) {
    this.duckdb = duckdb;
    this.#instance = instance;
    this.connection = connection;
  }

  /** @throws ConntrailError STORE where DuckDB is missing */
  static async open({ threads, memoryMiB, temporary = "", temporaryMiB }: DatabaseLimits): Promise<Database> {
    const duckdb = await loadDuckdb();
    const instance = await duckdb.api.DuckDBInstance.create(":memory:", {
      threads: String(threads),
      memory_limit: `${memoryMiB}MiB`,
      temp_directory: temporary,
      ...(temporaryMiB !== undefined && { max_temp_directory_size: `${temporaryMiB}MiB` }),
      autoinstall_known_extensions: "false",
      autoload_known_extensions: "false",
      enable_object_cache: "false",
      // The same path may be another file (held-files.ts).
      enable_external_file_cache: "false",
    });
    const connection = await instance.connect();
    await connection.run("SET TimeZone = 'UTC'");
    return new Database(duckdb, instance, connection);
  }

  /** Runs a statement without an answer. `values` are the parameters $1, $2 and so on. */
  async run(sql: string, values: DuckDBValue[] = []): Promise<void> {
    await this.connection.run(sql, values);
  }

  /** Runs a query and returns all rows of its small answer, as objects of plain JSON values. */
  async rows(sql: string): Promise<Record<string, unknown>[]> {
    const reader = await this.connection.runAndReadAll(sql);
    return reader.getRowObjectsJson() as Record<string, unknown>[];
  }

  /** Runs a query and yields the rows of its answer, which may have any size, as they come. */
  async *chunks(sql: string): AsyncGenerator<DuckDBDataChunk, void, undefined> {
    const result = await this.connection.stream(sql);
    for (let chunk = await result.fetchChunk(); chunk !== null && chunk.rowCount > 0; ) {
      yield chunk;
      chunk = await result.fetchChunk();
    }
  }

  /** Frees the database. */
  close(): void {
    this.connection.closeSync();
    this.#instance.closeSync();
  }
}

/** A text as a literal of SQL. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** The message of an error of DuckDB, in one line and without the excerpt of the query. */
export function duckdbText(error: unknown): string {
  const [message = ""] = errorText(error).split("\n\nLINE ", 1);
  return message.replace(/\s*\n\s*/g, " ").trim();
}
