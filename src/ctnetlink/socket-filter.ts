/**
 * Compiles the filter's rules to a classic BPF program on the event socket, so that the kernel queues no unwanted
 * events. The program finds attributes with SKF_AD_NLATTR, which costs the kernel some hundred nanoseconds per event.
 *
 *     of conntrack?       no → keep (expectations)
 *     muted port, and no destroy event?         yes → drop
 *     protocol listed?    no → drop
 *     TCP with a state, and no destroy event:   listed?   no → drop
 *     original source or reply source listed?   no → drop
 *
 * It keeps what it cannot read. The predicate of src/flow/filter.ts judges every event again, so the program may keep
 * too much, but it never drops what the predicate would keep. It also keeps the end of a flow whose last state is not
 * listed, because its beginning may have been published. The machine's own addresses (`filter.local`) are left to the
 * predicate: they change at any time, and an event that an outdated program drops is lost.
 */
import { type Cidr, maskWord } from "../flow/address.js";
import { type FilterRules, membership } from "../flow/filter.js";
import { IPPROTO_TCP } from "../flow/protocol.js";
import { AF_INET, AF_INET6 } from "../flow/record.js";
import * as libc from "../os/libc.js";
import { swap32 } from "./attributes.js";
import {
  BPF_INSTRUCTION_BYTES,
  BPF_JEQ_K,
  BPF_JGE_K,
  BPF_JGT_K,
  BPF_LD_B_ABS,
  BPF_LD_B_IND,
  BPF_LD_IMM,
  BPF_LD_W_ABS,
  BPF_LD_W_IND,
  BPF_LDX_IMM,
  BPF_RET_K,
  BPF_TAX,
  BpfProgram,
  type Label,
  SKF_AD_NLATTR,
  SKF_AD_NLATTR_NEST,
} from "./bpf.js";
import {
  CTA_IP_V4_SRC,
  CTA_IP_V6_SRC,
  CTA_PROTO_NUM,
  CTA_PROTOINFO,
  CTA_PROTOINFO_TCP,
  CTA_PROTOINFO_TCP_STATE,
  CTA_TUPLE_IP,
  CTA_TUPLE_ORIG,
  CTA_TUPLE_PROTO,
  CTA_TUPLE_REPLY,
  IPCTNL_MSG_CT_DELETE,
  IPCTNL_MSG_CT_NEW,
  NFGENMSG_LEN,
  NFNL_SUBSYS_CTNETLINK,
  NLA_HDRLEN,
  NLMSG_HDRLEN,
} from "./constants.js";

/** The two bytes of nlmsg_type, which is in (little-endian) host order. */
const AT_TYPE = 4;
const AT_SUBSYSTEM = 5;
const AT_PORT = 12;
const AT_FAMILY = NLMSG_HDRLEN;
const AT_ATTRIBUTES = NLMSG_HDRLEN + NFGENMSG_LEN;
const WORD_MAX = 0xffffffff;
const KEEP = 0xffffffff;
const SOCK_FPROG_BYTES = 16;

/** How much of the rules the kernel filters by. */
export interface SocketFilterState {
  /** Length of the attached program; 0: none is attached. */
  readonly instructions: number;
  /** The rules that are left to the predicate, because their lists are too long or the kernel refused them. */
  readonly leftOut: readonly (keyof FilterRules)[];
}

/**
 * The program for the rules. Null when it would be longer than the kernel accepts, which takes some hundred networks,
 * each compared with two addresses. Undefined when there is nothing to filter. `mutedPort`: also drops the events of
 * flows that requests of this netlink port made or changed; 0 for none.
 */
export function compileSocketFilter(rules: FilterRules, mutedPort = 0): Uint8Array<ArrayBuffer> | null | undefined {
  if (Object.keys(rules).length === 0 && mutedPort === 0) return undefined;
  const program = new BpfProgram();
  const keep = program.label();
  const drop = program.label();
  const flow = program.label();
  program.statement(BPF_LD_B_ABS, AT_SUBSYSTEM);
  program.branch(BPF_JEQ_K, NFNL_SUBSYS_CTNETLINK, flow, keep);
  program.place(flow);
  if (mutedPort !== 0) writeMuted(program, mutedPort, drop);
  if (rules.protocols !== undefined || rules.tcpStates !== undefined) {
    loadAttribute(program, [CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM], keep);
    program.statement(BPF_LD_B_IND, NLA_HDRLEN);
  }
  if (rules.protocols !== undefined) {
    const next = program.label();
    search(program, membershipRanges(membership(rules.protocols)), next, drop);
    program.place(next);
  }
  if (rules.tcpStates !== undefined) {
    const addresses = program.label();
    writeStates(program, membershipRanges(membership(rules.tcpStates)), { next: addresses, drop });
    program.place(addresses);
  }
  if (rules.addresses !== undefined) writeAddresses(program, rules.addresses, keep, drop);
  program.place(keep);
  program.statement(BPF_RET_K, KEEP);
  program.place(drop);
  program.statement(BPF_RET_K, 0);
  return program.assemble();
}

/**
 * Drops the events of flows that requests of a port made or changed; those of flows that they ended are judged
 * further.
 */
function writeMuted(program: BpfProgram, port: number, drop: Label): void {
  const lives = program.label();
  const next = program.label();
  program.statement(BPF_LD_B_ABS, AT_TYPE);
  program.branch(BPF_JEQ_K, IPCTNL_MSG_CT_NEW, lives, next);
  program.place(lives);
  program.statement(BPF_LD_W_ABS, AT_PORT);
  // A load converts from network order, which nlmsg_pid is not in.
  program.branch(BPF_JEQ_K, swap32(port) >>> 0, drop, next);
  program.place(next);
}

/** Values from `first` to `last`; for addresses, `behind` restricts the next word, undefined: to nothing. */
interface Range {
  readonly first: number;
  readonly last: number;
  readonly behind?: readonly Cidr[];
}

/** X and A ← where the attribute at the end of the path of types is; jumps to `missing` when there is none. */
function loadAttribute(program: BpfProgram, path: readonly number[], missing: Label): void {
  program.statement(BPF_LD_IMM, AT_ATTRIBUTES);
  for (const [depth, type] of path.entries()) {
    const found = program.label();
    program.statement(BPF_LDX_IMM, type);
    program.statement(BPF_LD_W_ABS, depth === 0 ? SKF_AD_NLATTR : SKF_AD_NLATTR_NEST);
    program.branch(BPF_JEQ_K, 0, missing, found);
    program.place(found);
  }
  program.statement(BPF_TAX);
}

/** The protocol is in A. Other protocols than TCP, and events without a state, jump to `next`. */
function writeStates(program: BpfProgram, ranges: readonly Range[], to: { next: Label; drop: Label }): void {
  const tcp = program.label();
  const lives = program.label();
  program.branch(BPF_JEQ_K, IPPROTO_TCP, tcp, to.next);
  program.place(tcp);
  program.statement(BPF_LD_B_ABS, AT_TYPE);
  program.branch(BPF_JEQ_K, IPCTNL_MSG_CT_DELETE, to.next, lives);
  program.place(lives);
  loadAttribute(program, [CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE], to.next);
  program.statement(BPF_LD_B_IND, NLA_HDRLEN);
  search(program, ranges, to.next, to.drop);
}

function writeAddresses(
  program: BpfProgram,
  { logic, values }: NonNullable<FilterRules["addresses"]>,
  keep: Label,
  drop: Label,
): void {
  const [listed, others] = logic === "accept" ? [keep, drop] : [drop, keep];
  const ipv4 = program.label();
  const notIpv4 = program.label();
  const ipv6 = program.label();
  program.statement(BPF_LD_B_ABS, AT_FAMILY);
  program.branch(BPF_JEQ_K, AF_INET, ipv4, notIpv4);
  program.place(notIpv4);
  program.branch(BPF_JEQ_K, AF_INET6, ipv6, keep);
  for (const [family, start, source] of [
    [AF_INET, ipv4, CTA_IP_V4_SRC],
    [AF_INET6, ipv6, CTA_IP_V6_SRC],
  ] as const) {
    program.place(start);
    const networks = values.filter((cidr) => cidr.family === family);
    if (networks.length === 0) {
      program.jump(others);
      continue;
    }
    const reply = program.label();
    loadAttribute(program, [CTA_TUPLE_ORIG, CTA_TUPLE_IP, source], keep);
    searchAddress(program, networks, 0, listed, reply);
    program.place(reply);
    loadAttribute(program, [CTA_TUPLE_REPLY, CTA_TUPLE_IP, source], keep);
    searchAddress(program, networks, 0, listed, others);
  }
}

/** Compares word `index` of the address whose attribute is at X, and the next word where a network is that long. */
function searchAddress(program: BpfProgram, networks: readonly Cidr[], index: number, hit: Label, miss: Label): void {
  program.statement(BPF_LD_W_IND, NLA_HDRLEN + 4 * index);
  const ranges = wordRanges(networks, index);
  const deeper = new Map<Range, Label>();
  for (const range of ranges) if (range.behind !== undefined) deeper.set(range, program.label());
  search(program, ranges, hit, miss, deeper);
  for (const [{ behind = [] }, label] of deeper) {
    program.place(label);
    searchAddress(program, behind, index + 1, hit, miss);
  }
}

/**
 * Finds the range that A lies in, by bisection, and jumps to its label in `deeper`, else to `hit`. The ranges are
 * sorted.
 */
function search(
  program: BpfProgram,
  ranges: readonly Range[],
  hit: Label,
  miss: Label,
  deeper: ReadonlyMap<Range, Label> = new Map(),
): void {
  const halve = (from: number, to: number, atLeast: number): void => {
    if (to - from === 1) {
      const range = ranges[from]!;
      compare(program, range, atLeast, deeper.get(range) ?? hit, miss);
      return;
    }
    const middle = (from + to) >>> 1;
    const lower = program.label();
    const upper = program.label();
    const { first } = ranges[middle]!;
    program.branch(BPF_JGE_K, first, upper, lower);
    program.place(lower);
    halve(from, middle, atLeast);
    program.place(upper);
    halve(middle, to, first);
  };
  if (ranges.length === 0) program.jump(miss);
  else halve(0, ranges.length, 0);
}

/** Jumps by whether A, which is `atLeast` or above, lies in the range. */
function compare(program: BpfProgram, { first, last }: Range, atLeast: number, hit: Label, miss: Label): void {
  if (first === last) {
    program.branch(BPF_JEQ_K, first, hit, miss);
    return;
  }
  if (first > atLeast) {
    const above = program.label();
    program.branch(BPF_JGE_K, first, above, miss);
    program.place(above);
  }
  if (last < WORD_MAX) program.branch(BPF_JGT_K, last, miss, hit);
  else program.jump(hit);
}

/** The ranges of numbers whose entry in the table is 1. */
function membershipRanges(keep: Uint8Array): Range[] {
  const ranges: Range[] = [];
  for (let first = 0; first < keep.length; first++) {
    if (keep[first] === 0) continue;
    let last = first;
    while (keep[last + 1] === 1) last++;
    ranges.push({ first, last });
    first = last;
  }
  return ranges;
}

/** The possible values of word `index` of an address in one of the networks: sorted ranges that do not overlap. */
function wordRanges(networks: readonly Cidr[], index: number): Range[] {
  const whole = networks
    .filter(({ prefix }) => prefix <= 32 * (index + 1))
    .map(({ words, prefix }) => ({ first: words[index]!, last: (words[index]! | ~maskWord(prefix, index)) >>> 0 }));
  const points = new Map<number, Cidr[]>();
  for (const network of networks) {
    if (network.prefix <= 32 * (index + 1)) continue;
    const word = network.words[index]!;
    const behind = points.get(word);
    if (behind === undefined) points.set(word, [network]);
    else behind.push(network);
  }
  const all: Range[] = [...whole, ...[...points].map(([word, behind]) => ({ first: word, last: word, behind }))];
  // A network before the networks within it.
  all.sort(
    (a, b) => a.first - b.first || b.last - a.last || Number(a.behind !== undefined) - Number(b.behind !== undefined),
  );
  const ranges: Range[] = [];
  for (const range of all) {
    const before = ranges.at(-1);
    if (before === undefined || range.first > before.last + 1) ranges.push(range);
    else if (range.first <= before.last) continue;
    else if (before.behind === undefined && range.behind === undefined) {
      ranges[ranges.length - 1] = { first: before.first, last: range.last };
    } else ranges.push(range);
  }
  return ranges;
}

/** The program on a socket. The object owns the memory that the kernel reads while it attaches it. */
export class SocketFilter {
  readonly #fd: number;
  #program = libc.allocateStable(0);
  readonly #fprog = libc.allocateStable(SOCK_FPROG_BYTES);

  constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Replaces the attached program by one for the rules. If it does not fit, or net.core.optmem_max forbids it, the
   * addresses are left out, then all rules. `mutedPort` as in `compileSocketFilter`.
   */
  attach(rules: FilterRules, mutedPort = 0): SocketFilterState {
    // There may be no room for two programs. Until the new one is attached, only the predicate filters.
    libc.setIntOption(this.#fd, libc.SOL_SOCKET, libc.SO_DETACH_FILTER, 0);
    const { addresses, ...others } = rules;
    for (const part of addresses === undefined ? [others] : [rules, others]) {
      const program = compileSocketFilter(part, mutedPort);
      if (program === undefined || program === null || !this.#set(program)) continue;
      const leftOut = part === rules || addresses === undefined ? [] : (["addresses"] as const);
      return { instructions: program.length / BPF_INSTRUCTION_BYTES, leftOut };
    }
    return { instructions: 0, leftOut: Object.keys(rules) as (keyof FilterRules)[] };
  }

  #set(program: Uint8Array<ArrayBuffer>): boolean {
    this.#program = libc.allocateStable(program.length);
    this.#program.set(program);
    new Uint16Array(this.#fprog.buffer)[0] = program.length / BPF_INSTRUCTION_BYTES;
    new BigUint64Array(this.#fprog.buffer)[1] = libc.addressOf(this.#program);
    return libc.setsockopt(this.#fd, libc.SOL_SOCKET, libc.SO_ATTACH_FILTER, this.#fprog, SOCK_FPROG_BYTES) === 0;
  }
}
