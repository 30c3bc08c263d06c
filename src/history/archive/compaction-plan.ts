/** Which files of an archive are to be compacted next. */
import { stat } from "node:fs/promises";
import { type ArchiveFile, firstNumber, listDay, listDays } from "./files.js";
import { COMPACT_BYTES_MAX } from "./limits.js";

/** A file and its size. */
export interface SizedFile extends ArchiveFile {
  readonly bytes: number;
}

const DAY_MS = 86_400_000;
/** A day gets no more files, but few late ones, so long after it has ended. */
const SETTLE_MS = 3_600_000;
/** So many files of the current day are compacted together. */
const FILES_MIN = 32;
/** A large file is not written again for so few small ones that together have less than an eighth of its size. */
const FILES_BESIDE_LARGE = 8;
const LARGE_SHARE = 7 / 8;

/**
 * The next files to be compacted, which follow each other in one day; null where nothing is due. The newest file as the archiver
 * wrote it stays as it is: it says how far the archive reaches. `refuses`: a file that is left as it is.
 * @throws ConntrailError STORE when a folder cannot be read
 */
export async function nextCompaction(
  directory: string,
  nowMs: number,
  refuses: (file: ArchiveFile) => boolean,
): Promise<readonly SizedFile[] | null> {
  const days = await listDays(directory);
  let newest: ArchiveFile | null = null;
  const listed: ArchiveFile[][] = [];
  for (const day of days) {
    const { files } = await listDay(directory, day);
    listed.push(files);
    for (const file of files) {
      if (file.replaces === null && file.number > (newest?.number ?? 0)) newest = file;
    }
  }
  for (const files of listed) {
    // Most days are done: one file that was compacted.
    if (files.length === 0 || (files.length === 1 && files[0]?.replaces !== null)) continue;
    const day = files[0]?.day ?? 0;
    const settled = newest !== null && day < newest.day && nowMs >= (day + 1) * DAY_MS + SETTLE_MS;
    const keep = (file: ArchiveFile): boolean =>
      file === newest || refuses(file) || (!settled && file.replaces !== null);
    const due = dueGroup(await sized(files), keep, settled);
    if (due !== null) return due;
  }
  return null;
}

/** The first group of a day that is due. `keep`: files that stay as they are, and divide groups. */
export function dueGroup(
  files: readonly SizedFile[],
  keep: (file: SizedFile) => boolean,
  settled: boolean,
): readonly SizedFile[] | null {
  let group: SizedFile[] = [];
  let bytes = 0;
  for (const file of [...files].sort((a, b) => firstNumber(a) - firstNumber(b))) {
    const full = bytes + file.bytes > COMPACT_BYTES_MAX;
    if (keep(file) || full) {
      if (isDue(group, settled, full)) return group;
      group = [];
      bytes = 0;
    }
    if (keep(file)) continue;
    group.push(file);
    bytes += file.bytes;
  }
  return isDue(group, settled, false) ? group : null;
}

function isDue(group: readonly SizedFile[], settled: boolean, full: boolean): boolean {
  const [first] = group;
  if (first === undefined) return false;
  if (!settled) return group.length >= FILES_MIN || (full && group.length > 1);
  if (group.length === 1) return first.replaces === null;
  if (group.length >= FILES_BESIDE_LARGE) return true;
  const sizes = group.map(({ bytes }) => bytes);
  return Math.max(...sizes) <= LARGE_SHARE * sizes.reduce((sum, each) => sum + each, 0);
}

async function sized(files: readonly ArchiveFile[]): Promise<SizedFile[]> {
  const all: SizedFile[] = [];
  for (const file of files) all.push({ ...file, bytes: (await stat(file.path)).size });
  return all;
}
