/**
 * Expectations in batches and snapshot chunks: the list `x` of msgpack maps (FORMAT.md). They are few, so they need no
 * columns.
 *
 *   d: 1 when it has ended      p: family << 8 | protocol    z: zone?
 *   t, k: tuple and mask        [source…, destination…, layer 4], an address being 1 word (IPv4) or 4
 *   m: master                   [protocol, source…, destination…, layer 4]
 *   n: CTA_EXPECT_NAT?          [direction, protocol, source…, destination…, layer 4]
 *   h: stamp of a claim that is published again?
 *   s: seconds left   c: created, seconds since 1970   g: flags?   y: class?   helper?   fn: function?
 */

import { EXPECT_FN_MAX, type Expectation, HELPER_NAME_MAX, setExpectationZone } from "../../flow/expectation.js";
import { isPrintable } from "../../flow/plain-text.js";
import { AF_INET, AF_INET6, RECORD_WORDS, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO } from "../../flow/record.js";
import { familyOf, protocolOf, protoWord, zoneReplyOf } from "../../flow/record-fields.js";

/** Most expectations of a message. */
export const BATCH_EXPECTATIONS_MAX = 256;

/** An expectation in a message. */
export interface StreamExpectation {
  readonly ended: boolean;
  /** Its timeout is the time that remained when the message was written. */
  readonly expectation: Expectation;
  /** Stamp of the claim; 0: the message's own. */
  readonly stamp: number;
  /** When it was first seen, by the writer's clock; 0 for one that has ended. */
  readonly createdSeconds: number;
}

/** Packs an existing expectation with its remaining time. `stamp`: of a claim that is published again, else null. */
export function packExpectation(
  expectation: Expectation,
  leftSeconds: number,
  createdSeconds: number,
  stamp: number | null,
): Record<string, unknown> {
  const map = packName(expectation);
  map.m = [protocolOf(expectation.master, 0), ...tupleWords(expectation.master)];
  map.s = Math.max(0, leftSeconds);
  map.c = createdSeconds;
  if (stamp !== null) map.h = stamp;
  if (expectation.nat !== undefined) {
    const { direction, tuple } = expectation.nat;
    map.n = [direction, protocolOf(tuple, 0), ...tupleWords(tuple)];
  }
  if (expectation.flags !== 0) map.g = expectation.flags;
  if (expectation.class !== 0) map.y = expectation.class;
  if (isName(expectation.helper, HELPER_NAME_MAX)) map.helper = expectation.helper;
  if (isName(expectation.fn, EXPECT_FN_MAX)) map.fn = expectation.fn;
  return map;
}

/** Packs the end of an expectation. */
export function packExpectationEnd(expectation: Expectation): Record<string, unknown> {
  return { d: 1, ...packName(expectation) };
}

function packName({ tuple, mask }: Expectation): Record<string, unknown> {
  const map: Record<string, unknown> = { p: tuple[W_PROTO]!, t: tupleWords(tuple), k: tupleWords(mask) };
  const zone = zoneReplyOf(tuple, 0);
  if (zone !== 0) map.z = zone;
  return map;
}

function tupleWords(words: Uint32Array): number[] {
  const width = familyOf(words, 0) === AF_INET6 ? 4 : 1;
  return [
    ...words.subarray(W_ORIG_SRC, W_ORIG_SRC + width),
    ...words.subarray(W_ORIG_DST, W_ORIG_DST + width),
    words[W_ORIG_L4]!,
  ];
}

/** Unpacks either; null when the map is malformed. Unknown keys of newer writers are ignored. */
export function unpackExpectation(value: unknown): StreamExpectation | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const map = value as Record<string, unknown>;
  const { p, z = 0, s = 0, c = 0, g = 0, y = 0, h = 0 } = map;
  if (!isWord(p) || !isWord(z) || z > 0xffff || ![s, c, g, y].every(isWord)) return null;
  if (typeof h !== "number" || !Number.isSafeInteger(h) || h < 0) return null;
  const family = p >>> 8;
  if (family !== AF_INET && family !== AF_INET6) return null;
  const tuple = readTuple(map.t, family, p & 0xff);
  const mask = readTuple(map.k, family, p & 0xff);
  if (tuple === null || mask === null) return null;
  const ended = map.d === 1;
  const master = ended ? new Uint32Array(RECORD_WORDS) : readPrefixed(map.m, family);
  if (master === null) return null;
  const expectation: Expectation = {
    tuple,
    mask,
    master,
    timeoutSeconds: s as number,
    flags: g as number,
    class: y as number,
  };
  setExpectationZone(expectation, z);
  return readOptional(map, family, expectation) ? { ended, expectation, stamp: h, createdSeconds: c as number } : null;
}

function readOptional(map: Record<string, unknown>, family: number, expectation: Expectation): boolean {
  if (map.helper !== undefined) {
    if (!isName(map.helper, HELPER_NAME_MAX)) return false;
    expectation.helper = map.helper;
  }
  if (map.fn !== undefined) {
    if (!isName(map.fn, EXPECT_FN_MAX)) return false;
    expectation.fn = map.fn;
  }
  if (map.n !== undefined) {
    if (!Array.isArray(map.n) || !isWord(map.n[0])) return false;
    const tuple = readPrefixed(map.n.slice(1), family);
    if (tuple === null) return false;
    expectation.nat = { direction: map.n[0], tuple };
  }
  return true;
}

function readPrefixed(value: unknown, family: number): Uint32Array | null {
  if (!Array.isArray(value) || !isWord(value[0]) || value[0] > 0xff) return null;
  return readTuple(value.slice(1), family, value[0]);
}

function readTuple(value: unknown, family: number, protocol: number): Uint32Array | null {
  const width = family === AF_INET6 ? 4 : 1;
  if (!Array.isArray(value) || value.length !== 2 * width + 1 || !value.every(isWord)) return null;
  const words = new Uint32Array(RECORD_WORDS);
  words.set(value.slice(0, width), W_ORIG_SRC);
  words.set(value.slice(width, 2 * width), W_ORIG_DST);
  words[W_ORIG_L4] = value[2 * width]!;
  words[W_PROTO] = protoWord(family, protocol);
  return words;
}

function isWord(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
}

function isName(value: unknown, charsMax: number): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= charsMax && isPrintable(value);
}
