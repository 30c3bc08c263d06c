/**
 * Text forms of a flow, byte for byte those that operators' scripts parse:
 *
 *   formatConntrack      a line of `conntrackd -i` and `conntrackd -e`
 *   formatXml            a line of `conntrackd -i -x` and `conntrackd -e -x`
 *   formatConntrackTool  a line of `conntrack -L`
 *   formatEnded          a line of conntrackd's log of ended flows
 *
 * One difference is on purpose: conntrackd's XML names the states of SCTP and DCCP out of TCP's table (an established
 * association reads FIN_WAIT there), and its text those of DCCP out of SCTP's. Here each protocol has its own names
 * everywhere.
 */
import { formatAddress } from "./address.js";
import { plainText } from "./plain-text.js";
import { hasPorts, IPPROTO_GRE, isIcmp, protocolName, protocolStates, stateName } from "./protocol.js";
import {
  AF_INET,
  AF_INET6,
  type DecodedFlow,
  HAS_COUNTERS,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  type RareAttributes,
  W_CREATED,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_UPDATED,
} from "./record.js";
import { familyOf, icmpTypeOf, protocolOf, protocolStateOf, zoneOrigOf, zoneReplyOf } from "./record-fields.js";
import { IPS_ASSURED, IPS_HW_OFFLOAD, IPS_OFFLOAD, IPS_SEEN_REPLY } from "./status.js";

/** What a line shows besides the flow itself. */
export interface FormatOptions {
  /**
   * False for the external cache: conntrackd prints the original tuple only. A record without a reply tuple has none
   * in any case.
   */
  reply: boolean;
  /** Seconds since the Unix epoch, for `[active since ...]`. */
  nowSeconds: number;
  /** For `[expires in ...]`, which mode ALARM prints: the time left to a flow that was updated then. */
  expiresIn?: (updatedSeconds: number) => number;
}

/** Attributes of the kernel's answer that a record does not hold; each is printed if it is given. */
export interface KernelOptions {
  /** Original packets and bytes, reply packets and bytes (nf_conntrack_acct). */
  counters?: ArrayLike<number>;
  /** How long the flow has lived (nf_conntrack_timestamp). */
  deltaSeconds?: number;
}

/**
 * One line of `conntrackd -i` or `-e`, without the line feed. The timeout and the labels are not printed, as there.
 */
export function formatConntrack(
  words: Uint32Array,
  base: number,
  rare: RareAttributes | null,
  options: FormatOptions,
): string {
  const ageSeconds = Math.max(0, options.nowSeconds - words[base + W_CREATED]!);
  const expiry = options.expiresIn === undefined ? "" : `[expires in ${options.expiresIn(words[base + W_UPDATED]!)}s] `;
  return `${conntrackLine(words, base, rare, options.reply, "", {})} ${expiry}[active since ${ageSeconds}s]`;
}

/**
 * One line of `conntrack -L`, without the line feed: with the timeout, and counters and delta-time if they are given.
 * `use=`, the kernel's reference count, is unknown here and left out.
 */
export function formatConntrackTool(
  words: Uint32Array,
  base: number,
  rare: RareAttributes | null,
  options: KernelOptions = {},
): string {
  const timeout = words[base + W_HAS]! & HAS_TIMEOUT ? `${words[base + W_TIMEOUT]} ` : "";
  return conntrackLine(words, base, rare, true, timeout, options);
}

/**
 * One line of conntrackd's log of ended flows (`Stats { LogFile }`), without time and line feed: what the kernel
 * reported about the end, without the timeout.
 */
export function formatEnded({ words, counters, timesMicros, rare }: DecodedFlow): string {
  const has = words[W_HAS]!;
  return conntrackLine(words, 0, rare, true, "", {
    ...(has & HAS_COUNTERS ? { counters } : {}),
    ...(has & HAS_TIMES && timesMicros[1]! > 0 ? { deltaSeconds: secondsBetween(timesMicros) } : {}),
  });
}

/** As libnetfilter_conntrack has it: both times in whole seconds. */
function secondsBetween([startMicros = 0, stopMicros = 0]: ArrayLike<number> & Iterable<number>): number {
  return Math.floor(stopMicros / 1e6) - Math.floor(startMicros / 1e6);
}

/** As `formatEnded`, for a flow whose end the kernel did not report: what was last known of it. */
export function formatMissed(words: Uint32Array, base: number, rare: RareAttributes | null): string {
  return conntrackLine(words, base, rare, true, "", {});
}

function conntrackLine(
  words: Uint32Array,
  base: number,
  rare: RareAttributes | null,
  wantReply: boolean,
  timeout: string,
  kernel: KernelOptions,
): string {
  const protocol = protocolOf(words, base);
  const family = familyOf(words, base);
  const has = words[base + W_HAS]!;
  const status = words[base + W_STATUS]!;
  const zoneOrig = zoneOrigOf(words, base);
  const zoneReply = zoneReplyOf(words, base);
  const counters = kernel.counters;
  let line = `${protocolName(protocol).padEnd(8)} ${protocol} ${timeout}`;
  if (has & HAS_PROTOINFO && protocolStates(protocol) !== undefined) {
    line += `${stateName(protocol, protocolStateOf(words, base))} `;
  }
  line += tupleText(words, base + W_ORIG_SRC, base + W_ORIG_DST, words[base + W_ORIG_L4]!, family, protocol);
  if (zoneOrig !== zoneReply && zoneOrig !== 0) line += `zone-orig=${zoneOrig} `;
  if (counters !== undefined) line += `packets=${counters[0]} bytes=${counters[1]} `;
  if (has & HAS_STATUS && !(status & IPS_SEEN_REPLY)) line += "[UNREPLIED] ";
  if (wantReply && has & HAS_REPLY) {
    line += tupleText(words, base + W_REPLY_SRC, base + W_REPLY_DST, words[base + W_REPLY_L4]!, family, protocol);
  }
  if (zoneOrig !== zoneReply && zoneReply !== 0) line += `zone-reply=${zoneReply} `;
  if (counters !== undefined) line += `packets=${counters[2]} bytes=${counters[3]} `;
  if (has & HAS_STATUS) line += statusText(status);
  if (has & HAS_MARK) line += `mark=${words[base + W_MARK]} `;
  if (rare?.secctx !== undefined) line += `secctx=${plainText(rare.secctx)} `;
  if (zoneOrig === zoneReply && zoneOrig !== 0) line += `zone=${zoneOrig} `;
  if (kernel.deltaSeconds !== undefined) line += `delta-time=${kernel.deltaSeconds} `;
  if (rare?.helper !== undefined) line += `helper=${plainText(rare.helper)} `;
  return line.slice(0, -1);
}

function tupleText(words: Uint32Array, src: number, dst: number, l4: number, family: number, protocol: number): string {
  const text = `src=${formatAddress(words, src, family)} dst=${formatAddress(words, dst, family)} `;
  if (isIcmp(protocol)) return `${text}type=${icmpTypeOf(l4)} code=${l4 & 0xff} id=${l4 >>> 16} `;
  return text + portsText(l4, protocol);
}

/** Ports or GRE keys of a layer 4 word, with a space behind each; nothing for protocols that have neither. */
export function portsText(l4: number, protocol: number): string {
  if (hasPorts(protocol)) return `sport=${l4 >>> 16} dport=${l4 & 0xffff} `;
  if (protocol !== IPPROTO_GRE) return "";
  return `srckey=0x${(l4 >>> 16).toString(16)} dstkey=0x${(l4 & 0xffff).toString(16)} `;
}

/** A flow that a flowtable or the network card handles shows that in place of [ASSURED]. */
function statusText(status: number): string {
  if (status & IPS_HW_OFFLOAD) return "[HW_OFFLOAD] ";
  if (status & IPS_OFFLOAD) return "[OFFLOAD] ";
  return status & IPS_ASSURED ? "[ASSURED] " : "";
}

/**
 * One `<flow>...</flow>` of `conntrackd -x`, without the line feed. Without a reply tuple its element is empty, as in
 * conntrackd's dump of an external cache. The id is printed with the reply only: an external row holds its owner's
 * handle.
 */
export function formatXml(
  words: Uint32Array,
  base: number,
  rare: RareAttributes | null,
  options: Pick<FormatOptions, "reply">,
): string {
  const protocol = protocolOf(words, base);
  const family = familyOf(words, base);
  const has = words[base + W_HAS]!;
  const zoneOrig = zoneOrigOf(words, base);
  const zoneReply = zoneReplyOf(words, base);
  const zonesDiffer = zoneOrig !== zoneReply;
  const orig = tupleXml(words, base + W_ORIG_SRC, base + W_ORIG_DST, words[base + W_ORIG_L4]!, family, protocol);
  const reply =
    options.reply && has & HAS_REPLY
      ? tupleXml(words, base + W_REPLY_SRC, base + W_REPLY_DST, words[base + W_REPLY_L4]!, family, protocol)
      : NO_TUPLE_XML;
  let xml = `<flow><meta direction="original">${orig}`;
  if (zonesDiffer && zoneOrig !== 0) xml += `<zone>${zoneOrig}</zone>`;
  xml += `</meta><meta direction="reply">${reply}`;
  if (zonesDiffer && zoneReply !== 0) xml += `<zone>${zoneReply}</zone>`;
  xml += "</meta>";
  let meta = "";
  if (has & HAS_PROTOINFO && protocolStates(protocol) !== undefined) {
    meta += `<state>${stateName(protocol, protocolStateOf(words, base))}</state>`;
  }
  if (has & HAS_MARK) meta += `<mark>${words[base + W_MARK]}</mark>`;
  if (rare?.secctx !== undefined) meta += `<secctx>${escapeXml(rare.secctx)}</secctx>`;
  if (!zonesDiffer && zoneOrig !== 0) meta += `<zone>${zoneOrig}</zone>`;
  if (options.reply && has & HAS_ID) meta += `<id>${words[base + W_ID]}</id>`;
  if (has & HAS_STATUS) {
    if (words[base + W_STATUS]! & IPS_ASSURED) meta += "<assured/>";
    if (!(words[base + W_STATUS]! & IPS_SEEN_REPLY)) meta += "<unreplied/>";
  }
  if (meta !== "") xml += `<meta direction="independent">${meta}</meta>`;
  if (rare?.helper !== undefined) xml += `<helper>${escapeXml(rare.helper)}</helper>`;
  return `${xml}</flow>`;
}

const NO_TUPLE_XML =
  '<layer3 protonum="0" protoname="unknown"><src></src><dst></dst></layer3><layer4 protonum="0" protoname="unknown"></layer4>';

function tupleXml(words: Uint32Array, src: number, dst: number, l4: number, family: number, protocol: number): string {
  return layer3Xml(family, addressesXml(words, src, dst, family)) + layer4Xml(protocol, portsXml(l4, protocol));
}

/** `<layer3>` around what it holds. */
export function layer3Xml(family: number, content: string): string {
  return `<layer3 protonum="${family}" protoname="${familyProtoname(family)}">${content}</layer3>`;
}

/** `<layer4>` around what it holds. */
export function layer4Xml(protocol: number, content: string): string {
  return `<layer4 protonum="${protocol}" protoname="${protocolName(protocol)}">${content}</layer4>`;
}

/** `<src>` and `<dst>` of the addresses at `words[src]` and `words[dst]`. */
export function addressesXml(words: Uint32Array, src: number, dst: number, family: number): string {
  return `<src>${formatAddress(words, src, family)}</src><dst>${formatAddress(words, dst, family)}</dst>`;
}

/** Ports or GRE keys of a layer 4 word; nothing for protocols that have neither, as in conntrackd. */
export function portsXml(l4: number, protocol: number): string {
  if (hasPorts(protocol)) return `<sport>${l4 >>> 16}</sport><dport>${l4 & 0xffff}</dport>`;
  if (protocol !== IPPROTO_GRE) return "";
  return `<srckey>0x${(l4 >>> 16).toString(16)}</srckey><dstkey>0x${(l4 & 0xffff).toString(16)}</dstkey>`;
}

function familyProtoname(family: number): string {
  if (family === AF_INET) return "ipv4";
  return family === AF_INET6 ? "ipv6" : "unknown";
}

/** Text as XML may hold it, in one line. */
export function escapeXml(text: string): string {
  return plainText(text).replace(/[<>&"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
