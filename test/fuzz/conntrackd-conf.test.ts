/** Files made of the grammar, whole and damaged: every whole one becomes a sound configuration, no damaged one more than an error. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { checkConfig } from "../../src/config/config.js";
import { checkConntrackdConf, isConntrackdConf } from "../../src/conntrackd/conf.js";
import { type BlockRule, type DirectiveRule, FILE_RULE } from "../../src/conntrackd/grammar.js";
import type { Machine } from "../../src/conntrackd/machine.js";
import { translate } from "../../src/conntrackd/translate.js";
import type { ConfNode } from "../../src/conntrackd/tree.js";
import * as value from "../../src/conntrackd/value.js";
import { ConntrailError } from "../../src/errors.js";
import { protocolNumber } from "../../src/flow/protocol.js";

const MACHINE: Machine = {
  addressesOf: (device) => (device.length < 3 ? [] : ["10.9.9.9", "fe80::9", "fd00::9"]),
  protocolNumber,
};

const number = fc.oneof(fc.nat(100_000), fc.integer({ min: 0, max: 2_147_483_647 })).map(String);
const flag = fc.constantFrom("on", "off", "Yes", "NO", "On");
const name = fc.oneof(
  fc.constantFrom("ICMP", "ftp", "q.931", "eth0", "local3", "daemon"),
  fc.stringMatching(/^[a-z][a-z0-9._-]{3,14}$/).filter((text) => value.NAME.looks(text)),
);
const path = fc.stringMatching(/^(\/[!-z|~äß]{1,20}){1,3}$/).filter((text) => !/["{}]|\/$/.test(text));
const ipv4 = fc.oneof(fc.ipV4(), fc.constantFrom("10.0.0.1", "10.0.0.2", "0.0.0.0", "255.255.255.255", "127.0.0.1"));
const ipv6 = fc.oneof(
  fc.ipV6().filter((text) => !text.includes(".")),
  fc.constantFrom("fd00::1", "::", "::1", "fe80::1", "ff02::1"),
);
const prefix = fc.oneof(
  fc.constant(""),
  fc.nat(140).map((bits) => `/${bits}`),
);

/** A value for each rule of the grammar; of one that is made of others, and of keywords, those that its message lists. */
const VALUES = new Map<value.ValueRule, fc.Arbitrary<string>>([
  [value.ON_OFF, flag],
  [value.MODE, fc.constantFrom("FTFW", "alarm", "NoTrack", "nack", "persistent")],
  [value.SCHEDULER, fc.constantFrom("RR", "fifo")],
  [value.SIGNED_NUMBER, fc.integer({ min: -100, max: 100 }).map((n) => (n < 0 ? String(n) : `+${n}`))],
  [value.PORT, fc.integer({ min: 1, max: 65_535 }).map(String)],
  [value.NAME, name],
  [value.INTERFACE, name],
  [value.PATH, path],
  [value.SOCKET_PATH, path],
  [value.IPV4, ipv4],
  [value.IPV6, ipv6],
  [value.IPV4_GROUP, fc.integer({ min: 224, max: 239 }).map((first) => `${first}.0.0.50`)],
  [value.IPV6_GROUP, fc.constantFrom("ff02::1:50", "FF15::50")],
  [value.IPV4_NETWORK, fc.tuple(ipv4, prefix).map((parts) => parts.join(""))],
  [value.IPV6_NETWORK, fc.tuple(ipv6, prefix).map((parts) => parts.join(""))],
]);

function valueFor(rule: value.ValueRule): fc.Arbitrary<string> {
  const known = VALUES.get(rule);
  if (known !== undefined) return known;
  const range = /^a whole number from (\d+) to (\d+)$/.exec(rule.allowed);
  if (range !== null) return fc.oneof(number, fc.constant("0")).filter((text) => rule.accepts(text));
  const all = fc.oneof(flag, name, path, number, ipv4, ipv6);
  if (rule.allowed.includes(",")) return all.filter((text) => rule.looks(text) && rule.accepts(text));
  return fc.constantFrom(...rule.allowed.split(" or "));
}

function directiveOf(word: string, rule: DirectiveRule): fc.Arbitrary<string> {
  if (rule.row !== undefined) {
    const { word: state, ending } = rule.row;
    return fc.array(valueFor(state), { maxLength: 3 }).map((states) => [word, ...states, ...ending].join(" "));
  }
  const values = fc.tuple(...rule.values.map(valueFor));
  const given = rule.optional ? fc.oneof(values, fc.constant([])) : values;
  return given.chain((list) => {
    const head = [word, ...list].join(" ");
    if (rule.block === undefined) return fc.constant(head);
    const block = blockOf(rule.block(list)).map((text) => `{\n${text}\n}`);
    if (rule.blockOrValues)
      return fc.oneof(
        fc.constant(head),
        block.map((text) => `${word} ${text}`),
      );
    return block.map((text) => `${head} ${text}`);
  });
}

function blockOf(rule: BlockRule): fc.Arbitrary<string> {
  if (rule.kind === "list") {
    // Of all names, these two may stand in lists only: elsewhere they are links.
    const word = rule.word.free ? fc.oneof(valueFor(rule.word), fc.constantFrom("TCP", "UDP")) : valueFor(rule.word);
    const words = fc.array(word, { maxLength: 4 });
    return words.map((list) => [...list, ...(list.length > 0 ? (rule.ending ?? []) : [])].join(" "));
  }
  const directives = [...rule.directives].map(([word, each]) => directiveOf(word, each));
  return fc.array(fc.oneof(...directives), { maxLength: 7 }).map((list) => list.join("\n"));
}

const LINK = fc.constantFrom(
  "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.2 Port 3780 Interface eth2 }",
  "TCP Default { IPv6_address fd00::1 IPv6_Destination_Address fd00::2 Port 3780 }",
  "Multicast Default { IPv4_address 225.0.0.50 IPv4_interface 10.0.0.1 Group 3780 Interface eth2 }",
  "",
);
const file = fc.tuple(LINK, blockOf(FILE_RULE)).map(([link, rest]) => `Sync {\n${link}\n}\n${rest}\n`);

/** The leaves of the tree, by place. */
function leaves(nodes: readonly ConfNode[], above: readonly string[]): { place: string; above: readonly string[] }[] {
  return nodes.flatMap(({ name: { line, column }, block }) => {
    const place = `${line}:${column}`;
    return block === null ? [{ place, above }] : leaves(block, [...above, place]);
  });
}

test("whatever the grammar makes is read, and translated into a sound configuration, each directive once", () => {
  let translated = 0;
  fc.assert(
    fc.property(file, (text) => {
      assert.ok(isConntrackdConf(text));
      const check = checkConntrackdConf(text, "c.conf");
      assert.deepEqual(check.ok ? [] : check.problems, []);
      if (!check.ok) return;
      let result: ReturnType<typeof translate>;
      try {
        result = translate(check.conf, MACHINE);
      } catch (error) {
        assert.ok(error instanceof ConntrailError && /^c\.conf:\d+:\d+: found .*, allowed is /.test(error.message));
        return;
      }
      translated++;
      const config = checkConfig(result.yaml, "c.conf");
      assert.deepEqual(config.ok ? [] : config.problems, [], result.yaml);
      assert.equal(config.ok && config.config.control, check.conf.unixPath);
      const places = result.remarks.map(({ line, column }) => `${line}:${column}`);
      assert.equal(new Set(places).size, places.length, "a directive with two verdicts");
      for (const { place, above } of leaves(check.conf.nodes, [])) {
        assert.ok(
          [place, ...above].some((each) => places.includes(each)),
          `no verdict on ${place}`,
        );
      }
    }),
    { numRuns: 1500 },
  );
  assert.ok(translated > 500, `only ${translated} could be translated`);
});

test("a damaged file gives errors with places, and nothing else", () => {
  const damage = fc.record({
    text: file,
    cuts: fc.array(fc.tuple(fc.nat(), fc.nat(30), fc.constantFrom("", "{", "}", "\n", "#", '"', " x ", "\0", "é")), {
      maxLength: 4,
    }),
  });
  fc.assert(
    fc.property(damage, ({ text, cuts }) => {
      let damaged = text;
      for (const [at, length, instead] of cuts) {
        const start = at % (damaged.length + 1);
        damaged = damaged.slice(0, start) + instead + damaged.slice(start + length);
      }
      const check = checkConntrackdConf(damaged, "c.conf");
      const lines = damaged.split("\n").length;
      if (!check.ok) for (const problem of check.problems) assert.ok(problem.line <= lines && problem.column >= 1);
    }),
    { numRuns: 1500 },
  );
});

test("any text is read in the end", () => {
  const pieces = fc.constantFrom(
    "Sync",
    "General",
    "{",
    "}",
    "UDP",
    "Mode",
    "FTFW",
    "Filter",
    "From",
    "State",
    "Accept",
    "for",
    "TCP",
    "5",
    "#",
    "\n",
    "/a",
    "Port",
    "x",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: "binary" }),
        fc.array(pieces).map((list) => list.join(" ")),
      ),
      (text) => {
        isConntrackdConf(text);
        checkConntrackdConf(text, "c.conf");
      },
    ),
    { numRuns: 3000 },
  );
});
