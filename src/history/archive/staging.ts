import type { DuckDBDataChunk } from "@duckdb/node-api";
import { formatAddress } from "../../flow/address.js";
import { flowFromRecord } from "../../flow/flow.js";
import { hasPorts, IPPROTO_GRE, isIcmp, protocolStates, protocolText } from "../../flow/protocol.js";
import {
  AF_INET,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  type RareAttributes,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_ZONE,
} from "../../flow/record.js";
import { communityId } from "../community-id.js";
import type { Connection } from "../connection.js";
import {
  ARCHIVE_COLUMNS,
  STAGED_DNAT,
  STAGED_LATE,
  STAGED_LOST,
  STAGED_MAY_MISS,
  STAGED_OPEN,
  STAGED_SNAT,
  STAGED_TEXTS,
  STAGED_TIMED,
  StagedNumbers,
} from "./columns.js";
import { type Database, type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";

/** duckdb_string_t: the length, and up to so many bytes in place. A longer one is DuckDB's to keep. */
const STRING_BYTES = 16;
const INLINE_BYTES = 12;
const TABLE = "staged";
const DAY_MS = 86_400_000;
const ADDRESS_CACHE = 8192;
const NO_TEXT = "";
const EMPTY_TEXTS = new ArrayBuffer(VECTOR_ROWS * STRING_BYTES);
/** Pages kept for the next connections, so that filling them costs no allocation. */
const SPARE_PAGES = 64;

/** Connections that were taken in together. */
export interface StagedBatch {
  readonly pages: readonly Page[];
  readonly rows: number;
  /** Days since 1970 on which they ended, and how many did on each. */
  readonly days: Map<number, number>;
  /** How many may be in the archive already. */
  readonly late: number;
}

/**
 * Connections on their way into a file: pages of plain numbers and short texts, filled here and copied to DuckDB a column at a
 * time when its query asks for them; SQL makes the columns. Handing over value by value would cost more than all the rest.
 */
export class Staging {
  readonly #addresses = new AddressTexts();
  readonly #spare: Page[] = [];
  #pages: Page[] = [];
  #days = new Map<number, number>();
  #rows = 0;
  #late = 0;
  #page: Page | null = null;
  /** What the table function gives. */
  #offered: readonly Page[] = [];

  private constructor() {}

  /** Staging for a database that has none yet. */
  static create({ duckdb, connection }: Database): Staging {
    const { DuckDBTableFunction, VARCHAR, DOUBLE, INTEGER } = duckdb.api;
    const staging = new Staging();
    connection.registerTableFunction(
      DuckDBTableFunction.create({
        name: TABLE,
        bindFunction: (info) => {
          for (const name of TEXT_COLUMNS) info.addResultColumn(name, VARCHAR);
          for (const [name, double] of NUMBER_COLUMNS) info.addResultColumn(name, double ? DOUBLE : INTEGER);
        },
        initFunction: (info) => info.setInitData({ next: 0 }),
        mainFunction: (info, output) => {
          const scan = info.initData as { next: number };
          const page = staging.#offered[scan.next++];
          if (page === undefined) output.rowCount = 0;
          else page.copyTo(output, duckdb);
        },
      }),
    );
    return staging;
  }

  /** Rows in it. */
  get rows(): number {
    return this.#rows;
  }

  /** Takes a connection in. `late`: it may be in the archive already. */
  add(connection: Connection, late: boolean): void {
    let page = this.#page;
    if (page === null || page.rows === VECTOR_ROWS) {
      page = this.#spare.pop() ?? new Page();
      this.#page = page;
      this.#pages.push(page);
    }
    const day = connection.endMs === null ? -1 : Math.floor(connection.endMs / DAY_MS);
    this.#days.set(day, (this.#days.get(day) ?? 0) + 1);
    this.#rows++;
    if (late) this.#late++;
    page.add(connection, day, late, this.#addresses);
  }

  /** Takes out all that is in it. */
  take(): StagedBatch {
    const batch = { pages: this.#pages, rows: this.#rows, days: this.#days, late: this.#late };
    this.#pages = [];
    this.#page = null;
    this.#days = new Map();
    this.#rows = 0;
    this.#late = 0;
    return batch;
  }

  /**
   * The columns of the files as a SELECT over a batch; with `day` those of one, with `known` without late ones whose uid that
   * query gives. One at a time.
   */
  select({ pages }: StagedBatch, day: number | null, known: string | null): string {
    this.#offered = pages;
    const columns = ARCHIVE_COLUMNS.map(({ name, from }) => `${from} AS ${name}`).join(", ");
    const tests = [
      ...(day === null ? [] : [`day = ${day}`]),
      ...(known === null ? [] : [`((flags & ${STAGED_LATE}) = 0 OR uid_0 || uid_1 NOT IN (${known}))`]),
    ];
    return `SELECT ${columns} FROM ${TABLE}()${tests.length === 0 ? "" : ` WHERE ${tests.join(" AND ")}`}`;
  }

  /** Gives a batch back that is not needed any more. */
  release({ pages }: StagedBatch): void {
    this.#offered = [];
    for (const page of pages) {
      if (this.#spare.length >= SPARE_PAGES) return;
      page.rows = 0;
      this.#spare.push(page);
    }
  }
}

/** Names of the numbers, and whether they are doubles. */
const NUMBER_COLUMNS: readonly (readonly [name: string, double: boolean])[] = Object.entries(new StagedNumbers()).map(
  ([name, values]) => [name, values instanceof Float64Array],
);
const TEXT_COLUMNS: readonly string[] = Object.entries(STAGED_TEXTS).flatMap(([name, { pieces, long }]) => [
  ...Array.from({ length: pieces }, (_, i) => `${name}_${i}`),
  ...(long ? [`${name}_long`] : []),
]);

/** As many rows as a vector of DuckDB has, by column. */
class Page {
  rows = 0;
  readonly #texts: { readonly [name: string]: TextColumn };
  readonly #numbers = new StagedNumbers();
  /** In the order of the columns; null: a column of longer texts. */
  readonly #columns: { readonly bytes: Uint8Array | null; readonly long: TextColumn["long"] }[] = [];

  constructor() {
    const texts: Record<string, TextColumn> = {};
    for (const [name, { pieces, long }] of Object.entries(STAGED_TEXTS)) {
      const inPlace = Array.from({ length: pieces }, () => new Uint8Array(VECTOR_ROWS * STRING_BYTES));
      const column = new TextColumn(inPlace, long);
      texts[name] = column;
      for (const bytes of inPlace) this.#columns.push({ bytes, long: [] });
      if (long) this.#columns.push({ bytes: null, long: column.long });
    }
    for (const values of Object.values(this.#numbers) as (Float64Array | Int32Array)[]) {
      this.#columns.push({ bytes: new Uint8Array(values.buffer), long: [] });
    }
    this.#texts = texts;
  }

  add(connection: Connection, day: number, late: boolean, addresses: AddressTexts): void {
    const row = this.rows++;
    if (row === 0) for (const { long } of this.#columns) long.length = 0;
    const { words, rare, path, counters, startMs, endMs } = connection;
    const n = this.#numbers;
    n.day[row] = day;
    n.start_us[row] = startMs === null ? -1 : micros(startMs);
    n.end_us[row] = endMs === null ? -1 : micros(endMs);
    n.orig_packets[row] = counters === null ? -1 : counters.origPackets;
    n.orig_bytes[row] = counters === null ? -1 : counters.origBytes;
    n.reply_packets[row] = counters === null ? -1 : counters.replyPackets;
    n.reply_bytes[row] = counters === null ? -1 : counters.replyBytes;
    n.flags[row] = flagsOf(connection, late);
    const texts = this.#texts;
    texts.uid!.set(row, connection.uid);
    texts.community!.set(row, communityId(words, 0));
    texts.attributes!.set(row, rare === null ? NO_TEXT : packAttributes(words, rare));
    n.since[row] = micros(path[0]?.sinceMs ?? 0);
    texts.node!.set(row, path[0]?.node ?? NO_TEXT);
    texts.path!.set(row, path.length === 1 ? NO_TEXT : path.map(stepText).join(","));
    this.#addRecord(row, words, addresses);
  }

  /** Copies its rows to a chunk of DuckDB. */
  copyTo(output: DuckDBDataChunk, { bindings }: DuckdbPackage): void {
    output.rowCount = this.rows;
    for (const [i, { bytes, long }] of this.#columns.entries()) {
      const vector = bindings.data_chunk_get_vector(output.chunk, i);
      const width = bytes === null ? STRING_BYTES : bytes.length / VECTOR_ROWS;
      const source = bytes === null ? EMPTY_TEXTS : (bytes.buffer as ArrayBuffer);
      bindings.copy_data_to_vector(vector, 0, source, 0, width * this.rows);
      for (const { row, text } of long) bindings.vector_assign_string_element(vector, row, text);
    }
  }

  #addRecord(row: number, words: Uint32Array, addresses: AddressTexts): void {
    const n = this.#numbers;
    const texts = this.#texts;
    const protocol = words[W_PROTO]! & 0xff;
    const family = words[W_PROTO]! >>> 8;
    const has = words[W_HAS]!;
    const reply = (has & HAS_REPLY) !== 0;
    const info = (has & HAS_PROTOINFO) !== 0;
    const address = (at: number): string => addresses.text(words, at, family);
    n.family[row] = family;
    n.protocol_number[row] = protocol;
    n.status[row] = has & HAS_STATUS ? words[W_STATUS]! : -1;
    n.mark[row] = has & HAS_MARK ? words[W_MARK]! : -1;
    n.zone_orig[row] = words[W_ZONE]! >>> 16;
    n.zone_reply[row] = words[W_ZONE]! & 0xffff;
    n.info_a[row] = info ? words[W_PROTOINFO]! : -1;
    n.info_b[row] = info ? words[W_PROTOINFO_B]! : -1;
    n.info_c[row] = info ? words[W_PROTOINFO_C]! : -1;
    texts.protocol!.set(row, protocolText(protocol));
    texts.state!.set(row, info ? (protocolStates(protocol)?.[words[W_PROTOINFO]! & 0xff] ?? NO_TEXT) : NO_TEXT);
    texts.orig_src!.set(row, address(W_ORIG_SRC));
    texts.orig_dst!.set(row, address(W_ORIG_DST));
    texts.reply_src!.set(row, reply ? address(W_REPLY_SRC) : NO_TEXT);
    texts.reply_dst!.set(row, reply ? address(W_REPLY_DST) : NO_TEXT);
    const orig = words[W_ORIG_L4]!;
    const answer = words[W_REPLY_L4]!;
    const ports = hasPorts(protocol);
    const icmp = isIcmp(protocol);
    const gre = protocol === IPPROTO_GRE;
    n.orig_sport[row] = ports ? orig >>> 16 : -1;
    n.orig_dport[row] = ports ? orig & 0xffff : -1;
    n.reply_sport[row] = ports && reply ? answer >>> 16 : -1;
    n.reply_dport[row] = ports && reply ? answer & 0xffff : -1;
    n.icmp_type[row] = icmp ? (orig >>> 8) & 0xff : -1;
    n.icmp_code[row] = icmp ? orig & 0xff : -1;
    n.icmp_id[row] = icmp ? orig >>> 16 : -1;
    n.reply_icmp_type[row] = icmp && reply ? (answer >>> 8) & 0xff : -1;
    n.reply_icmp_code[row] = icmp && reply ? answer & 0xff : -1;
    n.reply_icmp_id[row] = icmp && reply ? answer >>> 16 : -1;
    n.orig_src_key[row] = gre ? orig >>> 16 : -1;
    n.orig_dst_key[row] = gre ? orig & 0xffff : -1;
    n.reply_src_key[row] = gre && reply ? answer >>> 16 : -1;
    n.reply_dst_key[row] = gre && reply ? answer & 0xffff : -1;
  }
}

/** A text in pieces of 12 bytes, so that each lies in its place; one that is longer, or not ASCII, in a column of its own. */
class TextColumn {
  readonly #bytes: readonly Uint8Array[];
  readonly #words: readonly Uint32Array[];
  /** Those that are longer. */
  readonly long: { readonly row: number; readonly text: string }[] = [];

  readonly #mayBeLong: boolean;

  constructor(bytes: readonly Uint8Array[], mayBeLong: boolean) {
    this.#bytes = bytes;
    this.#words = bytes.map((piece) => new Uint32Array(piece.buffer));
    this.#mayBeLong = mayBeLong;
  }

  set(row: number, text: string): void {
    const pieces = this.#bytes.length;
    const isLong = text.length > pieces * INLINE_BYTES;
    if (isLong && !this.#mayBeLong) throw new RangeError(`"${text}" is longer than its column`);
    if (isLong) this.long.push({ row, text });
    for (let piece = 0; piece < pieces; piece++) {
      const from = piece * INLINE_BYTES;
      const length = isLong ? 0 : Math.max(0, Math.min(INLINE_BYTES, text.length - from));
      const words = this.#words[piece]!;
      const bytes = this.#bytes[piece]!;
      const word = row * (STRING_BYTES / 4);
      words[word] = length;
      // DuckDB compares the places beyond the end, too.
      words[word + 1] = 0;
      words[word + 2] = 0;
      words[word + 3] = 0;
      const at = word * 4 + 4;
      for (let i = 0; i < length; i++) bytes[at + i] = text.charCodeAt(from + i);
    }
  }
}

/** Addresses as text; those of IPv4 that come again are not formatted again. */
class AddressTexts {
  readonly #words = new Uint32Array(ADDRESS_CACHE);
  readonly #texts = new Array<string>(ADDRESS_CACHE).fill("0.0.0.0");

  text(words: Uint32Array, at: number, family: number): string {
    if (family !== AF_INET) return formatAddress(words, at, family);
    const word = words[at]!;
    const place = (Math.imul(word, 0x9e3779b1) >>> 19) & (ADDRESS_CACHE - 1);
    if (this.#words[place] !== word) {
      this.#words[place] = word;
      this.#texts[place] = formatAddress(words, at, family);
    }
    return this.#texts[place]!;
  }
}

function micros(ms: number): number {
  return Math.round(ms * 1000);
}

function stepText({ node, sinceMs }: { readonly node: string; readonly sinceMs: number }): string {
  return `${node}@${micros(sinceMs)}`;
}

function flagsOf({ timedByKernel, mayMiss, end, words }: Connection, late: boolean): number {
  const has = (words[W_HAS]! & HAS_REPLY) !== 0;
  const status = has ? translated(words) : 0;
  return (
    (timedByKernel ? STAGED_TIMED : 0) |
    (mayMiss ? STAGED_MAY_MISS : 0) |
    (end === "lost" ? STAGED_LOST : 0) |
    (end === "open" ? STAGED_OPEN : 0) |
    (late ? STAGED_LATE : 0) |
    status
  );
}

/** Where the reply goes to is what became of the source, where it comes from what became of the destination. */
function translated(words: Uint32Array): number {
  const protocol = words[W_PROTO]! & 0xff;
  const orig = words[W_ORIG_L4]!;
  const reply = words[W_REPLY_L4]!;
  const keyed = hasPorts(protocol) || protocol === IPPROTO_GRE;
  let source = isIcmp(protocol) ? orig >>> 16 !== reply >>> 16 : keyed && orig >>> 16 !== (reply & 0xffff);
  let destination = keyed && (orig & 0xffff) !== reply >>> 16;
  for (let i = 0; i < 4; i++) {
    source ||= words[W_REPLY_DST + i] !== words[W_ORIG_SRC + i];
    destination ||= words[W_REPLY_SRC + i] !== words[W_ORIG_DST + i];
  }
  return (source ? STAGED_SNAT : 0) | (destination ? STAGED_DNAT : 0);
}

/** What few flows have, as the JSON of a flow has it (src/flow/flow.ts). */
function packAttributes(words: Uint32Array, rare: RareAttributes): string {
  const { labels, helper, secctx, master, seqadj, synproxy } = flowFromRecord(words, 0, rare);
  const text = JSON.stringify({ labels, helper, secctx, master, seqadj, synproxy });
  return text === "{}" ? NO_TEXT : text;
}
