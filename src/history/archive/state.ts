/**
 * How far an archive reaches. Each file has that in its own metadata (key `conntrail`, JSON), so files and state cannot disagree.
 * The state of the newest sound file is valid.
 */
import type { Gap } from "../connection.js";
import { type Database, duckdbText, quoted } from "./duckdb.js";
import { type ArchiveFile, stateNumber, whyDamaged } from "./files.js";

/** The last message that was read of a node's stream: its epoch, number and stamp. */
export interface ArchivePlace {
  readonly epoch: number;
  readonly number: number;
  readonly stamp: number;
}

/** The state of the archive when a file was written. */
export interface ArchiveState {
  readonly version: 1;
  /** By node. All ends up to these places are archived. */
  readonly places: Readonly<Record<string, ArchivePlace>>;
  /** The greatest stamp of all messages that were read. An older end that is read later may be archived already. */
  readonly stamp: number;
  /** No end was held that was published HOLD_STAMPS before this stamp, and no later message came late; left out: as `stamp`. */
  readonly settled?: number;
  /** The birth of the oldest connection that was open. Reading must begin there again. */
  readonly from: number;
  /** Where events may be missing in what was read since the previous file. */
  readonly gaps: readonly Gap[];
}

/** The key of the metadata. */
export const STATE_KEY = "conntrail";

const IS_STATE = `decode(key) = ${quoted(STATE_KEY)}`;

/** Called with the name of a file that cannot be read, and the reason. */
export type OnDamaged = (path: string, why: string) => void;

/** The state of the newest file that can be read; null where there is none. */
export async function readState(
  database: Database,
  files: readonly ArchiveFile[],
  onDamaged: OnDamaged,
): Promise<ArchiveState | null> {
  const newestFirst = [...files].sort((a, b) => stateNumber(b) - stateNumber(a));
  for (const { path } of newestFirst) {
    const state = await stateOf(database, path, onDamaged);
    if (state !== null) return state;
  }
  return null;
}

/** The files that begin and end as Parquet files do; the others are reported. */
export async function soundFiles<F extends ArchiveFile & { readonly readPath?: string }>(
  files: readonly F[],
  onDamaged: OnDamaged,
): Promise<F[]> {
  const sound: F[] = [];
  for (const file of files) {
    const why = await whyDamaged(file.readPath ?? file.path).catch((error: NodeJS.ErrnoException) => error);
    if (why === null) sound.push(file);
    else if (typeof why === "string") onDamaged(file.path, why);
    // Retention may have removed it meanwhile.
    else if (why.code !== "ENOENT") onDamaged(file.path, why.message);
  }
  return sound;
}

/** The gaps in the states of the files under these paths, each once. */
export async function readGaps(database: Database, paths: readonly string[]): Promise<Gap[]> {
  if (paths.length === 0) return [];
  const list = paths.map(quoted).join(", ");
  const rows = await database.rows(
    `SELECT decode(value) AS state FROM parquet_kv_metadata([${list}]) WHERE ${IS_STATE}`,
  );
  const gaps = new Map<string, Gap>();
  for (const row of rows) {
    for (const gap of parseState(String(row.state))?.gaps ?? []) gaps.set(JSON.stringify(gap), gap);
  }
  return [...gaps.values()];
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

/** Parses a state; null when it is not conntrail's, or of an unknown version. */
export function parseState(text: string): ArchiveState | null {
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
