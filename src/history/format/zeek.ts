/**
 * Connections as Zeek's conn.log, tab-separated or as JSON lines: Zeek's own columns in Zeek's order, then the Community ID as
 * Zeek's policy script adds it, then columns that only a firewall can fill. An unset column is `-`, and left out in JSON.
 *
 * The kernel counts bytes with the IP header, so its counters are Zeek's `*_ip_bytes`. Payload bytes, missed bytes, the service and
 * the history of flags are unset. ICMP has its type and counterpart or code in place of ports, as in Zeek.
 * https://docs.zeek.org/en/master/logs/conn.html
 */
import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP } from "../../flow/protocol.js";
import { HAS_PROTOINFO, HAS_STATUS, W_HAS, W_PROTOINFO_B, W_STATUS } from "../../flow/record.js";
import {
  protocolOf,
  protocolStateOf,
  TCP_CONNTRACK_CLOSE,
  TCP_CONNTRACK_CLOSE_WAIT,
  TCP_CONNTRACK_ESTABLISHED,
  TCP_CONNTRACK_FIN_WAIT,
  TCP_CONNTRACK_LAST_ACK,
  TCP_CONNTRACK_SYN_SENT,
  TCP_CONNTRACK_TIME_WAIT,
} from "../../flow/record-fields.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../flow/status.js";
import type { Connection } from "../connection.js";
import { portPair } from "./community-id.js";
import { type ConnectionJson, connectionToJson, durationSeconds } from "./connection-json.js";

/** The value of a column. A list is a vector or a set; null is unset. */
type Value = string | number | boolean | readonly string[] | null;

interface Field {
  readonly name: string;
  /** Zeek's name of the type, as it stands in `#types`. */
  readonly type:
    | "time"
    | "interval"
    | "string"
    | "enum"
    | "addr"
    | "port"
    | "count"
    | "bool"
    | "set[string]"
    | "vector[string]";
  value(connection: Connection, json: ConnectionJson): Value;
}

const unset = (): Value => null;

const FIELDS: readonly Field[] = [
  { name: "ts", type: "time", value: ({ startMs }) => (startMs === null ? null : startMs / 1000) },
  { name: "uid", type: "string", value: ({ uid }) => uid },
  { name: "id.orig_h", type: "addr", value: (_, { orig }) => orig.src },
  { name: "id.orig_p", type: "port", value: ({ words }) => portPair(words, 0)?.source ?? 0 },
  { name: "id.resp_h", type: "addr", value: (_, { orig }) => orig.dst },
  { name: "id.resp_p", type: "port", value: ({ words }) => portPair(words, 0)?.destination ?? 0 },
  { name: "proto", type: "enum", value: ({ words }) => transport(protocolOf(words, 0)) },
  { name: "service", type: "string", value: unset },
  { name: "duration", type: "interval", value: (connection) => durationSeconds(connection) },
  { name: "orig_bytes", type: "count", value: unset },
  { name: "resp_bytes", type: "count", value: unset },
  { name: "conn_state", type: "string", value: ({ words }) => connState(words) },
  { name: "local_orig", type: "bool", value: unset },
  { name: "local_resp", type: "bool", value: unset },
  { name: "missed_bytes", type: "count", value: unset },
  { name: "history", type: "string", value: unset },
  { name: "orig_pkts", type: "count", value: ({ counters }) => counters?.origPackets ?? null },
  { name: "orig_ip_bytes", type: "count", value: ({ counters }) => counters?.origBytes ?? null },
  { name: "resp_pkts", type: "count", value: ({ counters }) => counters?.replyPackets ?? null },
  { name: "resp_ip_bytes", type: "count", value: ({ counters }) => counters?.replyBytes ?? null },
  { name: "tunnel_parents", type: "set[string]", value: unset },
  { name: "ip_proto", type: "count", value: ({ words }) => protocolOf(words, 0) },
  { name: "community_id", type: "string", value: (_, { communityId }) => communityId },
  // Zeek's own columns end here.
  { name: "nat_orig_h", type: "addr", value: (_, { nat }) => nat?.src?.address ?? null },
  { name: "nat_orig_p", type: "port", value: (_, { nat }) => nat?.src?.port ?? nat?.src?.icmpId ?? null },
  { name: "nat_resp_h", type: "addr", value: (_, { nat }) => nat?.dst?.address ?? null },
  { name: "nat_resp_p", type: "port", value: (_, { nat }) => nat?.dst?.port ?? null },
  { name: "ct_state", type: "string", value: (_, { state }) => state ?? null },
  { name: "ct_outcome", type: "enum", value: ({ end }) => end },
  { name: "ct_mark", type: "count", value: (_, { mark }) => mark ?? null },
  { name: "ct_zone", type: "count", value: (_, { zone, zoneOrig }) => zone ?? zoneOrig ?? null },
  { name: "ct_zone_reply", type: "count", value: (_, { zone, zoneReply }) => zone ?? zoneReply ?? null },
  { name: "ct_nodes", type: "vector[string]", value: ({ path }) => path.map(({ node }) => node) },
  { name: "ct_may_miss", type: "bool", value: ({ mayMiss }) => mayMiss },
];

/** The header lines of a log that is opened at `nowMs`. */
export function zeekHead(nowMs: number): string {
  return [
    "#separator \\x09",
    "#set_separator\t,",
    "#empty_field\t(empty)",
    "#unset_field\t-",
    "#path\tconn",
    `#open\t${logTime(nowMs)}`,
    ["#fields", ...FIELDS.map(({ name }) => name)].join("\t"),
    ["#types", ...FIELDS.map(({ type }) => type)].join("\t"),
    "",
  ].join("\n");
}

/** The line that ends a complete log. */
export function zeekFoot(nowMs: number): string {
  return `#close\t${logTime(nowMs)}\n`;
}

/** A connection as a line of the log. */
export function zeekRow(connection: Connection): string {
  const json = connectionToJson(connection);
  return `${FIELDS.map((field) => cell(field, field.value(connection, json))).join("\t")}\n`;
}

/** A connection as a line of JSON, as Zeek writes them with LogAscii::use_json. */
export function zeekJsonRow(connection: Connection): string {
  const json = connectionToJson(connection);
  const row: Record<string, Value> = {};
  for (const field of FIELDS) {
    const value = field.value(connection, json);
    if (value !== null) row[field.name] = field.type === "time" ? Number((value as number).toFixed(6)) : value;
  }
  return `${JSON.stringify(row)}\n`;
}

function cell({ type }: Field, value: Value): string {
  if (value === null) return "-";
  if (typeof value === "boolean") return value ? "T" : "F";
  if (typeof value === "number") return type === "time" || type === "interval" ? value.toFixed(6) : String(value);
  if (typeof value === "string") return value === "-" ? "\\x2d" : escaped(value);
  return value.length === 0 ? "(empty)" : value.map((item) => escaped(item).replaceAll(",", "\\x2c")).join(",");
}

/** Control characters and the backslash as \xHH. */
function escaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must be found
  return text.replace(/[\x00-\x1f\x7f\\]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

/** enum transport_proto. */
function transport(protocol: number): string {
  switch (protocol) {
    case IPPROTO_TCP:
      return "tcp";
    case IPPROTO_UDP:
      return "udp";
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
      return "icmp";
    default:
      return "unknown_transport";
  }
}

/** IP_CT_TCP_FLAG_CLOSE_INIT: this side sent its FIN first. */
const TCP_FLAG_CLOSE_INIT = 0x04;

/** Zeek's conn_state. Null where the kernel's state does not tell, for example which side sent a reset. */
export function connState(words: Uint32Array): string | null {
  const { [W_HAS]: has = 0, [W_STATUS]: status = 0 } = words;
  const protocol = protocolOf(words, 0);
  if (!(has & HAS_STATUS)) return null;
  const replied = (status & IPS_SEEN_REPLY) !== 0;
  if (protocol === IPPROTO_UDP) return replied ? "SF" : "S0";
  if (protocol !== IPPROTO_TCP) return "OTH";
  return has & HAS_PROTOINFO ? tcpConnState(words, replied) : null;
}

function tcpConnState(words: Uint32Array, replied: boolean): string | null {
  const { [W_STATUS]: status = 0, [W_PROTOINFO_B]: flags = 0 } = words;
  switch (protocolStateOf(words, 0)) {
    case TCP_CONNTRACK_SYN_SENT:
      return replied ? "OTH" : "S0";
    case TCP_CONNTRACK_ESTABLISHED:
      return replied ? "S1" : "OTH";
    case TCP_CONNTRACK_FIN_WAIT:
    case TCP_CONNTRACK_CLOSE_WAIT:
      if (flags & TCP_FLAG_CLOSE_INIT) return "S2";
      return (flags >>> 16) & TCP_FLAG_CLOSE_INIT ? "S3" : null;
    case TCP_CONNTRACK_LAST_ACK:
    case TCP_CONNTRACK_TIME_WAIT:
      return "SF";
    case TCP_CONNTRACK_CLOSE:
      return replied && !(status & IPS_ASSURED) ? "REJ" : null;
    default:
      return "OTH";
  }
}

/** `2026-01-31-12-00-05`, in UTC. */
function logTime(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replaceAll(/[T:]/g, "-");
}
