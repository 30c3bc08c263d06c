/**
 * The columns of a page of staged connections, as vectors of DuckDB. They are made one column at a time while DuckDB works on earlier
 * pages, and copied as a whole when its query asks for the page: handing over each value by itself would cost more than all the rest.
 */
import type { DuckDBDataChunk, DuckDBType } from "@duckdb/node-api";
import { formatAddress } from "../../flow/address.js";
import { protocolText } from "../../flow/protocol.js";
import {
  AF_INET,
  RECORD_WORDS,
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
import { familyOf } from "../../flow/record-fields.js";
import { COMMUNITY_ID_LENGTH, putCommunityId, putCommunityMessage } from "../format/community-id.js";
import { createUidMessage, putUid, UID_LENGTH } from "../uid.js";
import { type DuckdbPackage, VECTOR_ROWS } from "./duckdb.js";
import { HashLanes, LANES } from "./hash-lanes.js";
import { COUNTERS, OUTCOMES, type StagedPage } from "./staged-page.js";
import { STATES, StagedTraits } from "./staged-traits.js";
import { TextVector, type Vector } from "./text-vector.js";

/** A column of the table as which DuckDB sees a batch. */
export interface StagedColumn {
  readonly name: string;
  /** Null: an ENUM of the names of the nodes. */
  readonly type: DuckDBType | null;
  /** Makes the values of a page, in memory of its own; null: the page has them already. */
  readonly make: ((page: StagedPage) => void) | null;
  /** Copies the values of that page into a vector. */
  readonly copy: (page: StagedPage, vector: Vector) => void;
}

type Scratch = Uint8Array | Uint16Array | Uint32Array | Int32Array;

/** The greatest upper word of a number of 63 bits. */
const UPPER_MAX = 0x7fff_ffff;
const PROTOCOLS = Array.from({ length: 256 }, (_, protocol) => protocolText(protocol));

/** Traits that have one bit for each row. */
type Bits = Exclude<keyof StagedTraits, "snat" | "dnat" | "state" | "protocol" | "isIpv6" | "load">;

/** What the columns of several pages share, because they are made one after the other. */
export class Hashing {
  readonly lanes = new HashLanes(VECTOR_ROWS);
  readonly putUidMessage = createUidMessage();
}

/** The columns of one page. */
export class PageColumns {
  readonly columns: readonly StagedColumn[];
  readonly #duckdb: DuckdbPackage;
  readonly #hashing: Hashing;
  readonly #traits = new StagedTraits();
  #page: StagedPage | null = null;

  constructor(duckdb: DuckdbPackage, hashing: Hashing) {
    this.#duckdb = duckdb;
    this.#hashing = hashing;
    this.columns = this.#columns();
  }

  /** Makes the columns of a page. */
  make(page: StagedPage): void {
    this.#page = page;
    this.#traits.load(page);
    for (const { make } of this.columns) make?.(page);
  }

  /** Copies the columns that were made last. The page must not have changed since. */
  copy(output: DuckDBDataChunk): void {
    const page = this.#page;
    if (page === null) return;
    const { bindings } = this.#duckdb;
    output.rowCount = page.rows;
    for (const [i, { copy }] of this.columns.entries()) copy(page, bindings.data_chunk_get_vector(output.chunk, i));
  }

  #columns(): StagedColumn[] {
    const { api } = this.#duckdb;
    return [
      this.#text("uid", (page, texts) => this.#setUids(page, texts)),
      this.#text("community_id", (page, texts) => this.#setCommunityIds(page, texts)),
      this.#wide("start_time", api.TIMESTAMPTZ, "start", (page, row) => Math.round(page.startMs[row]! * 1000)),
      this.#wide("end_time", api.TIMESTAMPTZ, "end", (page, row) => Math.round(page.endMs[row]! * 1000)),
      this.#plain("timed_by_kernel", api.BOOLEAN, (page) => page.timed),
      this.#plain("outcome", api.ENUM([...OUTCOMES]), (page) => page.outcome),
      this.#plain("family", api.ENUM(["ipv4", "ipv6"]), () => this.#traits.isIpv6),
      this.#plain("protocol", api.ENUM(PROTOCOLS), () => this.#traits.protocol),
      this.#field("protocol_number", api.UTINYINT, 8, W_PROTO, 0, null),
      this.#address("orig_src", W_ORIG_SRC, null),
      this.#address("orig_dst", W_ORIG_DST, null),
      ...this.#layer4("orig_", "", W_ORIG_L4, "ports", "icmp", "keys"),
      this.#address("reply_src", W_REPLY_SRC, "reply"),
      this.#address("reply_dst", W_REPLY_DST, "reply"),
      ...this.#layer4("reply_", "reply_", W_REPLY_L4, "replyPorts", "replyIcmp", "replyKeys"),
      this.#plain("snat", api.BOOLEAN, () => this.#traits.snat),
      this.#plain("dnat", api.BOOLEAN, () => this.#traits.dnat),
      this.#field("status", api.UINTEGER, 32, W_STATUS, 0, "status"),
      this.#plain("state", api.ENUM([...STATES]), () => this.#traits.state, "hasState"),
      this.#field("protoinfo_a", api.UINTEGER, 32, W_PROTOINFO, 0, "protoinfo"),
      this.#field("protoinfo_b", api.UINTEGER, 32, W_PROTOINFO_B, 0, "protoinfo"),
      this.#field("protoinfo_c", api.UINTEGER, 32, W_PROTOINFO_C, 0, "protoinfo"),
      this.#field("mark", api.UINTEGER, 32, W_MARK, 0, "mark"),
      this.#field("zone_orig", api.USMALLINT, 16, W_ZONE, 16, null),
      this.#field("zone_reply", api.USMALLINT, 16, W_ZONE, 0, null),
      ...["orig_packets", "orig_bytes", "reply_packets", "reply_bytes"].map((name, i) =>
        this.#wide(name, api.BIGINT, "counters", (page, row) => page.counters[COUNTERS * row + i]!),
      ),
      this.#rareText("attributes", (page) => page.attributes),
      this.#plain("path_node", null, (page) => page.node),
      this.#wide("path_since", api.TIMESTAMPTZ, null, (page, row) => Math.round(page.sinceMs[row]! * 1000)),
      this.#rareText("path_steps", (page) => page.steps),
      this.#plain("may_miss", api.BOOLEAN, (page) => page.mayMiss),
      this.#plain("day", api.INTEGER, (page) => page.day),
      this.#plain("late", api.BOOLEAN, (page) => page.late),
    ];
  }

  /** A column whose values exist already. */
  #plain(
    name: string,
    type: DuckDBType | null,
    values: (page: StagedPage) => Scratch,
    present: Bits | null = null,
  ): StagedColumn {
    const copy = (page: StagedPage, vector: Vector): void => this.#copy(vector, values(page), page.rows, present);
    return { name, type, make: null, copy };
  }

  /** A column of 8, 16 or 32 bits, which are those of a word of the record from `shift` on. */
  #field(
    name: string,
    type: DuckDBType,
    bits: 8 | 16 | 32,
    word: number,
    shift: number,
    present: Bits | null,
  ): StagedColumn {
    const values = bits === 8 ? new Uint8Array(VECTOR_ROWS) : bits === 16 ? new Uint16Array(VECTOR_ROWS) : null;
    const words = new Uint32Array(values === null ? VECTOR_ROWS : 0);
    const make =
      values instanceof Uint8Array
        ? (page: StagedPage): void => takeBytes(values, page, word, shift)
        : values instanceof Uint16Array
          ? (page: StagedPage): void => takeHalves(values, page, word, shift)
          : (page: StagedPage): void => takeWords(words, page, word, shift);
    return { name, type, make, copy: ({ rows }, vector) => this.#copy(vector, values ?? words, rows, present) };
  }

  /** The columns of ports, and of what other protocols have in their place. */
  #layer4(side: string, icmp: string, word: number, ports: Bits, ids: Bits, keys: Bits): StagedColumn[] {
    const { USMALLINT, UTINYINT } = this.#duckdb.api;
    return [
      this.#field(`${side}sport`, USMALLINT, 16, word, 16, ports),
      this.#field(`${side}dport`, USMALLINT, 16, word, 0, ports),
      this.#field(`${icmp}icmp_type`, UTINYINT, 8, word, 8, ids),
      this.#field(`${icmp}icmp_code`, UTINYINT, 8, word, 0, ids),
      this.#field(`${icmp}icmp_id`, USMALLINT, 16, word, 16, ids),
      this.#field(`${side}src_key`, USMALLINT, 16, word, 16, keys),
      this.#field(`${side}dst_key`, USMALLINT, 16, word, 0, keys),
    ];
  }

  /** A column of 64 bits, in two words with the lower one first. A number that does not fit into 63 bits becomes the greatest. */
  #wide(
    name: string,
    type: DuckDBType,
    present: Bits | null,
    numberOf: (page: StagedPage, row: number) => number,
  ): StagedColumn {
    const words = new Uint32Array(2 * VECTOR_ROWS);
    const make = (page: StagedPage): void => {
      for (let row = 0; row < page.rows; row++) {
        const value = numberOf(page, row);
        const upper = Math.floor(value / 2 ** 32);
        const fits = !(upper > UPPER_MAX);
        words[2 * row] = fits ? value : 0xffff_ffff;
        words[2 * row + 1] = fits ? upper : UPPER_MAX;
      }
    };
    return { name, type, make, copy: ({ rows }, vector) => this.#copy(vector, words, 2 * rows, present) };
  }

  #address(name: string, word: number, present: "reply" | null): StagedColumn {
    const fill = ({ rows, words }: StagedPage, texts: TextVector): void => {
      const bits = present === null ? null : this.#traits[present];
      for (let row = 0; row < rows; row++) {
        const at = row * RECORD_WORDS;
        const family = familyOf(words, at);
        if (bits !== null && (bits[row >>> 3]! & (1 << (row & 7))) === 0) texts.set(row, "");
        else if (family === AF_INET) texts.setIpv4(row, words[at + word]!);
        else texts.set(row, formatAddress(words, at + word, family));
      }
    };
    return this.#text(name, fill, present);
  }

  #setUids(page: StagedPage, texts: TextVector): void {
    const lanes = this.#hashing.lanes;
    const { words } = lanes;
    for (let row = 0; row < page.rows; row++) {
      const at = lanes.at(row);
      lanes.end(row, this.#hashing.putUidMessage(words, at, LANES, page.birth[row]!, page.words, row * RECORD_WORDS));
    }
    lanes.sha256(page.rows);
    for (let row = 0; row < page.rows; row++) {
      const known = page.uids.size === 0 ? undefined : page.uids.get(row);
      if (known !== undefined) {
        texts.set(row, known);
        continue;
      }
      const at = lanes.at(row);
      const a = words[at]!;
      const b = words[at + LANES]!;
      const c = words[at + 2 * LANES]!;
      const upper = ((a & 0xff) << 16) | (b >>> 16);
      const lower = ((b & 0xffff) << 8) | (c >>> 24);
      putUid(texts.bytes, texts.open(), a >>> 8, upper, lower, c & 0xff_ffff);
      texts.close(row, UID_LENGTH);
    }
  }

  #setCommunityIds(page: StagedPage, texts: TextVector): void {
    const lanes = this.#hashing.lanes;
    const { words } = lanes;
    for (let row = 0; row < page.rows; row++) {
      lanes.end(row, putCommunityMessage(words, lanes.at(row), LANES, page.words, row * RECORD_WORDS));
    }
    lanes.sha1(page.rows);
    for (let row = 0; row < page.rows; row++) {
      const at = lanes.at(row);
      const word = (i: number): number => words[at + i * LANES]!;
      putCommunityId(texts.bytes, texts.open(), word(0), word(1), word(2), word(3), word(4));
      texts.close(row, COMMUNITY_ID_LENGTH);
    }
  }

  /** A column of texts that `fill` sets, one for each row. It is null in the rows that lack the trait `present`. */
  #text(name: string, fill: (page: StagedPage, texts: TextVector) => void, present: Bits | null = null): StagedColumn {
    const { api, bindings } = this.#duckdb;
    const texts = new TextVector();
    const make = (page: StagedPage): void => {
      texts.reset();
      fill(page, texts);
    };
    const copy = (page: StagedPage, vector: Vector): void => {
      texts.copy(bindings, vector, page.rows);
      if (present !== null) this.#setPresent(vector, this.#traits[present]);
    };
    return { name, type: api.VARCHAR, make, copy };
  }

  /** A column of texts of any length and characters, which few rows have. */
  #rareText(name: string, textsOf: (page: StagedPage) => ReadonlyMap<number, string>): StagedColumn {
    const { api, bindings } = this.#duckdb;
    const present = new Uint8Array(VECTOR_ROWS / 8);
    const copy = (page: StagedPage, vector: Vector): void => {
      present.fill(0);
      for (const [row, text] of textsOf(page)) {
        bindings.vector_assign_string_element(vector, row, text);
        present[row >>> 3]! |= 1 << (row & 7);
      }
      this.#setPresent(vector, present);
    };
    return { name, type: api.VARCHAR, make: null, copy };
  }

  #copy(vector: Vector, values: Scratch, count: number, present: Bits | null): void {
    const bytes = count * values.BYTES_PER_ELEMENT;
    this.#duckdb.bindings.copy_data_to_vector(vector, 0, values.buffer as ArrayBuffer, 0, bytes);
    if (present !== null) this.#setPresent(vector, this.#traits[present]);
  }

  #setPresent(vector: Vector, present: Uint8Array): void {
    const { bindings } = this.#duckdb;
    bindings.vector_ensure_validity_writable(vector);
    bindings.copy_data_to_vector_validity(vector, 0, present.buffer as ArrayBuffer, 0, present.length);
  }
}

/** Each kind of array has a loop of its own: a loop for all kinds would check the kind in each row. */
function takeBytes(values: Uint8Array, { rows, words }: StagedPage, word: number, shift: number): void {
  for (let row = 0, at = word; row < rows; row++, at += RECORD_WORDS) values[row] = words[at]! >>> shift;
}

function takeHalves(values: Uint16Array, { rows, words }: StagedPage, word: number, shift: number): void {
  for (let row = 0, at = word; row < rows; row++, at += RECORD_WORDS) values[row] = words[at]! >>> shift;
}

function takeWords(values: Uint32Array, { rows, words }: StagedPage, word: number, shift: number): void {
  for (let row = 0, at = word; row < rows; row++, at += RECORD_WORDS) values[row] = words[at]! >>> shift;
}
