/**
 * The columns of the archive's Parquet files, as FORMAT.md has them, and how a connection lies in them until it is written
 * (staging.ts): in DuckDB's own types and places, so that a column is copied as it is. Names and types stay; columns may be
 * added at the end.
 */

import { VECTOR_ROWS } from "./duckdb.js";

/** A column of a file. */
export interface ArchiveColumn {
  readonly name: string;
  readonly type: ColumnType;
  /** Which rows have a value; null: all of them, or the column is a text, which knows that itself. */
  readonly present: keyof Presence | null;
}

/** DuckDB's names of the types in use. */
export type ColumnType =
  | "BOOLEAN"
  | "UTINYINT"
  | "USMALLINT"
  | "UINTEGER"
  | "INTEGER"
  | "BIGINT"
  | "TIMESTAMPTZ"
  | "VARCHAR"
  | "STRUCT(node VARCHAR, since TIMESTAMPTZ)[]";

/** Texts of a staged row, and how many pieces of 12 bytes hold what is usual. */
export const TEXT_PIECES = {
  uid: 2,
  community_id: 3,
  outcome: 1,
  family: 1,
  protocol: 1,
  orig_src: 4,
  orig_dst: 4,
  reply_src: 4,
  reply_dst: 4,
  state: 2,
  attributes: 1,
  path_node: 3,
  /** Node and microseconds of each step, where there is more than one. */
  path_steps: 1,
} as const;

/** Times and counters are 64 bits in two words, the lower one first. */
const wide = (): Uint32Array => new Uint32Array(2 * VECTOR_ROWS);

/** Numbers of staged rows, by column. A class, so that V8 knows where each lies. */
export class StagedValues {
  readonly start_time = wide();
  readonly end_time = wide();
  readonly timed_by_kernel = new Uint8Array(VECTOR_ROWS);
  readonly protocol_number = new Uint8Array(VECTOR_ROWS);
  readonly orig_sport = new Uint16Array(VECTOR_ROWS);
  readonly orig_dport = new Uint16Array(VECTOR_ROWS);
  readonly reply_sport = new Uint16Array(VECTOR_ROWS);
  readonly reply_dport = new Uint16Array(VECTOR_ROWS);
  readonly icmp_type = new Uint8Array(VECTOR_ROWS);
  readonly icmp_code = new Uint8Array(VECTOR_ROWS);
  readonly icmp_id = new Uint16Array(VECTOR_ROWS);
  readonly reply_icmp_type = new Uint8Array(VECTOR_ROWS);
  readonly reply_icmp_code = new Uint8Array(VECTOR_ROWS);
  readonly reply_icmp_id = new Uint16Array(VECTOR_ROWS);
  readonly orig_src_key = new Uint16Array(VECTOR_ROWS);
  readonly orig_dst_key = new Uint16Array(VECTOR_ROWS);
  readonly reply_src_key = new Uint16Array(VECTOR_ROWS);
  readonly reply_dst_key = new Uint16Array(VECTOR_ROWS);
  readonly snat = new Uint8Array(VECTOR_ROWS);
  readonly dnat = new Uint8Array(VECTOR_ROWS);
  readonly status = new Uint32Array(VECTOR_ROWS);
  readonly protoinfo_a = new Uint32Array(VECTOR_ROWS);
  readonly protoinfo_b = new Uint32Array(VECTOR_ROWS);
  readonly protoinfo_c = new Uint32Array(VECTOR_ROWS);
  readonly mark = new Uint32Array(VECTOR_ROWS);
  readonly zone_orig = new Uint16Array(VECTOR_ROWS);
  readonly zone_reply = new Uint16Array(VECTOR_ROWS);
  readonly orig_packets = wide();
  readonly orig_bytes = wide();
  readonly reply_packets = wide();
  readonly reply_bytes = wide();
  readonly may_miss = new Uint8Array(VECTOR_ROWS);
  readonly path_since = wide();
  /** Day of the end, since 1970. */
  readonly day = new Int32Array(VECTOR_ROWS);
  /** It may be in the archive already. */
  readonly late = new Uint8Array(VECTOR_ROWS);
}

const bits = (): Uint8Array => new Uint8Array(VECTOR_ROWS / 8);

/** Which of the staged rows have what: a bit a row, as DuckDB has it. A class, so that V8 knows where each lies. */
export class Presence {
  readonly start = bits();
  readonly end = bits();
  readonly ports = bits();
  readonly replyPorts = bits();
  readonly icmp = bits();
  readonly replyIcmp = bits();
  readonly keys = bits();
  readonly replyKeys = bits();
  readonly status = bits();
  readonly protoinfo = bits();
  readonly mark = bits();
  readonly counters = bits();
}

/** All columns, in their order. */
export const ARCHIVE_COLUMNS: readonly ArchiveColumn[] = [
  column("uid", "VARCHAR"),
  column("community_id", "VARCHAR"),
  column("start_time", "TIMESTAMPTZ", "start"),
  column("end_time", "TIMESTAMPTZ", "end"),
  column("timed_by_kernel", "BOOLEAN"),
  column("outcome", "VARCHAR"),
  column("family", "VARCHAR"),
  column("protocol", "VARCHAR"),
  column("protocol_number", "UTINYINT"),
  column("orig_src", "VARCHAR"),
  column("orig_dst", "VARCHAR"),
  column("orig_sport", "USMALLINT", "ports"),
  column("orig_dport", "USMALLINT", "ports"),
  column("reply_src", "VARCHAR"),
  column("reply_dst", "VARCHAR"),
  column("reply_sport", "USMALLINT", "replyPorts"),
  column("reply_dport", "USMALLINT", "replyPorts"),
  column("icmp_type", "UTINYINT", "icmp"),
  column("icmp_code", "UTINYINT", "icmp"),
  column("icmp_id", "USMALLINT", "icmp"),
  column("reply_icmp_type", "UTINYINT", "replyIcmp"),
  column("reply_icmp_code", "UTINYINT", "replyIcmp"),
  column("reply_icmp_id", "USMALLINT", "replyIcmp"),
  column("orig_src_key", "USMALLINT", "keys"),
  column("orig_dst_key", "USMALLINT", "keys"),
  column("reply_src_key", "USMALLINT", "replyKeys"),
  column("reply_dst_key", "USMALLINT", "replyKeys"),
  column("snat", "BOOLEAN"),
  column("dnat", "BOOLEAN"),
  column("status", "UINTEGER", "status"),
  column("state", "VARCHAR"),
  column("protoinfo_a", "UINTEGER", "protoinfo"),
  column("protoinfo_b", "UINTEGER", "protoinfo"),
  column("protoinfo_c", "UINTEGER", "protoinfo"),
  column("mark", "UINTEGER", "mark"),
  column("zone_orig", "USMALLINT"),
  column("zone_reply", "USMALLINT"),
  column("orig_packets", "BIGINT", "counters"),
  column("orig_bytes", "BIGINT", "counters"),
  column("reply_packets", "BIGINT", "counters"),
  column("reply_bytes", "BIGINT", "counters"),
  column("attributes", "VARCHAR"),
  column("path", "STRUCT(node VARCHAR, since TIMESTAMPTZ)[]"),
  column("may_miss", "BOOLEAN"),
];

function column(name: string, type: ColumnType, present: keyof Presence | null = null): ArchiveColumn {
  return { name, type, present };
}
