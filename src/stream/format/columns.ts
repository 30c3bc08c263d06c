/**
 * The columns of a batch's sections. Each class serves the encoder and the decoder: arrays for BATCH_ROWS_MAX rows,
 * allocated once. On the wire a column is the little-endian bytes of its rows; a column of zeros is left out.
 */
import { codeOf, PackedPart, PackedReader } from "./packed-message.js";

/** Most rows of a section. */
export const BATCH_ROWS_MAX = 2048;

type Column = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** One column: its key on the wire, its rows, and the elements per row. */
export interface ColumnSpec {
  readonly key: string;
  readonly values: Column;
  readonly perRow: number;
  /** The key as PackedReader gives it. */
  readonly code: number;
  /** The same memory as `values`. */
  readonly bytes: Uint8Array;
  readonly rowBytes: number;
}

function column(key: string, values: Column, perRow = 1): ColumnSpec {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { key, values, perRow, code: codeOf(key), bytes, rowBytes: perRow * values.BYTES_PER_ELEMENT };
}

const KEY_N = codeOf("n");

/** From this size on, one bulk copy is cheaper than a loop, although the call costs more. */
const COPY_BYTES_MIN = 256;

/** A section: columns of equal length. */
export abstract class Section {
  rows = 0;
  abstract readonly columns: readonly ColumnSpec[];
  readonly #reader = new PackedReader();
  /**
   * For each column of an opened section, the bytes that hold it; null: it was left out. Then its offset, and its
   * length.
   */
  readonly #sources: (Uint8Array | null)[] = [];
  readonly #at: number[] = [];
  readonly #lengths: number[] = [];

  /** The section as a map of binaries, without the columns of zeros. They are views of the arrays: pack at once. */
  encode(): Record<string, unknown> {
    const map: Record<string, unknown> = { n: this.rows };
    for (const { key, values, perRow, bytes, rowBytes } of this.columns) {
      if (!allZero(values, this.rows * perRow)) map[key] = bytes.subarray(0, this.rows * rowBytes);
    }
    return map;
  }

  /** Reads the section from an unpacked map. False when it is malformed; the section is then empty. */
  decode(map: unknown): boolean {
    this.rows = 0;
    if (map === undefined) return true;
    const sound = this.open(map);
    if (sound) this.takeAll();
    // The payload may be large: do not hold it until the next message.
    this.#sources.fill(null);
    return sound;
  }

  /**
   * Opens the section of a message, unpacked or not, without copying its columns: `take` does that one by one, for
   * readers that skip irrelevant rows. False when it is malformed; the section is then empty.
   */
  open(section: unknown): boolean {
    this.rows = 0;
    const rows = rowsOf(section);
    if (rows < 0) return false;
    if (section instanceof PackedPart) this.#placePacked(section);
    else if (!this.#placeUnpacked(section as Record<string, unknown>)) return false;
    for (let i = 0; i < this.columns.length; i++) {
      if (this.#sources[i] !== null && this.#lengths[i] !== rows * this.columns[i]!.rowBytes) return false;
    }
    this.rows = rows;
    return true;
  }

  /** Copies a column of an opened section into its array. False when it is all zeros. */
  take(key: string): boolean {
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i]!.key === key) return this.#takeColumn(i);
    throw new RangeError(`no column ${key}`);
  }

  /** Copies all columns of an opened section. */
  takeAll(): void {
    for (let i = 0; i < this.columns.length; i++) this.#takeColumn(i);
  }

  /** False when a column is not a binary. */
  #placeUnpacked(fields: Record<string, unknown>): boolean {
    for (let i = 0; i < this.columns.length; i++) {
      const bytes = fields[this.columns[i]!.key];
      if (bytes !== undefined && !(bytes instanceof Uint8Array)) return false;
      this.#sources[i] = bytes ?? null;
      this.#at[i] = 0;
      this.#lengths[i] = bytes?.length ?? 0;
    }
    return true;
  }

  /** PackedOpener has checked that all columns are binaries. */
  #placePacked({ payload, at }: PackedPart): void {
    for (let i = 0; i < this.columns.length; i++) this.#sources[i] = null;
    const reader = this.#reader;
    reader.begin(payload, at);
    // They come in the order of `columns`, without those left out.
    let next = 0;
    for (let left = reader.map(); left > 0; left--) {
      const code = reader.key();
      if (code === KEY_N) {
        reader.number();
        continue;
      }
      const length = reader.binary();
      const index = this.#indexOf(code, next);
      if (index < 0) continue;
      this.#sources[index] = payload;
      this.#at[index] = reader.at - length;
      this.#lengths[index] = length;
      next = index + 1;
    }
  }

  #indexOf(code: number, from: number): number {
    const { columns } = this;
    for (let i = from; i < columns.length; i++) if (columns[i]!.code === code) return i;
    for (let i = 0; i < from; i++) if (columns[i]!.code === code) return i;
    return -1;
  }

  #takeColumn(index: number): boolean {
    const { values, perRow, bytes, rowBytes } = this.columns[index]!;
    const source = this.#sources[index]!;
    if (source === null) {
      values.fill(0, 0, this.rows * perRow);
      return false;
    }
    const at = this.#at[index]!;
    const length = this.rows * rowBytes;
    if (length >= COPY_BYTES_MIN) bytes.set(source.length === length ? source : source.subarray(at, at + length));
    else for (let i = 0; i < length; i++) bytes[i] = source[at + i]!;
    return true;
  }
}

/** The number of rows that a section declares; -1 when it is malformed. */
export function rowsOf(section: unknown): number {
  if (typeof section !== "object" || section === null) return -1;
  const rows = section instanceof PackedPart ? section.rows : (section as Record<string, unknown>).n;
  const sound = typeof rows === "number" && Number.isInteger(rows) && rows >= 0 && rows <= BATCH_ROWS_MAX;
  return sound ? rows : -1;
}

function allZero(values: Column, elements: number): boolean {
  for (let i = 0; i < elements; i++) if (values[i] !== 0) return false;
  return true;
}

/** Flows with their tuples: `new` rows of an event batch and all rows of a snapshot chunk. One section per family. */
export class NewSection extends Section {
  /** Words of an address: 1 for IPv4, 4 for IPv6. */
  readonly width: 1 | 4;
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  readonly source: Uint32Array;
  readonly destination: Uint32Array;
  readonly layer4 = new Uint32Array(BATCH_ROWS_MAX);
  readonly protocol = new Uint8Array(BATCH_ROWS_MAX);
  readonly zone = new Uint32Array(BATCH_ROWS_MAX);
  /** Reply tuple XOR the mirrored original one: zero, and so left out, where nothing is translated. */
  readonly replySource: Uint32Array;
  readonly replyDestination: Uint32Array;
  readonly replyLayer4 = new Uint32Array(BATCH_ROWS_MAX);
  readonly created = new Uint32Array(BATCH_ROWS_MAX);
  /** Stamp of the node's claim to the flow; 0: the message's own. */
  readonly stamp = new Float64Array(BATCH_ROWS_MAX);
  /** Stamp of the first claim that any node made to the connection; 0: it is this row. */
  readonly birth = new Float64Array(BATCH_ROWS_MAX);
  readonly state = new StateColumns();
  readonly columns: readonly ColumnSpec[];

  constructor(width: 1 | 4) {
    super();
    this.width = width;
    this.source = new Uint32Array(BATCH_ROWS_MAX * width);
    this.destination = new Uint32Array(BATCH_ROWS_MAX * width);
    this.replySource = new Uint32Array(BATCH_ROWS_MAX * width);
    this.replyDestination = new Uint32Array(BATCH_ROWS_MAX * width);
    this.columns = [
      column("f", this.flowId),
      column("s", this.source, width),
      column("d", this.destination, width),
      column("l", this.layer4),
      column("p", this.protocol),
      column("z", this.zone),
      column("rs", this.replySource, width),
      column("rd", this.replyDestination, width),
      column("rl", this.replyLayer4),
      column("c", this.created),
      column("h", this.stamp),
      column("q", this.birth),
      ...this.state.columns,
    ];
  }
}

/** What changes during a flow's life; part of `new` and `update` rows. */
export class StateColumns {
  readonly status = new Uint16Array(BATCH_ROWS_MAX);
  readonly timeoutSeconds = new Uint32Array(BATCH_ROWS_MAX);
  /** State of TCP, SCTP or DCCP. */
  readonly protocolState = new Uint8Array(BATCH_ROWS_MAX);
  /** TCP: window scale original | reply << 4. DCCP: role. */
  readonly windowScale = new Uint8Array(BATCH_ROWS_MAX);
  /** TCP flags original | reply << 8. */
  readonly tcpFlags = new Uint16Array(BATCH_ROWS_MAX);
  readonly mark = new Uint32Array(BATCH_ROWS_MAX);
  /** SCTP verification tags, DCCP handshake sequence: words 25 and 26 of the record. */
  readonly protocolB = new Uint32Array(BATCH_ROWS_MAX);
  readonly protocolC = new Uint32Array(BATCH_ROWS_MAX);
  readonly columns: readonly ColumnSpec[] = [
    column("S", this.status),
    column("t", this.timeoutSeconds),
    column("i", this.protocolState),
    column("ws", this.windowScale),
    column("fl", this.tcpFlags),
    column("m", this.mark),
    column("b", this.protocolB),
    column("g", this.protocolC),
  ];
}

/** Changed flows, by flow id: the whole changeable state, so that applying a row twice is harmless. */
export class UpdateSection extends Section {
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  readonly state = new StateColumns();
  readonly columns: readonly ColumnSpec[] = [column("f", this.flowId), ...this.state.columns];
}

/** Ended flows, by flow id, with the kernel's counters and times; 0 where it has none. */
export class DestroySection extends Section {
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  readonly protocolState = new Uint8Array(BATCH_ROWS_MAX);
  readonly packetsOriginal = new Float64Array(BATCH_ROWS_MAX);
  readonly bytesOriginal = new Float64Array(BATCH_ROWS_MAX);
  readonly packetsReply = new Float64Array(BATCH_ROWS_MAX);
  readonly bytesReply = new Float64Array(BATCH_ROWS_MAX);
  /** Bit 0: the counters were measured. Bit 1: the times were. */
  readonly measured = new Uint8Array(BATCH_ROWS_MAX);
  readonly startMicros = new Float64Array(BATCH_ROWS_MAX);
  readonly stopMicros = new Float64Array(BATCH_ROWS_MAX);
  readonly columns: readonly ColumnSpec[] = [
    column("f", this.flowId),
    column("i", this.protocolState),
    column("x", this.measured),
    column("po", this.packetsOriginal),
    column("bo", this.bytesOriginal),
    column("pr", this.packetsReply),
    column("br", this.bytesReply),
    column("t0", this.startMicros),
    column("t1", this.stopMicros),
  ];
}

/** In `measured` of a destroy row: its counters are valid. */
export const MEASURED_COUNTERS = 1;
/** In `measured` of a destroy row: its times are valid. */
export const MEASURED_TIMES = 2;

/** Flows that another node carries now: this node gives them up without having seen their end. */
export class MovedSection extends Section {
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  /** Stamp of the other node's claim. */
  readonly stamp = new Float64Array(BATCH_ROWS_MAX);
  /** Which node, as an index into the batch's list of names. */
  readonly owner = new Uint8Array(BATCH_ROWS_MAX);
  readonly columns: readonly ColumnSpec[] = [
    column("f", this.flowId),
    column("h", this.stamp),
    column("o", this.owner),
  ];
}

/**
 * A test for "one of these sections has the flow id", asked in ascending order: sections are sorted by flow id. The
 * columns `f` are taken before.
 */
export function hasFlowId(new4: NewSection | null, new6: NewSection | null): (flowId: number) => boolean {
  let row4 = 0;
  let row6 = 0;
  return (flowId) => {
    while (new4 !== null && row4 < new4.rows && new4.flowId[row4]! < flowId) row4++;
    while (new6 !== null && row6 < new6.rows && new6.flowId[row6]! < flowId) row6++;
    const isIn4 = new4 !== null && row4 < new4.rows && new4.flowId[row4] === flowId;
    return isIn4 || (new6 !== null && row6 < new6.rows && new6.flowId[row6] === flowId);
  };
}
