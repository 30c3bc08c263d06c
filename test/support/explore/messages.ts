/** Messages of a stream, with what a state's digest needs of them. */
import { BatchDecoder } from "../../../src/stream/format/batch.js";
import type { NewSection, StateColumns } from "../../../src/stream/format/columns.js";
import type { Envelope } from "../../../src/stream/format/envelope.js";
import { type Mark, MarkCodec } from "../../../src/stream/format/mark.js";
import type { MessageKind } from "../../../src/stream/format/subjects.js";
import type { StreamMessage } from "../../../src/stream/reader.js";
import { type Digest, DigestWriter } from "./hash.js";

/** A message, its place in its epoch, and its digest. */
export interface ExplorerMessage extends StreamMessage {
  readonly epoch: number;
  readonly number: number;
  readonly digest: Digest;
  /** What it holds, in words. */
  readonly text: string;
  /** Sequence of the begin mark of the last complete snapshot, as a mark names it; 0 in other messages. */
  readonly snapshotSequence: number;
}

const decoder = new BatchDecoder();
const marks = new MarkCodec();
const out = new DigestWriter();

/** Makes the message that a node has written. */
export function messageOf(kind: MessageKind, payload: Uint8Array, sequence: number): ExplorerMessage {
  const envelope = kind === "mark" ? null : decoder.decode(payload);
  const mark = kind === "mark" ? marks.decode(payload) : null;
  const known = envelope ?? mark?.envelope;
  if (known === undefined) throw new Error("a node wrote a malformed message");
  out.word(kind.length);
  out.variable(known.epoch);
  out.variable(known.stamp);
  const text = mark === null ? digestBatch() : digestMark(mark.mark);
  return {
    type: "message",
    kind,
    sequence,
    timeMs: known.wallMs,
    payload: Uint8Array.from(payload),
    pending: 0,
    epoch: known.epoch,
    number: known.number,
    digest: out.take(),
    text,
    snapshotSequence: mark?.snapshotSequence ?? 0,
  };
}

function digestBatch(): string {
  const { new4, updates, destroys, moved, movedTo, range } = decoder;
  const texts: string[] = [];
  for (let row = 0; row < new4.rows; row++) {
    digestNew(new4, row);
    texts.push(`new ${new4.flowId[row]}`);
  }
  out.word(-1);
  for (let row = 0; row < updates.rows; row++) {
    out.word(updates.flowId[row]!);
    digestState(updates.state, row);
    texts.push(`update ${updates.flowId[row]}`);
  }
  out.word(-1);
  for (let row = 0; row < destroys.rows; row++) {
    out.word(destroys.flowId[row]!);
    texts.push(`destroy ${destroys.flowId[row]}`);
  }
  out.word(-1);
  for (let row = 0; row < moved.rows; row++) {
    const name = movedTo[moved.owner[row]!]!;
    out.word(moved.flowId[row]!);
    out.word(name.charCodeAt(name.length - 1));
    out.variable(moved.stamp[row]!);
    texts.push(`moved ${moved.flowId[row]} to ${name || "nobody"}`);
  }
  out.word(range === null ? -1 : range.from);
  return `${range === null ? "batch" : "chunk"}: ${texts.join(", ") || "empty"}`;
}

function digestNew(section: NewSection, row: number): void {
  out.word(section.flowId[row]!);
  out.word(section.layer4[row]!);
  out.word(section.replyLayer4[row]!);
  digestState(section.state, row);
  out.variable(section.stamp[row]!);
  out.variable(section.birth[row]!);
}

function digestState(state: StateColumns, row: number): void {
  out.word(state.status[row]!);
  out.word(state.protocolState[row]!);
  out.variable(state.mark[row]!);
}

function digestMark(mark: Mark): string {
  for (const letter of mark.type) out.word(letter.charCodeAt(0));
  if (mark.type === "snapshot-begin" || mark.type === "snapshot-end") out.variable(mark.id);
  if (mark.type === "epoch") {
    out.variable(mark.previousEpoch);
    out.word(mark.previousNumber);
  }
  return mark.type === "role" ? `mark: ${mark.role}` : `mark: ${mark.type}`;
}

/** The envelope's position of a message. */
export type Positioned = Pick<Envelope, "epoch" | "number">;
