/** Writes several files of a day as one, sorted for the questions that are asked. Nothing is published or removed here. */
import { basename } from "node:path";
import type { Gap } from "../connection.js";
import type { CatalogEntry } from "./catalog.js";
import { type ChainRun, chainOf, formatRuns, isBroken, joinRuns, REPLACED_KEY, readMetadata } from "./chain.js";
import { ARCHIVE_COLUMNS } from "./columns.js";
import { type Database, quoted } from "./duckdb.js";
import { EndFilter, endKey } from "./end-filter.js";
import { type ArchiveFile, stateNumber } from "./files.js";
import { hashFile, PREVIOUS_KEY } from "./seal.js";
import { parseState, STATE_KEY } from "./state.js";

/** What is to be written. */
export interface CompactTask {
  /** Files of one day that follow each other. */
  readonly sources: readonly ArchiveFile[];
  /** The name under which the file is written. */
  readonly temporary: string;
  /** Stands where the link to the file before it will be, which is not known yet. */
  readonly place: string;
}

/** What was written; the entry has no name yet. */
export type CompactResult = Omit<CatalogEntry, "file" | "bytes">;

/** Rows of one group. A host's connections of a file are in one or two of them. */
const GROUP_ROWS = 16_384;
/** How many connections count as the longest of a file. */
const LONGEST_ROWS = 4096;
/** So many addresses that come from translation are listed. */
const TRANSLATED_MAX = 1024;
/** The life of a connection whose begin is unknown, µs. */
const UNKNOWN = 9_000_000_000_000_000;
/** Inside hosts together: of what was led to a host inside its answers' source, of all else the source. */
const ORDER = "dnat, CASE WHEN dnat THEN reply_src ELSE orig_src END, end_time, uid";
/** What must be the same before and after: how many rows, and a sum over what tells one from another. */
const CONTENT =
  "count(*)::VARCHAR || ' ' || COALESCE(sum(hash(uid, start_time, end_time, orig_src, reply_dst, orig_bytes)::HUGEINT), 0)::VARCHAR AS content";

/**
 * Writes the file, reads it again and compares.
 * @throws Error in one line when a source cannot be read, is not what the next one says that it is, or the copy differs
 */
export async function compactFiles(
  database: Database,
  { sources, temporary, place }: CompactTask,
): Promise<CompactResult> {
  const runs: ChainRun[] = [];
  const gaps = new Map<string, Gap>();
  let state = "";
  let last = -1;
  for (const source of sources) {
    const metadata = await readMetadata(database, source.path);
    const { previous, replaced } = chainOf(metadata);
    const { number, path } = source;
    runs.push({ from: number, until: number, previous, sha256: await hashFile(path) }, ...replaced);
    const text = metadata.get(STATE_KEY) ?? "";
    const parsed = parseState(text);
    if (parsed === null) throw new Error(`${basename(path)} does not say how far the archive reached with it`);
    for (const gap of parsed.gaps) gaps.set(JSON.stringify(gap), gap);
    if (stateNumber(source) < last) continue;
    last = stateNumber(source);
    state = JSON.stringify({ ...parsed, gaps: [] });
  }
  if (isBroken(runs)) throw new Error("one of the files is not as the next one knows it: see archive verify");
  const kept = [...gaps.values()];
  const metadata = {
    [STATE_KEY]: JSON.stringify({ ...JSON.parse(state), gaps: kept }),
    [PREVIOUS_KEY]: place,
    [REPLACED_KEY]: formatRuns(joinRuns(runs)),
  };
  const list = `[${sources.map(({ path }) => quoted(path)).join(", ")}]`;
  const names = ARCHIVE_COLUMNS.map(({ name }) => name).join(", ");
  const from = `read_parquet(${list}, hive_partitioning = false, union_by_name = true)`;
  const keys = Object.entries(metadata).map(([key, value]) => `${key}: ${quoted(value)}`);
  const options = `FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE ${GROUP_ROWS}, USE_TMP_FILE false, KV_METADATA {${keys.join(", ")}}`;
  await database.run(`COPY (SELECT ${names} FROM ${from} ORDER BY ${ORDER}) TO ${quoted(temporary)} (${options})`);
  const copy = `read_parquet(${quoted(temporary)}, hive_partitioning = false)`;
  const [before, after] = [await contentOf(database, from), await contentOf(database, copy)];
  if (before !== after) throw new Error(`the copy is not what its ${sources.length} files hold`);
  return { ...(await describe(database, copy)), translated: await translatedOf(database, copy), gaps: kept };
}

async function contentOf(database: Database, from: string): Promise<string> {
  const [row] = await database.rows(`SELECT ${CONTENT} FROM ${from}`);
  return String(row?.content);
}

async function translatedOf(database: Database, from: string): Promise<string[] | null> {
  const rows = await database.rows(
    `SELECT reply_dst AS address FROM ${from} WHERE snat UNION SELECT reply_src FROM ${from} WHERE dnat LIMIT ${TRANSLATED_MAX + 1}`,
  );
  return rows.length > TRANSLATED_MAX ? null : rows.map(({ address }) => String(address)).sort();
}

/** How many rows, from when to when. */
async function describe(database: Database, from: string): Promise<Omit<CompactResult, "gaps" | "translated">> {
  const life = "epoch_us(end_time) - epoch_us(start_time)";
  const [bound] = await database.rows(
    `SELECT min(life)::DOUBLE AS life, count(*)::DOUBLE AS rows
     FROM (SELECT COALESCE(${life}, ${UNKNOWN}) AS life FROM ${from} ORDER BY life DESC LIMIT ${LONGEST_ROWS})`,
  );
  // If there are fewer, all are among them. If of too many the begin is unknown, nothing can be said of the file.
  const isUnknown = Number(bound?.life) === UNKNOWN;
  const shorter = Number(bound?.rows) < LONGEST_ROWS ? -1 : Number(bound?.life);
  const [row] = await database.rows(
    `SELECT count(*)::DOUBLE AS rows, epoch_us(min(end_time))::DOUBLE / 1000 AS first, epoch_us(max(end_time))::DOUBLE / 1000 AS last,
       epoch_us(min(start_time) FILTER (${life} <= ${shorter}))::DOUBLE / 1000 AS since,
       epoch_us(min(start_time))::DOUBLE / 1000 AS longest_since,
       bool_or(start_time IS NULL) AS unknown
     FROM ${from}`,
  );
  const [rows, ends] = [Number(row?.rows), [Number(row?.first), Number(row?.last)] as const];
  if (isUnknown && Number(bound?.rows) === LONGEST_ROWS) {
    return { rows, ends, sinceMs: 0, longest: { rows: 0, sinceMs: null, publicEnds: "" } };
  }
  const longest = await database.rows(
    `SELECT reply_dst, COALESCE(reply_dport, reply_icmp_id, reply_dst_key, 0)::DOUBLE AS reply_port, orig_dst, orig_dport::DOUBLE AS orig_port
     FROM ${from} WHERE start_time IS NULL OR ${life} > ${shorter}`,
  );
  const keys = longest.flatMap(({ reply_dst, reply_port, orig_dst, orig_port }) => [
    ...(reply_dst === null ? [] : [endKey(String(reply_dst), Number(reply_port))]),
    ...(orig_port === null ? [] : [endKey(String(orig_dst), Number(orig_port))]),
  ]);
  return {
    rows,
    ends,
    sinceMs: row?.since === null || row?.since === undefined ? null : Number(row.since),
    longest: {
      rows: longest.length,
      sinceMs: row?.unknown === true || row?.longest_since === null ? null : Number(row?.longest_since),
      publicEnds: EndFilter.of(keys).toString(),
    },
  };
}
