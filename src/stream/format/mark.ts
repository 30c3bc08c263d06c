/**
 * Marks: the small messages between batches. A msgpack map: the envelope, `k: "mark"`, `m`: the mark below, and `s`:
 * the stream sequence of the begin mark of the last complete snapshot (0: none), so that the stream's last mark always
 * shows where a reader must start. `r` is the writer's role, so that a restarted daemon knows it.
 */

import type { Packr } from "msgpackr";
import { z } from "zod";
import { plainText } from "../../flow/plain-text.js";
import {
  anyEnvelope,
  createPackr,
  type Envelope,
  envelopeFields,
  envelopeOf,
  type Position,
  packMessage,
  unpackMessage,
} from "./envelope.js";
import { PackedOpener } from "./packed-message.js";
import { FORMAT_1, FORMATS, type Formats, type FormatVersion } from "./versions.js";

const VERSIONS_MAX = 16;
/** Kinds of refusals in the mark of a commit. */
const REASONS_MAX = 32;

const count = z.number().int().nonnegative();
const reason = z.string().max(256).transform(plainText);

const reasons = z
  .record(z.string().max(32), count)
  .refine((named) => Object.keys(named).length <= REASONS_MAX)
  .transform((named) => Object.fromEntries(Object.entries(named).map(([name, times]) => [plainText(name), times])));

const markSchema = z.discriminatedUnion("type", [
  /**
   * The first message of a daemon. If it has restored its table from its own stream, that ended at (previousEpoch,
   * previousNumber), and the flow ids remain valid; else previousNumber is 0. `writes` and `reads` are the format
   * versions that the daemon writes now and those that it reads.
   */
  z.object({
    type: z.literal("epoch"),
    reason,
    previousEpoch: count,
    previousNumber: count,
    writes: count.optional(),
    reads: z.array(count).max(VERSIONS_MAX).optional(),
  }),
  /** From here to the end mark, chunks list the whole table. `flows` is its size at the beginning. */
  z.object({ type: z.literal("snapshot-begin"), id: count, flows: count }),
  z.object({ type: z.literal("snapshot-end"), id: count, flows: count }),
  /** Events may be missing here; `events`: how many, if known. */
  z.object({ type: z.literal("gap"), reason, events: count.optional() }),
  z.object({ type: z.literal("role"), role: z.enum(["primary", "backup", "fault"]) }),
  z.object({
    type: z.literal("commit"),
    committed: count,
    updated: count,
    failed: count,
    stale: count,
    durationMs: z.number().nonnegative(),
    /** Earlier writers leave out what follows, and every writer leaves out what is 0. */
    cause: z.enum(["hook", "command"]).optional(),
    group: z.string().max(64).transform(plainText).optional(),
    beganMs: count.optional(),
    skipped: count.optional(),
    ahead: count.optional(),
    repaired: count.optional(),
    /** Entries that the kernel refused, by the name of the error. */
    reasons: reasons.optional(),
    withoutMaster: count.optional(),
    withoutHelper: count.optional(),
    expectations: count.optional(),
  }),
  /** The last message of a daemon that ended cleanly. */
  z.object({ type: z.literal("stop") }),
]);

const rolesSchema = z.enum(["primary", "backup", "fault"]);

/** The role that keepalived gave the node; `unknown` before it gave one. */
export type Role = z.infer<typeof rolesSchema> | "unknown";

/** A mark of a kind that a later version writes: it has its place in the order, and says nothing here. */
const unknownSchema = z.object({ type: z.string().max(64) }).transform(() => ({ type: "unknown" as const }));

/** What a mark says; FORMAT.md has the table. */
export type Mark = z.infer<typeof markSchema> | { readonly type: "unknown" };

/** The mark of an epoch. */
export type EpochMark = Extract<Mark, { type: "epoch" }>;

/** The mark of a commit: the record of a takeover. */
export type CommitMark = Extract<Mark, { type: "commit" }>;

/** The mark by which an epoch begins, of its message `number`; null for every other message. */
export function epochBegin(number: number, mark: Mark | null): EpochMark | null {
  return mark?.type === "epoch" && number === 1 ? mark : null;
}

/**
 * True when the table of an epoch goes on in the next one, which took over just what ended at `end`, the place of the
 * last message read: flow ids keep their meaning. Else those of the earlier epoch mean nothing any more.
 */
export function tableGoesOn(begin: EpochMark | null, end: Position): boolean {
  if (begin === null || begin.previousNumber === 0) return false;
  return begin.previousEpoch === end.epoch && begin.previousNumber === end.number;
}

/** A mark with its place in the stream. */
export interface DecodedMark {
  readonly envelope: Envelope;
  readonly mark: Mark;
  /** Stream sequence of the begin mark of the last complete snapshot, on the broker of the writer; 0 for none. */
  readonly snapshotSequence: number;
  /** The writer's role when it wrote the mark. */
  readonly role: Role;
}

const KNOWN_TYPES: readonly string[] = markSchema.options.map(({ shape }) => shape.type.value);

function isKnownType(mark: unknown): boolean {
  return typeof mark === "object" && mark !== null && KNOWN_TYPES.includes(String((mark as { type?: unknown }).type));
}

/** Packs and unpacks marks. */
export class MarkCodec {
  readonly #packr: Packr = createPackr();
  readonly #formats: Formats;

  constructor(formats: Formats = FORMATS) {
    this.#formats = formats;
  }

  encode(
    envelope: Envelope,
    mark: Mark,
    snapshotSequence: number,
    role: Role = "unknown",
    format: FormatVersion = FORMAT_1,
  ): Uint8Array {
    const known = role === "unknown" ? {} : { r: role };
    const map = { ...envelopeFields(envelope, format), k: "mark", m: mark, s: snapshotSequence, ...known };
    return packMessage(this.#packr, map, format);
  }

  /** Null when the payload is malformed, or of a version that is not read. Never throws. */
  decode(payload: Uint8Array): DecodedMark | null {
    const map = unpackMessage(this.#packr, payload, this.#formats);
    if (map === null || map.k !== "mark") return null;
    const envelope = envelopeOf(map);
    const known = markSchema.safeParse(map.m);
    const mark = known.success || isKnownType(map.m) ? known : unknownSchema.safeParse(map.m);
    const sequence = count.safeParse(map.s);
    if (envelope === null || !mark.success || !sequence.success) return null;
    const role = rolesSchema.safeParse(map.r);
    return { envelope, mark: mark.data, snapshotSequence: sequence.data, role: role.success ? role.data : "unknown" };
  }
}

/** Makes a reader of envelopes, which are the same in every version; null for a payload that is no message of ours. */
export function createEnvelopeReader(): (payload: Uint8Array) => Envelope | null {
  const packed = new PackedOpener();
  const packr = createPackr();
  return (payload) => packed.open(payload)?.envelope ?? anyEnvelope(packr, payload);
}
