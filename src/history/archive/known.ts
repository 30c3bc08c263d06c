/** Finds out which connections an archive already holds. */
import type { DuckDBDataChunk } from "@duckdb/node-api";
import { W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_REPLY_SRC } from "../../flow/record.js";
import { zoneOrigOf } from "../../flow/record-fields.js";
import type { Connection } from "../connection.js";
import { HOLD_MS } from "../scan/held-ends.js";
import { type Database, duckdbText, quoted } from "./duckdb.js";
import { ANY_TIME, type EndRanges, type Range } from "./end-ranges.js";
import { dayOf } from "./files.js";
import type { HeldFile, HeldFiles } from "./held-files.js";
import { RESTORED_COLUMNS, restoreConnections } from "./restore.js";
import type { OnDamaged } from "./state.js";

/** A file, and the times between which its connections ended. */
interface KnownFile extends Range {
  readonly file: HeldFile;
}

/** How many days beside the day of an end are searched: another node's clock may be off. */
const DAYS_BESIDE = 1;

/** Finds the connections that the archive does not hold. It reads only the archived ones that ended at about the same time. */
export class KnownConnections {
  readonly #database: Database;
  readonly #files: HeldFiles;
  readonly #ranges: EndRanges;
  readonly #onDamaged: OnDamaged;

  constructor(options: { database: Database; files: HeldFiles; ranges: EndRanges; onDamaged: OnDamaged }) {
    this.#database = options.database;
    this.#files = options.files;
    this.#ranges = options.ranges;
    this.#onDamaged = options.onDamaged;
  }

  /**
   * The connections among these that the archive does not hold: it has none with the same uid, and none with the same original tuple
   * and end. (A node that lost its stream publishes its connections again, so their births and uids may differ.) It is cheapest to
   * ask for many connections at once that ended one after the other.
   */
  async without(connections: readonly Connection[]): Promise<readonly Connection[]> {
    const ended = connections.filter(({ endMs }) => endMs !== null);
    if (ended.length === 0) return connections;
    const { fromMs, untilMs } = rangeOf(ended);
    const files = await this.#within({ fromMs: fromMs - HOLD_MS, untilMs: untilMs + HOLD_MS });
    if (files.length === 0) return connections;
    const uids = await this.#uids(files, ended);
    const ends = await this.#ends(
      files,
      ended.filter(({ uid }) => !uids.has(uid)),
    );
    return connections.filter((each) => each.end === "open" || (!uids.has(each.uid) && !ends.has(endKey(each))));
  }

  /** The uids among theirs that archived connections have which ended at about the same time. */
  async #uids(files: readonly KnownFile[], ended: readonly Connection[]): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    const { fromMs, untilMs } = rangeOf(ended);
    const between = betweenTimes({ fromMs: fromMs - HOLD_MS, untilMs: untilMs + HOLD_MS });
    await this.#ask(ended.map(({ uid }) => uid));
    for (const { file } of files) {
      const chunks = this.#chunks(file, "uid", `${between} AND uid IN (SELECT * FROM asked)`);
      for await (const chunk of chunks) for (const uid of chunk.getColumnValues(0)) found.add(String(uid));
    }
    return found;
  }

  /** The keys of archived connections that ended when one of these did. */
  async #ends(files: readonly KnownFile[], ended: readonly Connection[]): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    if (ended.length === 0) return found;
    const range = rangeOf(ended);
    const within = files.filter((each) => overlap(each, range));
    if (within.length > 0) await this.#ask([...new Set(ended.map(endMicros))]);
    for (const { file } of within) {
      const condition = `${betweenTimes(range)} AND epoch_us(end_time) IN (SELECT * FROM asked)`;
      const chunks = this.#chunks(file, RESTORED_COLUMNS, condition);
      for await (const chunk of chunks) for (const each of restoreConnections(chunk)) found.add(endKey(each));
    }
    return found;
  }

  /** Makes a table of the values that are looked for, once for all files. */
  async #ask(values: readonly string[] | readonly number[]): Promise<void> {
    const { listValue } = this.#database.duckdb.api;
    await this.#database.run("CREATE OR REPLACE TEMP TABLE asked AS SELECT unnest($1)", [listValue(values)]);
  }

  /** Reads a file. One that proves to be damaged is reported, and its rows up to the damage are kept. */
  async *#chunks(
    { path, readPath }: HeldFile,
    columns: string,
    condition: string,
  ): AsyncGenerator<DuckDBDataChunk, void, undefined> {
    const sql = `SELECT ${columns} FROM read_parquet(${quoted(readPath)}, hive_partitioning = false) WHERE ${condition}`;
    try {
      yield* this.#database.chunks(sql);
    } catch (error) {
      this.#onDamaged(path, duckdbText(error));
    }
  }

  async #within(range: Range): Promise<KnownFile[]> {
    const { fromMs, untilMs } = range;
    const files = await this.#files.between(dayOf(fromMs) - DAYS_BESIDE, dayOf(untilMs) + DAYS_BESIDE);
    const ranges = await this.#ranges.of(files);
    return files.map((file, i) => ({ file, ...(ranges[i] ?? ANY_TIME) })).filter((each) => overlap(each, range));
  }
}

function rangeOf(ended: readonly Connection[]): Range {
  let [fromMs, untilMs] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { endMs } of ended) {
    if (endMs === null) continue;
    fromMs = Math.min(fromMs, endMs);
    untilMs = Math.max(untilMs, endMs);
  }
  return { fromMs, untilMs };
}

function overlap(a: Range, b: Range): boolean {
  return a.fromMs <= b.untilMs && b.fromMs <= a.untilMs;
}

function betweenTimes({ fromMs, untilMs }: Range): string {
  const timestamp = (ms: number): string => `make_timestamptz(${Math.round(ms * 1000)})`;
  return `end_time BETWEEN ${timestamp(fromMs)} AND ${timestamp(untilMs)}`;
}

function endMicros({ endMs }: Connection): number {
  return Math.round((endMs ?? 0) * 1000);
}

/** A key for a connection: original tuple, zone and end. */
function endKey(connection: Connection): string {
  const { words } = connection;
  const tuple = [...words.subarray(W_ORIG_SRC, W_REPLY_SRC), words[W_ORIG_L4], words[W_PROTO], zoneOrigOf(words, 0)];
  return `${tuple.join(" ")} ${endMicros(connection)}`;
}
