import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  DCCP_STATES,
  hasPorts,
  isIcmp,
  protocolName,
  protocolNumber,
  protocolText,
  SCTP_STATES,
  stateName,
  stateNumber,
  TCP_STATES,
} from "../../src/flow/protocol.js";
import { statusBits, statusNames } from "../../src/flow/status.js";

test("protocol names are those conntrackd prints", () => {
  const table: [number, string][] = [
    [1, "icmp"],
    [6, "tcp"],
    [17, "udp"],
    [33, "dccp"],
    [47, "gre"],
    [58, "icmpv6"],
    [132, "sctp"],
    [136, "udplite"],
    [2, "unknown"],
    [50, "unknown"],
    [253, "unknown"],
  ];
  for (const [number, name] of table) assert.equal(protocolName(number), name);
});

test("every protocol number survives its text", () => {
  for (let number = 0; number < 256; number++) assert.equal(protocolNumber(protocolText(number)), number);
});

test("protocol text: names in any case, aliases, numbers, and nothing else", () => {
  const table: [string, number | undefined][] = [
    ["TCP", 6],
    ["ipv6-icmp", 58],
    ["vrrp", 112],
    ["esp", 50],
    ["255", 255],
    ["256", undefined],
    ["-1", undefined],
    ["", undefined],
    ["1.5", undefined],
    ["0x6", undefined],
    ["unknown", undefined],
    ["constructor", undefined],
  ];
  for (const [text, number] of table) assert.equal(protocolNumber(text), number, text);
});

test("ports and ICMP exclude each other", () => {
  for (let number = 0; number < 256; number++) assert.ok(!(hasPorts(number) && isIcmp(number)));
  assert.deepEqual(
    [...Array(256).keys()].filter((number) => hasPorts(number)),
    [6, 17, 33, 132, 136],
  );
});

test("states are in the kernel's order", () => {
  assert.equal(TCP_STATES.indexOf("ESTABLISHED"), 3);
  assert.equal(TCP_STATES.indexOf("TIME_WAIT"), 7);
  assert.equal(SCTP_STATES.indexOf("ESTABLISHED"), 4);
  assert.equal(DCCP_STATES.indexOf("OPEN"), 4);
  for (const [protocol, states] of [
    [6, TCP_STATES],
    [132, SCTP_STATES],
    [33, DCCP_STATES],
  ] as const) {
    states.forEach((name, number) => {
      assert.equal(stateName(protocol, number), name);
      assert.equal(stateNumber(protocol, name.toLowerCase()), number);
    });
    assert.equal(stateName(protocol, 200), "NONE");
  }
  assert.equal(stateNumber(6, "LISTEN"), 9);
  assert.equal(stateNumber(17, "ESTABLISHED"), undefined);
  assert.equal(stateNumber(6, "OPEN"), undefined);
});

test("status bits survive their names", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), (status) => {
      assert.equal(statusBits(statusNames(status)), status);
    }),
  );
  assert.deepEqual(statusNames(0x400e), ["SEEN_REPLY", "ASSURED", "CONFIRMED", "OFFLOAD"]);
  assert.equal(statusBits(["ASURED"]), undefined);
  assert.equal(statusBits(["BIT_32"]), undefined);
});
