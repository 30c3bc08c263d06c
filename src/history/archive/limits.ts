/** How much an archiver and a reader of the archive may use, and how long connections wait for their file. */
import type { DatabaseLimits } from "./duckdb.js";

/** The limits of DuckDB while an archive is written: one thread beside ours, and memory for the rows of one file. */
export const ARCHIVE_LIMITS: DatabaseLimits = { threads: 1, memoryMiB: 128 };

/** The limits of DuckDB while an archive is read: a person waits. What does not fit into memory goes to a folder of its own. */
export const READ_LIMITS = { threads: 2, memoryMiB: 144, temporaryMiB: 4096 } as const;

/** A file is written at the latest when so many connections have gathered. */
export const FLUSH_ROWS = 65_536;

/** A file is written at the latest so long after its first connection came. Until then questions read it from the streams. */
export const FLUSH_MS = 600_000;

/** The limits of DuckDB while files are compacted, and of the heap of that process: 300 MiB together. */
export const COMPACT_LIMITS = { threads: 1, memoryMiB: 128, temporaryMiB: 2048 } as const;
export const COMPACT_HEAP_MIB = 64;

/** A compacted file is not made larger than this; about a million connections. */
export const COMPACT_BYTES_MAX = 48 * 1024 * 1024;
