import { formatConntrack } from "../../../src/flow/format.js";
import {
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  RECORD_WORDS,
  W_HAS,
  W_MARK,
  W_PROTO,
  W_PROTOINFO,
  W_STATUS,
  W_ZONE,
} from "../../../src/flow/record.js";
import { writeTestFlow } from "./flows.js";

/** Flows by their tuples, protocol and zone; each value is what a takeover depends on: status, mark, protocol state. */
export type FlowMap = Map<string, string>;

const KEY_WORDS = W_ZONE + 1;
/** Value of a flow that a table showed twice: three words, as every value, of what no flow has. */
const TWICE = "\xff".repeat(12);
const SHOWN_MAX = 3;

/**
 * Reads records into a map. A table that changes while it is listed may show a flow twice, the one that ended and the one
 * that came after it: that makes a difference for as long as it lasts.
 */
export function flowMap(words: Uint32Array, into: FlowMap = new Map()): FlowMap {
  const bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
  const state = new Uint32Array(3);
  const stateBytes = Buffer.from(state.buffer);
  for (let base = 0; base < words.length; base += RECORD_WORDS) {
    const key = bytes.toString("latin1", base * 4, (base + KEY_WORDS) * 4);
    state[0] = words[base + W_STATUS]!;
    state[1] = words[base + W_MARK]!;
    state[2] = words[base + W_PROTOINFO]!;
    const value = stateBytes.toString("latin1");
    into.set(key, into.has(key) ? TWICE : value);
  }
  return into;
}

/** The key of a test flow. */
export function testFlowKey(range: number, index: number): string {
  const words = new Uint32Array(RECORD_WORDS);
  writeTestFlow(words, range, index, 0);
  return Buffer.from(words.buffer).toString("latin1", 0, KEY_WORDS * 4);
}

/** The keys of test flows `from` … `to - 1`. */
export function testFlowKeys(range: number, from: number, to: number): string[] {
  return Array.from({ length: to - from }, (_, offset) => testFlowKey(range, from + offset));
}

/** The mark in a value. */
export function markOf(value: string): number {
  return Buffer.from(value, "latin1").readUInt32LE(4);
}

/** A flow as a line of conntrackd's text. */
export function flowText(key: string, value: string): string {
  const words = new Uint32Array(RECORD_WORDS);
  const bytes = Buffer.from(words.buffer);
  bytes.write(key, "latin1");
  const state = Buffer.from(value, "latin1");
  words[W_STATUS] = state.readUInt32LE(0);
  words[W_MARK] = state.readUInt32LE(4);
  words[W_PROTOINFO] = state.readUInt32LE(8);
  const isTcp = (words[W_PROTO]! & 0xff) === 6;
  words[W_HAS] = HAS_STATUS | HAS_MARK | HAS_REPLY | (isTcp ? HAS_PROTOINFO : 0);
  const line = formatConntrack(words, 0, null, { reply: true, nowSeconds: 0 });
  return `${line.replace(/ \[active since.*/, "")} status=0x${words[W_STATUS]!.toString(16)}`;
}

/** How `found` differs from `expected`, with the first few flows of each kind; null when they are equal. */
export function difference(what: string, expected: FlowMap, found: FlowMap): string | null {
  const lost: string[] = [];
  const ghosts: string[] = [];
  const different: string[] = [];
  for (const [key, value] of expected) {
    const other = found.get(key);
    if (other === undefined) lost.push(flowText(key, value));
    else if (other !== value) different.push(`${flowText(key, other)}, not ${flowText(key, value)}`);
  }
  for (const [key, value] of found) if (!expected.has(key)) ghosts.push(flowText(key, value));
  if (lost.length + ghosts.length + different.length === 0) return null;
  const list = (title: string, flows: readonly string[]): string =>
    flows.length === 0 ? "" : `\n  ${flows.length} ${title}:\n    ${flows.slice(0, SHOWN_MAX).join("\n    ")}`;
  const head = `${what}: ${found.size} flows, expected ${expected.size}`;
  return head + list("lost", lost) + list("ghosts", ghosts) + list("different", different);
}

/** Which range a test flow is of. */
export function rangeOf(key: string): number {
  const words = new Uint32Array(KEY_WORDS);
  Buffer.from(words.buffer).write(key, "latin1");
  return ((words[W_PROTO]! >>> 8 === 2 ? words[0]! : words[3]!) >>> 16) & 0xff;
}
