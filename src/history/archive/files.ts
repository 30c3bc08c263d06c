/**
 * The directory of an archive: `date=YYYY-MM-DD/conntrail-<n>.parquet`. The folder is the day (UTC) on which the connections ended,
 * and files are numbered over all days. Readers ignore the name that a file has while it is being written.
 */
import { open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { ConntrailError, errorText } from "../../errors.js";

/** A file of the archive. */
export interface ArchiveFile {
  readonly path: string;
  /** Days since 1970. */
  readonly day: number;
  readonly number: number;
}

const DAY_MS = 86_400_000;
const DAY_NAME = /^date=(\d{4}-\d\d-\d\d)$/;
const FILE_NAME = /^conntrail-(\d{1,15})\.parquet$/;
const TEMPORARY_NAME = /^\.conntrail-\d{1,15}\.parquet\.tmp$/;
const PARQUET_MAGIC = "PAR1";

/** The folder of a day. */
export function dayFolder(directory: string, day: number): string {
  return join(directory, `date=${dayText(day)}`);
}

/** `2026-01-31`. */
export function dayText(day: number): string {
  return new Date(day * DAY_MS).toISOString().slice(0, 10);
}

/** The day of a time, in UTC. */
export function dayOf(ms: number): number {
  return Math.floor(ms / DAY_MS);
}

/** The name of a finished file. */
export function fileName(number: number): string {
  return `conntrail-${String(number).padStart(8, "0")}.parquet`;
}

/** The name of a file while it is being written. */
export function temporaryName(number: number): string {
  return `.${fileName(number)}.tmp`;
}

/** The days of an archive, oldest first; none where there is no such directory. @throws ConntrailError STORE when it cannot be read */
export async function listDays(directory: string): Promise<number[]> {
  const days: number[] = [];
  for (const name of await namesIn(directory)) {
    const ms = Date.parse(DAY_NAME.exec(name)?.[1] ?? "");
    if (!Number.isNaN(ms)) days.push(dayOf(ms));
  }
  return days.sort((a, b) => a - b);
}

/** The files of the days from `fromDay` to `untilDay`, by day and number. @throws ConntrailError STORE when one cannot be read */
export async function listFiles(
  directory: string,
  fromDay = Number.NEGATIVE_INFINITY,
  untilDay = Number.POSITIVE_INFINITY,
): Promise<ArchiveFile[]> {
  const files: ArchiveFile[] = [];
  for (const day of await listDays(directory)) {
    if (day < fromDay || day > untilDay) continue;
    const folder = dayFolder(directory, day);
    const numbers = (await namesIn(folder)).map((name) => Number(FILE_NAME.exec(name)?.[1] ?? Number.NaN));
    for (const number of numbers.filter((each) => !Number.isNaN(each)).sort((a, b) => a - b)) {
      files.push({ path: join(folder, fileName(number)), day, number });
    }
  }
  return files;
}

/** Removes the unfinished files of a writer that was killed. Only the one writer of the archive may call this. */
export async function removeTemporary(directory: string): Promise<void> {
  for (const day of await listDays(directory)) {
    const folder = dayFolder(directory, day);
    for (const name of await namesIn(folder)) {
      if (TEMPORARY_NAME.test(name)) await rm(join(folder, name), { force: true });
    }
  }
}

/** Publishes a file under its final name. It is complete and on the disk before a reader can see it. */
export async function publishFile(temporary: string, path: string, folders: readonly string[]): Promise<void> {
  await syncToDisk(temporary);
  await rename(temporary, path);
  for (const folder of folders) await syncToDisk(folder);
}

/**
 * Removes the folders of whole days that ended before a time, but never the last one, which says how far the archive reaches.
 * Returns how many days and files were removed.
 */
export async function removeDaysBefore(
  directory: string,
  beforeMs: number,
): Promise<{ readonly days: number; readonly files: number }> {
  let files = 0;
  const old = (await listDays(directory)).slice(0, -1).filter((day) => (day + 1) * DAY_MS <= beforeMs);
  for (const day of old) {
    files += (await listFiles(directory, day, day)).length;
    await rm(dayFolder(directory, day), { recursive: true, force: true });
  }
  return { days: old.length, files };
}

/** Why a file is no complete Parquet file, judged by its first and last bytes; null when those are sound. */
export async function whyDamaged(path: string): Promise<string | null> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    if (size < 12) return `${size} bytes are no Parquet file`;
    const tail = Buffer.alloc(8);
    const head = Buffer.alloc(4);
    await file.read(head, 0, 4, 0);
    await file.read(tail, 0, 8, size - 8);
    if (head.toString("latin1") !== PARQUET_MAGIC) return "it does not begin as a Parquet file does";
    if (tail.toString("latin1", 4) !== PARQUET_MAGIC) return "it is cut short";
    return tail.readUInt32LE(0) + 12 > size ? "its end does not fit" : null;
  } finally {
    await file.close();
  }
}

async function syncToDisk(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new ConntrailError("STORE", `the archive ${directory} cannot be read: ${errorText(error)}`, { cause: error });
  }
}
