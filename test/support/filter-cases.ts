/** Filters and events for tests of the socket filter: of so few addresses and numbers that they meet. */
import * as fc from "fast-check";
import { type Cidr, maskWord } from "../../src/flow/address.js";
import type { FilterRules, Selection } from "../../src/flow/filter.js";
import { AF_INET, AF_INET6 } from "../../src/flow/record.js";
import { be16, be32, message, nest, nla, payload, u8 } from "./netlink-attributes.js";

const TYPE_NEW = 0x0100;
const TYPE_DESTROY = 0x0102;
const TYPE_EXPECTATION = 0x0200;

/** What an event of a test says. */
export interface CaseEvent {
  readonly type: number;
  readonly family: number;
  readonly protocol: number;
  readonly origSource: readonly number[];
  readonly replySource: readonly number[];
  /** TCP state; null: the event has no CTA_PROTOINFO. */
  readonly state: number | null;
}

const WORDS = [0, 1, 0x0a000001, 0x0a000002, 0x0a0000ff, 0x0a000100, 0x7fffffff, 0x80000000, 0xc0000201, 0xffffffff];
const word = fc.oneof(fc.constantFrom(...WORDS), fc.integer({ min: 0, max: 0xffffffff }));
const family = fc.constantFrom(AF_INET, AF_INET6);

function address(of: number): fc.Arbitrary<number[]> {
  return of === AF_INET ? word.map((first) => [first, 0, 0, 0]) : fc.tuple(word, word, word, word);
}

function selection<T>(value: fc.Arbitrary<T>, max: number): fc.Arbitrary<Selection<T>> {
  const logic = fc.constantFrom("accept" as const, "ignore" as const);
  return fc.record({ logic, values: fc.array(value, { maxLength: max }) });
}

const cidr: fc.Arbitrary<Cidr> = family.chain((of) => {
  const bits = of === AF_INET ? 32 : 128;
  return fc
    .tuple(address(of), fc.oneof(fc.constantFrom(0, 1, 8, 24, 31, 32, bits), fc.integer({ min: 0, max: bits })))
    .map(([words, prefix]) => network(of, words, prefix));
});

/** A network of these words, masked. */
export function network(of: number, words: readonly number[], prefix: number): Cidr {
  return { family: of, prefix, words: Uint32Array.from(words, (value, i) => value & maskWord(prefix, i)) };
}

/** Any rules, up to `max` values each. */
export function rulesArbitrary(max = 40): fc.Arbitrary<FilterRules> {
  return fc.record(
    {
      protocols: selection(fc.constantFrom(1, 6, 17, 58, 132, 255), 6),
      addresses: selection(cidr, max),
      tcpStates: selection(fc.integer({ min: 0, max: 10 }), 8),
    },
    { requiredKeys: [], noNullPrototype: true },
  );
}

/** An event; `networks` are hit more often than by chance. */
export function eventArbitrary(networks: readonly Cidr[] = []): fc.Arbitrary<CaseEvent> {
  return family.chain((of) => {
    const near = networks.filter((one) => one.family === of).map((one) => [...one.words]);
    const source = near.length === 0 ? address(of) : fc.oneof(address(of), fc.constantFrom(...near));
    return fc.record({
      type: fc.constantFrom(TYPE_NEW, TYPE_NEW, TYPE_DESTROY, TYPE_EXPECTATION),
      family: fc.constant(of),
      protocol: fc.constantFrom(1, 6, 6, 17, 58, 132, 200),
      origSource: source,
      replySource: source,
      state: fc.option(fc.integer({ min: 0, max: 10 })),
    });
  });
}

/** The event as the kernel's ctnetlink_conntrack_event() lays it out. */
export function eventFrame(event: CaseEvent): Buffer {
  const isIpv4 = event.family === AF_INET;
  const address = (words: readonly number[]): Buffer => Buffer.concat((isIpv4 ? words.slice(0, 1) : words).map(be32));
  const tuple = (type: number, source: readonly number[], destination: readonly number[]): Buffer =>
    nest(
      type,
      nest(1, nla(isIpv4 ? 1 : 3, address(source)), nla(isIpv4 ? 2 : 4, address(destination))),
      nest(2, nla(1, u8(event.protocol)), nla(2, be16(1024)), nla(3, be16(80))),
    );
  const attributes = [
    tuple(1, event.origSource, event.replySource),
    tuple(2, event.replySource, event.origSource),
    nla(12, be32(4711)),
    nla(3, be32(0x18a)),
    nla(7, be32(600)),
  ];
  if (event.state !== null) {
    attributes.push(nest(4, nest(1, nla(1, u8(event.state)), nla(2, u8(7)), nla(3, u8(9)))));
  }
  return message(event.type, 0x600, 0, 0, payload(event.family, ...attributes));
}
