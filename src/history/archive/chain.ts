/**
 * The chain of an archive's files (seal.ts) where files have gone for a reason: a compacted file says which runs of numbers it has
 * replaced, and the newest file says which runs went with the days that were too old. So the chain can still be followed from its
 * beginning to its end.
 *
 *   key `conntrail_replaced`   of a compacted file: JSON, a list of runs
 *   key `conntrail_removed`    of any file: JSON, the runs that had gone by then although older files are still there
 *   a run                      { from, until, previous, sha256 }
 */
import { type Database, quoted } from "./duckdb.js";
import { type ChainLink, formatLink, PREVIOUS_KEY, parseLink } from "./seal.js";

/** Files whose numbers follow each other, each of which knew the one before it. */
export interface ChainRun {
  readonly from: number;
  readonly until: number;
  /** The file before the first one; null: there was none; undefined: files of an earlier release, which are in no chain. */
  readonly previous: ChainLink | null | undefined;
  /** Of the last one. */
  readonly sha256: string;
}

/** The keys of a file's metadata. */
export const REPLACED_KEY = "conntrail_replaced";
export const REMOVED_KEY = "conntrail_removed";

/** What a file's metadata says of the chain. */
export interface ChainMetadata {
  /** As in ChainRun. */
  readonly previous: ChainLink | null | undefined;
  readonly replaced: readonly ChainRun[];
  readonly removed: readonly ChainRun[];
}

/** The metadata of a file that conntrail wrote, by key. @throws DuckDB's error when the file cannot be read */
export async function readMetadata(database: Database, path: string): Promise<ReadonlyMap<string, string>> {
  const rows = await database.rows(
    `SELECT decode(key) AS key, decode(value) AS value FROM parquet_kv_metadata(${quoted(path)})
     WHERE decode(key) LIKE 'conntrail%'`,
  );
  return new Map(rows.map(({ key, value }) => [String(key), String(value)]));
}

/** What the metadata says of the chain. */
export function chainOf(metadata: ReadonlyMap<string, string>): ChainMetadata {
  const previous = metadata.get(PREVIOUS_KEY);
  return {
    previous: previous === undefined ? undefined : parseLink(previous),
    replaced: parseRuns(metadata.get(REPLACED_KEY)),
    removed: parseRuns(metadata.get(REMOVED_KEY)),
  };
}

/** The runs as the value of a key. */
export function formatRuns(runs: readonly ChainRun[]): string {
  return JSON.stringify(
    runs.map(({ previous, ...run }) => ({
      ...run,
      ...(previous !== undefined && { previous: formatLink(previous) }),
    })),
  );
}

/** Joins the runs of which one follows the other and knows it. `runs` in any order. */
export function joinRuns(runs: readonly ChainRun[]): ChainRun[] {
  const joined: ChainRun[] = [];
  for (const run of [...runs].sort((a, b) => a.from - b.from)) {
    const last = joined.at(-1);
    if (last !== undefined && follows(run, last))
      joined[joined.length - 1] = { ...run, from: last.from, previous: last.previous };
    else joined.push(run);
  }
  return joined;
}

/** True when the numbers follow each other, but not the files: one of them was changed. */
export function isBroken(runs: readonly ChainRun[]): boolean {
  const sorted = [...runs].sort((a, b) => a.from - b.from);
  return sorted.some((run, i) => {
    const before = sorted[i - 1];
    if (before === undefined || run.previous === undefined || before.until + 1 !== run.from) return false;
    return run.previous?.number !== before.until || run.previous.sha256 !== before.sha256;
  });
}

function follows({ from, previous }: ChainRun, before: ChainRun): boolean {
  if (before.until + 1 !== from) return false;
  if (previous === undefined) return before.previous === undefined;
  return (
    previous !== null &&
    previous.number === before.until &&
    previous.sha256 === before.sha256 &&
    before.previous !== undefined
  );
}

function parseRuns(text: string | undefined): ChainRun[] {
  if (text === undefined) return [];
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? list.flatMap(parseRun) : [];
  } catch {
    return [];
  }
}

function parseRun(value: unknown): ChainRun[] {
  if (typeof value !== "object" || value === null) return [];
  const { from, until, previous, sha256 } = value as Record<keyof ChainRun, unknown>;
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(until) || typeof sha256 !== "string") return [];
  const link = previous === undefined ? undefined : parseLink(String(previous));
  return [{ from: Number(from), until: Number(until), previous: link, sha256 }];
}
