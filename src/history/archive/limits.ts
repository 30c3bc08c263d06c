/** How much an archiver and a reader of the archive may use, and how long connections wait for their file. */
import type { DatabaseLimits } from "./duckdb.js";

/** The limits of DuckDB while an archive is written or read: one thread beside ours, and memory for the rows of one file. */
export const ARCHIVE_LIMITS: DatabaseLimits = { threads: 1, memoryMiB: 128 };

/** A file is written at the latest when so many connections have gathered. */
export const FLUSH_ROWS = 65_536;

/** A file is written at the latest so long after its first connection came. Until then questions read it from the streams. */
export const FLUSH_MS = 600_000;
