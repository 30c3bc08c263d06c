import { formatCidr, parseCidr } from "../../flow/address.js";
import { stampMs } from "../../flow/clock.js";
import type { FlowQuery } from "../../flow/filter.js";
import { protocolNumber } from "../../flow/protocol.js";
import { W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_REPLY_SRC, W_ZONE } from "../../flow/record.js";
import type { Connection, Gap, HistoryQuery, WhoQuestion } from "../connection.js";
import { compileRowFilter, compileWhoFilter, type RowFilter } from "../row-filter.js";
import { Database, duckdbText, quoted } from "./duckdb.js";
import { type ArchiveFile, dayOf, listDays, listFiles } from "./files.js";
import { ARCHIVE_LIMITS } from "./limits.js";
import { RESTORED_COLUMNS, restoreConnections } from "./restore.js";
import { type ArchiveState, type OnDamaged, readGaps, readState, soundFiles } from "./state.js";

/** What of the archive is read. */
interface ArchiveReading {
  readonly filter: RowFilter;
  /** What of the filter SQL can tell; more may come through. */
  readonly where: readonly string[];
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
  readonly accepts: (connection: Connection) => boolean;
}

/** A day whose end may be told later by a clock that is off. */
const DAYS_BESIDE = 1;

/** The connections that have ended and were archived: each once, in about the order in which they ended. */
export class Archive {
  readonly #directory: string;
  readonly #database: Database;
  readonly #onDamaged: OnDamaged;
  readonly #damaged = new Set<string>();

  private constructor(directory: string, database: Database, onDamaged: OnDamaged) {
    this.#directory = directory;
    this.#database = database;
    this.#onDamaged = (path, why) => {
      if (this.#damaged.has(path)) return;
      this.#damaged.add(path);
      onDamaged(path, why);
    };
  }

  /** @throws ConntrailError STORE where DuckDB is missing */
  static async open(directory: string, { onDamaged }: { onDamaged: OnDamaged }): Promise<Archive> {
    return new Archive(directory, await Database.open(ARCHIVE_LIMITS), onDamaged);
  }

  /** True where there is an archive with at least one day: reading it needs DuckDB. */
  static async exists(directory: string): Promise<boolean> {
    return (await listDays(directory)).length > 0;
  }

  /** How far it reaches; null: it holds nothing. */
  async state(): Promise<ArchiveState | null> {
    return readState(this.#database, await listFiles(this.#directory), this.#onDamaged);
  }

  /** Archived connections whose life overlaps the range. @throws ConntrailError USAGE where the filter cannot be read */
  connections(query: HistoryQuery): AsyncGenerator<readonly Connection[], void, undefined> {
    const { sinceMs, untilMs, nodes } = query;
    const accepts = ({ path }: Connection) => nodes === null || path.some(({ node }) => nodes.includes(node));
    const filter = compileRowFilter(query.filter);
    return this.#read({ filter, where: flowTests(query.filter), sinceMs, untilMs, accepts });
  }

  /** Archived connections behind a public address and port. @throws ConntrailError USAGE when the address is none */
  who(question: WhoQuestion): AsyncGenerator<readonly Connection[], void, undefined> {
    const { address, protocol, sinceMs, untilMs } = question;
    const where = [`${quoted(address)} IN (reply_dst, orig_dst)`];
    if (protocol !== null) where.push(`protocol_number = ${protocol}`);
    return this.#read({ filter: compileWhoFilter(question), where, sinceMs, untilMs, accepts: () => true });
  }

  /** Where events were missing when what overlaps the range was archived, and what retention has cut off. */
  async gaps(sinceMs: number | null, untilMs: number | null): Promise<Gap[]> {
    const files = await this.#files(sinceMs);
    const overlaps = ({ fromMs, untilMs: end }: Gap): boolean =>
      (untilMs === null || fromMs === null || fromMs <= untilMs) &&
      (sinceMs === null || end === null || end >= sinceMs);
    return (await readGaps(this.#database, files)).filter(overlaps);
  }

  /**
   * Those of these connections that the archive does not hold: none of that uid, and none of that original tuple and end. A node
   * that lost its stream tells of its connections anew, so their births, and uids, may differ.
   */
  async unknown(connections: readonly Connection[]): Promise<readonly Connection[]> {
    const ends = connections.flatMap(({ endMs }) => (endMs === null ? [] : [endMs]));
    if (ends.length === 0) return connections;
    const from = dayOf(ends.reduce((a, b) => Math.min(a, b))) - DAYS_BESIDE;
    const until = dayOf(ends.reduce((a, b) => Math.max(a, b))) + DAYS_BESIDE;
    const files = await soundFiles(await listFiles(this.#directory, from, until), this.#onDamaged);
    if (files.length === 0) return connections;
    const uids = connections.map(({ uid }) => quoted(uid)).join(", ");
    const times = [...new Set(ends)].map((ms) => Math.round(ms * 1000)).join(", ");
    const condition = `uid IN (${uids}) OR epoch_us(end_time) IN (${times})`;
    const known = new Set<string>();
    for (const file of files) {
      const sql = `SELECT ${RESTORED_COLUMNS} FROM ${parquet([file])} WHERE ${condition}`;
      for await (const batch of this.#rows(file, sql)) for (const each of batch) known.add(each.uid).add(endKey(each));
    }
    return connections.filter((each) => each.end === "open" || (!known.has(each.uid) && !known.has(endKey(each))));
  }

  close(): void {
    this.#database.close();
  }

  async *#read(reading: ArchiveReading): AsyncGenerator<readonly Connection[], void, undefined> {
    const { filter, accepts } = reading;
    const where = [...timeTests(reading), ...reading.where];
    const condition = where.length === 0 ? "" : ` WHERE ${where.join(" AND ")}`;
    for (const file of await this.#files(reading.sinceMs)) {
      const sql = `SELECT ${RESTORED_COLUMNS} FROM ${parquet([file])}${condition}`;
      for await (const batch of this.#rows(file, sql)) {
        const found = batch.filter((each) => filter.accepts(each.words, 0) && accepts(each));
        if (found.length > 0) yield found;
      }
    }
  }

  /** What a file that proves to be damaged has up to there, and a word about it. */
  async *#rows({ path }: ArchiveFile, sql: string): AsyncGenerator<readonly Connection[], void, undefined> {
    try {
      const result = await this.#database.connection.stream(sql);
      for (let chunk = await result.fetchChunk(); chunk !== null && chunk.rowCount > 0; ) {
        yield restoreConnections(chunk);
        chunk = await result.fetchChunk();
      }
    } catch (error) {
      this.#onDamaged(path, duckdbText(error));
    }
  }

  /** Files by the day of the end, so those before the range hold nothing of it. */
  async #files(sinceMs: number | null): Promise<ArchiveFile[]> {
    const fromDay = sinceMs === null ? undefined : dayOf(sinceMs);
    return soundFiles(await listFiles(this.#directory, fromDay), this.#onDamaged);
  }
}

/** A connection by original tuple, zone and end. */
function endKey({ words, endMs }: Connection): string {
  const tuple = [...words.subarray(W_ORIG_SRC, W_REPLY_SRC), words[W_ORIG_L4], words[W_PROTO], words[W_ZONE]! >>> 16];
  return `${tuple.join(" ")} ${Math.round((endMs ?? 0) * 1000)}`;
}

/** A few files as a table. */
function parquet(files: readonly ArchiveFile[]): string {
  return `read_parquet([${files.map(({ path }) => quoted(path)).join(", ")}], hive_partitioning = false)`;
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

/** What of a query can be asked of the columns. */
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

/** The time up to which a state says that all ends are archived. */
export function archivedUntilMs({ stamp }: ArchiveState): number {
  return stampMs(stamp);
}
