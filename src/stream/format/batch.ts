/**
 * The batch codec: packs flow records as columns, and unpacks them. FORMAT.md has the bytes.
 *
 *   { v, o, e, n, h, w,                    envelope
 *     k: "ev" | "snap",  a, b,             snap: the slots [a, b) that this chunk lists completely
 *     n4, n6: new rows by family,          applied in the order new, update, destroy
 *     u: update rows, d: destroy rows,
 *     mv: rows of flows that moved, mo: the names of the nodes that they moved to,
 *     r: [[section, row, attributes], …]   rare attributes of new (0: n4, 1: n6) and update (2) rows
 *     x: [expectation, …] }                expectations that exist or have ended (expectation.ts)
 */

import type { Packr } from "msgpackr";
import type { Expectation } from "../../flow/expectation.js";
import { isNodeName } from "../../flow/plain-text.js";
import { IPPROTO_DCCP, IPPROTO_SCTP, IPPROTO_TCP } from "../../flow/protocol.js";
import {
  AF_INET,
  AF_INET6,
  type FlowEnd,
  HAS_COUNTERS,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  type RareAttributes,
  W_CREATED,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_ZONE,
} from "../../flow/record.js";
import { familyOf, isTcp, mirrorL4, protocolOf, protocolStateOf, protoWord } from "../../flow/record-fields.js";
import {
  BATCH_ROWS_MAX,
  DestroySection,
  MEASURED_COUNTERS,
  MEASURED_TIMES,
  MovedSection,
  NewSection,
  type StateColumns,
  UpdateSection,
} from "./columns.js";
import {
  createPackr,
  type Envelope,
  envelopeFields,
  type MessageParts,
  type OpenedMessage,
  openUnpacked,
  packMessage,
} from "./envelope.js";
import {
  BATCH_EXPECTATIONS_MAX,
  packExpectation,
  packExpectationEnd,
  type StreamExpectation,
  unpackExpectation,
} from "./expectation.js";
import { PackedOpener } from "./packed-message.js";
import { packRare, type RareRow, unpackRare } from "./rare.js";
import type { MessageKind } from "./subjects.js";
import { FORMAT_1, FORMATS, type Formats, type FormatVersion } from "./versions.js";

/** Rare attributes are large: this many make a batch full. */
const RARE_ROWS_MAX = 512;
const NODE_NAMES_MAX = 256;
const HAS_BASE = HAS_STATUS | HAS_TIMEOUT | HAS_MARK;

/** The slots [from, to) that a snapshot chunk lists completely. */
export interface SlotRange {
  readonly from: number;
  readonly to: number;
}

/** Gathers rows and packs them into one message, at most BATCH_ROWS_MAX rows per section; `full` says when to send. */
export class BatchEncoder {
  readonly #packr: Packr = createPackr();
  readonly #new4 = new NewSection(1);
  readonly #new6 = new NewSection(4);
  readonly #updates = new UpdateSection();
  readonly #destroys = new DestroySection();
  readonly #moved = new MovedSection();
  readonly #movedTo: string[] = [];
  #rare: RareRow[] = [];
  #expectations: Record<string, unknown>[] = [];

  /** Number of rows, without expectations. */
  get rows(): number {
    return this.#new4.rows + this.#new6.rows + this.#updates.rows + this.#destroys.rows + this.#moved.rows;
  }

  get full(): boolean {
    return this.rows >= BATCH_ROWS_MAX || this.#rare.length >= RARE_ROWS_MAX;
  }

  /** Number of expectations, BATCH_EXPECTATIONS_MAX at most. */
  get expectations(): number {
    return this.#expectations.length;
  }

  /**
   * Adds a flow with its tuples. `stated` means that nothing new happened to it (a snapshot, a claim that is published
   * again): the row then has the stamp of that claim, and the time when the flow was first seen. `birth`: stamp of the
   * first claim that any node made to the connection; 0 when this row is that claim.
   */
  addNew(
    flowId: number,
    words: Uint32Array,
    base: number,
    rare: RareAttributes | null,
    stated: { readonly stamp: number } | null,
    birth = 0,
  ): void {
    const isV6 = familyOf(words, base) === AF_INET6;
    const section = isV6 ? this.#new6 : this.#new4;
    const row = section.rows++;
    const protocol = protocolOf(words, base);
    const { width } = section;
    section.flowId[row] = flowId;
    for (let i = 0, at = row * width; i < width; i++, at++) {
      const source = words[base + W_ORIG_SRC + i]!;
      const destination = words[base + W_ORIG_DST + i]!;
      section.source[at] = source;
      section.destination[at] = destination;
      section.replySource[at] = words[base + W_REPLY_SRC + i]! ^ destination;
      section.replyDestination[at] = words[base + W_REPLY_DST + i]! ^ source;
    }
    const layer4 = words[base + W_ORIG_L4]!;
    section.layer4[row] = layer4;
    section.replyLayer4[row] = words[base + W_REPLY_L4]! ^ mirrorL4(protocol, layer4);
    section.protocol[row] = protocol;
    section.zone[row] = words[base + W_ZONE]!;
    section.created[row] = stated === null ? 0 : words[base + W_CREATED]!;
    section.stamp[row] = stated?.stamp ?? 0;
    section.birth[row] = birth;
    writeState(section.state, row, words, base);
    if (rare !== null) this.#rare.push([isV6 ? 1 : 0, row, packRare(rare)]);
  }

  /** Adds the changeable state of a flow that readers already know. */
  addUpdate(flowId: number, words: Uint32Array, base: number, rare: RareAttributes | null): void {
    const row = this.#updates.rows++;
    this.#updates.flowId[row] = flowId;
    writeState(this.#updates.state, row, words, base);
    if (rare !== null) this.#rare.push([2, row, packRare(rare)]);
  }

  /** Adds the end of a flow. */
  addDestroy(flowId: number, words: Uint32Array, base: number, end: FlowEnd | undefined): void {
    const section = this.#destroys;
    const row = section.rows++;
    section.flowId[row] = flowId;
    section.protocolState[row] = protocolStateOf(words, base);
    const counted = end !== undefined && (end.has & HAS_COUNTERS) !== 0;
    const timed = end !== undefined && (end.has & HAS_TIMES) !== 0;
    section.measured[row] = (counted ? MEASURED_COUNTERS : 0) | (timed ? MEASURED_TIMES : 0);
    section.packetsOriginal[row] = counted ? end.counters[0]! : 0;
    section.bytesOriginal[row] = counted ? end.counters[1]! : 0;
    section.packetsReply[row] = counted ? end.counters[2]! : 0;
    section.bytesReply[row] = counted ? end.counters[3]! : 0;
    section.startMicros[row] = timed ? end.timesMicros[0]! : 0;
    section.stopMicros[row] = timed ? end.timesMicros[1]! : 0;
  }

  /** Adds a flow that `owner` carries now, by the claim with this stamp. */
  addMoved(flowId: number, owner: string, stamp: number): void {
    const row = this.#moved.rows++;
    let index = this.#movedTo.indexOf(owner);
    if (index < 0) index = this.#movedTo.push(owner) - 1;
    this.#moved.flowId[row] = flowId;
    this.#moved.stamp[row] = stamp;
    this.#moved.owner[row] = index;
  }

  /**
   * Adds an expectation with its remaining time, and when it was first seen (seconds since 1970). `stamp`: of a claim
   * that is published again; null for a claim of this message.
   */
  addExpectation(expectation: Expectation, leftSeconds: number, createdSeconds: number, stamp: number | null): void {
    this.#expectations.push(packExpectation(expectation, leftSeconds, createdSeconds, stamp));
  }

  /** Adds the end of an expectation. */
  addExpectationEnd(expectation: Expectation): void {
    this.#expectations.push(packExpectationEnd(expectation));
  }

  /** Packs the rows as events or, with a range, as a snapshot chunk, and empties the encoder. */
  encode(envelope: Envelope, range: SlotRange | null, format: FormatVersion = FORMAT_1): Uint8Array {
    const map = envelopeFields(envelope, format);
    map.k = range === null ? "ev" : "snap";
    if (range !== null) {
      map.a = range.from;
      map.b = range.to;
    }
    if (this.#new4.rows > 0) map.n4 = this.#new4.encode();
    if (this.#new6.rows > 0) map.n6 = this.#new6.encode();
    if (this.#updates.rows > 0) map.u = this.#updates.encode();
    if (this.#destroys.rows > 0) map.d = this.#destroys.encode();
    if (this.#moved.rows > 0) {
      map.mv = this.#moved.encode();
      map.mo = this.#movedTo;
    }
    if (this.#rare.length > 0) map.r = this.#rare;
    if (this.#expectations.length > 0) map.x = this.#expectations;
    const payload = packMessage(this.#packr, map, format);
    this.reset();
    return payload;
  }

  reset(): void {
    this.#new4.rows = 0;
    this.#new6.rows = 0;
    this.#updates.rows = 0;
    this.#destroys.rows = 0;
    this.#moved.rows = 0;
    this.#movedTo.length = 0;
    this.#rare = [];
    this.#expectations = [];
  }
}

function writeState(state: StateColumns, row: number, words: Uint32Array, base: number): void {
  const protocol = protocolOf(words, base);
  const info = words[base + W_PROTOINFO]!;
  const infoB = words[base + W_PROTOINFO_B]!;
  state.status[row] = words[base + W_STATUS]!;
  state.timeoutSeconds[row] = words[base + W_TIMEOUT]!;
  state.protocolState[row] = info & 0xff;
  state.windowScale[row] = ((info >>> 8) & 0xf) | (((info >>> 16) & 0xf) << 4);
  state.mark[row] = words[base + W_MARK]!;
  if (protocol === IPPROTO_TCP) {
    // Masks matter in requests only: the kernel's own messages have just the flags.
    state.tcpFlags[row] = (infoB & 0xff) | ((infoB >>> 8) & 0xff00);
    state.protocolB[row] = 0;
    state.protocolC[row] = 0;
  } else {
    state.tcpFlags[row] = 0;
    state.protocolB[row] = infoB;
    state.protocolC[row] = words[base + W_PROTOINFO_C]!;
  }
}

function readState(state: StateColumns, row: number, words: Uint32Array, base: number): void {
  const scale = state.windowScale[row]!;
  words[base + W_STATUS] = state.status[row]!;
  words[base + W_TIMEOUT] = state.timeoutSeconds[row]!;
  words[base + W_MARK] = state.mark[row]!;
  words[base + W_PROTOINFO] = state.protocolState[row]! | ((scale & 0xf) << 8) | ((scale >>> 4) << 16);
  if (isTcp(words, base)) {
    const flags = state.tcpFlags[row]!;
    words[base + W_PROTOINFO_B] = (flags & 0xff) | ((flags & 0xff00) << 8);
    words[base + W_PROTOINFO_C] = 0;
  } else {
    words[base + W_PROTOINFO_B] = state.protocolB[row]!;
    words[base + W_PROTOINFO_C] = state.protocolC[row]!;
  }
}

/** True for entries with a CTA_PROTOINFO: TCP, SCTP, and DCCP if the kernel tracks it and so has a state. */
function hasProtocolInfo(protocol: number, state: number): boolean {
  return protocol === IPPROTO_TCP || protocol === IPPROTO_SCTP || (protocol === IPPROTO_DCCP && state !== 0);
}

/** Unpacks messages of kind `ev` and `snap`. Its sections are reused: they are valid until the next `decode`. */
export class BatchDecoder {
  readonly #packr: Packr = createPackr();
  readonly #opener: PackedOpener;
  readonly #formats: Formats;
  readonly new4 = new NewSection(1);
  readonly new6 = new NewSection(4);
  readonly updates = new UpdateSection();
  readonly destroys = new DestroySection();
  readonly moved = new MovedSection();
  /** Names of the nodes that the moved rows index. */
  movedTo: readonly string[] = [];
  /** Expectations that exist or have ended, in the order of the message. */
  expectations: readonly StreamExpectation[] = [];
  /** Snapshot chunks: the slots that it lists completely. */
  range: SlotRange | null = null;
  /** Rare attributes by section (0: new4, 1: new6, 2: updates) and row. */
  readonly rare = [rareRows(), rareRows(), rareRows()] as const;

  constructor(formats: Formats = FORMATS) {
    this.#formats = formats;
    this.#opener = new PackedOpener(formats);
  }

  /** Unpacks a payload; returns its envelope, or null when anything is malformed. Never throws. */
  decode(payload: Uint8Array): Envelope | null {
    this.#clear();
    const opened = this.#open(payload);
    if (opened === null || opened.kind === "mark") return null;
    const { kind, envelope, parts } = opened;
    const sound =
      this.new4.decode(parts.n4) &&
      this.new6.decode(parts.n6) &&
      this.updates.decode(parts.u) &&
      this.destroys.decode(parts.d) &&
      this.#decodeMoved(parts) &&
      this.#decodeRange(kind, parts) &&
      this.#decodeRare(parts.r) &&
      this.#decodeExpectations(parts.x);
    if (!sound) this.#clear();
    return sound ? envelope : null;
  }

  /** Most messages are columns alone, and those need not be unpacked. */
  #open(payload: Uint8Array): OpenedMessage | null {
    const opened = this.#opener.open(payload);
    if (opened !== null) {
      const { mo, r, x } = opened.parts;
      if (mo === undefined && r === undefined && x === undefined) return opened;
    }
    return openUnpacked(this.#packr, payload, this.#formats);
  }

  #clear(): void {
    for (const section of [this.new4, this.new6, this.updates, this.destroys, this.moved]) section.rows = 0;
    this.movedTo = [];
    this.expectations = [];
    for (const rows of this.rare) rows.clear();
    this.range = null;
  }

  #decodeMoved({ mv, mo: names }: MessageParts): boolean {
    if (!this.moved.decode(mv)) return false;
    if (this.moved.rows === 0) return true;
    if (!Array.isArray(names) || names.length > NODE_NAMES_MAX) return false;
    if (!names.every(isNodeName)) return false;
    this.movedTo = names;
    for (let row = 0; row < this.moved.rows; row++) if (this.moved.owner[row]! >= names.length) return false;
    return true;
  }

  #decodeExpectations(list: unknown): boolean {
    if (list === undefined) return true;
    if (!Array.isArray(list) || list.length > BATCH_EXPECTATIONS_MAX) return false;
    const decoded: StreamExpectation[] = [];
    for (const entry of list) {
      const expectation = unpackExpectation(entry);
      if (expectation === null) return false;
      decoded.push(expectation);
    }
    this.expectations = decoded;
    return true;
  }

  #decodeRange(kind: MessageKind, { a, b }: MessageParts): boolean {
    if (kind === "ev") return true;
    if (!isSlot(a) || !isSlot(b) || b < a) return false;
    this.range = { from: a, to: b };
    return true;
  }

  #decodeRare(rows: unknown): boolean {
    if (rows === undefined) return true;
    if (!Array.isArray(rows) || rows.length > 3 * BATCH_ROWS_MAX) return false;
    const counts = [this.new4.rows, this.new6.rows, this.updates.rows];
    for (const entry of rows) {
      if (!Array.isArray(entry)) return false;
      const [section, row, packed] = entry as unknown[];
      if (section !== 0 && section !== 1 && section !== 2) return false;
      if (!isSlot(row) || row >= counts[section]!) return false;
      const attributes = unpackRare(packed);
      if (attributes === null) return false;
      this.rare[section].set(row, attributes);
    }
    return true;
  }
}

function rareRows(): Map<number, RareAttributes> {
  return new Map();
}

function isSlot(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
}

/** Writes row `row` of a new section into `words` (a record at base 0): tuples, state, W_HAS and W_CREATED. */
export function readNewRow(section: NewSection, row: number, words: Uint32Array): void {
  const { width } = section;
  const protocol = section.protocol[row]!;
  for (let i = 0, at = row * width; i < width; i++, at++) {
    const source = section.source[at]!;
    const destination = section.destination[at]!;
    words[W_ORIG_SRC + i] = source;
    words[W_ORIG_DST + i] = destination;
    words[W_REPLY_SRC + i] = section.replySource[at]! ^ destination;
    words[W_REPLY_DST + i] = section.replyDestination[at]! ^ source;
  }
  if (width === 1) {
    for (let i = 1; i < 4; i++) {
      words[W_ORIG_SRC + i] = 0;
      words[W_ORIG_DST + i] = 0;
      words[W_REPLY_SRC + i] = 0;
      words[W_REPLY_DST + i] = 0;
    }
  }
  const layer4 = section.layer4[row]!;
  words[W_ORIG_L4] = layer4;
  words[W_REPLY_L4] = section.replyLayer4[row]! ^ mirrorL4(protocol, layer4);
  words[W_PROTO] = protoWord(width === 1 ? AF_INET : AF_INET6, protocol);
  words[W_ZONE] = section.zone[row]!;
  words[W_CREATED] = section.created[row]!;
  words[W_HAS] =
    HAS_BASE | HAS_REPLY | (hasProtocolInfo(protocol, section.state.protocolState[row]!) ? HAS_PROTOINFO : 0);
  readState(section.state, row, words, 0);
}

/** Writes the changeable state of update row `row` into the record at `base`, which has its tuples already. */
export function readUpdateRow(section: UpdateSection, row: number, words: Uint32Array, base: number): void {
  readState(section.state, row, words, base);
}
