/**
 * The directory of an archive. The folder is the day (UTC) on which the connections ended, and files are numbered over all days:
 *
 *   date=YYYY-MM-DD/conntrail-<n>.parquet                  as the archiver wrote it
 *   date=YYYY-MM-DD/conntrail-<n>-<from>-<until>.parquet   compacted: it holds what the files <from> to <until> of this day held
 *
 * A file whose number lies within a compacted file of its day is replaced, and nobody reads it: the one rename that publishes the
 * compacted file also takes the replaced ones away, and a crash before they are removed does no harm. Readers ignore the name that
 * a file has while it is being written.
 */
import { readdirSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { ConntrailError, errorText } from "../../errors.js";
import { SEAL_ENDING } from "./seal.js";

/** A file of the archive. */
export interface ArchiveFile {
  readonly path: string;
  /** Days since 1970. */
  readonly day: number;
  readonly number: number;
  /** The numbers of the files of its day that a compacted file replaces, both included; null: it is as the archiver wrote it. */
  readonly replaces: { readonly from: number; readonly until: number } | null;
}

const DAY_MS = 86_400_000;
const DAY_NAME = /^date=(\d{4}-\d\d-\d\d)$/;
const FILE_NAME = /^conntrail-(\d{1,15})(?:-(\d{1,15})-(\d{1,15}))?\.parquet$/;
const TEMPORARY_NAME = /^\..*\.tmp$|^conntrail-.*\.seal\.tmp$/;
const PARQUET_MAGIC = "PAR1";

/** The name, in the archive's own folder, of a folder for what does not fit into memory for a moment; others begin with it and `-`. */
export const SPILL = ".spill";

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
export function fileName(number: number, replaces: ArchiveFile["replaces"] = null): string {
  const numbers = replaces === null ? [number] : [number, replaces.from, replaces.until];
  return `conntrail-${numbers.map((each) => String(each).padStart(8, "0")).join("-")}.parquet`;
}

/** The name of a file while it is being written. */
export function temporaryName(number: number): string {
  return `.${fileName(number)}.tmp`;
}

/** The least number that a file stands for: its own, or that of the first file which it replaces. */
export function firstNumber({ number, replaces }: ArchiveFile): number {
  return replaces?.from ?? number;
}

/** The number of the file whose state (state.ts) it has: a compacted file has that of the last file which it replaces. */
export function stateNumber({ number, replaces }: ArchiveFile): number {
  return replaces?.until ?? number;
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

/**
 * The files of the days from `fromDay` to `untilDay`, by day and number, without those that were replaced.
 * @throws ConntrailError STORE when a folder cannot be read
 */
export async function listFiles(
  directory: string,
  fromDay = Number.NEGATIVE_INFINITY,
  untilDay = Number.POSITIVE_INFINITY,
): Promise<ArchiveFile[]> {
  const files: ArchiveFile[] = [];
  for (const day of await listDays(directory)) {
    if (day >= fromDay && day <= untilDay) files.push(...(await listDay(directory, day)).files);
  }
  return files;
}

/** The files of a day by number, and apart those that a compacted file has replaced. */
export async function listDay(
  directory: string,
  day: number,
): Promise<{ readonly files: ArchiveFile[]; readonly replaced: ArchiveFile[] }> {
  const folder = dayFolder(directory, day);
  const all: ArchiveFile[] = [];
  for (const name of await namesIn(folder)) {
    const match = FILE_NAME.exec(name);
    if (match === null) continue;
    const [, number, from, until] = match;
    const replaces = from === undefined ? null : { from: Number(from), until: Number(until) };
    all.push({ path: join(folder, name), day, number: Number(number), replaces });
  }
  all.sort((a, b) => a.number - b.number);
  const compacted = all.filter(({ replaces }) => replaces !== null);
  const isReplaced = (file: ArchiveFile): boolean =>
    compacted.some(
      ({ number, replaces }) =>
        replaces !== null &&
        number > file.number &&
        replaces.from <= firstNumber(file) &&
        stateNumber(file) <= replaces.until,
    );
  const replaced = all.filter(isReplaced);
  return { files: all.filter((file) => !replaced.includes(file)), replaced };
}

/**
 * Removes what a writer left behind that was killed: unfinished files, files that a compacted one has replaced, and seals of files
 * that are not there. Only the one writer of the archive may call this.
 */
export async function removeLeftovers(directory: string): Promise<void> {
  for (const name of await namesIn(directory)) {
    if (name.startsWith(SPILL)) await rm(join(directory, name), { recursive: true, force: true });
  }
  for (const day of await listDays(directory)) {
    const folder = dayFolder(directory, day);
    const { files, replaced } = await listDay(directory, day);
    for (const file of replaced) await removeFile(file);
    const kept = new Set(files.map(({ path }) => `${basename(path)}${SEAL_ENDING}`));
    for (const name of await namesIn(folder)) {
      const isSeal = name.endsWith(`.parquet${SEAL_ENDING}`);
      if (TEMPORARY_NAME.test(name) || (isSeal && !kept.has(name))) await rm(join(folder, name), { force: true });
    }
  }
}

/** Removes a file and its seal. A reader that has it open goes on reading it. */
export async function removeFile({ path }: ArchiveFile): Promise<void> {
  await rm(path, { force: true });
  await rm(`${path}${SEAL_ENDING}`, { force: true });
}

/** Publishes a file under its final name. It is complete and on the disk before a reader can see it. */
export async function publishFile(temporary: string, path: string, folders: readonly string[]): Promise<void> {
  await syncToDisk(temporary);
  await rename(temporary, path);
  for (const folder of folders) await syncToDisk(folder);
}

/** The whole days that ended before a time, but never the last one, which says how far the archive reaches. */
export async function daysBefore(directory: string, beforeMs: number): Promise<number[]> {
  return (await listDays(directory)).slice(0, -1).filter((day) => (day + 1) * DAY_MS <= beforeMs);
}

/** Removes the folder of a day. Returns how many files it had. */
export async function removeDay(directory: string, day: number): Promise<number> {
  const { files } = await listDay(directory, day);
  await rm(dayFolder(directory, day), { recursive: true, force: true });
  return files.length;
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

/** Not in the background: hundreds of small folders would take five times as long. */
async function namesIn(directory: string): Promise<string[]> {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new ConntrailError("STORE", `the archive ${directory} cannot be read: ${errorText(error)}`, { cause: error });
  }
}
