/**
 * A flow as an object: what `--json` prints, tests compare and errors show. Hot paths use records (record.ts).
 *
 * The JSON shape is a contract: names stay, more may be added. An attribute that the kernel did not report is left
 * out, never zero.
 *
 *   {
 *     "family": "ipv4", "protocol": "tcp",
 *     "orig":  { "src": "10.0.0.12", "dst": "198.51.100.7", "sport": 40000, "dport": 443 },
 *     "reply": { "src": "198.51.100.7", "dst": "203.0.113.1", "sport": 443, "dport": 61000 },
 *     "nat": { "src": { "address": "203.0.113.1", "port": 61000 } },
 *     "status": ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"], "state": "ESTABLISHED",
 *     "timeoutSeconds": 431999, "mark": 7, "id": 1911451495,
 *     "created": "2026-01-31T12:00:00Z", "updated": "2026-01-31T12:00:05Z"
 *   }
 */
import { ConntrailError } from "../errors.js";
import { formatAddress, parseAddress } from "./address.js";
import {
  hasPorts,
  IPPROTO_DCCP,
  IPPROTO_GRE,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  isIcmp,
  protocolNumber,
  protocolStates,
  protocolText,
  stateNumber,
} from "./protocol.js";
import {
  AF_INET,
  AF_INET6,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_RARE,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  type RareAttributes,
  RECORD_WORDS,
  type SequenceAdjustment,
  W_CREATED,
  W_HAS,
  W_ID,
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
  W_TIMEOUT,
  W_UPDATED,
  W_ZONE,
  WORD_VALUES,
} from "./record.js";
import {
  familyOf,
  icmpTypeOf,
  protocolOf,
  protocolStateOf,
  protoWord,
  zoneOrigOf,
  zoneReplyOf,
  zoneWord,
} from "./record-fields.js";
import { statusBits, statusNames } from "./status.js";

/**
 * Addresses and layer 4 of one direction. Ports for TCP, UDP, UDPLite, SCTP and DCCP, `icmp*` for ICMP and ICMPv6,
 * keys for GRE.
 */
export interface FlowTuple {
  src: string;
  dst: string;
  sport?: number;
  dport?: number;
  icmpType?: number;
  icmpCode?: number;
  icmpId?: number;
  srcKey?: number;
  dstKey?: number;
}

/** What translation made of an address, with the port, ICMP id or GRE key that goes with it. */
export interface Translation {
  address: string;
  port?: number;
  icmpId?: number;
  key?: number;
}

/** The original tuple of the flow that expected this one (CTA_TUPLE_MASTER). */
export interface FlowMaster extends FlowTuple {
  family: "ipv4" | "ipv6";
  protocol: string;
  zone?: number;
}

/** TCP window scales and flags of both directions (CTA_PROTOINFO_TCP_*). */
export interface TcpInfo {
  windowScaleOrig: number;
  windowScaleReply: number;
  flagsOrig: number;
  flagsOrigMask: number;
  flagsReply: number;
  flagsReplyMask: number;
}

/** The object form of a record. */
export interface Flow {
  family: "ipv4" | "ipv6";
  /** The name that conntrack(8) prints, or the number as decimal text where it has none. */
  protocol: string;
  orig: FlowTuple;
  /** Left out where the sender gave the original tuple only. */
  reply?: FlowTuple;
  /** Derived from the tuples: `src` is what the original source became, `dst` what the original destination became. */
  nat?: { src?: Translation; dst?: Translation };
  /** IPS_* names without the prefix. */
  status?: string[];
  /** TCP, SCTP or DCCP state. */
  state?: string;
  tcp?: TcpInfo;
  sctp?: { vtagOrig: number; vtagReply: number };
  dccp?: { role: number; handshakeSeq: number };
  timeoutSeconds?: number;
  mark?: number;
  /**
   * The zone of both directions; where only one direction has one, or they differ, `zoneOrig` and `zoneReply` are
   * given instead.
   */
  zone?: number;
  zoneOrig?: number;
  zoneReply?: number;
  id?: number;
  /** CTA_LABELS as 32 hexadecimal digits, byte by byte. */
  labels?: string;
  helper?: string;
  secctx?: string;
  master?: FlowMaster;
  seqadj?: { orig?: SequenceAdjustment; reply?: SequenceAdjustment };
  synproxy?: { isn: number; its: number; tsoff: number };
  /** ISO 8601 in UTC, whole seconds: when the flow was first seen, and when its row was last written. */
  created?: string;
  updated?: string;
}

/** The object form of the record at `base`. Table words (30, 31, the high half of 29) are not part of it. */
export function flowFromRecord(words: Uint32Array, base: number, rare: RareAttributes | null): Flow {
  const family = familyOf(words, base);
  const protocol = protocolOf(words, base);
  const has = words[base + W_HAS]!;
  const orig = tuple(words, base + W_ORIG_SRC, base + W_ORIG_DST, base + W_ORIG_L4, family, protocol);
  const flow: Flow = { family: familyName(family), protocol: protocolText(protocol), orig };
  if (has & HAS_REPLY) {
    const reply = tuple(words, base + W_REPLY_SRC, base + W_REPLY_DST, base + W_REPLY_L4, family, protocol);
    flow.reply = reply;
    const nat = translations(orig, reply);
    if (nat !== undefined) flow.nat = nat;
  }
  if (has & HAS_STATUS) flow.status = statusNames(words[base + W_STATUS]!);
  if (has & HAS_PROTOINFO) readProtoinfo(flow, words, base, protocol);
  if (has & HAS_TIMEOUT) flow.timeoutSeconds = words[base + W_TIMEOUT]!;
  if (has & HAS_MARK) flow.mark = words[base + W_MARK]!;
  const zoneOrig = zoneOrigOf(words, base);
  const zoneReply = zoneReplyOf(words, base);
  if (zoneOrig === zoneReply) {
    if (zoneOrig !== 0) flow.zone = zoneOrig;
  } else {
    if (zoneOrig !== 0) flow.zoneOrig = zoneOrig;
    if (zoneReply !== 0) flow.zoneReply = zoneReply;
  }
  if (has & HAS_ID) flow.id = words[base + W_ID]!;
  if (rare !== null) readRare(flow, rare);
  if (words[base + W_CREATED] !== 0) flow.created = isoSeconds(words[base + W_CREATED]!);
  if (words[base + W_UPDATED] !== 0) flow.updated = isoSeconds(words[base + W_UPDATED]!);
  return flow;
}

/**
 * The record of a flow object, the inverse of `flowFromRecord`; `nat` is ignored, since the tuples hold it.
 * Throws MALFORMED for an address, protocol, state, flag or time that cannot be read.
 */
export function recordFromFlow(flow: Flow): { words: Uint32Array; rare: RareAttributes | null } {
  const words = new Uint32Array(RECORD_WORDS);
  const { family, protocol } = familyAndProtocol(flow.family, flow.protocol);
  words[W_PROTO] = protoWord(family, protocol);
  writeTuple(words, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4, flow.orig, family, protocol);
  let has = 0;
  if (flow.reply !== undefined) {
    writeTuple(words, W_REPLY_SRC, W_REPLY_DST, W_REPLY_L4, flow.reply, family, protocol);
    has |= HAS_REPLY;
  }
  if (flow.status !== undefined) {
    words[W_STATUS] = readable(statusBits(flow.status), "status", flow.status.join(","));
    has |= HAS_STATUS;
  }
  if (flow.state !== undefined) {
    writeProtoinfo(words, flow, protocol);
    has |= HAS_PROTOINFO;
  }
  if (flow.timeoutSeconds !== undefined) {
    words[W_TIMEOUT] = flow.timeoutSeconds;
    has |= HAS_TIMEOUT;
  }
  if (flow.mark !== undefined) {
    words[W_MARK] = flow.mark;
    has |= HAS_MARK;
  }
  if (flow.id !== undefined) {
    words[W_ID] = flow.id;
    has |= HAS_ID;
  }
  words[W_ZONE] = zoneWord(flow.zoneOrig ?? flow.zone ?? 0, flow.zoneReply ?? flow.zone ?? 0);
  words[W_CREATED] = epochSeconds(flow.created, "created");
  words[W_UPDATED] = epochSeconds(flow.updated, "updated");
  const rare = rareFromFlow(flow);
  if (rare !== null) has |= HAS_RARE;
  words[W_HAS] = has;
  return { words, rare };
}

function tuple(words: Uint32Array, src: number, dst: number, l4: number, family: number, protocol: number): FlowTuple {
  const result: FlowTuple = { src: formatAddress(words, src, family), dst: formatAddress(words, dst, family) };
  const word = words[l4]!;
  if (hasPorts(protocol)) {
    result.sport = word >>> 16;
    result.dport = word & 0xffff;
  } else if (isIcmp(protocol)) {
    result.icmpType = icmpTypeOf(word);
    result.icmpCode = word & 0xff;
    result.icmpId = word >>> 16;
  } else if (protocol === IPPROTO_GRE) {
    result.srcKey = word >>> 16;
    result.dstKey = word & 0xffff;
  }
  return result;
}

function writeTuple(
  words: Uint32Array,
  src: number,
  dst: number,
  l4: number,
  from: FlowTuple,
  family: number,
  protocol: number,
): void {
  words.set(addressWords(from.src, family), src);
  words.set(addressWords(from.dst, family), dst);
  if (hasPorts(protocol)) words[l4] = ((from.sport ?? 0) << 16) | (from.dport ?? 0);
  else if (isIcmp(protocol))
    words[l4] = ((from.icmpId ?? 0) << 16) | ((from.icmpType ?? 0) << 8) | (from.icmpCode ?? 0);
  else if (protocol === IPPROTO_GRE) words[l4] = ((from.srcKey ?? 0) << 16) | (from.dstKey ?? 0);
}

/**
 * A reply goes to the translated source and comes from the translated destination; an ICMP id belongs to the source.
 */
function translations(orig: FlowTuple, reply: FlowTuple): Flow["nat"] | undefined {
  const nat: NonNullable<Flow["nat"]> = {};
  if (
    reply.dst !== orig.src ||
    reply.dport !== orig.sport ||
    reply.dstKey !== orig.srcKey ||
    reply.icmpId !== orig.icmpId
  ) {
    nat.src = { address: reply.dst };
    if (reply.dport !== undefined) nat.src.port = reply.dport;
    if (reply.icmpId !== undefined) nat.src.icmpId = reply.icmpId;
    if (reply.dstKey !== undefined) nat.src.key = reply.dstKey;
  }
  if (reply.src !== orig.dst || reply.sport !== orig.dport || reply.srcKey !== orig.dstKey) {
    nat.dst = { address: reply.src };
    if (reply.sport !== undefined) nat.dst.port = reply.sport;
    if (reply.srcKey !== undefined) nat.dst.key = reply.srcKey;
  }
  return nat.src === undefined && nat.dst === undefined ? undefined : nat;
}

function readProtoinfo(flow: Flow, words: Uint32Array, base: number, protocol: number): void {
  const states = protocolStates(protocol);
  if (states === undefined) return;
  const info = words[base + W_PROTOINFO]!;
  const b = words[base + W_PROTOINFO_B]!;
  const c = words[base + W_PROTOINFO_C]!;
  flow.state = states[protocolStateOf(words, base)] ?? "NONE";
  if (protocol === IPPROTO_TCP) {
    flow.tcp = {
      windowScaleOrig: (info >>> 8) & 0xff,
      windowScaleReply: (info >>> 16) & 0xff,
      flagsOrig: b & 0xff,
      flagsOrigMask: (b >>> 8) & 0xff,
      flagsReply: (b >>> 16) & 0xff,
      flagsReplyMask: b >>> 24,
    };
  } else if (protocol === IPPROTO_SCTP) {
    flow.sctp = { vtagOrig: b, vtagReply: c };
  } else {
    flow.dccp = { role: (info >>> 8) & 0xff, handshakeSeq: b * WORD_VALUES + c };
  }
}

function writeProtoinfo(words: Uint32Array, flow: Flow, protocol: number): void {
  const state = readable(stateNumber(protocol, flow.state ?? ""), "state", flow.state);
  words[W_PROTOINFO] = state;
  if (protocol === IPPROTO_TCP && flow.tcp !== undefined) {
    const tcp = flow.tcp;
    words[W_PROTOINFO] = state | (tcp.windowScaleOrig << 8) | (tcp.windowScaleReply << 16);
    words[W_PROTOINFO_B] =
      tcp.flagsOrig | (tcp.flagsOrigMask << 8) | (tcp.flagsReply << 16) | (tcp.flagsReplyMask << 24);
  } else if (protocol === IPPROTO_SCTP && flow.sctp !== undefined) {
    words[W_PROTOINFO_B] = flow.sctp.vtagOrig;
    words[W_PROTOINFO_C] = flow.sctp.vtagReply;
  } else if (protocol === IPPROTO_DCCP && flow.dccp !== undefined) {
    words[W_PROTOINFO] = state | (flow.dccp.role << 8);
    words[W_PROTOINFO_B] = Math.floor(flow.dccp.handshakeSeq / WORD_VALUES);
    words[W_PROTOINFO_C] = flow.dccp.handshakeSeq >>> 0;
  }
}

function readRare(flow: Flow, rare: RareAttributes): void {
  if (rare.labels !== undefined) flow.labels = Buffer.from(rare.labels).toString("hex");
  if (rare.helper !== undefined) flow.helper = rare.helper;
  if (rare.secctx !== undefined) flow.secctx = rare.secctx;
  if (rare.master !== undefined) flow.master = masterFromWords(rare.master);
  if (rare.seqadjOrig !== undefined || rare.seqadjReply !== undefined) {
    flow.seqadj = {};
    if (rare.seqadjOrig !== undefined) flow.seqadj.orig = { ...rare.seqadjOrig };
    if (rare.seqadjReply !== undefined) flow.seqadj.reply = { ...rare.seqadjReply };
  }
  if (rare.synproxy !== undefined) flow.synproxy = { ...rare.synproxy };
}

function rareFromFlow(flow: Flow): RareAttributes | null {
  const rare: RareAttributes = {};
  if (flow.labels !== undefined) {
    if (!/^([0-9a-f]{2}){0,16}$/i.test(flow.labels)) throw unreadable("labels", flow.labels);
    rare.labels = new Uint8Array(Buffer.from(flow.labels, "hex"));
  }
  if (flow.helper !== undefined) rare.helper = flow.helper;
  if (flow.secctx !== undefined) rare.secctx = flow.secctx;
  if (flow.master !== undefined) rare.master = wordsFromMaster(flow.master);
  if (flow.seqadj?.orig !== undefined) rare.seqadjOrig = { ...flow.seqadj.orig };
  if (flow.seqadj?.reply !== undefined) rare.seqadjReply = { ...flow.seqadj.reply };
  if (flow.synproxy !== undefined) rare.synproxy = { ...flow.synproxy };
  return Object.keys(rare).length === 0 ? null : rare;
}

function masterFromWords(words: Uint32Array): FlowMaster {
  const family = familyOf(words, 0);
  const protocol = protocolOf(words, 0);
  const master: FlowMaster = {
    family: familyName(family),
    protocol: protocolText(protocol),
    ...tuple(words, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4, family, protocol),
  };
  const zone = zoneOrigOf(words, 0);
  if (zone !== 0) master.zone = zone;
  return master;
}

function wordsFromMaster(master: FlowMaster): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  const { family, protocol } = familyAndProtocol(master.family, master.protocol);
  words[W_PROTO] = protoWord(family, protocol);
  writeTuple(words, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4, master, family, protocol);
  words[W_ZONE] = zoneWord(master.zone ?? 0, master.zone ?? 0);
  return words;
}

function familyName(family: number): "ipv4" | "ipv6" {
  return family === AF_INET6 ? "ipv6" : "ipv4";
}

function familyAndProtocol(family: string, protocol: string): { family: number; protocol: number } {
  if (family !== "ipv4" && family !== "ipv6") throw unreadable("family", family);
  return {
    family: family === "ipv6" ? AF_INET6 : AF_INET,
    protocol: readable(protocolNumber(protocol), "protocol", protocol),
  };
}

function addressWords(text: string, family: number): Uint32Array {
  const address = parseAddress(text);
  if (address === undefined || address.family !== family) throw unreadable("address", text);
  return address.words;
}

function isoSeconds(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
}

function epochSeconds(text: string | undefined, key: string): number {
  if (text === undefined) return 0;
  const milliseconds = Date.parse(text);
  if (Number.isNaN(milliseconds)) throw unreadable(key, text);
  return Math.floor(milliseconds / 1000);
}

function readable(value: number | undefined, key: string, text: string | undefined): number {
  if (value === undefined) throw unreadable(key, text ?? "");
  return value;
}

function unreadable(key: string, text: string): ConntrailError {
  return new ConntrailError("MALFORMED", `flow: ${key} "${text}" cannot be read`);
}
