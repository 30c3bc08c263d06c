/**
 * Expectations in text against lines that conntrackd 1.4.7 and conntrack 1.4.7 printed (captured by conntrackd/capture-expect.sh),
 * and frames of a real kernel (Linux 6.18) against what conntrack(8) printed for them.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decodeExpectation } from "../../src/ctnetlink/expectation.js";
import {
  type Expectation,
  type ExpectationJson,
  expectationFromJson,
  expectationToJson,
  formatExpectation,
  formatExpectationTool,
  formatExpectationXml,
} from "../../src/flow/expectation.js";

const golden = (name: string): string[] =>
  readFileSync(`test/golden/conntrackd/${name}.txt`, "utf8").trimEnd().split("\n");

function ftp(family: "ipv4" | "ipv6", client: string, server: string, ones: string): Expectation {
  const json: ExpectationJson = {
    family,
    protocol: "tcp",
    tuple: { src: server, dst: client, sport: 0, dport: 51210 },
    mask: { src: ones, dst: ones, sport: 0, dport: 65535 },
    master: { family, protocol: "tcp", src: client, dst: server, sport: 40000, dport: 21 },
    timeoutSeconds: 300,
    class: 0,
    helper: "ftp",
  };
  return expectationFromJson(json);
}

const V4 = ftp("ipv4", "127.0.0.1", "127.0.0.2", "255.255.255.255");
const V6 = ftp("ipv6", "::1", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");

function age(line: string): number {
  return Number(/active since (\d+)s/.exec(line)?.[1] ?? assert.fail(line));
}

function timed(expectation: Expectation, line: string, pattern: RegExp): Expectation {
  return { ...expectation, timeoutSeconds: Number(pattern.exec(line)?.[1] ?? assert.fail(line)) };
}

test("conntrackd -i expect and -e expect", () => {
  for (const name of ["expect-internal", "expect-external"]) {
    for (const line of golden(name)) {
      assert.equal(formatExpectation(line.includes("::1") ? V6 : V4, age(line)), line);
    }
  }
});

test("conntrackd -i expect -x and -e expect -x", () => {
  for (const name of ["expect-internal-xml", "expect-external-xml"]) {
    for (const line of golden(name)) {
      assert.equal(formatExpectationXml(line.includes("::1") ? V6 : V4, { timeout: false }), line);
    }
  }
});

test("conntrack -L expect, as text and as XML", () => {
  for (const line of golden("expect-kernel")) {
    const expectation = timed(line.includes("::1") ? V6 : V4, line, /^(\d+) /);
    assert.equal(formatExpectationTool(expectation), line);
  }
  for (const line of golden("expect-kernel-xml")) {
    const expectation = timed(line.includes("::1") ? V6 : V4, line, /<timeout>(\d+)</);
    assert.equal(formatExpectationXml(expectation, { timeout: true }), line);
  }
});

/** Dumped by the kernel, sequence and port id cleared; `line` is that of conntrack -L expect. */
const FRAMES = [
  {
    name: "PORT through masquerading",
    hex:
      "30010000000202000000000000000000020000003400028014000180080001000a090202080002000a0902011c00028005000100" +
      "06000000060002000000000006000300c80a0000340003801400018008000100ffffffff08000200ffffffff1c00028005000100" +
      "06000000060002000000000006000300ffff00003400018014000180080001000a090102080002000a0902021c00028005000100" +
      "0600000006000200dc720000060003000015000040000a80080001000000000134000280140001800800010000000000" +
      "08000200000000001c000280050001000600000006000200c80a00000600030000000000080004000000012b080005007da0e5d1" +
      "08000800000000000800090000000000080006006674700016000b006e61742d666f6c6c6f772d6d6173746572000000",
    line:
      "299 proto=6 src=10.9.2.2 dst=10.9.2.1 sport=0 dport=51210 mask-src=255.255.255.255 mask-dst=255.255.255.255 " +
      "sport=0 dport=65535 master-src=10.9.1.2 master-dst=10.9.2.2 sport=56434 dport=21 class=0 helper=ftp",
    nat: { direction: "reply", tuple: { src: "0.0.0.0", dst: "0.0.0.0", sport: 51210, dport: 0 } },
    fn: "nat-follow-master",
    id: 2107696593,
  },
  {
    name: "EPRT, IPv6, not translated",
    hex:
      "200100000002020000000000000000000a0000004c0002802c00018014000300000000000000000000000000000000011400040000" +
      "0000000000000000000000000000011c0002800500010006000000060002000000000006000300c80a00004c0003802c0001801400" +
      "0300ffffffffffffffffffffffffffffffff14000400ffffffffffffffffffffffffffffffff1c0002800500010006000000060002" +
      "000000000006000300ffff00004c0001802c0001801400030000000000000000000000000000000001140004000000000000000000" +
      "00000000000000011c000280050001000600000006000200e2d000000600030000150000080004000000012b080005007aecda1508" +
      "0008000000000008000900000000000800060066747000",
    line:
      "299 proto=6 src=::1 dst=::1 sport=0 dport=51210 mask-src=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " +
      "mask-dst=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff sport=0 dport=65535 master-src=::1 master-dst=::1 " +
      "sport=58064 dport=21 class=0 helper=ftp",
    nat: undefined,
    fn: undefined,
    id: 2062342677,
  },
];

test("frames of a kernel", () => {
  for (const { name, hex, line, nat, fn, id } of FRAMES) {
    const bytes = Buffer.from(hex, "hex");
    const expectation = decodeExpectation(bytes, 16, bytes.length);
    if (typeof expectation === "number") assert.fail(`${name}: failure ${expectation}`);
    assert.equal(formatExpectationTool(expectation), line, name);
    const json = expectationToJson(expectation);
    assert.deepEqual([json.nat, json.fn, json.id], [nat, fn, id], name);
  }
});
