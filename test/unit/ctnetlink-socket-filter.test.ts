import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BPF_INSTRUCTION_BYTES, BPF_MAXINSNS } from "../../src/ctnetlink/bpf.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import { compileSocketFilter } from "../../src/ctnetlink/socket-filter.js";
import { type Cidr, parseCidr } from "../../src/flow/address.js";
import { compileFilter, type FilterRules, type Selection } from "../../src/flow/filter.js";
import { AF_INET, AF_INET6, DecodedFlow } from "../../src/flow/record.js";
import { runBpf } from "../support/bpf-machine.js";
import { type CaseEvent, eventArbitrary, eventFrame, network, rulesArbitrary } from "../support/filter-cases.js";

const TYPE_NEW = 0x0100;
const TYPE_EXPECTATION = 0x0200;
const TCP_NEW: CaseEvent = {
  type: 0x0100,
  family: AF_INET,
  protocol: 6,
  origSource: [0x0a000001, 0, 0, 0],
  replySource: [0xc0000201, 0, 0, 0],
  state: 3,
};

function addresses(logic: "accept" | "ignore", ...texts: string[]): Selection<Cidr> {
  return { logic, values: texts.map((text) => parseCidr(text) ?? assert.fail(text)) };
}

function compile(rules: FilterRules): Uint8Array {
  return compileSocketFilter(rules) ?? assert.fail("no program");
}

/** Whether the predicate keeps the event, once decoded. A flow may end in any state. */
function predicateKeeps({ tcpStates, ...rules }: FilterRules, frame: Buffer): boolean {
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(frame, 16, frame.length, flow), 0);
  const isDestroy = frame[4] === 2;
  return compileFilter({ ...rules, ...(isDestroy || tcpStates === undefined ? {} : { tcpStates }) })(flow.words, 0);
}

test("a program does what the predicate does, whatever the rules and events; expectations pass", () => {
  const cases = rulesArbitrary()
    .filter((rules) => Object.keys(rules).length > 0)
    .chain((rules) =>
      fc.tuple(fc.constant(rules), fc.array(eventArbitrary(rules.addresses?.values), { maxLength: 30 })),
    );
  fc.assert(
    fc.property(cases, ([rules, events]) => {
      const program = compile(rules);
      for (const event of events) {
        const frame = eventFrame(event);
        const expected = event.type === TYPE_EXPECTATION || predicateKeeps(rules, frame);
        assert.equal(runBpf(program, frame) !== 0, expected, JSON.stringify(event));
      }
    }),
    { numRuns: 300 },
  );
});

test("a muted port: what its requests made or changed is dropped, what they ended and all else goes by the rules", () => {
  const port = 0x80c0a001;
  const cases = rulesArbitrary().chain((rules) =>
    fc.tuple(fc.constant(rules), fc.array(eventArbitrary(rules.addresses?.values), { maxLength: 30 })),
  );
  fc.assert(
    fc.property(cases, ([rules, events]) => {
      const program = compileSocketFilter(rules, port) ?? assert.fail("no program");
      for (const event of events) {
        for (const portId of [0, 1, 0x01a0c080, port]) {
          const frame = eventFrame(event);
          frame.writeUInt32LE(portId, 12);
          const muted = portId === port && event.type === TYPE_NEW;
          const expected = event.type === TYPE_EXPECTATION || (!muted && predicateKeeps(rules, frame));
          assert.equal(runBpf(program, frame) !== 0, expected, JSON.stringify({ ...event, portId }));
        }
      }
    }),
    { numRuns: 100 },
  );
});

test("long lists need jumps beyond 255 instructions, and end in the right place", () => {
  // Every other address, so that nothing joins to ranges.
  const values = Array.from({ length: 300 }, (_, i) => network(AF_INET, [0x0a000000 + 2 * i, 0, 0, 0], 32));
  for (const logic of ["accept", "ignore"] as const) {
    const program = compile({ addresses: { logic, values } });
    assert.ok(program.length / BPF_INSTRUCTION_BYTES > 600);
    for (let i = 0; i < 600; i++) {
      const origSource = [0x0a000000 + i, 0, 0, 0];
      for (const event of [
        { ...TCP_NEW, origSource },
        { ...TCP_NEW, replySource: origSource, origSource: [1, 0, 0, 0] },
      ]) {
        assert.equal(runBpf(program, eventFrame(event)) !== 0, (i % 2 === 0) === (logic === "accept"), `${logic} ${i}`);
      }
    }
  }
});

test("IPv6 networks that differ in each of the four words", () => {
  const rules = {
    addresses: addresses(
      "accept",
      "2001:db8::/33",
      "2001:db8:8000:1::/64",
      "2001:db8:8000:2:3::/80",
      "2001:db8:8000:2:4::5",
    ),
  };
  const program = compile(rules);
  for (const [text, kept] of [
    ["2001:db8:7fff:ffff::1", true],
    ["2001:db8:8000::1", false],
    ["2001:db8:8000:1:ffff::", true],
    ["2001:db8:8000:2:3::ffff", true],
    ["2001:db8:8000:2:4::5", true],
    ["2001:db8:8000:2:4::6", false],
    ["2001:db9::", false],
  ] as const) {
    const origSource = [...(parseCidr(text) ?? assert.fail(text)).words];
    const event = { ...TCP_NEW, family: AF_INET6, origSource, replySource: [0, 0, 0, 1] };
    assert.equal(runBpf(program, eventFrame(event)) !== 0, kept, text);
  }
});

test("a network of all addresses, networks side by side, and networks within networks are one comparison", () => {
  const length = (...texts: string[]): number => compile({ addresses: addresses("ignore", ...texts) }).length;
  assert.equal(length("10.0.0.0/25", "10.0.0.128/25", "10.0.0.7"), length("10.0.0.0/24"));
  const all = compile({ addresses: addresses("ignore", "0.0.0.0/0") });
  assert.equal(runBpf(all, eventFrame(TCP_NEW)), 0);
  const ipv6 = { ...TCP_NEW, family: AF_INET6 };
  assert.notEqual(runBpf(all, eventFrame(ipv6)), 0);
});

test("an event that lacks what is asked for is kept: the predicate has the last word", () => {
  const states: FilterRules = { tcpStates: { logic: "accept", values: [4] } };
  assert.equal(runBpf(compile(states), eventFrame(TCP_NEW)), 0);
  assert.notEqual(runBpf(compile(states), eventFrame({ ...TCP_NEW, state: null })), 0);
  assert.notEqual(runBpf(compile(states), eventFrame({ ...TCP_NEW, protocol: 17 })), 0);
  const everything: FilterRules = {
    ...states,
    protocols: { logic: "accept", values: [1] },
    addresses: addresses("accept"),
  };
  for (const cut of [20, 24, 28, 60]) {
    const frame = eventFrame(TCP_NEW).subarray(0, cut);
    assert.notEqual(runBpf(compile(everything), frame), 0, `${cut} bytes`);
  }
});

test("no rules, no program; a list that is longer than the kernel takes gives null", () => {
  assert.equal(compileSocketFilter({}), undefined);
  const values = Array.from({ length: BPF_MAXINSNS }, (_, i) => network(AF_INET, [2 * i, 0, 0, 0], 32));
  assert.equal(compileSocketFilter({ addresses: { logic: "ignore", values } }), null);
});
