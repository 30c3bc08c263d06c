/** fast-check arbitraries of expectations such as a kernel could hold. */
import * as fc from "fast-check";
import type { Expectation } from "../../src/flow/expectation.js";
import { setExpectationZone } from "../../src/flow/expectation.js";
import { AF_INET, AF_INET6, RECORD_WORDS, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO } from "../../src/flow/record.js";

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });

function tuple(family: number, protocol: number): fc.Arbitrary<Uint32Array> {
  const width = family === AF_INET6 ? 4 : 1;
  const address = fc.array(u32, { minLength: width, maxLength: width });
  return fc.tuple(address, address, u32).map(([source, destination, l4]) => {
    const words = new Uint32Array(RECORD_WORDS);
    words.set(source, W_ORIG_SRC);
    words.set(destination, W_ORIG_DST);
    words[W_ORIG_L4] = l4;
    words[W_PROTO] = (family << 8) | protocol;
    return words;
  });
}

const name = (max: number): fc.Arbitrary<string | undefined> =>
  fc.option(fc.stringMatching(new RegExp(`^[a-z][a-zA-Z.0-9-]{0,${max - 1}}$`)), { nil: undefined });

/** TCP, UDP or GRE in either family, with or without NAT, helper, function, flags and zone. */
export const expectationArbitrary: fc.Arbitrary<Expectation> = fc
  .tuple(fc.constantFrom(AF_INET, AF_INET6), fc.constantFrom(6, 17, 47), fc.constantFrom(6, 17))
  .chain(([family, protocol, masterProtocol]) =>
    fc.record({
      tuple: tuple(family, protocol),
      mask: tuple(family, protocol),
      master: tuple(family, masterProtocol),
      zone: fc.oneof(fc.constant(0), u16),
      timeoutSeconds: u32,
      flags: fc.integer({ min: 0, max: 7 }),
      class: fc.integer({ min: 0, max: 3 }),
      helper: name(15),
      fn: name(31),
      id: fc.option(u32, { nil: undefined }),
      nat: fc.option(fc.record({ direction: fc.integer({ min: 0, max: 1 }), tuple: tuple(family, masterProtocol) }), {
        nil: undefined,
      }),
    }),
  )
  .map(({ zone, helper, fn, id, nat, ...rest }) => {
    const expectation: Expectation = { ...rest };
    if (helper !== undefined) expectation.helper = helper;
    if (fn !== undefined) expectation.fn = fn;
    if (id !== undefined) expectation.id = id;
    if (nat !== undefined) expectation.nat = { ...nat };
    setExpectationZone(expectation, zone);
    return expectation;
  });
