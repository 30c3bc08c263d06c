/**
 * Opens messages for readers that need little of them: the envelope first, then section by section and column by
 * column. A batch without relevant rows is skipped unpacked. BatchDecoder unpacks everything at once.
 */

import type { Packr } from "msgpackr";
import { isNodeName } from "../../flow/plain-text.js";
import type { RareAttributes } from "../../flow/record.js";
import type { SlotRange } from "./batch.js";
import { DestroySection, MovedSection, NewSection, rowsOf, type Section, UpdateSection } from "./columns.js";
import { createPackr, type MessageParts, type OpenedMessage, openUnpacked } from "./envelope.js";
import { PackedOpener, PackedPart } from "./packed-message.js";
import { unpackRare } from "./rare.js";
import { FORMATS, type Formats } from "./versions.js";

/** Opens messages; null for one that is damaged, of a version that is not read, or not ours. Never throws. */
export function createMessageOpener(formats: Formats = FORMATS): (payload: Uint8Array) => OpenedMessage | null {
  const packed = new PackedOpener(formats);
  const packr: Packr = createPackr();
  return (payload) => packed.open(payload) ?? openUnpacked(packr, payload, formats);
}

const NODE_NAMES_MAX = 256;

/** A message of kind `ev` or `snap`. Its sections are reused: they are valid until the next `load`. */
export class BatchView {
  /** Number of rows in all sections. */
  rows = 0;
  /** Snapshot chunks: the flow ids that it lists completely. */
  range: SlotRange | null = null;
  /** A section of the message could not be opened. */
  damaged = false;
  readonly #new4 = new NewSection(1);
  readonly #new6 = new NewSection(4);
  readonly #updates = new UpdateSection();
  readonly #destroys = new DestroySection();
  readonly #moved = new MovedSection();
  readonly #packr: Packr = createPackr();
  #parts: MessageParts = {};
  #rare: Map<number, unknown> | null = null;

  /** False when the message is malformed, as far as that shows without opening its sections. */
  load(message: OpenedMessage): boolean {
    const { parts } = message;
    this.#parts = parts;
    this.#rare = null;
    this.damaged = false;
    this.range = null;
    this.rows = 0;
    const { n4, n6, u, d, mv } = parts;
    if (!(this.#count(n4) && this.#count(n6) && this.#count(u) && this.#count(d) && this.#count(mv))) return false;
    if (message.kind !== "snap") return true;
    const { a, b } = parts;
    if (!isFlowId(a) || !isFlowId(b) || b < a) return false;
    this.range = { from: a, to: b };
    return true;
  }

  /** The new rows of a family (0: IPv4, 1: IPv6), opened; null when there are none or they are malformed. */
  newRows(family: 0 | 1): NewSection | null {
    return family === 0 ? this.#open(this.#new4, this.#parts.n4) : this.#open(this.#new6, this.#parts.n6);
  }

  /** The update rows, opened; null when there are none or they are malformed. */
  updates(): UpdateSection | null {
    return this.#open(this.#updates, this.#parts.u);
  }

  /** The destroy rows, opened; null when there are none or they are malformed. */
  destroys(): DestroySection | null {
    return this.#open(this.#destroys, this.#parts.d);
  }

  /** The moved rows, opened; null when there are none or they are malformed. */
  moved(): MovedSection | null {
    return this.#open(this.#moved, this.#parts.mv);
  }

  /** The node with this index in the owner column of moved rows; null when the message does not name it. */
  movedTo(index: number): string | null {
    const names = this.#unpacked(this.#parts.mo);
    if (!Array.isArray(names) || names.length > NODE_NAMES_MAX) return null;
    const name: unknown = names[index];
    return isNodeName(name) ? name : null;
  }

  /** Rare attributes of a row; section 0: IPv4, 1: IPv6, 2: updates. Null when it has none, or they are malformed. */
  rare(section: 0 | 1 | 2, row: number): RareAttributes | null {
    if (this.#parts.r === undefined) return null;
    this.#rare ??= rareIndex(this.#unpacked(this.#parts.r));
    const packed = this.#rare.get(section * SECTION_ROWS + row);
    return packed === undefined ? null : unpackRare(packed);
  }

  /** False when a section is malformed. */
  #count(section: unknown): boolean {
    if (section === undefined) return true;
    const rows = rowsOf(section);
    this.rows += rows;
    return rows >= 0;
  }

  /** PackedOpener has checked that it can be unpacked. */
  #unpacked(part: unknown): unknown {
    return part instanceof PackedPart ? this.#packr.unpack(part.payload.subarray(part.at, part.end)) : part;
  }

  #open<T extends Section>(section: T, map: unknown): T | null {
    if (map === undefined) return null;
    if (!section.open(map)) this.damaged = true;
    return section.rows > 0 ? section : null;
  }
}

const SECTION_ROWS = 0x1_0000;

function rareIndex(rows: unknown): Map<number, unknown> {
  const index = new Map<number, unknown>();
  if (!Array.isArray(rows)) return index;
  for (const entry of rows) {
    if (!Array.isArray(entry)) continue;
    const [section, row, packed] = entry as unknown[];
    if (isFlowId(section) && isFlowId(row) && section < 3 && row < SECTION_ROWS) {
      index.set(section * SECTION_ROWS + row, packed);
    }
  }
  return index;
}

function isFlowId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
}
