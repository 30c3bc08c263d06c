/**
 * Connections as comma-separated values (RFC 4180): a heading, CRLF at the end of each line, quotes where they are needed.
 * A value that was not recorded is empty. Columns keep their places, and new ones are added at the end.
 */
import { plainText } from "../../flow/plain-text.js";
import { protocolOf } from "../../flow/record-fields.js";
import type { Connection } from "../connection.js";
import { type ConnectionJson, connectionToJson } from "./connection-json.js";

type Cell = string | number | boolean | undefined;

const COLUMNS: readonly (readonly [name: string, cell: (json: ConnectionJson, connection: Connection) => Cell])[] = [
  ["uid", ({ uid }) => uid],
  ["community_id", ({ communityId }) => communityId],
  ["start", ({ start }) => start],
  ["end", ({ end }) => end],
  ["duration_seconds", ({ durationSeconds }) => durationSeconds],
  ["outcome", ({ outcome }) => outcome],
  ["family", ({ family }) => family],
  ["protocol", ({ protocol }) => protocol],
  ["protocol_number", (_, { words }) => protocolOf(words, 0)],
  ["orig_src", ({ orig }) => orig.src],
  ["orig_sport", ({ orig }) => orig.sport],
  ["orig_dst", ({ orig }) => orig.dst],
  ["orig_dport", ({ orig }) => orig.dport],
  ["reply_src", ({ reply }) => reply?.src],
  ["reply_sport", ({ reply }) => reply?.sport],
  ["reply_dst", ({ reply }) => reply?.dst],
  ["reply_dport", ({ reply }) => reply?.dport],
  ["nat_src", ({ nat }) => nat?.src?.address],
  ["nat_src_port", ({ nat }) => nat?.src?.port],
  ["nat_dst", ({ nat }) => nat?.dst?.address],
  ["nat_dst_port", ({ nat }) => nat?.dst?.port],
  ["icmp_type", ({ orig }) => orig.icmpType],
  ["icmp_code", ({ orig }) => orig.icmpCode],
  ["icmp_id", ({ orig }) => orig.icmpId],
  ["nat_icmp_id", ({ nat }) => nat?.src?.icmpId],
  ["state", ({ state }) => state],
  ["status", ({ status }) => status?.join(" ")],
  ["orig_packets", ({ counters }) => counters?.orig.packets],
  ["orig_bytes", ({ counters }) => counters?.orig.bytes],
  ["reply_packets", ({ counters }) => counters?.reply.packets],
  ["reply_bytes", ({ counters }) => counters?.reply.bytes],
  ["mark", ({ mark }) => mark],
  ["zone_orig", ({ zone, zoneOrig }) => zone ?? zoneOrig],
  ["zone_reply", ({ zone, zoneReply }) => zone ?? zoneReply],
  ["labels", ({ labels }) => labels],
  ["helper", ({ helper }) => helper],
  ["timed_by_kernel", ({ timedByKernel }) => timedByKernel],
  ["nodes", ({ path }) => path.map(({ node }) => node).join(" ")],
  ["node_times", ({ path }) => path.map(({ since }) => since).join(" ")],
  ["may_miss", ({ mayMiss }) => mayMiss],
];

/** The heading. */
export function csvHead(): string {
  return `${COLUMNS.map(([name]) => name).join(",")}\r\n`;
}

/** A connection as a line. */
export function csvRow(connection: Connection): string {
  const json = connectionToJson(connection);
  return `${COLUMNS.map(([, cell]) => csvCell(String(cell(json, connection) ?? ""))).join(",")}\r\n`;
}

/** A value as RFC 4180 has it: in quotes where it contains a separator or a quote. It is one line. */
export function csvCell(value: string): string {
  const text = plainText(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
