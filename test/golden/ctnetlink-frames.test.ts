/** Frames that a real kernel sent decode to what they did when they were captured, and to what conntrack(8) printed. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { DecodeFailure, decodeConntrack } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { flowFromRecord } from "../../src/flow/flow.js";
import { formatConntrackTool } from "../../src/flow/format.js";
import { DecodedFlow, HAS_COUNTERS, HAS_TIMES, W_HAS } from "../../src/flow/record.js";
import type { GoldenFrame } from "./ctnetlink-capture.js";

const FILE = "test/golden/ctnetlink-frames.json";
const { frames } = JSON.parse(readFileSync(FILE, "utf8")) as { frames: GoldenFrame[] };

function decode(frame: GoldenFrame): DecodedFlow {
  const bytes = Buffer.from(frame.hex, "hex");
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(bytes, 16, bytes.length, flow), 0);
  return flow;
}

test("each frame decodes as when it was captured", () => {
  for (const [i, frame] of frames.entries()) {
    const flow = decode(frame);
    const has = flow.words[W_HAS]!;
    assert.deepEqual(flowFromRecord(flow.words, 0, flow.rare), frame.flow, `frame ${i}, ${frame.name}`);
    assert.deepEqual(has & HAS_COUNTERS ? [...flow.counters] : undefined, frame.counters);
    assert.deepEqual(has & HAS_TIMES ? [...flow.timesMicros] : undefined, frame.timesMicros);
  }
});

test("frames of a dump read as the lines of conntrack(8)", () => {
  let lines = 0;
  for (const frame of frames) {
    if (frame.line === undefined) continue;
    lines++;
    const { words, rare, counters } = decode(frame);
    const text = formatConntrackTool(words, 0, rare, { counters });
    const line = frame.line.replace(/ delta-time=\d+/, "").replace(/ use=\d+ id=\d+$/, "");
    assert.equal(withoutTimeout(text), withoutTimeout(line));
  }
  assert.ok(lines > 10);
});

/** The line and the frame were taken one after the other. */
function withoutTimeout(line: string): string {
  return line.replace(/^(\w+ +\d+) \d+ /, "$1 ");
}

test("every kind of frame and protocol is there", () => {
  const names = new Set(frames.map((frame) => frame.name));
  assert.deepEqual([...names].sort(), ["destroy", "dump", "new", "update"]);
  const protocols = new Set(frames.map((frame) => frame.flow.protocol));
  const wanted = ["89", "gre", "icmp", "icmpv6", "sctp", "tcp", "udp", "udplite"];
  assert.deepEqual([...protocols].sort(), wanted);
  const attributes = new Set(frames.flatMap((frame) => Object.keys(frame.flow)));
  for (const name of [
    "helper",
    "labels",
    "master",
    "nat",
    "seqadj",
    "synproxy",
    "tcp",
    "zone",
    "zoneOrig",
    "zoneReply",
  ]) {
    assert.ok(attributes.has(name), name);
  }
});

test("a frame cut short is named as such, or is whole as far as it goes", () => {
  const known: number[] = [0, ...Object.values(DecodeFailure)];
  for (const frame of frames) {
    const bytes = Buffer.from(frame.hex, "hex");
    const flow = new DecodedFlow();
    for (let end = 0; end < bytes.length; end++) assert.ok(known.includes(decodeConntrack(bytes, 16, end, flow)));
  }
});

test("every frame can be asked for again", () => {
  const batch = new RequestBatch();
  for (const frame of frames) {
    const flow = decode(frame);
    assert.ok(batch.create(flow.words, 0, flow.rare, { timeoutSeconds: 1, liberal: true }));
  }
  assert.equal(batch.count, frames.length);
});
