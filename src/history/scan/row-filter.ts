/**
 * Filters that are pushed down to the columns. New rows are tested on the columns that a filter names, one column after the other,
 * and only the rows that pass are unpacked. A test on columns may let too many rows through, but never drops one that matches: the
 * predicate on the record decides.
 */
import assert from "node:assert/strict";
import { ConntrailError } from "../../errors.js";
import { type Cidr, maskWord, parseAddress, parseCidr } from "../../flow/address.js";
import { compileFlowQuery, type FlowPredicate, type FlowQuery } from "../../flow/filter.js";
import { hasPorts, isIcmp, protocolNumber } from "../../flow/protocol.js";
import { AF_INET, W_ORIG_DST, W_ORIG_L4, W_REPLY_DST, W_REPLY_L4, W_REPLY_SRC } from "../../flow/record.js";
import { familyOf, protocolOf } from "../../flow/record-fields.js";
import { BATCH_ROWS_MAX, type NewSection } from "../../stream/format/columns.js";
import type { WhoQuestion } from "../connection.js";

/** Keeps those of the first `count` rows of a list that may match, in place. Returns how many those are. */
type ColumnTest = (section: NewSection, list: Uint16Array, count: number) => number;

const ALL_ROWS = Uint16Array.from({ length: BATCH_ROWS_MAX }, (_, row) => row);

/** Chooses the rows that are unpacked, the connections that are followed, and those that are answered. */
export class RowFilter {
  /** Asks what never changes in a record: tuples and protocol. */
  readonly matches: FlowPredicate;
  /** The whole filter, for a record in its last known state. */
  readonly accepts: FlowPredicate;
  readonly #tests: readonly ColumnTest[];

  constructor(tests: readonly ColumnTest[], matches: FlowPredicate, accepts: FlowPredicate) {
    this.#tests = tests;
    this.matches = matches;
    this.accepts = accepts;
  }

  /** True when every row is a candidate. */
  get passesAll(): boolean {
    return this.#tests.length === 0;
  }

  /** Writes the rows of a section that may match into `list`, ascending. Unpacks the columns that it needs. Returns how many rows. */
  candidates(section: NewSection, list: Uint16Array): number {
    let count = section.rows;
    list.set(count === BATCH_ROWS_MAX ? ALL_ROWS : ALL_ROWS.subarray(0, count));
    for (const test of this.#tests) {
      if (count === 0) return 0;
      count = test(section, list, count);
    }
    return count;
  }
}

/** Compiles the filter options of `history` and `at`. Throws USAGE, naming the option, when one cannot be read. */
export function compileRowFilter(query: FlowQuery): RowFilter {
  const accepts = compileFlowQuery(query);
  // A mark may be set later, so a flow is followed whatever its mark is at first.
  const { mark: _, ...lasting } = query;
  const tests: ColumnTest[] = [];
  if (query.src !== undefined) tests.push(endsTest(cidrOf(query.src), true, false, false));
  if (query.dst !== undefined) tests.push(endsTest(cidrOf(query.dst), false, true, false));
  if (query.host !== undefined) tests.push(endsTest(cidrOf(query.host), true, true, true));
  if (query.port !== undefined) tests.push(portTest(Number(query.port)));
  const protocol = query.proto === undefined ? undefined : protocolNumber(query.proto);
  if (protocol !== undefined) tests.push(protocolTest(protocol));
  if (query.nat !== undefined) tests.push(natTest(query.nat));
  return new RowFilter(tests, compileFlowQuery(lasting), accepts);
}

/**
 * Compiles the question of `who`: connections whose source the outside sees as that address and port, so that replies go there, and
 * connections from outside to that address and port that are translated to a host inside. Throws USAGE when the address is none.
 */
export function compileWhoFilter({ address, port, protocol }: WhoQuestion): RowFilter {
  const parsed = parseAddress(address);
  if (parsed === undefined) throw new ConntrailError("USAGE", `"${address}" is no IPv4 or IPv6 address`);
  const { family, words: wanted } = parsed;
  const cidr = cidrOf(address);
  const holds = (words: Uint32Array, at: number): boolean => {
    for (let i = 0; i < 4; i++) if (words[at + i] !== wanted[i]) return false;
    return true;
  };
  const matches: FlowPredicate = (words, base) => {
    const number = protocolOf(words, base);
    if (familyOf(words, base) !== family || (protocol !== null && number !== protocol)) return false;
    if (protocol === null && !hasPorts(number)) return false;
    const reply = words[base + W_REPLY_L4]!;
    const shownPort = isIcmp(number) ? reply >>> 16 : reply & 0xffff;
    if (shownPort === port && holds(words, base + W_REPLY_DST)) return true;
    if (!hasPorts(number) || (words[base + W_ORIG_L4]! & 0xffff) !== port) return false;
    if (!holds(words, base + W_ORIG_DST)) return false;
    return reply >>> 16 !== port || !holds(words, base + W_REPLY_SRC);
  };
  const tests = [endsTest(cidr, false, true, true)];
  if (protocol !== null) tests.push(protocolTest(protocol));
  return new RowFilter(tests, matches, matches);
}

/** Parses a text that has been checked before. */
function cidrOf(text: string): Cidr {
  const cidr = parseCidr(text);
  assert(cidr !== undefined, `${text} is no network`);
  return cidr;
}

/**
 * Tests whether an address is in a network. `reply` adds the addresses of the reply tuple. Their columns are differences to the
 * original destination and source, so a section without those columns translates nothing.
 */
function endsTest(cidr: Cidr, source: boolean, destination: boolean, reply: boolean): ColumnTest {
  const width = cidr.family === AF_INET ? 1 : 4;
  const masks = [0, 1, 2, 3].map((i) => maskWord(cidr.prefix, i) >>> 0);
  const inside = (a: Uint32Array, b: Uint32Array | null, at: number): boolean => {
    for (let i = 0; i < width; i++) {
      const word = b === null ? a[at + i]! : a[at + i]! ^ b[at + i]!;
      if ((word & masks[i]!) >>> 0 !== cidr.words[i]) return false;
    }
    return true;
  };
  return (section, list, count) => {
    if (section.width !== width) return 0;
    const lists: [Uint32Array, Uint32Array | null][] = [];
    section.take("s");
    section.take("d");
    if (source) lists.push([section.source, null]);
    if (destination) lists.push([section.destination, null]);
    if (reply && section.take("rs")) lists.push([section.destination, section.replySource]);
    else if (reply && !destination) lists.push([section.destination, null]);
    if (reply && section.take("rd")) lists.push([section.source, section.replyDestination]);
    else if (reply && !source) lists.push([section.source, null]);
    return width === 1
      ? keepWords(lists, masks[0]!, cidr.words[0]!, list, count)
      : keep(list, count, (row) => lists.some(([a, b]) => inside(a, b, row * width)));
  };
}

/** The inner loop of a scan: one word of each row, masked and compared, in each of the columns. */
function keepWords(
  lists: readonly (readonly [Uint32Array, Uint32Array | null])[],
  mask: number,
  wanted: number,
  list: Uint16Array,
  count: number,
): number {
  const net = wanted | 0;
  const [first, second, third, fourth] = lists;
  let kept = 0;
  for (let i = 0; i < count; i++) {
    const row = list[i]!;
    if (
      (first !== undefined && isIn(first[0], first[1], row, mask, net)) ||
      (second !== undefined && isIn(second[0], second[1], row, mask, net)) ||
      (third !== undefined && isIn(third[0], third[1], row, mask, net)) ||
      (fourth !== undefined && isIn(fourth[0], fourth[1], row, mask, net))
    ) {
      list[kept++] = row;
    }
  }
  return kept;
}

function isIn(a: Uint32Array, b: Uint32Array | null, row: number, mask: number, net: number): boolean {
  return ((b === null ? a[row]! : a[row]! ^ b[row]!) & mask) === net;
}

function portTest(port: number): ColumnTest {
  return (section, list, count) => {
    section.take("l");
    const translated = section.take("rl");
    const { layer4, replyLayer4 } = section;
    return keep(list, count, (row) => {
      const ports = layer4[row]!;
      if (ports >>> 16 === port || (ports & 0xffff) === port) return true;
      if (!translated) return false;
      const reply = replyLayer4[row]! ^ ((ports << 16) | (ports >>> 16));
      return reply >>> 16 === port || (reply & 0xffff) === port;
    });
  };
}

function protocolTest(protocol: number): ColumnTest {
  return (section, list, count) => {
    section.take("p");
    const column = section.protocol;
    return keep(list, count, (row) => column[row] === protocol);
  };
}

function natTest(wanted: boolean): ColumnTest {
  return (section, list, count) => {
    const any = [section.take("rs"), section.take("rd"), section.take("rl")].includes(true);
    if (!any) return wanted ? 0 : count;
    const { width, replySource, replyDestination, replyLayer4 } = section;
    return keep(list, count, (row) => {
      let bits = replyLayer4[row]!;
      for (let i = row * width; i < (row + 1) * width; i++) bits |= replySource[i]! | replyDestination[i]!;
      return (bits !== 0) === wanted;
    });
  };
}

function keep(list: Uint16Array, count: number, test: (row: number) => boolean): number {
  let kept = 0;
  for (let i = 0; i < count; i++) if (test(list[i]!)) list[kept++] = list[i]!;
  return kept;
}
