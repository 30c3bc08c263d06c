/** The columns of the archive's Parquet files, as FORMAT.md lists them. Names and types never change; columns may be added at the end. */

/** A column of a file. */
export interface ArchiveColumn {
  readonly name: string;
  readonly type: ColumnType;
}

/** The types in use, by their names in DuckDB. */
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

/** All columns, in their order. */
export const ARCHIVE_COLUMNS: readonly ArchiveColumn[] = [
  column("uid", "VARCHAR"),
  column("community_id", "VARCHAR"),
  column("start_time", "TIMESTAMPTZ"),
  column("end_time", "TIMESTAMPTZ"),
  column("timed_by_kernel", "BOOLEAN"),
  column("outcome", "VARCHAR"),
  column("family", "VARCHAR"),
  column("protocol", "VARCHAR"),
  column("protocol_number", "UTINYINT"),
  column("orig_src", "VARCHAR"),
  column("orig_dst", "VARCHAR"),
  column("orig_sport", "USMALLINT"),
  column("orig_dport", "USMALLINT"),
  column("reply_src", "VARCHAR"),
  column("reply_dst", "VARCHAR"),
  column("reply_sport", "USMALLINT"),
  column("reply_dport", "USMALLINT"),
  column("icmp_type", "UTINYINT"),
  column("icmp_code", "UTINYINT"),
  column("icmp_id", "USMALLINT"),
  column("reply_icmp_type", "UTINYINT"),
  column("reply_icmp_code", "UTINYINT"),
  column("reply_icmp_id", "USMALLINT"),
  column("orig_src_key", "USMALLINT"),
  column("orig_dst_key", "USMALLINT"),
  column("reply_src_key", "USMALLINT"),
  column("reply_dst_key", "USMALLINT"),
  column("snat", "BOOLEAN"),
  column("dnat", "BOOLEAN"),
  column("status", "UINTEGER"),
  column("state", "VARCHAR"),
  column("protoinfo_a", "UINTEGER"),
  column("protoinfo_b", "UINTEGER"),
  column("protoinfo_c", "UINTEGER"),
  column("mark", "UINTEGER"),
  column("zone_orig", "USMALLINT"),
  column("zone_reply", "USMALLINT"),
  column("orig_packets", "BIGINT"),
  column("orig_bytes", "BIGINT"),
  column("reply_packets", "BIGINT"),
  column("reply_bytes", "BIGINT"),
  column("attributes", "VARCHAR"),
  column("path", "STRUCT(node VARCHAR, since TIMESTAMPTZ)[]"),
  column("may_miss", "BOOLEAN"),
];

function column(name: string, type: ColumnType): ArchiveColumn {
  return { name, type };
}
