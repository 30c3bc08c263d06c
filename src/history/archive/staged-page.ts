import { formatAddress } from "../../flow/address.js";
import { flowFromRecord } from "../../flow/flow.js";
import { hasPorts, IPPROTO_GRE, isIcmp, protocolStates, protocolText } from "../../flow/protocol.js";
import {
  AF_INET,
  AF_INET6,
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
import { createCommunityId } from "../community-id.js";
import type { Connection, ConnectionCounters, PathStep } from "../connection.js";
import { Presence, StagedValues, TEXT_PIECES } from "./columns.js";
import { StagedTexts } from "./staged-text.js";

/** The greatest value of the upper word of what has 63 bits. */
const UPPER_MAX = 0x7fff_ffff;

/** The texts of a page, by column. A class, so that V8 knows where each lies. */
class PageTexts {
  readonly uid = new StagedTexts(TEXT_PIECES.uid);
  readonly community_id = new StagedTexts(TEXT_PIECES.community_id);
  readonly outcome = new StagedTexts(TEXT_PIECES.outcome);
  readonly family = new StagedTexts(TEXT_PIECES.family);
  readonly protocol = new StagedTexts(TEXT_PIECES.protocol);
  readonly orig_src = new StagedTexts(TEXT_PIECES.orig_src);
  readonly orig_dst = new StagedTexts(TEXT_PIECES.orig_dst);
  readonly reply_src = new StagedTexts(TEXT_PIECES.reply_src);
  readonly reply_dst = new StagedTexts(TEXT_PIECES.reply_dst);
  readonly state = new StagedTexts(TEXT_PIECES.state);
  readonly attributes = new StagedTexts(TEXT_PIECES.attributes);
  readonly path_node = new StagedTexts(TEXT_PIECES.path_node);
  readonly path_steps = new StagedTexts(TEXT_PIECES.path_steps);
}

/** As many connections as a vector of DuckDB has rows, by column. */
export class StagedPage {
  rows = 0;
  readonly values = new StagedValues();
  readonly presence = new Presence();
  readonly texts = new PageTexts();
  readonly #communityId = createCommunityId();

  /** Makes it empty. */
  reset(): void {
    this.rows = 0;
    for (const bits of Object.values(this.presence) as Uint8Array[]) bits.fill(0);
    for (const texts of Object.values(this.texts) as StagedTexts[]) texts.reset();
  }

  /** Takes in a connection that ended on that day. `late`: it may be in the archive already. */
  add(connection: Connection, day: number, late: boolean): void {
    const row = this.rows++;
    const { words, rare, path, counters, startMs, endMs } = connection;
    const { values, presence, texts } = this;
    values.day[row] = day;
    values.late[row] = late ? 1 : 0;
    values.timed_by_kernel[row] = connection.timedByKernel ? 1 : 0;
    values.may_miss[row] = connection.mayMiss ? 1 : 0;
    if (startMs !== null) setTime(values.start_time, presence.start, row, startMs);
    if (endMs !== null) setTime(values.end_time, presence.end, row, endMs);
    if (counters !== null) this.#setCounters(row, counters);
    texts.uid.set(row, connection.uid);
    texts.community_id.set(row, this.#communityId(words, 0));
    texts.outcome.set(row, connection.end);
    if (rare !== null) this.#setAttributes(row, words, rare);
    this.#setPath(row, path);
    this.#setRecord(row, words);
  }

  #setCounters(row: number, { origPackets, origBytes, replyPackets, replyBytes }: ConnectionCounters): void {
    const { values } = this;
    setWide(values.orig_packets, row, origPackets);
    setWide(values.orig_bytes, row, origBytes);
    setWide(values.reply_packets, row, replyPackets);
    setWide(values.reply_bytes, row, replyBytes);
    mark(this.presence.counters, row);
  }

  /** What few flows have, as the JSON of a flow has it (src/flow/flow.ts). */
  #setAttributes(row: number, words: Uint32Array, rare: RareAttributes): void {
    const { labels, helper, secctx, master, seqadj, synproxy } = flowFromRecord(words, 0, rare);
    const text = JSON.stringify({ labels, helper, secctx, master, seqadj, synproxy });
    if (text !== "{}") this.texts.attributes.setLong(row, text);
  }

  #setPath(row: number, path: readonly PathStep[]): void {
    const { texts, values } = this;
    const [first] = path;
    texts.path_node.set(row, first?.node ?? "");
    setWide(values.path_since, row, micros(first?.sinceMs ?? 0));
    if (path.length > 1) texts.path_steps.setLong(row, path.map(stepText).join(","));
  }

  #setRecord(row: number, words: Uint32Array): void {
    const { values, presence, texts } = this;
    const protocol = words[W_PROTO]! & 0xff;
    const family = words[W_PROTO]! >>> 8;
    const has = words[W_HAS]!;
    texts.family.set(row, family === AF_INET6 ? "ipv6" : "ipv4");
    texts.protocol.set(row, protocolText(protocol));
    values.protocol_number[row] = protocol;
    values.zone_orig[row] = words[W_ZONE]! >>> 16;
    values.zone_reply[row] = words[W_ZONE]!;
    setAddress(texts.orig_src, row, words, W_ORIG_SRC, family);
    setAddress(texts.orig_dst, row, words, W_ORIG_DST, family);
    this.#setLayer4(row, protocol, words[W_ORIG_L4]!);
    values.snat[row] = 0;
    values.dnat[row] = 0;
    if ((has & HAS_REPLY) !== 0) this.#setReply(row, words, protocol, family);
    if ((has & HAS_STATUS) !== 0) {
      values.status[row] = words[W_STATUS]!;
      mark(presence.status, row);
    }
    if ((has & HAS_MARK) !== 0) {
      values.mark[row] = words[W_MARK]!;
      mark(presence.mark, row);
    }
    if ((has & HAS_PROTOINFO) === 0) return;
    values.protoinfo_a[row] = words[W_PROTOINFO]!;
    values.protoinfo_b[row] = words[W_PROTOINFO_B]!;
    values.protoinfo_c[row] = words[W_PROTOINFO_C]!;
    mark(presence.protoinfo, row);
    const state = protocolStates(protocol)?.[words[W_PROTOINFO]! & 0xff];
    if (state !== undefined) texts.state.set(row, state);
  }

  #setLayer4(row: number, protocol: number, orig: number): void {
    const { values, presence } = this;
    if (hasPorts(protocol)) {
      values.orig_sport[row] = orig >>> 16;
      values.orig_dport[row] = orig;
      mark(presence.ports, row);
    } else if (isIcmp(protocol)) {
      values.icmp_type[row] = orig >>> 8;
      values.icmp_code[row] = orig;
      values.icmp_id[row] = orig >>> 16;
      mark(presence.icmp, row);
    } else if (protocol === IPPROTO_GRE) {
      values.orig_src_key[row] = orig >>> 16;
      values.orig_dst_key[row] = orig;
      mark(presence.keys, row);
    }
  }

  /** Where the reply goes to is what became of the source, where it comes from what became of the destination. */
  #setReply(row: number, words: Uint32Array, protocol: number, family: number): void {
    const { values, presence, texts } = this;
    const orig = words[W_ORIG_L4]!;
    const reply = words[W_REPLY_L4]!;
    setAddress(texts.reply_src, row, words, W_REPLY_SRC, family);
    setAddress(texts.reply_dst, row, words, W_REPLY_DST, family);
    let source = !sameAddress(words, W_REPLY_DST, W_ORIG_SRC);
    let destination = !sameAddress(words, W_REPLY_SRC, W_ORIG_DST);
    if (hasPorts(protocol)) {
      values.reply_sport[row] = reply >>> 16;
      values.reply_dport[row] = reply;
      mark(presence.replyPorts, row);
    } else if (isIcmp(protocol)) {
      values.reply_icmp_type[row] = reply >>> 8;
      values.reply_icmp_code[row] = reply;
      values.reply_icmp_id[row] = reply >>> 16;
      mark(presence.replyIcmp, row);
      source ||= orig >>> 16 !== reply >>> 16;
    } else if (protocol === IPPROTO_GRE) {
      values.reply_src_key[row] = reply >>> 16;
      values.reply_dst_key[row] = reply;
      mark(presence.replyKeys, row);
    }
    if (hasPorts(protocol) || protocol === IPPROTO_GRE) {
      source ||= orig >>> 16 !== (reply & 0xffff);
      destination ||= (orig & 0xffff) !== reply >>> 16;
    }
    values.snat[row] = source ? 1 : 0;
    values.dnat[row] = destination ? 1 : 0;
  }
}

function mark(bits: Uint8Array, row: number): void {
  bits[row >>> 3]! |= 1 << (row & 7);
}

function setTime(values: Uint32Array, present: Uint8Array, row: number, ms: number): void {
  setWide(values, row, micros(ms));
  mark(present, row);
}

/** What does not fit into 63 bits becomes the greatest that does. */
function setWide(values: Uint32Array, row: number, value: number): void {
  const upper = Math.floor(value / 2 ** 32);
  const fits = upper <= UPPER_MAX;
  values[2 * row] = fits ? value : 0xffff_ffff;
  values[2 * row + 1] = fits ? upper : UPPER_MAX;
}

function micros(ms: number): number {
  return Math.round(ms * 1000);
}

function stepText({ node, sinceMs }: PathStep): string {
  return `${node}@${micros(sinceMs)}`;
}

function setAddress(texts: StagedTexts, row: number, words: Uint32Array, at: number, family: number): void {
  if (family === AF_INET) texts.setIpv4(row, words[at]!);
  else texts.set(row, formatAddress(words, at, family));
}

function sameAddress(words: Uint32Array, a: number, b: number): boolean {
  return (
    words[a] === words[b] &&
    words[a + 1] === words[b + 1] &&
    words[a + 2] === words[b + 2] &&
    words[a + 3] === words[b + 3]
  );
}
