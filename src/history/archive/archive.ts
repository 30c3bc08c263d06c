/** Reads an archive. */
import { formatCidr, parseCidr } from "../../flow/address.js";
import { stampMs } from "../../flow/clock.js";
import type { FlowQuery } from "../../flow/filter.js";
import { protocolNumber } from "../../flow/protocol.js";
import type { ArchiveProgress, Connection, Gap, HistoryQuery, WhoQuestion } from "../connection.js";
import { wasCarriedBy } from "../scan/history.js";
import { touchesRange } from "../scan/node-state.js";
import { compileRowFilter, compileWhoFilter, type RowFilter } from "../scan/row-filter.js";
import { Database, duckdbText, quoted } from "./duckdb.js";
import { type ArchiveFile, dayOf, listDays, listFiles } from "./files.js";
import { KnownConnections } from "./known.js";
import { ARCHIVE_LIMITS } from "./limits.js";
import { RESTORED_COLUMNS, restoreConnections } from "./restore.js";
import { type ArchiveState, type OnDamaged, readGaps, readState, soundFiles } from "./state.js";

/** Which connections are read. */
interface ArchiveReading {
  readonly filter: RowFilter;
  /** Conditions of SQL that drop most rows which the filter would drop, and none that it accepts. */
  readonly where: readonly string[];
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  readonly accepts: (connection: Connection) => boolean;
  /** The files that were written last come first, each as one batch in its own order. */
  readonly latestFirst: boolean;
}

/** The connections that were archived, each once and about in the order of their ends. A damaged file is reported and left out. */
export class Archive {
  readonly #directory: string;
  readonly #database: Database;
  readonly #onDamaged: OnDamaged;
  readonly #damaged = new Set<string>();
  readonly #known: KnownConnections;
  #progress: ArchiveProgress = { files: 0, filesTotal: 0 };

  private constructor(directory: string, database: Database, onDamaged: OnDamaged) {
    this.#directory = directory;
    this.#database = database;
    this.#onDamaged = (path, why) => {
      if (this.#damaged.has(path)) return;
      this.#damaged.add(path);
      onDamaged(path, why);
    };
    this.#known = new KnownConnections({
      database,
      list: async (from, until) => soundFiles(await listFiles(directory, from, until), this.#onDamaged),
      onDamaged: this.#onDamaged,
    });
  }

  /** @throws ConntrailError STORE where DuckDB is missing */
  static async open(directory: string, { onDamaged }: { onDamaged: OnDamaged }): Promise<Archive> {
    return new Archive(directory, await Database.open(ARCHIVE_LIMITS), onDamaged);
  }

  /** True where there is an archive with at least one day. Does not need DuckDB. */
  static async exists(directory: string): Promise<boolean> {
    return (await listDays(directory)).length > 0;
  }

  /** How far the last call of `connections` or `who` has read. */
  get progress(): ArchiveProgress {
    return this.#progress;
  }

  /** How far the archive reaches; null where it is empty. */
  async state(): Promise<ArchiveState | null> {
    return readState(this.#database, await listFiles(this.#directory), this.#onDamaged);
  }

  /**
   * Archived connections that were alive within the range. `latestFirst`: the files that were written last come first, each as one
   * batch in its own order. @throws ConntrailError USAGE where the filter cannot be read
   */
  connections(query: HistoryQuery, latestFirst = false): AsyncGenerator<readonly Connection[], void, undefined> {
    const { sinceMs, untilMs, nodes } = query;
    const accepts = (connection: Connection) => wasCarriedBy(connection, nodes);
    const filter = compileRowFilter(query.filter);
    return this.#read({ filter, where: flowTests(query.filter), sinceMs, untilMs, accepts, latestFirst });
  }

  /** Archived connections behind a public address and port. @throws ConntrailError USAGE when the address is none */
  who(question: WhoQuestion): AsyncGenerator<readonly Connection[], void, undefined> {
    const { address, protocol, sinceMs, untilMs } = question;
    const where = [`${quoted(address)} IN (reply_dst, orig_dst)`];
    if (protocol !== null) where.push(`protocol_number = ${protocol}`);
    return this.#read({
      filter: compileWhoFilter(question),
      where,
      sinceMs,
      untilMs,
      accepts: () => true,
      latestFirst: false,
    });
  }

  /** Where events may be missing within the range, as the archiver found it. */
  async gaps(sinceMs: number | null, untilMs: number | null): Promise<Gap[]> {
    const gaps = await readGaps(this.#database, await this.#files(sinceMs));
    return gaps.filter((gap) => touchesRange(gap, sinceMs, untilMs));
  }

  /** The connections among these that the archive does not hold: KnownConnections.without. */
  unknown(connections: readonly Connection[]): Promise<readonly Connection[]> {
    return this.#known.without(connections);
  }

  /** Frees the database. */
  close(): void {
    this.#database.close();
  }

  async *#read(reading: ArchiveReading): AsyncGenerator<readonly Connection[], void, undefined> {
    const { filter, accepts, latestFirst } = reading;
    const where = [...timeTests(reading), ...reading.where];
    const condition = where.length === 0 ? "" : `WHERE ${where.join(" AND ")}`;
    const files = await this.#files(reading.sinceMs);
    for (const [i, file] of (latestFirst ? files.reverse() : files).entries()) {
      this.#progress = { files: i, filesTotal: files.length };
      const whole: Connection[] = [];
      for await (const batch of this.#rows(file, condition)) {
        const found = batch.filter((each) => filter.accepts(each.words, 0) && accepts(each));
        if (latestFirst) for (const each of found) whole.push(each);
        else if (found.length > 0) yield found;
      }
      if (whole.length > 0) yield whole;
    }
    this.#progress = { files: files.length, filesTotal: files.length };
  }

  /** Reads a file. One that proves to be damaged is reported, and its rows up to the damage are kept. */
  async *#rows({ path }: ArchiveFile, condition: string): AsyncGenerator<readonly Connection[], void, undefined> {
    const sql = `SELECT ${RESTORED_COLUMNS} FROM read_parquet(${quoted(path)}, hive_partitioning = false) ${condition}`;
    try {
      for await (const chunk of this.#database.chunks(sql)) yield restoreConnections(chunk);
    } catch (error) {
      this.#onDamaged(path, duckdbText(error));
    }
  }

  /** The files of the range. Files are sorted by the day of the end, so those of earlier days hold nothing of it. */
  async #files(sinceMs: number | null): Promise<ArchiveFile[]> {
    const fromDay = sinceMs === null ? undefined : dayOf(sinceMs);
    return soundFiles(await listFiles(this.#directory, fromDay), this.#onDamaged);
  }
}

function timeTests({ sinceMs, untilMs }: ArchiveReading): string[] {
  const tests: string[] = [];
  if (sinceMs !== null) tests.push(`end_time >= make_timestamptz(${Math.floor(sinceMs * 1000)})`);
  // A range ends with its last millisecond.
  if (untilMs !== null) {
    const end = `make_timestamptz(${Math.floor((untilMs + 1) * 1000)})`;
    tests.push(`(start_time IS NULL OR start_time < ${end})`);
  }
  return tests;
}

/** The conditions of a query that SQL can ask of the columns. */
function flowTests({ host, src, dst, port, proto, nat }: FlowQuery): string[] {
  const tests: string[] = [];
  const one = (text: string | undefined): string | null => {
    const cidr = text === undefined ? undefined : parseCidr(text);
    const address = cidr === undefined ? "/" : formatCidr(cidr);
    return address.includes("/") ? null : quoted(address);
  };
  const [source, destination, any] = [one(src), one(dst), one(host)];
  if (source !== null) tests.push(`orig_src = ${source}`);
  if (destination !== null) tests.push(`orig_dst = ${destination}`);
  if (any !== null) tests.push(`${any} IN (orig_src, orig_dst, reply_src, reply_dst)`);
  if (port !== undefined) tests.push(`${Number(port)} IN (orig_sport, orig_dport, reply_sport, reply_dport)`);
  const protocol = proto === undefined ? undefined : protocolNumber(proto);
  if (protocol !== undefined) tests.push(`protocol_number = ${protocol}`);
  if (nat !== undefined) tests.push(nat ? "(snat OR dnat)" : "NOT (snat OR dnat)");
  return tests;
}

/** All ends up to this time are archived, milliseconds since the Unix epoch. */
export function archivedUntilMs({ stamp }: ArchiveState): number {
  return stampMs(stamp);
}
