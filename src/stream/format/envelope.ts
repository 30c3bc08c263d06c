import { Packr } from "msgpackr";
import { stampMs } from "../../flow/clock.js";
import { isNodeName } from "../../flow/plain-text.js";
import type { MessageKind } from "./subjects.js";
import { type Formats, type FormatVersion, type MessageMap, readVersion } from "./versions.js";

/**
 * The beginning of every message of a stream: a msgpack map with these keys (FORMAT.md has the bytes).
 * Readers trust (epoch, number), not stream sequences, which a broker reuses after it has lost its tail.
 */
export interface Envelope {
  /** Name of the node that wrote the message. */
  node: string;
  /** Grows with each start of that node's daemon. */
  epoch: number;
  /** 1, 2, 3 … within the epoch, without holes, over all kinds of messages. */
  number: number;
  /** Hybrid logical clock, see `src/flow/clock.ts`. */
  stamp: number;
  /** The writer's wall clock, milliseconds since the Unix epoch. */
  wallMs: number;
}

/** The other keys of a batch, named as in FORMAT.md: unpacked by msgpackr, or a PackedPart. */
export interface MessageParts {
  readonly n4?: unknown;
  readonly n6?: unknown;
  readonly u?: unknown;
  readonly d?: unknown;
  readonly mv?: unknown;
  readonly mo?: unknown;
  readonly r?: unknown;
  readonly x?: unknown;
  readonly a?: unknown;
  readonly b?: unknown;
}

/** A message of which only the envelope is read; `parts` lie in the payload. */
export interface OpenedMessage {
  readonly kind: MessageKind;
  readonly envelope: Envelope;
  readonly payload: Uint8Array;
  readonly parts: MessageParts;
}

/** Later stamps (beyond 2087) come from a broken clock; adopting one would leave no numbers for anybody. */
const STAMP_MAX = Number.MAX_SAFE_INTEGER - 2 ** 48;

/** Clocks that agree are always closer. */
const AHEAD_MS_MIN = 1000;

/**
 * How far the stamp is ahead of the writer's own clock because another node's clock is, in milliseconds; 0 up to a
 * second. The stamp's time less this is the time by the writer's clock.
 */
export function aheadMs({ stamp, wallMs }: Envelope): number {
  const ahead = stampMs(stamp) - wallMs;
  return ahead > AHEAD_MS_MIN ? ahead : 0;
}

/**
 * Clocks are never further apart than this. A message that says so was written by a broken clock, or by somebody else; to
 * take its stamp over would make this node's own stamps ones that all others refuse.
 */
export const CLOCK_OFFSET_MS_MAX = 24 * 3_600_000;

/**
 * Why a message cannot be one that `node` has written, in words; null when it can. `nowMs` is the later one of this node's
 * clock and the broker's when it stored the message: a node whose own clock was lost still believes its peers.
 */
export function implausible({ node, epoch, stamp }: Envelope, expected: string, nowMs: number): string | null {
  if (node !== expected) return "a message names another node";
  const latestMs = nowMs + CLOCK_OFFSET_MS_MAX;
  if (epoch > latestMs) return "an epoch lies in the future";
  return stampMs(stamp) > latestMs ? "a stamp lies in the future" : null;
}

/** Packs plain maps that any msgpack reader understands: no records, no extensions. */
export function createPackr(): Packr {
  return new Packr({ useRecords: false, mapsAsObjects: true, moreTypes: false, int64AsType: "number" });
}

/** The map keys of an envelope, in a message of this version. */
export function envelopeFields(envelope: Envelope, { version }: FormatVersion): MessageMap {
  return {
    v: version,
    o: envelope.node,
    e: envelope.epoch,
    n: envelope.number,
    h: envelope.stamp,
    w: envelope.wallMs,
  };
}

/** Packs a map, made with `envelopeFields` for this version. */
export function packMessage(packr: Packr, map: MessageMap, { toWire }: FormatVersion): Uint8Array {
  return packr.pack(toWire === null ? map : toWire(map));
}

/** Unpacks a payload to its map; null when it is no map of a version that is read. Never throws. */
export function unpackMessage(packr: Packr, payload: Uint8Array, formats: Formats): MessageMap | null {
  const map = unpackMap(packr, payload);
  const format = map === null ? undefined : readVersion(formats, map.v);
  if (map === null || format === undefined) return null;
  return format.fromWire === null ? map : format.fromWire(map);
}

function unpackMap(packr: Packr, payload: Uint8Array): MessageMap | null {
  let value: unknown;
  try {
    value = packr.unpack(payload);
  } catch {
    return null;
  }
  return typeof value !== "object" || value === null || Array.isArray(value) ? null : (value as MessageMap);
}

/** Unpacks a whole payload; null for one that is damaged, of a version that is not read, or not ours. Never throws. */
export function openUnpacked(packr: Packr, payload: Uint8Array, formats: Formats): OpenedMessage | null {
  const parts = unpackMessage(packr, payload, formats);
  if (parts === null) return null;
  const envelope = envelopeOf(parts);
  const kind = parts.k;
  if (envelope === null || (kind !== "ev" && kind !== "snap" && kind !== "mark")) return null;
  return { kind, envelope, payload, parts };
}

/** A message of a version that is not read. */
export interface ForeignMessage {
  readonly version: number;
  readonly envelope: Envelope;
}

/** Reads the envelope of a message whose version is not read; null for anything else. Never throws. */
export function foreignMessage(packr: Packr, payload: Uint8Array, formats: Formats): ForeignMessage | null {
  const map = unpackMap(packr, payload);
  if (map === null || !isCount(map.v) || readVersion(formats, map.v) !== undefined) return null;
  const envelope = envelopeOf(map);
  return envelope === null ? null : { version: map.v, envelope };
}

/** The envelope of a message of any version; null for a payload that is no message. Never throws. */
export function anyEnvelope(packr: Packr, payload: Uint8Array): Envelope | null {
  const map = unpackMap(packr, payload);
  return map === null || !isCount(map.v) ? null : envelopeOf(map);
}

/** The envelope of an unpacked map; null when a field is missing or of the wrong type. */
export function envelopeOf(map: MessageMap): Envelope | null {
  const { o, e, n, h, w } = map;
  if (!isNodeName(o) || !isCount(e) || !isCount(n) || !isCount(h) || !isCount(w)) return null;
  if (h > STAMP_MAX) return null;
  return { node: o, epoch: e, number: n, stamp: h, wallMs: w };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** A place in a node's stream: epoch and number. (0, 0) is before the first message. */
export interface Position {
  readonly epoch: number;
  readonly number: number;
}

/** True when `a` comes after `b` in a stream. */
export function isAfter(a: Position, b: Position): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.number > b.number);
}
