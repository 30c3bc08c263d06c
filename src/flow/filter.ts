/**
 * Which flows are replicated (`compileFilter`, conntrackd's filter) and which are shown (`compileFlowQuery`).
 * Rules become closures over typed arrays once; a test of a record allocates nothing.
 */
import { ConntrailError } from "../errors.js";
import { type Cidr, maskWord, parseCidr } from "./address.js";
import { hasPorts, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, protocolNumber } from "./protocol.js";
import {
  AF_INET,
  AF_INET6,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
} from "./record.js";
import { familyOf, protocolOf, protocolStateOf, replyIsMirror } from "./record-fields.js";

/** Tests the record at `words[base]`; true means: keep it. */
export type FlowPredicate = (words: Uint32Array, base: number) => boolean;

/** A list and what it means: `accept` keeps only what it names, `ignore` keeps all but that. */
export interface Selection<T> {
  logic: "accept" | "ignore";
  values: readonly T[];
}

/** The rules of conntrackd's Filter block. A kind of rule that is left out lets everything pass. */
export interface FilterRules {
  /** Layer 4 protocol numbers. */
  protocols?: Selection<number>;
  /**
   * Matched on the original source and the reply source: the two real ends of the flow. One that matches is enough.
   */
  addresses?: Selection<Cidr>;
  /** TCP state numbers. Flows of other protocols, and those whose state is not known, pass. */
  tcpStates?: Selection<number>;
}

/** Knows the current addresses of this machine. `words[base]` is the first of four address words. */
export interface LocalAddressLookup {
  hasAddress(words: Uint32Array, base: number, family: number): boolean;
}

/**
 * Compiles the rules. With `local`, flows that begin or end on this machine are ignored whatever the rules say; it is
 * consulted for each flow, so it may change. Single addresses and networks are one list (conntrackd demands a match in
 * both for `accept`).
 */
export function compileFilter(rules: FilterRules, local?: LocalAddressLookup): FlowPredicate {
  const protocols = rules.protocols && membership(rules.protocols);
  const states = rules.tcpStates && membership(rules.tcpStates);
  const addresses = rules.addresses && new NetworkSet(rules.addresses.values);
  const acceptAddresses = rules.addresses?.logic === "accept";
  return (words, base) => {
    const protocol = protocolOf(words, base);
    if (protocols !== undefined && protocols[protocol] === 0) return false;
    if (
      states !== undefined &&
      protocol === IPPROTO_TCP &&
      words[base + W_HAS]! & HAS_PROTOINFO &&
      states[protocolStateOf(words, base)] === 0
    ) {
      return false;
    }
    if (addresses !== undefined) {
      const family = familyOf(words, base);
      const found =
        addresses.hasAddress(words, base + W_ORIG_SRC, family) ||
        addresses.hasAddress(words, base + W_REPLY_SRC, family);
      if (found !== acceptAddresses) return false;
    }
    if (local !== undefined) {
      const family = familyOf(words, base);
      if (local.hasAddress(words, base + W_ORIG_SRC, family)) return false;
      if (local.hasAddress(words, base + W_REPLY_SRC, family)) return false;
    }
    return true;
  };
}

/** By number up to 255: 1 where the selection keeps it. */
export function membership(selection: Selection<number>): Uint8Array {
  const accept = selection.logic === "accept";
  const keep = new Uint8Array(256).fill(accept ? 0 : 1);
  for (const value of selection.values) keep[value] = accept ? 1 : 0;
  return keep;
}

/**
 * A set of networks and single addresses of both families: sorted ranges that do not overlap, found by bisection.
 * Immutable; a changed set is a new one.
 */
export class NetworkSet implements LocalAddressLookup {
  /** Per range its first and its last address: two words for IPv4, eight for IPv6. */
  readonly #ipv4: Uint32Array;
  readonly #ipv6: Uint32Array;

  constructor(cidrs: readonly Cidr[]) {
    this.#ipv4 = ranges(cidrs, AF_INET, 1);
    this.#ipv6 = ranges(cidrs, AF_INET6, 4);
  }

  /** True when the address at `words[base]` lies in one of the networks. */
  hasAddress(words: Uint32Array, base: number, family: number): boolean {
    if (family === AF_INET) return this.#hasIpv4(words[base]!);
    return family === AF_INET6 && this.#hasIpv6(words, base);
  }

  #hasIpv4(address: number): boolean {
    const table = this.#ipv4;
    let low = 0;
    let high = table.length >>> 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (table[2 * middle + 1]! < address) low = middle + 1;
      else high = middle;
    }
    return 2 * low < table.length && table[2 * low]! <= address;
  }

  #hasIpv6(words: Uint32Array, base: number): boolean {
    const table = this.#ipv6;
    let low = 0;
    let high = table.length >>> 3;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareWords(table, 8 * middle + 4, words, base, 4) < 0) low = middle + 1;
      else high = middle;
    }
    return 8 * low < table.length && compareWords(table, 8 * low, words, base, 4) <= 0;
  }
}

function compareWords(a: Uint32Array, aBase: number, b: Uint32Array, bBase: number, count: number): number {
  for (let i = 0; i < count; i++) {
    const difference = a[aBase + i]! - b[bBase + i]!;
    if (difference !== 0) return difference;
  }
  return 0;
}

/**
 * The networks of a family as sorted ranges. Networks nest or are disjoint, so one that starts within the last range
 * lies in it.
 */
function ranges(cidrs: readonly Cidr[], family: number, width: number): Uint32Array {
  const all = cidrs
    .filter((cidr) => cidr.family === family)
    .map((cidr) => ({ first: cidr.words, last: cidr.words.map((word, i) => word | ~maskWord(cidr.prefix, i)) }))
    .sort((a, b) => compareWords(a.first, 0, b.first, 0, width) || compareWords(b.last, 0, a.last, 0, width));
  const kept: typeof all = [];
  for (const range of all) {
    const previous = kept.at(-1);
    if (previous !== undefined && compareWords(range.first, 0, previous.last, 0, width) <= 0) continue;
    kept.push(range);
  }
  const table = new Uint32Array(kept.length * 2 * width);
  kept.forEach((range, i) => {
    table.set(range.first.subarray(0, width), 2 * width * i);
    table.set(range.last.subarray(0, width), 2 * width * i + width);
  });
  return table;
}

/**
 * The options of `dump` and `history` that choose flows, as text from the command line. All that are given must hold.
 */
export interface FlowQuery {
  /** An address or network that is any of the four addresses: original or reply, source or destination. */
  host?: string;
  /** Source of the original direction, before translation: who opened the connection. */
  src?: string;
  /** Destination of the original direction, before translation: where to. */
  dst?: string;
  /** Any of the four ports. Protocols without ports never match. */
  port?: number | string;
  /** A protocol by name or number. */
  proto?: string;
  /** True: only flows with a translated address or port; false: only the others. */
  nat?: boolean;
  /** `value` or `value/mask`, decimal or 0x, as in conntrack(8). */
  mark?: number | string;
}

/**
 * Compiles a query. Throws USAGE, naming the option, when one cannot be read, and when no flow could ever match all of
 * them.
 */
export function compileFlowQuery(query: FlowQuery): FlowPredicate {
  refuseContradictions(query);
  const tests: FlowPredicate[] = [];
  if (query.proto !== undefined) tests.push(protocolTest(query.proto));
  if (query.mark !== undefined) tests.push(markTest(String(query.mark)));
  if (query.port !== undefined) tests.push(portTest(String(query.port)));
  if (query.src !== undefined) tests.push(addressTest("--src", query.src, [W_ORIG_SRC]));
  if (query.dst !== undefined) tests.push(addressTest("--dst", query.dst, [W_ORIG_DST]));
  if (query.host !== undefined) {
    tests.push(addressTest("--host", query.host, [W_ORIG_SRC, W_ORIG_DST, W_REPLY_SRC, W_REPLY_DST]));
  }
  if (query.nat !== undefined) {
    const wanted = query.nat;
    tests.push((words, base) => isTranslated(words, base) === wanted);
  }
  return (words, base) => {
    for (let i = 0; i < tests.length; i++) if (!tests[i]!(words, base)) return false;
    return true;
  };
}

/**
 * Refuses addresses of two families, a protocol of the other family, a port of a protocol without ports. Skips what
 * cannot be read.
 */
function refuseContradictions({ host, src, dst, proto, port }: FlowQuery): void {
  const protocol = proto === undefined ? undefined : protocolNumber(proto);
  if (port !== undefined && protocol !== undefined && !hasPorts(protocol)) {
    throw new ConntrailError("USAGE", `--port: ${proto} has no ports; leave --port out, or give another --proto`);
  }
  const families = new Map<number, string>();
  if (protocol === IPPROTO_ICMP) families.set(AF_INET, `--proto ${proto}`);
  if (protocol === IPPROTO_ICMPV6) families.set(AF_INET6, `--proto ${proto}`);
  for (const [option, text] of Object.entries({ src, dst, host })) {
    const family = text === undefined ? undefined : parseCidr(text)?.family;
    if (family !== undefined && !families.has(family)) families.set(family, `--${option} ${text}`);
  }
  const [ipv4, ipv6] = [families.get(AF_INET), families.get(AF_INET6)];
  if (ipv4 === undefined || ipv6 === undefined) return;
  throw new ConntrailError("USAGE", `${ipv4} is IPv4, ${ipv6} is IPv6: no flow is both; give one family`);
}

/** True when the reply tuple is known and is not the original one turned round. */
export function isTranslated(words: Uint32Array, base: number): boolean {
  return (words[base + W_HAS]! & HAS_REPLY) !== 0 && !replyIsMirror(words, base);
}

function protocolTest(text: string): FlowPredicate {
  const protocol = protocolNumber(text);
  if (protocol === undefined) throw badOption("--proto", text, "a name such as tcp, or a number from 0 to 255");
  return (words, base) => protocolOf(words, base) === protocol;
}

function markTest(text: string): FlowPredicate {
  const [valueText, maskText, ...more] = text.split("/");
  const value = unsigned(valueText ?? "");
  const mask = maskText === undefined ? 0xffffffff : unsigned(maskText);
  if (value === undefined || mask === undefined || more.length > 0) {
    throw badOption("--mark", text, "VALUE or VALUE/MASK, decimal or 0x, up to 32 bits");
  }
  return (words, base) =>
    (words[base + W_HAS]! & HAS_MARK) !== 0 && (words[base + W_MARK]! & mask) >>> 0 === (value & mask) >>> 0;
}

function portTest(text: string): FlowPredicate {
  const port = unsigned(text);
  if (port === undefined || port > 0xffff) throw badOption("--port", text, "a number from 0 to 65535");
  return (words, base) => {
    if (!hasPorts(protocolOf(words, base))) return false;
    const orig = words[base + W_ORIG_L4]!;
    if (orig >>> 16 === port || (orig & 0xffff) === port) return true;
    if (!(words[base + W_HAS]! & HAS_REPLY)) return false;
    const reply = words[base + W_REPLY_L4]!;
    return reply >>> 16 === port || (reply & 0xffff) === port;
  };
}

function addressTest(option: string, text: string, places: readonly number[]): FlowPredicate {
  const cidr = parseCidr(text);
  if (cidr === undefined) throw badOption(option, text, "an IPv4 or IPv6 address, or a network such as 192.0.2.0/24");
  const set = new NetworkSet([cidr]);
  return (words, base) => {
    const family = familyOf(words, base);
    const hasReply = (words[base + W_HAS]! & HAS_REPLY) !== 0;
    for (let i = 0; i < places.length; i++) {
      const place = places[i]!;
      if (place >= W_REPLY_SRC && !hasReply) return false;
      if (set.hasAddress(words, base + place, family)) return true;
    }
    return false;
  };
}

function unsigned(text: string): number | undefined {
  if (!/^(0x[0-9a-f]{1,8}|\d{1,10})$/i.test(text)) return undefined;
  const value = Number(text);
  return value <= 0xffffffff ? value : undefined;
}

function badOption(option: string, text: string, allowed: string): ConntrailError {
  return new ConntrailError("USAGE", `${option}: "${text}" is not allowed; give ${allowed}`);
}
