/** Reads an archive. */
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stampMs } from "../../flow/clock.js";
import type { ArchiveProgress, Connection, Gap, HistoryQuery, WhoQuestion } from "../connection.js";
import { wasCarriedBy } from "../scan/history.js";
import { touchesRange } from "../scan/node-state.js";
import { compileRowFilter, compileWhoFilter } from "../scan/row-filter.js";
import { type CatalogQuestion, mayAnswer } from "./catalog.js";
import { type Conditions, connectionConditions, whoConditions } from "./conditions.js";
import { Database, duckdbText, quoted } from "./duckdb.js";
import { EndRanges, type Range } from "./end-ranges.js";
import { dayOf, listDays, listFiles } from "./files.js";
import { type HeldFile, HeldFiles } from "./held-files.js";
import { KnownConnections } from "./known.js";
import { READ_LIMITS } from "./limits.js";
import { RESTORED_COLUMNS, restoreConnections } from "./restore.js";
import { type ArchiveState, type OnDamaged, readGaps, readState } from "./state.js";

/** Which connections are read. */
interface Reading {
  readonly conditions: Conditions;
  /** Which files may have some. */
  readonly question: CatalogQuestion;
  readonly accepts: (connection: Connection) => boolean;
}

/** Files that are read by one query, and between which times their connections ended. */
interface FileGroup extends Range {
  readonly files: readonly HeldFile[];
}

/** How rows come: by their ends, unless a file is damaged. */
interface Rows {
  readonly order: "ASC" | "DESC";
  /** The first so many; null: all. */
  readonly limit: number | null;
  /** Set to false when they come in no order. */
  sorted: boolean;
}

/** So many files are read by one query where few of their rows are wanted. */
const GROUP_FILES = 32;
/** Connections that wait because a file that is read next may have earlier ends; if there are more, they come out of order. */
const WAITING_MAX = 65_536;
/** So many more rows than are wanted are read, in case a filter of ours refuses some that DuckDB has chosen. */
const SPARE_ROWS = 1024;
/** How often the newest state is looked for again because compaction has removed its file. */
const ATTEMPTS_MAX = 5;

/** The connections that were archived, each once and in the order of their ends. A damaged file is reported and left out. */
export class Archive {
  readonly #directory: string;
  readonly #database: Database;
  readonly #temporary: string;
  readonly #onDamaged: OnDamaged;
  readonly #damaged = new Set<string>();
  readonly #files: HeldFiles;
  readonly #ranges: EndRanges;
  readonly #known: KnownConnections;
  #progress: ArchiveProgress = { files: 0, filesTotal: 0 };

  private constructor(directory: string, database: Database, temporary: string, onDamaged: OnDamaged) {
    this.#directory = directory;
    this.#database = database;
    this.#temporary = temporary;
    this.#onDamaged = (path, why) => {
      if (this.#damaged.has(path)) return;
      this.#damaged.add(path);
      onDamaged(path, why);
    };
    this.#files = new HeldFiles(directory, this.#onDamaged);
    this.#ranges = new EndRanges(database);
    this.#known = new KnownConnections({
      database,
      files: this.#files,
      ranges: this.#ranges,
      onDamaged: this.#onDamaged,
    });
  }

  /** @throws ConntrailError STORE where DuckDB is missing */
  static async open(directory: string, { onDamaged }: { onDamaged: OnDamaged }): Promise<Archive> {
    const temporary = await mkdtemp(join(tmpdir(), "conntrail-history-"));
    try {
      return new Archive(directory, await Database.open({ ...READ_LIMITS, temporary }), temporary, onDamaged);
    } catch (error) {
      rmSync(temporary, { recursive: true, force: true });
      throw error;
    }
  }

  /** True where there is an archive with at least one day. Does not need DuckDB. */
  static async exists(directory: string): Promise<boolean> {
    return (await listDays(directory)).length > 0;
  }

  /** How far the last call of `connections`, `newest` or `who` has read. */
  get progress(): ArchiveProgress {
    return this.#progress;
  }

  /** How far the archive reaches; null where it is empty. */
  async state(): Promise<ArchiveState | null> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await readState(this.#database, await listFiles(this.#directory), this.#onDamaged);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOENT" || attempt === ATTEMPTS_MAX) throw error;
      }
    }
  }

  /** Archived connections that were alive within the range. @throws ConntrailError USAGE where the filter cannot be read */
  connections(query: HistoryQuery): AsyncGenerator<readonly Connection[], void, undefined> {
    return this.#read(readingOf(query));
  }

  /**
   * The last `limit` of them that `accepts`, in the order of their ends. Files are read from the newest on, as far as that needs.
   * @throws ConntrailError USAGE where the filter cannot be read
   */
  newest(
    query: HistoryQuery,
    limit: number,
    accepts: (connection: Connection) => boolean,
  ): Promise<readonly Connection[]> {
    const reading = readingOf(query);
    const both = (connection: Connection): boolean => reading.accepts(connection) && accepts(connection);
    return this.#newest({ ...reading, accepts: both }, limit);
  }

  /** Archived connections behind a public address and port. @throws ConntrailError USAGE when the address is none */
  who(question: WhoQuestion): AsyncGenerator<readonly Connection[], void, undefined> {
    const { address, port, sinceMs, untilMs } = question;
    const filter = compileWhoFilter(question);
    return this.#read({
      conditions: whoConditions(question),
      question: { sinceMs, untilMs, publicEnd: { address, port } },
      accepts: ({ words }) => filter.accepts(words, 0),
    });
  }

  /** Where events may be missing within the range, as the archiver found it. */
  async gaps(sinceMs: number | null, untilMs: number | null): Promise<Gap[]> {
    const files = await this.#since(sinceMs);
    const gaps = new Map<string, Gap>();
    const others = files.filter(({ entry }) => entry === null).map(({ readPath }) => readPath);
    const read = await readGaps(this.#database, others);
    for (const gap of [...files.flatMap(({ entry }) => entry?.gaps ?? []), ...read]) gaps.set(JSON.stringify(gap), gap);
    return [...gaps.values()].filter((gap) => touchesRange(gap, sinceMs, untilMs));
  }

  /** The connections among these that the archive does not hold: KnownConnections.without. */
  unknown(connections: readonly Connection[]): Promise<readonly Connection[]> {
    return this.#known.without(connections);
  }

  /** Frees the database, and lets go of the files. */
  close(): void {
    this.#database.close();
    this.#files.close();
    rmSync(this.#temporary, { recursive: true, force: true });
  }

  /** Reads group after group. What ended after the first end of the next group waits for it. */
  async *#read(reading: Reading): AsyncGenerator<readonly Connection[], void, undefined> {
    const groups = await this.#groups(reading, (a, b) => a.fromMs - b.fromMs);
    let waiting: Connection[] = [];
    for (const [i, group] of groups.entries()) {
      this.#progress = { files: i, filesTotal: groups.length };
      const beforeMs = groups[i + 1]?.fromMs ?? Number.POSITIVE_INFINITY;
      const rows: Rows = { order: "ASC", limit: null, sorted: true };
      for await (const batch of this.#rows(group.files, reading.conditions, rows)) {
        const lastMs = batch.at(-1)?.endMs ?? 0;
        for (const each of batch) if (reading.accepts(each)) waiting.push(each);
        const whole = waiting.length > WAITING_MAX;
        const ready = whole ? waiting.length : sortByEnd(waiting, Math.min(lastMs, beforeMs));
        if (ready > 0) yield waiting.splice(0, ready);
      }
      const ready = sortByEnd(waiting, beforeMs);
      if (ready > 0) yield waiting.splice(0, ready);
    }
    waiting = [];
    this.#progress = { files: groups.length, filesTotal: groups.length };
  }

  async #newest(reading: Reading, limit: number): Promise<readonly Connection[]> {
    const groups = await this.#groups(reading, (a, b) => b.untilMs - a.untilMs);
    let found: Connection[] = [];
    for (const [i, { files, untilMs }] of groups.entries()) {
      this.#progress = { files: i, filesTotal: groups.length };
      const oldest = found[0]?.endMs ?? Number.NEGATIVE_INFINITY;
      if (found.length === limit && untilMs < oldest) break;
      found.push(...(await this.#newestOf(files, reading, limit)));
      sortByEnd(found, Number.POSITIVE_INFINITY);
      found = found.slice(Math.max(0, found.length - limit));
    }
    this.#progress = { files: groups.length, filesTotal: groups.length };
    return found;
  }

  async #newestOf(files: readonly HeldFile[], reading: Reading, limit: number): Promise<Connection[]> {
    const { conditions, accepts } = reading;
    for (const cap of conditions.exact ? [limit + SPARE_ROWS, null] : [null]) {
      const rows: Rows = { order: "DESC", limit: cap, sorted: true };
      let found: Connection[] = [];
      let read = 0;
      for await (const batch of this.#rows(files, conditions, rows)) {
        read += batch.length;
        for (const each of batch) if (accepts(each)) found.push(each);
        if (rows.sorted && found.length >= limit) return found.slice(0, limit);
        if (found.length < 2 * limit + SPARE_ROWS) continue;
        sortByEnd(found, Number.POSITIVE_INFINITY);
        found = found.slice(-limit);
      }
      if (cap === null || read < cap) return found;
    }
    return [];
  }

  /** The files that may have an answer, as groups in an order. */
  async #groups({ question, conditions }: Reading, order: (a: Range, b: Range) => number): Promise<FileGroup[]> {
    const files = (await this.#since(question.sinceMs)).filter(
      ({ entry }) => entry === null || mayAnswer(entry, question),
    );
    const ranges = await this.#ranges.of(files);
    const single = files
      .map(
        (file, i): FileGroup => ({ files: [file], fromMs: ranges[i]?.fromMs ?? 0, untilMs: ranges[i]?.untilMs ?? 0 }),
      )
      .sort(order);
    if (!conditions.selective) return single;
    const groups: FileGroup[] = [];
    for (let at = 0; at < single.length; at += GROUP_FILES) {
      const members = single.slice(at, at + GROUP_FILES);
      groups.push({
        files: members.flatMap((group) => group.files),
        fromMs: Math.min(...members.map(({ fromMs }) => fromMs)),
        untilMs: Math.max(...members.map(({ untilMs }) => untilMs)),
      });
    }
    return groups;
  }

  /** The rows of some files. If one cannot be read, each is read by itself; of one that proves to be damaged, up to the damage. */
  async *#rows(
    files: readonly HeldFile[],
    conditions: Conditions,
    rows: Rows,
  ): AsyncGenerator<readonly Connection[], void, undefined> {
    let begun = false;
    try {
      const sql = `${selectSql(files, conditions)} ORDER BY end_time ${rows.order}, uid ${rows.order}${rows.limit === null ? "" : ` LIMIT ${rows.limit}`}`;
      for await (const chunk of this.#database.chunks(sql)) {
        begun = true;
        yield restoreConnections(chunk);
      }
      return;
    } catch (error) {
      // Rows that are sorted come when all are read.
      if (begun) throw error;
    }
    rows.sorted = false;
    for (const file of files) {
      try {
        for await (const chunk of this.#database.chunks(selectSql([file], conditions))) yield restoreConnections(chunk);
      } catch (error) {
        this.#onDamaged(file.path, duckdbText(error).replaceAll(file.readPath, file.path));
      }
    }
  }

  /** The files of the range. Files are sorted by the day of the end, so those of earlier days hold nothing of it. */
  #since(sinceMs: number | null): Promise<readonly HeldFile[]> {
    return this.#files.between(sinceMs === null ? undefined : dayOf(sinceMs));
  }
}

function readingOf(query: HistoryQuery): Reading {
  const { sinceMs, untilMs, nodes } = query;
  const filter = compileRowFilter(query.filter);
  return {
    conditions: connectionConditions(query),
    question: { sinceMs, untilMs, publicEnd: null },
    accepts: (connection) => filter.accepts(connection.words, 0) && wasCarriedBy(connection, nodes),
  };
}

function selectSql(files: readonly HeldFile[], { tests, parts }: Conditions): string {
  const list = files.map(({ readPath }) => quoted(readPath)).join(", ");
  const from = `read_parquet([${list}], hive_partitioning = false, union_by_name = true)`;
  const where = (conditions: readonly string[]): string =>
    conditions.length === 0 ? "" : ` WHERE ${conditions.join(" AND ")}`;
  if (parts.length === 0) return `SELECT ${RESTORED_COLUMNS} FROM ${from}${where(tests)}`;
  const wanted = parts.filter(
    ({ translated }) =>
      translated === null || files.some(({ entry }) => entry?.translated?.includes(translated) !== false),
  );
  const all = wanted.map(({ test }) => `SELECT * FROM ${from}${where([...tests, `(${test})`])}`);
  return `SELECT ${RESTORED_COLUMNS} FROM (${all.join(" UNION ALL ")})`;
}

/** Sorts connections that have ended, and says how many of them ended before a time. */
function sortByEnd(connections: Connection[], beforeMs: number): number {
  connections.sort((a, b) => (a.endMs ?? 0) - (b.endMs ?? 0) || (a.uid < b.uid ? -1 : Number(a.uid > b.uid)));
  let count = connections.length;
  while (count > 0 && (connections[count - 1]?.endMs ?? 0) >= beforeMs) count--;
  return count;
}

/** All ends up to this time are archived, milliseconds since the Unix epoch. */
export function archivedUntilMs({ stamp }: ArchiveState): number {
  return stampMs(stamp);
}
