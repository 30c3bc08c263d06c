/**
 * The columns of the archive's Parquet files, as FORMAT.md has them: name, type, and how each is made of a staged row
 * (staging.ts). Names and types stay; columns may be added at the end.
 */

import { VECTOR_ROWS } from "./duckdb.js";

/** A column of a file. */
export interface ArchiveColumn {
  readonly name: string;
  /** DuckDB's type. */
  readonly type: string;
  /** SQL over the staged row. */
  readonly from: string;
}

/** Texts of a staged row: how many pieces of 12 bytes hold it, and whether there is a column for longer ones. */
export const STAGED_TEXTS: Readonly<Record<string, { readonly pieces: number; readonly long: boolean }>> = {
  uid: { pieces: 2, long: false },
  community: { pieces: 3, long: false },
  orig_src: { pieces: 2, long: true },
  orig_dst: { pieces: 2, long: true },
  reply_src: { pieces: 2, long: true },
  reply_dst: { pieces: 2, long: true },
  protocol: { pieces: 1, long: false },
  state: { pieces: 1, long: true },
  node: { pieces: 1, long: true },
  path: { pieces: 0, long: true },
  attributes: { pieces: 0, long: true },
};

/** Numbers of staged rows, by column; -1 is what is not there. A class, so that V8 knows where each lies. */
export class StagedNumbers {
  readonly start_us = new Float64Array(VECTOR_ROWS);
  readonly end_us = new Float64Array(VECTOR_ROWS);
  readonly since = new Float64Array(VECTOR_ROWS);
  readonly orig_sport = new Int32Array(VECTOR_ROWS);
  readonly orig_dport = new Int32Array(VECTOR_ROWS);
  readonly reply_sport = new Int32Array(VECTOR_ROWS);
  readonly reply_dport = new Int32Array(VECTOR_ROWS);
  readonly icmp_type = new Int32Array(VECTOR_ROWS);
  readonly icmp_code = new Int32Array(VECTOR_ROWS);
  readonly icmp_id = new Int32Array(VECTOR_ROWS);
  readonly reply_icmp_type = new Int32Array(VECTOR_ROWS);
  readonly reply_icmp_code = new Int32Array(VECTOR_ROWS);
  readonly reply_icmp_id = new Int32Array(VECTOR_ROWS);
  readonly orig_src_key = new Int32Array(VECTOR_ROWS);
  readonly orig_dst_key = new Int32Array(VECTOR_ROWS);
  readonly reply_src_key = new Int32Array(VECTOR_ROWS);
  readonly reply_dst_key = new Int32Array(VECTOR_ROWS);
  readonly status = new Int32Array(VECTOR_ROWS);
  readonly info_a = new Float64Array(VECTOR_ROWS);
  readonly info_b = new Float64Array(VECTOR_ROWS);
  readonly info_c = new Float64Array(VECTOR_ROWS);
  readonly mark = new Float64Array(VECTOR_ROWS);
  readonly zone_orig = new Int32Array(VECTOR_ROWS);
  readonly zone_reply = new Int32Array(VECTOR_ROWS);
  readonly orig_packets = new Float64Array(VECTOR_ROWS);
  readonly orig_bytes = new Float64Array(VECTOR_ROWS);
  readonly reply_packets = new Float64Array(VECTOR_ROWS);
  readonly reply_bytes = new Float64Array(VECTOR_ROWS);
  readonly protocol_number = new Int32Array(VECTOR_ROWS);
  readonly family = new Int32Array(VECTOR_ROWS);
  /** Bits: timed by the kernel 1, may miss 2, source translated 4, destination translated 8, lost 16, late 32, open 64. */
  readonly flags = new Int32Array(VECTOR_ROWS);
  /** Day of the end, since 1970. */
  readonly day = new Int32Array(VECTOR_ROWS);
}

/** Bits of `flags`. */
export const STAGED_TIMED = 1;
export const STAGED_MAY_MISS = 2;
export const STAGED_SNAT = 4;
export const STAGED_DNAT = 8;
export const STAGED_LOST = 16;
export const STAGED_LATE = 32;
export const STAGED_OPEN = 64;

const text = (name: string): string => `NULLIF(${staged(name)}, '')`;
/** Where -1 stands for what is not there. */
const number = (name: string, type: string): string => `NULLIF(${name}, -1)::${type}`;
const time = (name: string): string => `make_timestamptz(NULLIF(${name}, -1)::BIGINT)`;

const OUTCOME = `CASE WHEN (flags & ${STAGED_OPEN}) <> 0 THEN 'open' WHEN (flags & ${STAGED_LOST}) <> 0 THEN 'lost' ELSE 'ended' END`;

/** A time of a path as text. */
const STEP = "{'node': split_part(x, '@', 1), 'since': make_timestamptz(split_part(x, '@', 2)::BIGINT)}";
const PATH = `CASE WHEN path_long = '' THEN [{'node': ${staged("node")}, 'since': make_timestamptz(since::BIGINT)}]
  ELSE list_transform(string_split(path_long, ','), lambda x: ${STEP}) END`;

/** All columns, in their order. */
export const ARCHIVE_COLUMNS: readonly ArchiveColumn[] = [
  { name: "uid", type: "VARCHAR", from: staged("uid") },
  { name: "community_id", type: "VARCHAR", from: staged("community") },
  { name: "start_time", type: "TIMESTAMPTZ", from: time("start_us") },
  { name: "end_time", type: "TIMESTAMPTZ", from: time("end_us") },
  { name: "timed_by_kernel", type: "BOOLEAN", from: `(flags & ${STAGED_TIMED}) <> 0` },
  { name: "outcome", type: "VARCHAR", from: OUTCOME },
  { name: "family", type: "VARCHAR", from: "CASE WHEN family = 10 THEN 'ipv6' ELSE 'ipv4' END" },
  { name: "protocol", type: "VARCHAR", from: staged("protocol") },
  { name: "protocol_number", type: "UTINYINT", from: "protocol_number::UTINYINT" },
  { name: "orig_src", type: "VARCHAR", from: staged("orig_src") },
  { name: "orig_dst", type: "VARCHAR", from: staged("orig_dst") },
  { name: "orig_sport", type: "USMALLINT", from: number("orig_sport", "USMALLINT") },
  { name: "orig_dport", type: "USMALLINT", from: number("orig_dport", "USMALLINT") },
  { name: "reply_src", type: "VARCHAR", from: text("reply_src") },
  { name: "reply_dst", type: "VARCHAR", from: text("reply_dst") },
  { name: "reply_sport", type: "USMALLINT", from: number("reply_sport", "USMALLINT") },
  { name: "reply_dport", type: "USMALLINT", from: number("reply_dport", "USMALLINT") },
  { name: "icmp_type", type: "UTINYINT", from: number("icmp_type", "UTINYINT") },
  { name: "icmp_code", type: "UTINYINT", from: number("icmp_code", "UTINYINT") },
  { name: "icmp_id", type: "USMALLINT", from: number("icmp_id", "USMALLINT") },
  { name: "reply_icmp_type", type: "UTINYINT", from: number("reply_icmp_type", "UTINYINT") },
  { name: "reply_icmp_code", type: "UTINYINT", from: number("reply_icmp_code", "UTINYINT") },
  { name: "reply_icmp_id", type: "USMALLINT", from: number("reply_icmp_id", "USMALLINT") },
  { name: "orig_src_key", type: "USMALLINT", from: number("orig_src_key", "USMALLINT") },
  { name: "orig_dst_key", type: "USMALLINT", from: number("orig_dst_key", "USMALLINT") },
  { name: "reply_src_key", type: "USMALLINT", from: number("reply_src_key", "USMALLINT") },
  { name: "reply_dst_key", type: "USMALLINT", from: number("reply_dst_key", "USMALLINT") },
  { name: "snat", type: "BOOLEAN", from: `(flags & ${STAGED_SNAT}) <> 0` },
  { name: "dnat", type: "BOOLEAN", from: `(flags & ${STAGED_DNAT}) <> 0` },
  { name: "status", type: "UINTEGER", from: number("status", "UINTEGER") },
  { name: "state", type: "VARCHAR", from: text("state") },
  { name: "protoinfo_a", type: "UINTEGER", from: number("info_a", "UINTEGER") },
  { name: "protoinfo_b", type: "UINTEGER", from: number("info_b", "UINTEGER") },
  { name: "protoinfo_c", type: "UINTEGER", from: number("info_c", "UINTEGER") },
  { name: "mark", type: "UINTEGER", from: number("mark", "UINTEGER") },
  { name: "zone_orig", type: "USMALLINT", from: "zone_orig::USMALLINT" },
  { name: "zone_reply", type: "USMALLINT", from: "zone_reply::USMALLINT" },
  { name: "orig_packets", type: "BIGINT", from: number("orig_packets", "BIGINT") },
  { name: "orig_bytes", type: "BIGINT", from: number("orig_bytes", "BIGINT") },
  { name: "reply_packets", type: "BIGINT", from: number("reply_packets", "BIGINT") },
  { name: "reply_bytes", type: "BIGINT", from: number("reply_bytes", "BIGINT") },
  { name: "attributes", type: "VARCHAR", from: text("attributes") },
  { name: "path", type: "STRUCT(node VARCHAR, since TIMESTAMPTZ)[]", from: PATH },
  { name: "may_miss", type: "BOOLEAN", from: `(flags & ${STAGED_MAY_MISS}) <> 0` },
];

/** A text of the staged row, its pieces joined. */
function staged(name: string): string {
  const { pieces, long } = STAGED_TEXTS[name]!;
  const joined = Array.from({ length: pieces }, (_, i) => `${name}_${i}`).join(" || ");
  if (!long) return joined;
  return pieces === 0 ? `${name}_long` : `CASE WHEN ${name}_long = '' THEN ${joined} ELSE ${name}_long END`;
}
