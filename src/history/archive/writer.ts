/** Writes an archive: one process at a time, one file for each day and flush, each file complete before it can be seen. */
import assert from "node:assert/strict";
import { mkdir, open, realpath, rename, stat, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { basename, dirname, join } from "node:path";
import { ConntrailError, errorText } from "../../errors.js";
import { makeDirectory } from "../../os/make-directory.js";
import type { Connection } from "../connection.js";
import { readCatalog, writeCatalog } from "./catalog.js";
import { type ChainRun, chainOf, formatRuns, joinRuns, REMOVED_KEY, readMetadata } from "./chain.js";
import type { CompactResult, CompactTask } from "./compact.js";
import { Database, type DatabaseLimits, duckdbText, quoted } from "./duckdb.js";
import {
  type ArchiveFile,
  dayFolder,
  daysBefore,
  fileName,
  firstNumber,
  listDay,
  listFiles,
  publishFile,
  removeDay,
  removeFile,
  removeLeftovers,
  SPILL,
  stateNumber,
  temporaryName,
} from "./files.js";
import {
  type ChainLink,
  formatLink,
  formatPaddedLink,
  hashFile,
  PREVIOUS_KEY,
  SEAL_ENDING,
  type Sealer,
  seal,
} from "./seal.js";
import { type StagedBatch, Staging } from "./staging.js";
import { type ArchiveState, type OnDamaged, readState, STATE_KEY, soundFiles } from "./state.js";

/** Where an archive is written, and how much of the machine that may use. */
export interface ArchiveWriterOptions {
  readonly directory: string;
  readonly limits: DatabaseLimits;
  readonly onDamaged: OnDamaged;
  /** The node's key, which seals each file; left out: they are in a chain, and not sealed. */
  readonly sealer?: Sealer;
}

/** What a writer counts. */
export interface ArchiveWriterCounters {
  /** Connections and files that were written. */
  connections: number;
  files: number;
  /** Connections that were left out because the archive held them already. */
  known: number;
  damagedFiles: number;
  /** Files that compaction has written, and those that they have replaced. */
  compactedFiles: number;
  replacedFiles: number;
  /** Groups of files that could not be compacted and were left as they are. */
  compactionsFailed: number;
  /** Whole days that retention removed, and their files. */
  daysRemoved: number;
  filesRemoved: number;
}

/** Rows of one group of a Parquet file. A group is held in memory to be written, and is the least that a reader reads. */
const GROUP_ROWS = 16_384;

/**
 * The one writer of an archive. Connections gather in memory until `flush` writes a file for each day. A file can be seen when it is
 * complete and on the disk. It carries the state of the archive, so after a crash the next writer continues where the last file ends,
 * and knows which connections the archive may hold already.
 */
export class ArchiveWriter {
  readonly counters: ArchiveWriterCounters = {
    connections: 0,
    files: 0,
    known: 0,
    damagedFiles: 0,
    compactedFiles: 0,
    replacedFiles: 0,
    compactionsFailed: 0,
    daysRemoved: 0,
    filesRemoved: 0,
  };
  readonly #directory: string;
  readonly #database: Database;
  readonly #staging: Staging;
  readonly #lock: Server;
  readonly #onDamaged: OnDamaged;
  readonly #sealer: Sealer | null;
  /** The last file. */
  #link: ChainLink | null;
  #state: ArchiveState | null;
  #number: number;
  /** Runs that have gone, or are about to go, with days that were too old, although older files are still there. */
  #removed: readonly ChainRun[];
  /** The runs that the newest file names. */
  #removedOnDisk: readonly ChainRun[];
  /** Files are published one after the other, because each names the one before it. */
  #publishing: Promise<unknown> = Promise.resolve();
  /** Batches that were taken out of the staging and are not in files yet. */
  readonly #waiting: { readonly batch: StagedBatch; readonly next: ArchiveState }[] = [];

  private constructor(
    directory: string,
    parts: { database: Database; staging: Staging; lock: Server; onDamaged: OnDamaged; sealer: Sealer | null },
    state: ArchiveState | null,
    link: ChainLink | null,
    removed: readonly ChainRun[],
  ) {
    this.#directory = directory;
    this.#database = parts.database;
    this.#staging = parts.staging;
    this.#lock = parts.lock;
    this.#onDamaged = (path, why) => {
      this.counters.damagedFiles++;
      parts.onDamaged(path, why);
    };
    this.#state = state;
    this.#sealer = parts.sealer;
    this.#link = link;
    this.#number = (link?.number ?? 0) + 1;
    this.#removed = removed;
    this.#removedOnDisk = removed;
  }

  /**
   * Opens an archive for writing. Makes its directory where there is none, and removes the unfinished files of a killed writer.
   * @throws ConntrailError ALREADY_RUNNING when another process writes it, STORE when it cannot be written or DuckDB is missing
   */
  static async open(options: ArchiveWriterOptions): Promise<ArchiveWriter> {
    const { directory, limits, onDamaged, sealer = null } = options;
    try {
      makeDirectory(directory, 0o750);
    } catch (error) {
      throw new ConntrailError("STORE", `the archive ${directory} cannot be made: ${errorText(error)}`, {
        cause: error,
      });
    }
    const lock = await lockDirectory(await realpath(directory));
    let database: Database | null = null;
    try {
      await removeLeftovers(directory);
      database = await Database.open({ ...limits, temporary: join(directory, SPILL) });
      const files = await listFiles(directory);
      const state = await readState(database, files, onDamaged);
      const last = files.reduce<ArchiveFile | null>((a, b) => (a === null || b.number > a.number ? b : a), null);
      const link = last === null ? null : { number: last.number, sha256: await hashFile(last.path) };
      const removed = last === null ? [] : await removedRuns(database, last.path);
      const staging = Staging.create(database);
      return new ArchiveWriter(directory, { database, staging, lock, onDamaged, sealer }, state, link, removed);
    } catch (error) {
      database?.close();
      lock.close();
      throw error;
    }
  }

  /** How far the archive reaches; null where it is empty. */
  get state(): ArchiveState | null {
    return this.#state;
  }

  /** Connections that were added since the last `flush`. */
  get rows(): number {
    return this.#staging.rows;
  }

  /** Connections that are not in a file yet. */
  get unwritten(): number {
    return this.#waiting.reduce((sum, { batch }) => sum + batch.rows, this.#staging.rows);
  }

  /** Adds a connection that has ended. `late`: the archive may hold it already. */
  add(connection: Connection, late: boolean): void {
    this.#staging.add(connection, late);
  }

  /**
   * Writes all connections that have gathered, a file for each day. Those that are added meanwhile wait for the next flush. Only the
   * last file has the state `next`: after a crash before it all is read again, and connections in the other files are known by their
   * uids. Call it again only when it has finished.
   * @throws ConntrailError STORE when a file cannot be written; nothing is lost, and the next `flush` continues there
   */
  async flush(next: ArchiveState): Promise<void> {
    if (this.#staging.rows > 0) this.#waiting.push({ batch: this.#staging.take(), next });
    try {
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
        await this.#writeBatch(first.batch, first.next);
        this.#staging.release(first.batch);
        this.#waiting.shift();
      }
    } catch (error) {
      const why = duckdbText(error);
      throw new ConntrailError("STORE", `the archive ${this.#directory} cannot be written: ${why}`, { cause: error });
    }
  }

  /**
   * Publishes a file that compaction has written, and removes those that it replaces. The rename that publishes it takes them away;
   * after a kill before it they are still there, and after one behind it the next writer removes what is left of them.
   * @throws ConntrailError STORE when it cannot be published; the files that it replaces stay
   */
  async publishCompacted({ sources, temporary, place }: CompactTask, result: CompactResult): Promise<void> {
    const [first] = sources;
    if (first === undefined) return;
    const replaces = {
      from: Math.min(...sources.map(firstNumber)),
      until: Math.max(...sources.map(stateNumber)),
    };
    await this.#alone(async () => {
      await this.#setPrevious(temporary, place);
      const path = join(dayFolder(this.#directory, first.day), fileName(this.#number, replaces));
      await this.#publish(temporary, path);
      await this.#catalog(first.day, path, result);
      this.counters.compactedFiles++;
      for (const source of sources) {
        await removeFile(source);
        this.counters.replacedFiles++;
      }
    });
  }

  /**
   * Removes whole days that ended before a time, but not the newest day, which says how far the archive reaches. A day with numbers
   * that lie between those of days which stay is removed at the first call after a file was written that says so.
   */
  async removeBefore(beforeMs: number): Promise<void> {
    const days = await daysBefore(this.#directory, beforeMs);
    if (days.length === 0) return;
    const staying = (await listFiles(this.#directory)).filter(({ day }) => !days.includes(day));
    const least = staying.reduce((number, file) => Math.min(number, firstNumber(file)), Number.POSITIVE_INFINITY);
    this.#removed = this.#removed.filter(({ until }) => until > least);
    for (const day of days) {
      const runs = (await this.#runsOf(day)).filter(({ until }) => until > least);
      const unnamed = runs.filter(({ from }) => !covers(this.#removedOnDisk, from));
      this.#removed = joinRuns([...this.#removed, ...runs.filter(({ from }) => !covers(this.#removed, from))]);
      if (unnamed.length > 0) continue;
      await this.#alone(async () => {
        this.counters.filesRemoved += await removeDay(this.#directory, day);
        this.counters.daysRemoved++;
      });
    }
  }

  /** Closes the archive. Connections that were not flushed are discarded; the next writer reads them again. */
  async close(): Promise<void> {
    this.#database.close();
    await new Promise((resolve) => this.#lock.close(resolve));
  }

  async #writeBatch(batch: StagedBatch, next: ArchiveState): Promise<void> {
    for (const day of [...batch.days.keys()].sort((a, b) => a - b)) {
      const before = this.#state ?? { version: 1, places: {}, stamp: 0, from: 0, gaps: [] };
      const state = batch.days.size === 1 ? next : { ...before, stamp: next.stamp, gaps: [] };
      await this.#alone(() => this.#write(batch, day, state));
      this.#state = state;
      batch.days.delete(day);
    }
  }

  async #write(batch: StagedBatch, day: number, state: ArchiveState): Promise<void> {
    const folder = dayFolder(this.#directory, day);
    await mkdir(folder, { recursive: true, mode: 0o750 });
    const known = batch.late > 0 ? await this.#knownUids(day) : null;
    const temporary = join(folder, temporaryName(this.#number));
    const options = `FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE ${GROUP_ROWS}, KV_METADATA ${this.#metadata(state)}`;
    const select = this.#staging.select(batch, batch.days.get(day) === batch.rows ? null : day, known);
    const [row] = await this.#database.rows(`COPY (${select}) TO ${quoted(temporary)} (${options})`);
    const written = Number(row?.Count ?? 0);
    await this.#publish(temporary, join(folder, fileName(this.#number)));
    this.#removedOnDisk = this.#removed;
    this.counters.files++;
    this.counters.connections += written;
    this.counters.known += (batch.days.get(day) ?? 0) - written;
  }

  /** The metadata of the next file, as an option of COPY. */
  #metadata(state: ArchiveState): string {
    const keys: [string, string][] = [
      [STATE_KEY, JSON.stringify(state)],
      [PREVIOUS_KEY, formatLink(this.#link)],
    ];
    if (this.#removed.length > 0) keys.push([REMOVED_KEY, formatRuns(this.#removed)]);
    return `{${keys.map(([key, value]) => `${key}: ${quoted(value)}`).join(", ")}}`;
  }

  /** Seals a file that is complete, and gives it its name. It is the last one of the chain from then on. */
  async #publish(temporary: string, path: string): Promise<void> {
    const link = { number: this.#number, sha256: await hashFile(temporary) };
    await this.#seal(path, link.sha256);
    await publishFile(temporary, path, [dirname(path), this.#directory]);
    this.#link = link;
    this.#number++;
  }

  /** Writes the link to the last file in the place that was kept for it, in the metadata at the end of a file. */
  async #setPrevious(temporary: string, place: string): Promise<void> {
    assert(this.#link !== null, "a file that replaces others has one before it");
    const file = await open(temporary, "r+");
    try {
      const { size } = await file.stat();
      const tail = Buffer.alloc(8);
      await file.read(tail, 0, 8, size - 8);
      const metadata = Buffer.alloc(tail.readUInt32LE(0));
      const start = size - 8 - metadata.length;
      await file.read(metadata, 0, metadata.length, start);
      const at = metadata.indexOf(place, 0, "latin1");
      const link = Buffer.from(formatPaddedLink(this.#link), "latin1");
      assert(
        at >= 0 && link.length === place.length,
        "a compacted file has no place for the link to the file before it",
      );
      await file.write(link, 0, link.length, start + at);
    } finally {
      await file.close();
    }
  }

  /** Names a compacted file in the catalog of its day, and drops those that are gone. */
  async #catalog(day: number, path: string, result: CompactResult): Promise<void> {
    const { files } = await listDay(this.#directory, day);
    const names = new Set(files.map((file) => basename(file.path)));
    const kept = [...readCatalog(this.#directory, day).values()].filter(({ file }) => names.has(file));
    const { size } = await stat(path);
    const others = kept.filter(({ file }) => file !== basename(path));
    await writeCatalog(this.#directory, day, [...others, { file: basename(path), bytes: size, ...result }]);
  }

  /** Runs one thing that changes the files at a time. */
  #alone<T>(change: () => Promise<T>): Promise<T> {
    const done = this.#publishing.then(change);
    this.#publishing = done.catch(() => undefined);
    return done;
  }

  /** The runs of the chain in the files of a day. A file that cannot be read has none. */
  async #runsOf(day: number): Promise<ChainRun[]> {
    const runs: ChainRun[] = [];
    for (const { path, number } of (await listDay(this.#directory, day)).files) {
      const metadata = await readMetadata(this.#database, path).catch(() => null);
      if (metadata === null) continue;
      const { previous, replaced } = chainOf(metadata);
      runs.push({ from: number, until: number, previous, sha256: await hashFile(path) }, ...replaced);
    }
    return joinRuns(runs);
  }

  /** Before the file itself, so that one without a seal has lost it. A seal without a file is replaced with the next one. */
  async #seal(path: string, sha256: string): Promise<void> {
    if (this.#sealer === null) return;
    const sealed = seal({ file: basename(path), sha256, previous: formatLink(this.#link) }, this.#sealer);
    await writeFile(`${path}${SEAL_ENDING}.tmp`, `${JSON.stringify(sealed)}\n`, { mode: 0o640, flush: true });
    await rename(`${path}${SEAL_ENDING}.tmp`, `${path}${SEAL_ENDING}`);
  }

  /** A query for the uids of that day. Another node's clock may have put an end into the day before or after. */
  async #knownUids(day: number): Promise<string | null> {
    const files = await soundFiles(await listFiles(this.#directory, day - 1, day + 1), this.#onDamaged);
    if (files.length === 0) return null;
    return `SELECT uid FROM read_parquet([${files.map(({ path }) => quoted(path)).join(", ")}])`;
  }
}

function covers(runs: readonly ChainRun[], number: number): boolean {
  return runs.some(({ from, until }) => from <= number && number <= until);
}

async function removedRuns(database: Database, path: string): Promise<readonly ChainRun[]> {
  // A file that cannot be read is reported where its state is read.
  return readMetadata(database, path).then(
    (metadata) => chainOf(metadata).removed,
    () => [],
  );
}

/** Locks a directory by an abstract UNIX socket, which the kernel removes with its process. */
function lockDirectory(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = error.code === "EADDRINUSE";
      const text = taken ? `another process writes the archive ${path}` : `the archive ${path}: ${error.message}`;
      reject(new ConntrailError(taken ? "ALREADY_RUNNING" : "STORE", text, { cause: error }));
    });
    server.listen({ path: `\0conntrail-archive:${path}`.slice(0, 100) }, () => {
      server.unref();
      resolve(server);
    });
  });
}
