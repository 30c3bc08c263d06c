import type { DatabaseLimits } from "./duckdb.js";

/** What writing and reading an archive may take: one thread beside ours, and memory for the rows of one file. */
export const ARCHIVE_LIMITS: DatabaseLimits = { threads: 1, memoryMiB: 128 };

/** Connections that gather before a file is written, at the most. */
export const FLUSH_ROWS = 65_536;

/** How long connections gather before a file is written, at the most. Until then they are read from the stream. */
export const FLUSH_MS = 600_000;
