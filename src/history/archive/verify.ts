/** Looks whether an archive is whole: every file as it was written, and none missing. */
import { access, readFile } from "node:fs/promises";
import { basename } from "node:path";
import { errorText } from "../../errors.js";
import { type ChainMetadata, type ChainRun, chainOf, readMetadata } from "./chain.js";
import { type Database, duckdbText } from "./duckdb.js";
import { type ArchiveFile, listFiles } from "./files.js";
import { type ChainLink, formatLink, hashFile, openSeal, SEAL_ENDING } from "./seal.js";

/** What was found of an archive. */
export interface ArchiveVerdict {
  /** Files that were looked at. */
  readonly files: number;
  /** The newest file. Keep its hash elsewhere: that newer files were taken away cannot be seen otherwise. */
  readonly newest: { readonly file: string; readonly sha256: string } | null;
  /** Files of earlier releases, at the beginning, which are in no chain. */
  readonly unchained: number;
  /** The file before the oldest one, which is gone: by age, or by somebody. Null: the chain is there from its beginning. */
  readonly before: number | null;
  /** How many files each node has sealed, and how many nobody has. */
  readonly sealedBy: Readonly<Record<string, number>>;
  readonly unsealed: number;
  /** Files that were compacted into others, and files that went with days that were too old, after older ones that are still there. */
  readonly replaced: number;
  readonly removed: number;
  /** What is missing or was changed, a line each. */
  readonly problems: readonly string[];
}

/** How often it begins again because compaction has replaced files meanwhile. */
const ATTEMPTS_MAX = 5;

/** A stretch of the chain, and the file that says so. */
interface NamedRun extends ChainRun {
  readonly name: string;
  /** Where the run comes from: the file itself, one that has replaced its files, or a note of what age has removed. */
  readonly kind: "own" | "unreadable" | "replaced" | "removed";
}

/**
 * Reads every file of an archive. `authority`: the PEM from which the certificates of seals must come; null: any.
 * @throws ConntrailError STORE when the directory cannot be read
 */
export async function verifyArchive(
  database: Database,
  directory: string,
  authority: string | null,
): Promise<ArchiveVerdict> {
  // Files never change, so that each is read once.
  const seen = new Map<string, SeenFile>();
  for (let attempt = 1; ; attempt++) {
    const files = (await listFiles(directory)).sort((a, b) => a.number - b.number);
    try {
      for (const file of files) {
        if (!seen.has(file.path)) seen.set(file.path, await look(database, file, authority));
      }
      const unsealed = await unsealedAfter(files);
      return verdictOf(
        files.map((file) => seen.get(file.path)).filter((file) => file !== undefined),
        unsealed,
      );
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || attempt === ATTEMPTS_MAX) throw error;
    }
  }
}

/** What a file says. */
interface SeenFile {
  readonly file: ArchiveFile;
  readonly sha256: string;
  /** A text: why it cannot be read. */
  readonly chain: ChainMetadata | string;
  readonly seal: SealFound | null;
}

/** @throws ENOENT when the file is gone */
async function look(database: Database, file: ArchiveFile, authority: string | null): Promise<SeenFile> {
  const sha256 = await hashFile(file.path);
  const chain = await readMetadata(database, file.path).then(chainOf, async (error: unknown) => {
    await access(file.path);
    return duckdbText(error);
  });
  const previous = typeof chain === "object" ? (chain.previous ?? null) : null;
  return { file, sha256, chain, seal: await sealOf(file, sha256, formatLink(previous), authority) };
}

function verdictOf(seen: readonly SeenFile[], lostSeals: readonly string[]): ArchiveVerdict {
  const problems: string[] = [];
  const sealedBy: Record<string, number> = {};
  let unsealed = 0;
  for (const { file, chain, seal } of seen) {
    const name = basename(file.path);
    if (typeof chain === "string") problems.push(`${name} cannot be read: ${chain}`);
    if (seal === null) unsealed++;
    else if (seal.problem !== null) problems.push(`${name}: ${seal.problem}`);
    else sealedBy[seal.by] = (sealedBy[seal.by] ?? 0) + 1;
  }
  const walked = walk(runsOf(seen));
  problems.push(...walked.problems);
  // A node that has begun to seal its files does not stop.
  if (unsealed > 0 && Object.keys(sealedBy).length > 0) {
    problems.push(...lostSeals.map((name) => `${name} has lost its seal`));
  }
  const newest = seen.at(-1);
  const head = newest === undefined ? null : { file: basename(newest.file.path), sha256: newest.sha256 };
  const { unchained, before, replaced, removed } = walked;
  return { files: seen.length, newest: head, unchained, before, sealedBy, unsealed, replaced, removed, problems };
}

/** All stretches that the files name, in their order, each once. */
function runsOf(seen: readonly SeenFile[]): NamedRun[] {
  const runs: NamedRun[] = [];
  const removed: NamedRun[] = [];
  for (const { file, sha256, chain } of seen) {
    const name = basename(file.path);
    const { number } = file;
    if (typeof chain === "string") {
      runs.push({ name, kind: "unreadable", from: number, until: number, previous: null, sha256 });
    } else {
      runs.push({ name, kind: "own", from: number, until: number, previous: chain.previous, sha256 });
      for (const run of chain.replaced) runs.push({ ...run, name, kind: "replaced" });
      for (const run of chain.removed) removed.push({ ...run, name, kind: "removed" });
    }
  }
  // A note of what age removes comes before it is removed, and is repeated while older files are there.
  const least = runs.reduce((number, { from }) => Math.min(number, from), Number.POSITIVE_INFINITY);
  for (const note of removed) {
    if (note.from > least && !runs.some(({ from, until }) => from <= note.until && note.from <= until)) runs.push(note);
  }
  return runs.sort((a, b) => a.from - b.from);
}

/** Follows the chain. */
function walk(
  runs: readonly NamedRun[],
): Pick<ArchiveVerdict, "unchained" | "before" | "replaced" | "removed" | "problems"> {
  const problems: string[] = [];
  let [unchained, replaced, removed] = [0, 0, 0];
  let before: number | null = null;
  let last: ChainLink | null = null;
  let chained = false;
  for (const { name, kind, from, until, previous, sha256 } of runs) {
    const count = until - from + 1;
    if (kind === "replaced") replaced += count;
    if (kind === "removed") removed += count;
    // The place of a file that cannot be read is known, but not what it says.
    if (kind === "unreadable") {
      last = { number: until, sha256 };
      continue;
    }
    if (previous === undefined) {
      if (chained) problems.push(`${name} does not say what came before it`);
      else unchained += count;
    } else {
      if (!chained && last === null) before = previous?.number ?? null;
      else problems.push(...breaks(name, previous, last));
      chained = true;
    }
    last = { number: until, sha256 };
  }
  return { unchained, before, replaced, removed, problems };
}

function breaks(name: string, previous: ChainLink | null, last: ChainLink | null): string[] {
  if (previous === null) return last === null ? [] : [`${name} says that it is the first, but files come before it`];
  if (last === null || previous.number !== last.number) {
    const first = last === null ? 1 : last.number + 1;
    return [`files ${first} to ${previous.number} are missing before ${name}`];
  }
  return previous.sha256 === last.sha256 ? [] : [`file ${last.number} was changed: ${name} knows it otherwise`];
}

/** Who has sealed a file, and what is wrong with the seal. */
interface SealFound {
  readonly by: string;
  readonly problem: string | null;
}

/** Null where there is none. */
async function sealOf(
  { path }: ArchiveFile,
  sha256: string,
  previous: string,
  authority: string | null,
): Promise<SealFound | null> {
  let text: string;
  try {
    text = await readFile(`${path}${SEAL_ENDING}`, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    return { by: "", problem: `its seal cannot be read: ${errorText(error)}` };
  }
  const opened = openSeal(text, authority);
  if (typeof opened === "string") return { by: "", problem: opened };
  const { seal, by } = opened;
  if (seal.file !== basename(path)) return { by, problem: "its seal belongs to another file" };
  if (seal.sha256 !== sha256) return { by, problem: `it was changed after ${by} had sealed it` };
  return { by, problem: seal.previous === previous ? null : "its seal names another file before it" };
}

/** The files without a seal that come after one with a seal. */
async function unsealedAfter(files: readonly ArchiveFile[]): Promise<string[]> {
  const names: string[] = [];
  let sealed = false;
  for (const { path } of files) {
    const has = await readFile(`${path}${SEAL_ENDING}`).then(
      () => true,
      () => false,
    );
    if (!has && sealed) names.push(basename(path));
    sealed ||= has;
  }
  return names;
}
