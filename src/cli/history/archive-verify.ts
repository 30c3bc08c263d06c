import { readFileSync } from "node:fs";
import { ConntrailError, errorText } from "../../errors.js";
import { Database } from "../../history/archive/duckdb.js";
import { ARCHIVE_LIMITS } from "../../history/archive/limits.js";
import { type ArchiveVerdict, verifyArchive } from "../../history/archive/verify.js";
import type { CommandContext } from "../command/command.js";

/** `archive verify`: what is missing or was changed; exit code 1 when something is. `ca`: the cluster's authority, or null. */
export async function archiveVerify(directory: string, ca: string | null, context: CommandContext): Promise<void> {
  const database = await Database.open(ARCHIVE_LIMITS);
  try {
    const verdict = await verifyArchive(database, directory, ca === null ? null : readAuthority(ca));
    if (verdict.problems.length > 0) context.terminal.exitCode = 1;
    await context.print(verdict, formatVerdict);
  } finally {
    database.close();
  }
}

function readAuthority(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new ConntrailError("CONFIG", `tls.ca ${path} cannot be read: ${errorText(cause)}`, { cause });
  }
}

/** The verdict for people: problems first, then what the chain says. */
export function formatVerdict(verdict: ArchiveVerdict): string {
  const { files, newest, unchained, before, sealedBy, unsealed, replaced, removed, problems } = verdict;
  const lines = [...problems];
  lines.push(`${files} files, ${problems.length === 0 ? "whole" : `${problems.length} problems`}`);
  if (before !== null) lines.push(`files up to ${before} are gone: by archive.max_age, or by somebody`);
  if (replaced > 0) lines.push(`${replaced} files were compacted, into ones that know their chain`);
  if (removed > 0) lines.push(`${removed} later files went by archive.max_age, as a newer one says`);
  if (unchained > 0) lines.push(`${unchained} files of an earlier release are in no chain`);
  for (const [node, count] of Object.entries(sealedBy)) lines.push(`${count} sealed by ${node}`);
  if (unsealed > 0) lines.push(`${unsealed} not sealed: whoever may write the files can make such a chain anew`);
  if (newest !== null) {
    lines.push(
      `newest ${newest.file} ${newest.sha256}: keep that elsewhere, to see later that no file behind it is gone`,
    );
  }
  return lines.map((line) => `${line}\n`).join("");
}
