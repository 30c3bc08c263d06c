/**
 * How far an archive reaches. Each file says so in its own metadata (key `conntrail`, JSON), so that files and state are one
 * and cannot disagree: what the newest sound file says holds.
 */
import type { Gap } from "../connection.js";
import { type Database, duckdbText, quoted } from "./duckdb.js";
import { type ArchiveFile, whyDamaged } from "./files.js";

/** Where one node's stream was read to: epoch and number of its last message, and its stamp. */
export interface ArchivePlace {
  readonly epoch: number;
  readonly number: number;
  readonly stamp: number;
}

/** What a file says of the archive as it stood when the file was written. */
export interface ArchiveState {
  readonly version: 1;
  /** By node: all that ended up to there is archived. */
  readonly places: Readonly<Record<string, ArchivePlace>>;
  /** The greatest stamp of all that was read: an end that is read later and is older may be archived already. */
  readonly stamp: number;
  /** No end waited that was told HOLD_STAMPS before this, and no message had come late that was written since; left out: `stamp`. */
  readonly settled?: number;
  /** Where reading has to begin again to know all that was still open: the birth of the oldest of it, as a stamp. */
  readonly from: number;
  /** Where events may be missing in what was read since the file before. */
  readonly gaps: readonly Gap[];
}

/** The key of the metadata. */
export const STATE_KEY = "conntrail";

const IS_STATE = `decode(key) = ${quoted(STATE_KEY)}`;

/** Hears of a file that cannot be read: its name, and why. */
export type OnDamaged = (path: string, why: string) => void;

/** The state of the newest file that can be read, or null. */
export async function readState(
  database: Database,
  files: readonly ArchiveFile[],
  onDamaged: OnDamaged,
): Promise<ArchiveState | null> {
  const newestFirst = [...files].sort((a, b) => b.number - a.number);
  for (const { path } of newestFirst) {
    const state = await stateOf(database, path, onDamaged);
    if (state !== null) return state;
  }
  return null;
}

/** The files whose ends are those of a Parquet file; the others are told of. */
export async function soundFiles(files: readonly ArchiveFile[], onDamaged: OnDamaged): Promise<ArchiveFile[]> {
  const sound: ArchiveFile[] = [];
  for (const file of files) {
    const why = await whyDamaged(file.path).catch((error: NodeJS.ErrnoException) => error);
    if (why === null) sound.push(file);
    // Retention may have taken it meanwhile.
    else if (typeof why === "string") onDamaged(file.path, why);
    else if (why.code !== "ENOENT") onDamaged(file.path, why.message);
  }
  return sound;
}

/** The gaps that files tell of, each once. */
export async function readGaps(database: Database, files: readonly ArchiveFile[]): Promise<Gap[]> {
  if (files.length === 0) return [];
  const list = files.map(({ path }) => quoted(path)).join(", ");
  const rows = await database.rows(
    `SELECT decode(value) AS state FROM parquet_kv_metadata([${list}]) WHERE ${IS_STATE}`,
  );
  const gaps = new Map<string, Gap>();
  for (const row of rows) {
    for (const gap of parseState(String(row.state))?.gaps ?? []) gaps.set(JSON.stringify(gap), gap);
  }
  return [...gaps.values()];
}

/** `COPY` takes it so. */
export function stateMetadata(state: ArchiveState): string {
  return `{${STATE_KEY}: ${quoted(JSON.stringify(state))}}`;
}

async function stateOf(database: Database, path: string, onDamaged: OnDamaged): Promise<ArchiveState | null> {
  const why = await whyDamaged(path);
  if (why !== null) {
    onDamaged(path, why);
    return null;
  }
  try {
    const sql = `SELECT decode(value) AS state FROM parquet_kv_metadata(${quoted(path)}) WHERE ${IS_STATE}`;
    const [row] = await database.rows(sql);
    return row === undefined ? null : parseState(String(row.state));
  } catch (error) {
    onDamaged(path, duckdbText(error));
    return null;
  }
}

/** Null when it is none of ours, or of a version that is not known here. */
function parseState(text: string): ArchiveState | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null) return null;
  const { version, places, stamp, settled = stamp, from, gaps = [] } = value as Partial<ArchiveState>;
  if (
    version !== 1 ||
    !isCount(stamp) ||
    !isCount(settled) ||
    !isCount(from) ||
    typeof places !== "object" ||
    places === null
  )
    return null;
  for (const place of Object.values(places)) {
    if (!isCount(place?.epoch) || !isCount(place?.number) || !isCount(place?.stamp)) return null;
  }
  return { version, places, stamp, settled, from, gaps: Array.isArray(gaps) ? gaps : [] };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
