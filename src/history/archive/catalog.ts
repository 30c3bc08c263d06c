/**
 * What the compacted files of a day hold, so that a question opens only those that may have an answer: `.catalog.json` in the day's
 * folder. It repeats what the files say themselves. A file that it does not name, or names with another size, is read.
 */
import { readFileSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Gap } from "../connection.js";
import { EndFilter, endKey } from "./end-filter.js";
import { dayFolder } from "./files.js";

/** What a compacted file holds. Times are milliseconds since the Unix epoch. */
export interface CatalogEntry {
  readonly file: string;
  readonly bytes: number;
  readonly rows: number;
  /** The first and the last end. */
  readonly ends: readonly [number, number];
  /** The earliest begin of those that are not among the longest; null: all are. */
  readonly sinceMs: number | null;
  /** The connections that lived longest or whose begin is unknown: a single one of them must not make every question read the file. */
  readonly longest: {
    readonly rows: number;
    /** Their earliest begin; null: one of them is unknown. */
    readonly sinceMs: number | null;
    /** Their public addresses and ports: EndFilter. */
    readonly publicEnds: string;
  };
  /** The addresses that translation has put into reply tuples; null: more than can be listed. */
  readonly translated: readonly string[] | null;
  /** Where events may be missing, as in the file's own state. */
  readonly gaps: readonly Gap[];
}

/** A question, as far as it says which files may have an answer. */
export interface CatalogQuestion {
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  /** A public address and port, where only those are asked for. */
  readonly publicEnd: { readonly address: string; readonly port: number } | null;
}

const NAME = ".catalog.json";

/**
 * The entries of a day by the names of their files; none where there is no catalog, or one that cannot be read. Not in the background,
 * because hundreds of small files would take five times as long.
 */
export function readCatalog(directory: string, day: number): ReadonlyMap<string, CatalogEntry> {
  try {
    const { version, files } = JSON.parse(readFileSync(join(dayFolder(directory, day), NAME), "utf8")) as {
      version: unknown;
      files: CatalogEntry[];
    };
    return version === 1 ? new Map(files.map((entry) => [entry.file, entry])) : new Map();
  } catch {
    return new Map();
  }
}

/** Replaces the catalog of a day. */
export async function writeCatalog(directory: string, day: number, entries: readonly CatalogEntry[]): Promise<void> {
  const path = join(dayFolder(directory, day), NAME);
  await writeFile(`${path}.tmp`, JSON.stringify({ version: 1, files: entries }), { mode: 0o640, flush: true });
  await rename(`${path}.tmp`, path);
}

/** False: the file has no answer to that question. */
export function mayAnswer(entry: CatalogEntry, { sinceMs, untilMs, publicEnd }: CatalogQuestion): boolean {
  const { ends, longest } = entry;
  if (sinceMs !== null && ends[1] < sinceMs) return false;
  // A range includes its last millisecond.
  const began = (ms: number | null): boolean => ms === null || untilMs === null || ms < untilMs + 1;
  if (entry.sinceMs !== null && began(entry.sinceMs)) return true;
  if (longest.rows === 0 || !began(longest.sinceMs)) return false;
  return publicEnd === null || EndFilter.parse(longest.publicEnds).has(endKey(publicEnd.address, publicEnd.port));
}
