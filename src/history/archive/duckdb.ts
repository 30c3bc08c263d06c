/**
 * DuckDB, loaded when it is needed and by nobody else: an optional package that a plain firewall does without
 * (docs/decisions/0006-duckdb-for-the-archive.md).
 */
import type { DuckDBConnection, DuckDBDataChunk, DuckDBInstance, DuckDBValue } from "@duckdb/node-api";
import { ConntrailError, errorText } from "../../errors.js";

/** The parts of the package in use: its API, and the C functions below it that fill a column at once. */
export interface DuckdbPackage {
  readonly api: typeof import("@duckdb/node-api");
  readonly bindings: typeof import("@duckdb/node-bindings");
}

/** What a database may take of the machine. */
export interface DatabaseLimits {
  readonly threads: number;
  readonly memoryMiB: number;
  /** Where what does not fit into that may lie meanwhile; left out: nowhere. */
  readonly temporary?: string;
}

/** Rows of one vector of DuckDB. */
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
      "the archive needs DuckDB, an optional package: run npm ci --include=optional where conntrail is installed";
    const [why = ""] = errorText(error).split("\n", 1);
    throw new ConntrailError("STORE", `${what} (${why})`, { cause: error });
  }
}

/** A database in memory: nothing is written but what is asked for, and nothing fetched from the network. */
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
  static async open({ threads, memoryMiB, temporary = "" }: DatabaseLimits): Promise<Database> {
    const duckdb = await loadDuckdb();
    const instance = await duckdb.api.DuckDBInstance.create(":memory:", {
      threads: String(threads),
      memory_limit: `${memoryMiB}MiB`,
      temp_directory: temporary,
      autoinstall_known_extensions: "false",
      autoload_known_extensions: "false",
      enable_object_cache: "false",
    });
    const connection = await instance.connect();
    await connection.run("SET TimeZone = 'UTC'");
    return new Database(duckdb, instance, connection);
  }

  /** Runs a statement that gives nothing back. `values` stand for $1 and so on. */
  async run(sql: string, values: DuckDBValue[] = []): Promise<void> {
    await this.connection.run(sql, values);
  }

  /** The rows of a small answer, as objects of plain JSON values. */
  async rows(sql: string): Promise<Record<string, unknown>[]> {
    const reader = await this.connection.runAndReadAll(sql);
    return reader.getRowObjectsJson() as Record<string, unknown>[];
  }

  /** The rows of an answer of any size, as they come. */
  async *chunks(sql: string): AsyncGenerator<DuckDBDataChunk, void, undefined> {
    const result = await this.connection.stream(sql);
    for (let chunk = await result.fetchChunk(); chunk !== null && chunk.rowCount > 0; ) {
      yield chunk;
      chunk = await result.fetchChunk();
    }
  }

  close(): void {
    this.connection.closeSync();
    this.#instance.closeSync();
  }
}

/** A text as SQL has it. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** What went wrong in DuckDB, in one line without the name of the exception's class. */
export function duckdbText(error: unknown): string {
  return errorText(error)
    .split("\n\nLINE ", 1)[0]!
    .replace(/\s*\n\s*/g, " ")
    .trim();
}
