import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConntrailError } from "../../src/errors.js";
import { type Cidr, maskWord, parseCidr } from "../../src/flow/address.js";
import {
  compileFilter,
  compileFlowQuery,
  type FilterRules,
  type FlowQuery,
  type LocalAddressLookup,
  NetworkSet,
} from "../../src/flow/filter.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { AF_INET, AF_INET6 } from "../../src/flow/record.js";

const cidr = (text: string): Cidr => parseCidr(text) ?? assert.fail(text);

/** 10.0.0.12:40000 opens 198.51.100.7:443 and leaves as 203.0.113.1:61000. */
const SNAT: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 443 },
  reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 443, dport: 61000 },
  state: "ESTABLISHED",
  mark: 0x17,
};
/** 198.51.100.9:40002 opens 203.0.113.1:80, which is 10.0.0.80:8080 inside. */
const DNAT: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "198.51.100.9", dst: "203.0.113.1", sport: 40002, dport: 80 },
  reply: { src: "10.0.0.80", dst: "198.51.100.9", sport: 8080, dport: 40002 },
  state: "SYN_SENT",
};
const DNS6: Flow = {
  family: "ipv6",
  protocol: "udp",
  orig: { src: "2001:db8:1::5", dst: "2001:db8:2::53", sport: 5353, dport: 53 },
  reply: { src: "2001:db8:2::53", dst: "2001:db8:1::5", sport: 53, dport: 5353 },
};
const PING: Flow = {
  family: "ipv4",
  protocol: "icmp",
  orig: { src: "10.0.0.12", dst: "8.8.8.8", icmpType: 8, icmpCode: 0, icmpId: 53 },
  reply: { src: "8.8.8.8", dst: "10.0.0.12", icmpType: 0, icmpCode: 0, icmpId: 53 },
};
const FLOWS: Readonly<Record<string, Uint32Array>> = Object.fromEntries(
  Object.entries({ SNAT, DNAT, DNS6, PING }).map(([name, flow]) => [name, recordFromFlow(flow).words]),
);

const kept = (predicate: (words: Uint32Array, base: number) => boolean): string =>
  Object.entries(FLOWS)
    .filter(([, words]) => {
      const slab = new Uint32Array(96).fill(0xffffffff);
      slab.set(words, 32);
      return predicate(slab, 32);
    })
    .map(([name]) => name)
    .join(" ");

test("rules keep what conntrackd keeps", () => {
  const ignore = <T>(...values: T[]) => ({ logic: "ignore", values }) as const;
  const accept = <T>(...values: T[]) => ({ logic: "accept", values }) as const;
  const table: [string, FilterRules, string][] = [
    ["no rules", {}, "SNAT DNAT DNS6 PING"],
    ["protocol accept", { protocols: accept(6, 1) }, "SNAT DNAT PING"],
    ["protocol ignore", { protocols: ignore(6) }, "DNS6 PING"],
    ["address ignore: original source", { addresses: ignore(cidr("10.0.0.12")) }, "DNAT DNS6"],
    ["address ignore: reply source, the real server", { addresses: ignore(cidr("10.0.0.80")) }, "SNAT DNS6 PING"],
    [
      "address ignore: the translated address is neither",
      { addresses: ignore(cidr("203.0.113.1")) },
      "SNAT DNAT DNS6 PING",
    ],
    ["network ignore", { addresses: ignore(cidr("198.51.100.0/24")) }, "DNS6 PING"],
    ["IPv6 network ignore", { addresses: ignore(cidr("2001:db8:2::/48")) }, "SNAT DNAT PING"],
    ["IPv4 default route leaves IPv6", { addresses: ignore(cidr("0.0.0.0/0")) }, "DNS6"],
    ["address accept", { addresses: accept(cidr("10.0.0.80"), cidr("2001:db8:1::/64")) }, "DNAT DNS6"],
    ["TCP state accept leaves the others", { tcpStates: accept(3) }, "SNAT DNS6 PING"],
    ["TCP state ignore", { tcpStates: ignore(1, 2) }, "SNAT DNS6 PING"],
    ["all together", { protocols: accept(6), addresses: ignore(cidr("10.0.0.80")), tcpStates: accept(3) }, "SNAT"],
  ];
  for (const [name, rules, expected] of table) assert.equal(kept(compileFilter(rules)), expected, name);
});

test("a TCP flow without a state passes the state rule", () => {
  const { state: _, ...stateless } = SNAT;
  const { words } = recordFromFlow(stateless);
  assert.ok(compileFilter({ tcpStates: { logic: "accept", values: [3] } })(words, 0));
});

test("flows that end on this machine are ignored, as its addresses are now", () => {
  let own = new NetworkSet([]);
  const local: LocalAddressLookup = { hasAddress: (words, base, family) => own.hasAddress(words, base, family) };
  const filter = compileFilter({ addresses: { logic: "accept", values: [cidr("0.0.0.0/0"), cidr("::/0")] } }, local);
  assert.equal(kept(filter), "SNAT DNAT DNS6 PING");
  own = new NetworkSet([cidr("10.0.0.80"), cidr("2001:db8:1::5")]);
  assert.equal(kept(filter), "SNAT PING");
});

test("an address set agrees with a look at each network", () => {
  const word = fc.oneof(fc.constantFrom(0, 0x80000000, 0xffffffff), fc.integer({ min: 0, max: 0xffffffff }));
  const prefixes = { [AF_INET]: 32, [AF_INET6]: 128 };
  const network = fc
    .tuple(fc.constantFrom(AF_INET, AF_INET6), fc.tuple(word, word, word, word), fc.integer({ min: 0, max: 128 }))
    .map(([family, words, wish]): Cidr => {
      const prefix = wish % (prefixes[family]! + 1);
      return { family, prefix, words: Uint32Array.from(words, (value, i) => (value & maskWord(prefix, i)) >>> 0) };
    });
  fc.assert(
    fc.property(fc.array(network, { maxLength: 20 }), fc.array(network, { maxLength: 20 }), (networks, others) => {
      const set = new NetworkSet(networks);
      // Edges are what goes wrong: the first and the last address of each network and their neighbours.
      for (const { family, words, prefix } of [...networks, ...others]) {
        const width = family === AF_INET ? 1 : 4;
        const last = Uint32Array.from(words, (value, i) => (i < width ? value | ~maskWord(prefix, i) : 0));
        for (const probe of [words, last, next(last, width), next(words, width, -1)]) {
          const expected = networks.some(
            (one) =>
              one.family === family &&
              one.words.every((value, i) => i >= width || (probe[i]! & maskWord(one.prefix, i)) >>> 0 === value),
          );
          assert.equal(set.hasAddress(probe, 0, family), expected);
        }
      }
    }),
    { numRuns: 500 },
  );
});

function next(words: Uint32Array, width: number, step = 1): Uint32Array {
  const result = words.slice();
  for (let i = width - 1; i >= 0; i--) {
    result[i] = result[i]! + step;
    if (result[i] !== (step > 0 ? 0 : 0xffffffff)) break;
  }
  return result;
}

test("queries choose flows", () => {
  const table: [FlowQuery, string][] = [
    [{}, "SNAT DNAT DNS6 PING"],
    [{ host: "203.0.113.1" }, "SNAT DNAT"],
    [{ host: "10.0.0.0/8" }, "SNAT DNAT PING"],
    [{ host: "2001:db8::/32" }, "DNS6"],
    [{ src: "10.0.0.12" }, "SNAT PING"],
    [{ src: "10.0.0.80" }, ""],
    [{ dst: "203.0.113.1" }, "DNAT"],
    [{ dst: "10.0.0.80" }, ""],
    [{ port: 61000 }, "SNAT"],
    [{ port: "8080" }, "DNAT"],
    [{ port: 53 }, "DNS6"],
    [{ proto: "tcp" }, "SNAT DNAT"],
    [{ proto: "1" }, "PING"],
    [{ nat: true }, "SNAT DNAT"],
    [{ nat: false }, "DNS6 PING"],
    [{ mark: "0x17" }, "SNAT"],
    [{ mark: "7/0xf" }, "SNAT"],
    [{ mark: 0 }, ""],
    [{ proto: "tcp", src: "10.0.0.0/24", port: 443, nat: true, mark: 23 }, "SNAT"],
    [{ proto: "udp", nat: true }, ""],
  ];
  for (const [query, expected] of table) assert.equal(kept(compileFlowQuery(query)), expected, JSON.stringify(query));
});

test("a flow without a reply tuple is found by its original one only", () => {
  const { reply: _, ...half } = SNAT;
  const { words } = recordFromFlow(half);
  assert.ok(compileFlowQuery({ host: "10.0.0.12", port: 443, nat: false })(words, 0));
  assert.ok(!compileFlowQuery({ host: "0.0.0.0" })(words, 0));
  assert.ok(!compileFlowQuery({ port: 0 })(words, 0));
});

test("an option that cannot be read is named", () => {
  const table: [FlowQuery, RegExp][] = [
    [{ host: "10.0.0.300" }, /^--host: "10\.0\.0\.300" is not allowed; give an IPv4 or IPv6 address/],
    [{ src: "10.0.0.0/33" }, /^--src:/],
    [{ dst: "" }, /^--dst:/],
    [{ port: 65536 }, /^--port:/],
    [{ port: "http" }, /^--port:/],
    [{ proto: "tpc" }, /^--proto:/],
    [{ mark: "1/2/3" }, /^--mark:/],
    [{ mark: "4294967296" }, /^--mark:/],
    [{ mark: "-1" }, /^--mark:/],
  ];
  for (const [query, message] of table) {
    assert.throws(
      () => compileFlowQuery(query),
      (error) => error instanceof ConntrailError && error.code === "USAGE" && message.test(error.message),
    );
  }
});

test("options that no flow could answer to are refused", () => {
  const table: [FlowQuery, string][] = [
    [
      { src: "10.0.0.1", dst: "2001:db8::1" },
      "--src 10.0.0.1 is IPv4, --dst 2001:db8::1 is IPv6: no flow is both; give one family",
    ],
    [
      { host: "::/0", src: "10.0.0.0/8" },
      "--src 10.0.0.0/8 is IPv4, --host ::/0 is IPv6: no flow is both; give one family",
    ],
    [{ proto: "icmp", dst: "::1" }, "--proto icmp is IPv4, --dst ::1 is IPv6: no flow is both; give one family"],
    [
      { proto: "58", dst: "127.0.0.1" },
      "--dst 127.0.0.1 is IPv4, --proto 58 is IPv6: no flow is both; give one family",
    ],
    [{ proto: "gre", port: 80 }, "--port: gre has no ports; leave --port out, or give another --proto"],
  ];
  for (const [query, message] of table) assert.throws(() => compileFlowQuery(query), { code: "USAGE", message });
  compileFlowQuery({ proto: "tcp", port: 80, src: "::1", host: "2001:db8::/32" });
});
