import assert from "node:assert/strict";
import { appendFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { describe, it } from "node:test";
import { formatVerdict } from "../../src/cli/history/archive-verify.js";
import { Database } from "../../src/history/archive/duckdb.js";
import { type ArchiveFile, listFiles } from "../../src/history/archive/files.js";
import { readSealer, type Sealer } from "../../src/history/archive/seal.js";
import { type ArchiveVerdict, verifyArchive } from "../../src/history/archive/verify.js";
import { ArchiveWriter } from "../../src/history/archive/writer.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { tcpConnection } from "../support/connections.js";
import { temporaryDirectory } from "../support/nats-server.js";

const LIMITS = { threads: 1, memoryMiB: 128 };
const DAY_MS = 86_400_000;

/** Writes files, the last two by another run of the writer. */
async function write(directory: string, count: number, sealer?: Sealer): Promise<void> {
  for (const part of [count - 2, 2]) {
    const options = { directory, limits: LIMITS, onDamaged: () => undefined };
    const writer = await ArchiveWriter.open({ ...options, ...(sealer === undefined ? {} : { sealer }) });
    for (let i = 0; i < part; i++) {
      writer.add(tcpConnection({}, { uid: `C${part}${i}`, endMs: Date.UTC(2026, 0, 31) + (i % 2) * DAY_MS }), false);
      await writer.flush({ version: 1, places: {}, stamp: i, from: 0, gaps: [] });
    }
    await writer.close();
  }
}

async function verdictOf(directory: string, authority: string | null = null): Promise<ArchiveVerdict> {
  const database = await Database.open(LIMITS);
  try {
    return await verifyArchive(database, directory, authority);
  } finally {
    database.close();
  }
}

async function filesOf(directory: string): Promise<ArchiveFile[]> {
  return (await listFiles(directory)).sort((a, b) => a.number - b.number);
}

describe("archive verify", () => {
  it("finds a chain whole, over restarts of the writer, and says that it is not sealed", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path, 5);
    const verdict = await verdictOf(directory.path);
    assert.deepEqual(verdict.problems, []);
    assert.deepEqual([verdict.files, verdict.unsealed, verdict.before, verdict.unchained], [5, 5, null, 0]);
    assert.match(
      formatVerdict(verdict),
      /^5 files, whole\n5 not sealed: .*\nnewest conntrail-00000005\.parquet [0-9a-f]{64}:/,
    );
  });

  it("names a file that is missing, one that was changed, one that was put in another's place, and what age removed", async () => {
    await using directory = await temporaryDirectory();
    await write(directory.path, 6);
    const files = await filesOf(directory.path);
    rmSync(files[0]!.path);
    const begun = await verdictOf(directory.path);
    assert.deepEqual([begun.problems, begun.before], [[], 1]);
    rmSync(files[2]!.path);
    const { problems } = await verdictOf(directory.path);
    assert.deepEqual(problems, ["files 3 to 3 are missing before conntrail-00000004.parquet"]);
    // A byte of a value, which no reader misses.
    const bytes = readFileSync(files[3]!.path);
    bytes[100]! ^= 1;
    writeFileSync(files[3]!.path, bytes);
    assert.match(
      (await verdictOf(directory.path)).problems.join("\n"),
      /file 4 was changed: conntrail-00000005\.parquet/,
    );
    renameSync(files[5]!.path, files[4]!.path);
    assert.notEqual((await verdictOf(directory.path)).problems.length, 0);
    appendFileSync(files[4]!.path, "x");
    assert.match((await verdictOf(directory.path)).problems.join("\n"), /conntrail-00000005\.parquet cannot be read/);
  });

  it("knows who sealed each file, and sees a chain that somebody else made anew", {
    skip: opensslMissing(),
  }, async () => {
    await using directory = await temporaryDirectory();
    await using forged = await temporaryDirectory();
    await using keys = await temporaryDirectory();
    const own = makeCertificate(keys.path, "authority", "fw1", "DNS:fw1");
    const other = makeCertificate(keys.path, "another", "fw1-forged", "DNS:fw1");
    const authority = readFileSync(own.ca, "utf8");
    await write(directory.path, 4, await readSealer(own));
    const verdict = await verdictOf(directory.path, authority);
    assert.deepEqual([verdict.problems, verdict.sealedBy, verdict.unsealed], [[], { fw1: 4 }, 0]);
    await write(forged.path, 4, await readSealer(other));
    const problems = (await verdictOf(forged.path, authority)).problems;
    assert.equal(problems.length, 4);
    assert.match(problems[0]!, /its certificate is not of this authority/);

    const files = await filesOf(directory.path);
    const last = files.at(-1)!.path;
    // The newest file has none behind it that knows its hash.
    const bytes = readFileSync(last);
    bytes[100]! ^= 1;
    writeFileSync(last, bytes);
    assert.deepEqual((await verdictOf(directory.path, authority)).problems, [
      "conntrail-00000004.parquet: it was changed after fw1 had sealed it",
    ]);
    const sealPath = `${last}.seal`;
    assert.ok(existsSync(sealPath));
    const text = readFileSync(sealPath, "utf8");
    writeFileSync(sealPath, text.replace(/"sha256":"./, '"sha256":"g'));
    assert.match((await verdictOf(directory.path, authority)).problems.join(), /its signature does not hold/);
    writeFileSync(sealPath, "{");
    assert.match((await verdictOf(directory.path, authority)).problems.join(), /its seal is damaged/);
    rmSync(sealPath);
    assert.match((await verdictOf(directory.path, authority)).problems.join(), /has lost its seal/);
  });
});
