import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatAddress, formatCidr, maskWord, parseAddress, parseCidr } from "../../src/flow/address.js";
import { AF_INET, AF_INET6 } from "../../src/flow/record.js";

/** Text as given, text as inet_ntop(3) of glibc prints it. */
const ADDRESSES: [string, string][] = [
  ["0.0.0.0", "0.0.0.0"],
  ["255.255.255.255", "255.255.255.255"],
  ["192.168.255.33", "192.168.255.33"],
  ["::", "::"],
  ["::1", "::1"],
  ["1::", "1::"],
  ["0:0:0:0:0:0:0:1", "::1"],
  ["2001:DB8::10", "2001:db8::10"],
  ["2001:db8:0:0:1::2", "2001:db8::1:0:0:2"],
  ["2001:0:0:1:0:0:1:0", "2001::1:0:0:1:0"],
  ["2001:db8:1:0:3:4:5:6", "2001:db8:1:0:3:4:5:6"],
  ["0:2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"],
  ["1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"],
  ["::ffff:1.2.3.4", "::ffff:1.2.3.4"],
  ["::ffff:102:304", "::ffff:1.2.3.4"],
  ["::5.6.7.8", "::5.6.7.8"],
  ["::1:0", "::0.1.0.0"],
  ["64:ff9b::192.0.2.1", "64:ff9b::c000:201"],
  ["::fffe:1.2.3.4", "::fffe:102:304"],
];

test("addresses are printed as inet_ntop does", () => {
  for (const [given, printed] of ADDRESSES) {
    const address = parseAddress(given);
    assert.ok(address, given);
    assert.equal(address.family, given.includes(":") ? AF_INET6 : AF_INET);
    assert.equal(formatAddress(address.words, 0, address.family), printed);
  }
});

test("words are big-endian", () => {
  assert.deepEqual(parseAddress("10.0.0.12")?.words, Uint32Array.of(0x0a00000c, 0, 0, 0));
  assert.deepEqual(parseAddress("2001:db8::12:34")?.words, Uint32Array.of(0x20010db8, 0, 0, 0x00120034));
});

test("what is no address is refused", () => {
  for (const text of [
    "",
    "1.2.3",
    "1.2.3.4.5",
    "256.1.1.1",
    "01.2.3.4",
    "1.2.3.4 ",
    ":::",
    "1::2::3",
    "fe80::1%eth0",
    "g::",
    "1.2.3.4/8",
  ]) {
    assert.equal(parseAddress(text), undefined, text);
  }
});

test("every address survives its text", () => {
  const word = fc.oneof(fc.constantFrom(0, 1, 0xffff, 0x10000, 0xffffffff), fc.integer({ min: 0, max: 0xffffffff }));
  fc.assert(
    fc.property(fc.tuple(word, word, word, word), fc.boolean(), (words, ipv6) => {
      const family = ipv6 ? AF_INET6 : AF_INET;
      const given = Uint32Array.from([9, ...(ipv6 ? words : [words[0], 0, 0, 0])]);
      const parsed = parseAddress(formatAddress(given, 1, family));
      assert.deepEqual(parsed, { family, words: given.slice(1) });
    }),
  );
});

test("networks are masked and survive their text", () => {
  const table: [string, string | undefined][] = [
    ["192.0.2.7/24", "192.0.2.0/24"],
    ["192.0.2.7", "192.0.2.7"],
    ["192.0.2.7/32", "192.0.2.7"],
    ["1.2.3.4/0", "0.0.0.0/0"],
    ["2001:db8:ffff::1/33", "2001:db8:8000::/33"],
    ["::1/128", "::1"],
    ["fe80::1/10", "fe80::/10"],
    ["192.0.2.0/33", undefined],
    ["::/129", undefined],
    ["192.0.2.0/", undefined],
    ["192.0.2.0/-1", undefined],
    ["192.0.2.0/24/8", undefined],
    ["192.0.2.0/255.255.255.0", undefined],
  ];
  for (const [given, printed] of table) {
    const cidr = parseCidr(given);
    assert.equal(cidr && formatCidr(cidr), printed, given);
    if (cidr) assert.deepEqual(parseCidr(formatCidr(cidr)), cidr);
  }
});

test("mask words", () => {
  assert.deepEqual(
    [0, 1, 2, 3].map((index) => maskWord(65, index)),
    [0xffffffff, 0xffffffff, 0x80000000, 0],
  );
  assert.equal(maskWord(0, 0), 0);
});
