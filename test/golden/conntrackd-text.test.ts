/**
 * The text forms against lines that conntrackd 1.4.7 and conntrack 1.4.7 printed for the flows in conntrackd/flows.json
 * (captured by conntrackd/capture.sh). Only what differs from run to run is taken from the captured line: age, id, timeout, counters.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { formatConntrack, formatConntrackTool, formatXml } from "../../src/flow/format.js";
import { HAS_ID, HAS_TIMEOUT, type RareAttributes, W_CREATED, W_HAS, W_ID, W_TIMEOUT } from "../../src/flow/record.js";

const NOW_SECONDS = 1_769_860_800;

interface Case {
  flow: Flow;
  words: Uint32Array;
  rare: RareAttributes | null;
  /** The captured line. */
  line: string;
}

/** The golden files lie beside the sources; the compiled test finds them from the root of the package. */
const golden = (name: string): string => readFileSync(`test/golden/conntrackd/${name}`, "utf8");

function cases(name: string): Case[] {
  const flows = JSON.parse(golden("flows.json")) as { flow: Flow }[];
  const lines = golden(name).trimEnd().split("\n");
  assert.equal(lines.length, flows.length);
  return flows.map(({ flow }, i) => ({ flow, ...recordFromFlow(flow), line: lines[i]! }));
}

function number(line: string, pattern: RegExp): number {
  return Number(pattern.exec(line)?.[1] ?? assert.fail(`no ${pattern} in ${line}`));
}

/** conntrackd does not send these to its peer, so its external cache shows zeros or nothing. conntrail does. */
function lostByConntrackd(flow: Flow): boolean {
  return flow.protocol === "gre" || flow.protocol === "udplite" || "zoneOrig" in flow || "zoneReply" in flow;
}

test("conntrackd -i", () => {
  for (const { words, rare, line } of cases("internal.txt")) {
    words[W_CREATED] = NOW_SECONDS - number(line, /active since (\d+)s/);
    assert.equal(formatConntrack(words, 0, rare, { reply: true, nowSeconds: NOW_SECONDS }), line);
  }
});

test("conntrackd -e", () => {
  let compared = 0;
  for (const { flow, words, rare, line } of cases("external.txt")) {
    if (lostByConntrackd(flow)) continue;
    words[W_CREATED] = NOW_SECONDS - number(line, /active since (\d+)s/);
    assert.equal(formatConntrack(words, 0, rare, { reply: false, nowSeconds: NOW_SECONDS }), line);
    compared++;
  }
  assert.ok(compared > 30);
});

test("conntrackd -i -x", () => {
  for (const { flow, words, rare, line } of cases("internal-xml.txt")) {
    words[W_ID] = number(line, /<id>(\d+)</);
    words[W_HAS]! |= HAS_ID;
    assert.equal(formatXml(words, 0, rare, { reply: true }), withOwnStateName(flow, line));
  }
});

test("conntrackd -e -x", () => {
  for (const { flow, words, rare, line } of cases("external-xml.txt")) {
    if (lostByConntrackd(flow)) continue;
    assert.equal(formatXml(words, 0, rare, { reply: false }), withOwnStateName(flow, line));
  }
});

/** conntrackd's XML names SCTP states out of TCP's table; see format.ts. */
function withOwnStateName(flow: Flow, line: string): string {
  return flow.protocol === "sctp" ? line.replace(/<state>\w+</, `<state>${flow.state}<`) : line;
}

test("conntrack -L", () => {
  for (const { words, rare, line } of cases("kernel.txt")) {
    words[W_TIMEOUT] = number(line, /^\w+ +\d+ (\d+) /);
    words[W_HAS]! |= HAS_TIMEOUT;
    const counters = [...line.matchAll(/packets=(\d+) bytes=(\d+)/g)].flatMap((match) => [
      Number(match[1]),
      Number(match[2]),
    ]);
    const deltaSeconds = number(line, /delta-time=(\d+)/);
    assert.equal(formatConntrackTool(words, 0, rare, { counters, deltaSeconds }), line.replace(/ use=\d+$/, ""));
  }
});

test("offloaded flows say so in place of ASSURED", () => {
  const [{ flow }] = cases("internal.txt") as [Case];
  for (const [bit, flag] of [
    ["OFFLOAD", "[OFFLOAD]"],
    ["HW_OFFLOAD", "[HW_OFFLOAD]"],
  ] as const) {
    const { words } = recordFromFlow({ ...flow, status: [...(flow.status ?? []), bit] });
    const line = formatConntrackTool(words, 0, null);
    assert.ok(line.includes(` ${flag} `) && !line.includes("ASSURED"), line);
  }
});

test("text that comes from elsewhere is escaped in XML", () => {
  const [{ words }] = cases("internal.txt") as [Case];
  assert.match(formatXml(words, 0, { helper: "<&>" }, { reply: true }), /<helper>&#60;&#38;&#62;<\/helper><\/flow>$/);
});
