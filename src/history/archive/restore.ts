/** Turns rows of the archive into connections again. */
import type { DuckDBDataChunk } from "@duckdb/node-api";
import { parseAddress } from "../../flow/address.js";
import { type Flow, recordFromFlow } from "../../flow/flow.js";
import { protocolText } from "../../flow/protocol.js";
import {
  AF_INET,
  AF_INET6,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  type RareAttributes,
  RECORD_WORDS,
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
import { familyOf, protocolOf } from "../../flow/record-fields.js";
import type { Connection, PathStep } from "../connection.js";

const layer4 = (source: string, destination: string): string => `${source}::UINTEGER * 65536 + ${destination}`;

/** The expressions that are selected, in this order: numbers as doubles, paths as text. */
const COLUMNS = [
  "uid",
  "epoch_us(start_time)::DOUBLE",
  "epoch_us(end_time)::DOUBLE",
  "timed_by_kernel",
  "outcome",
  "family",
  "protocol_number",
  "orig_src",
  "orig_dst",
  "reply_src",
  "reply_dst",
  `COALESCE(${layer4("orig_sport", "orig_dport")}, ${layer4("icmp_id", "icmp_type * 256 + icmp_code")},
    ${layer4("orig_src_key", "orig_dst_key")}, 0)::DOUBLE`,
  `COALESCE(${layer4("reply_sport", "reply_dport")}, ${layer4("reply_icmp_id", "reply_icmp_type * 256 + reply_icmp_code")},
    ${layer4("reply_src_key", "reply_dst_key")}, 0)::DOUBLE`,
  "status",
  "mark",
  "protoinfo_a",
  "protoinfo_b",
  "protoinfo_c",
  "zone_orig",
  "zone_reply",
  "orig_packets::DOUBLE",
  "orig_bytes::DOUBLE",
  "reply_packets::DOUBLE",
  "reply_bytes::DOUBLE",
  "attributes",
  "array_to_string(list_transform(path, lambda x: x.node || '@' || epoch_us(x.since)), ',')",
  "may_miss",
];

/** The columns that must be selected for `restoreConnections`. */
export const RESTORED_COLUMNS = COLUMNS.map((from, i) => `${from} AS c${i}`).join(", ");

/** The connections in a chunk of such rows. */
export function restoreConnections(chunk: DuckDBDataChunk): Connection[] {
  return chunk.getRows().map((row) => restore(row as readonly Value[]));
}

type Value = string | number | boolean | null;

function restore(row: readonly Value[]): Connection {
  const [uid, startUs, endUs, timed, outcome, ...record] = row;
  const [packets, bytes, replyPackets, replyBytes, attributes, path, mayMiss] = row.slice(20) as [
    number | null,
    number,
    number,
    number,
    string | null,
    string,
    boolean,
  ];
  const words = restoreWords(record);
  const rare = attributes === null ? null : unpackAttributes(attributes, words);
  return {
    uid: String(uid),
    words,
    rare,
    startMs: startUs === null ? null : Number(startUs) / 1000,
    endMs: endUs === null ? null : Number(endUs) / 1000,
    timedByKernel: timed === true,
    end: outcome as Connection["end"],
    counters:
      packets === null
        ? null
        : { origPackets: packets, origBytes: bytes, replyPackets: replyPackets, replyBytes: replyBytes },
    path: path.split(",").map(stepOf),
    mayMiss,
  };
}

function restoreWords(record: readonly Value[]): Uint32Array {
  const [family, protocol, origSrc, origDst, replySrc, replyDst, orig, reply, status, mark, a, b, c, zone, zoneReply] =
    record;
  const words = new Uint32Array(RECORD_WORDS);
  const number = Number(protocol);
  words[W_PROTO] = ((family === "ipv6" ? AF_INET6 : AF_INET) << 8) | number;
  words[W_ZONE] = (Number(zone) << 16) | Number(zoneReply);
  setAddress(words, W_ORIG_SRC, origSrc);
  setAddress(words, W_ORIG_DST, origDst);
  words[W_ORIG_L4] = Number(orig);
  let has = 0;
  if (replySrc !== null) {
    has |= HAS_REPLY;
    setAddress(words, W_REPLY_SRC, replySrc);
    setAddress(words, W_REPLY_DST, replyDst);
    words[W_REPLY_L4] = Number(reply);
  }
  if (status !== null) {
    has |= HAS_STATUS;
    words[W_STATUS] = Number(status);
  }
  if (mark !== null) {
    has |= HAS_MARK;
    words[W_MARK] = Number(mark);
  }
  if (a !== null) {
    has |= HAS_PROTOINFO;
    words[W_PROTOINFO] = Number(a);
    words[W_PROTOINFO_B] = Number(b);
    words[W_PROTOINFO_C] = Number(c);
  }
  words[W_HAS] = has;
  return words;
}

function setAddress(words: Uint32Array, at: number, text: Value | undefined): void {
  const address = parseAddress(String(text));
  if (address !== undefined) words.set(address.words, at);
}

function stepOf(text: string): PathStep {
  const at = text.lastIndexOf("@");
  return { node: text.slice(0, at), sinceMs: Number(text.slice(at + 1)) / 1000 };
}

/** The rare attributes; null where the text cannot be read, because the connection itself must not be lost. */
function unpackAttributes(text: string, words: Uint32Array): RareAttributes | null {
  try {
    const family = familyOf(words, 0) === AF_INET6 ? "ipv6" : "ipv4";
    const end = family === "ipv6" ? "::" : "0.0.0.0";
    const protocol = protocolText(protocolOf(words, 0));
    const { rare } = recordFromFlow({ ...(JSON.parse(text) as Flow), family, protocol, orig: { src: end, dst: end } });
    const { [W_HAS]: has = 0 } = words;
    if (rare !== null) words[W_HAS] = has | HAS_RARE;
    return rare;
  } catch {
    return null;
  }
}
