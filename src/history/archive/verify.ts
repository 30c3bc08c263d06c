/** Looks whether an archive is whole: every file as it was written, and none missing. */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { errorText } from "../../errors.js";
import { type Database, duckdbText, quoted } from "./duckdb.js";
import { type ArchiveFile, listFiles } from "./files.js";
import { type ChainLink, formatLink, hashFile, openSeal, PREVIOUS_KEY, parseLink, SEAL_ENDING } from "./seal.js";

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
  /** What is missing or was changed, a line each. */
  readonly problems: readonly string[];
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
  const files = (await listFiles(directory)).sort((a, b) => a.number - b.number);
  const problems: string[] = [];
  const sealedBy: Record<string, number> = {};
  let [unchained, unsealed] = [0, 0];
  let before: number | null = null;
  let last: ChainLink | null = null;
  let chained = false;
  for (const file of files) {
    const name = basename(file.path);
    const link: ChainLink = { number: file.number, sha256: await hashFile(file.path) };
    const previous = await previousOf(database, file).catch((error: unknown) => duckdbText(error));
    if (typeof previous === "string") problems.push(`${name} cannot be read: ${previous}`);
    else if (previous === undefined) {
      if (chained) problems.push(`${name} does not say what came before it`);
      else unchained++;
    } else {
      if (!chained && last === null) before = previous?.number ?? null;
      else problems.push(...breaks(name, previous, last));
      chained = true;
    }
    const sealed = await sealOf(file, link, formatLink(typeof previous === "object" ? previous : null), authority);
    if (sealed === null) unsealed++;
    else if (sealed.problem !== null) problems.push(`${name}: ${sealed.problem}`);
    else sealedBy[sealed.by] = (sealedBy[sealed.by] ?? 0) + 1;
    last = link;
  }
  // A node that has begun to seal its files does not stop.
  if (unsealed > 0 && Object.keys(sealedBy).length > 0) {
    problems.push(...(await unsealedAfter(files)).map((name) => `${name} has lost its seal`));
  }
  const newest = files.at(-1);
  const head = newest === undefined || last === null ? null : { file: basename(newest.path), sha256: last.sha256 };
  return { files: files.length, newest: head, unchained, before, sealedBy, unsealed, problems };
}

function breaks(name: string, previous: ChainLink | null, last: ChainLink | null): string[] {
  if (previous === null) return last === null ? [] : [`${name} says that it is the first, but files come before it`];
  if (last === null || previous.number !== last.number) {
    const first = last === null ? 1 : last.number + 1;
    return [`files ${first} to ${previous.number} are missing before ${name}`];
  }
  return previous.sha256 === last.sha256 ? [] : [`file ${last.number} was changed: ${name} knows it otherwise`];
}

/** Undefined for a file of an earlier release. */
async function previousOf(database: Database, { path }: ArchiveFile): Promise<ChainLink | null | undefined> {
  const sql = `SELECT decode(value) AS text FROM parquet_kv_metadata(${quoted(path)}) WHERE decode(key) = ${quoted(PREVIOUS_KEY)}`;
  const [row] = await database.rows(sql);
  if (row === undefined) return undefined;
  return parseLink(String(row.text));
}

/** Null where there is none. */
async function sealOf(
  { path }: ArchiveFile,
  { sha256 }: ChainLink,
  previous: string,
  authority: string | null,
): Promise<{ readonly by: string; readonly problem: string | null } | null> {
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
