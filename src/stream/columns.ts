/**
 * Columns of the sections of a batch. A class here is both the encoder's scratch and the decoder's target:
 * arrays for BATCH_ROWS_MAX rows, allocated once. On the wire a column is the little-endian bytes of its rows;
 * a column of zeros is left out.
 */
export const BATCH_ROWS_MAX = 2048;

type Column = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** One column: its key on the wire, its rows, and how many elements make a row. */
export interface ColumnSpec {
  readonly key: string;
  readonly values: Column;
  readonly perRow: number;
}

/** A group of columns of equal length. */
export abstract class Section {
  rows = 0;
  #fields: Record<string, unknown> = {};
  abstract readonly columns: readonly ColumnSpec[];

  /** The section as a map of binaries; columns without a bit set are left out. Views into the scratch: pack at once. */
  encode(): Record<string, unknown> {
    const map: Record<string, unknown> = { n: this.rows };
    for (const { key, values, perRow } of this.columns) {
      const elements = this.rows * perRow;
      if (!allZero(values, elements)) map[key] = bytesOf(values, elements);
    }
    return map;
  }

  /** Takes the section from an unpacked map. False when it is malformed; the section is then empty. */
  decode(map: unknown): boolean {
    this.rows = 0;
    if (map === undefined) return true;
    if (typeof map !== "object" || map === null) return false;
    const fields = map as Record<string, unknown>;
    const rows = fields.n;
    if (typeof rows !== "number" || !Number.isInteger(rows) || rows < 0 || rows > BATCH_ROWS_MAX) return false;
    for (const { key, values, perRow } of this.columns) {
      const elements = rows * perRow;
      const bytes = fields[key];
      if (bytes === undefined) values.fill(0, 0, elements);
      else if (bytes instanceof Uint8Array && bytes.length === elements * values.BYTES_PER_ELEMENT) {
        bytesOf(values, elements).set(bytes);
      } else return false;
    }
    this.rows = rows;
    return true;
  }

  /**
   * Looks at the section of an unpacked map without taking its columns: `take` does that one by one, for readers that skip what
   * cannot concern them. False when it is malformed; the section is then empty.
   */
  open(map: unknown): boolean {
    this.rows = 0;
    const rows = rowsOf(map);
    if (rows < 0) return false;
    const fields = map as Record<string, unknown>;
    for (const { key, values, perRow } of this.columns) {
      const bytes = fields[key];
      if (bytes === undefined) continue;
      if (!(bytes instanceof Uint8Array) || bytes.length !== rows * perRow * values.BYTES_PER_ELEMENT) return false;
    }
    this.#fields = fields;
    this.rows = rows;
    return true;
  }

  /** Takes a column of an opened section into its array. False when it is one of zeros. */
  take(key: string): boolean {
    const spec = this.columns.find((column) => column.key === key);
    if (spec === undefined) throw new RangeError(`no column ${key}`);
    return this.#takeColumn(spec);
  }

  /** Takes all columns of an opened section. */
  takeAll(): void {
    for (const spec of this.columns) this.#takeColumn(spec);
  }

  #takeColumn({ key, values, perRow }: ColumnSpec): boolean {
    const bytes = this.#fields[key] as Uint8Array | undefined;
    const elements = this.rows * perRow;
    if (bytes === undefined) values.fill(0, 0, elements);
    else bytesOf(values, elements).set(bytes);
    return bytes !== undefined;
  }
}

/** Rows that a section of an unpacked map says it has; -1 when it is malformed. */
export function rowsOf(map: unknown): number {
  if (typeof map !== "object" || map === null) return -1;
  const rows = (map as Record<string, unknown>).n;
  const sound = typeof rows === "number" && Number.isInteger(rows) && rows >= 0 && rows <= BATCH_ROWS_MAX;
  return sound ? rows : -1;
}

function bytesOf(values: Column, elements: number): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, elements * values.BYTES_PER_ELEMENT);
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
  /** Reply tuple XOR the mirror of the original one: all zero, and so left out, where nothing is translated. */
  readonly replySource: Uint32Array;
  readonly replyDestination: Uint32Array;
  readonly replyLayer4 = new Uint32Array(BATCH_ROWS_MAX);
  readonly created = new Uint32Array(BATCH_ROWS_MAX);
  /** Stamp of the node's claim to the flow, where it is not the message's own. */
  readonly stamp = new Float64Array(BATCH_ROWS_MAX);
  /** Stamp of the first claim that any node made to the connection; 0: this row is it. */
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
      { key: "f", values: this.flowId, perRow: 1 },
      { key: "s", values: this.source, perRow: width },
      { key: "d", values: this.destination, perRow: width },
      { key: "l", values: this.layer4, perRow: 1 },
      { key: "p", values: this.protocol, perRow: 1 },
      { key: "z", values: this.zone, perRow: 1 },
      { key: "rs", values: this.replySource, perRow: width },
      { key: "rd", values: this.replyDestination, perRow: width },
      { key: "rl", values: this.replyLayer4, perRow: 1 },
      { key: "c", values: this.created, perRow: 1 },
      { key: "h", values: this.stamp, perRow: 1 },
      { key: "q", values: this.birth, perRow: 1 },
      ...this.state.columns,
    ];
  }
}

/** What changes during a flow's life; part of `new` and `update` rows. */
export class StateColumns {
  readonly status = new Uint16Array(BATCH_ROWS_MAX);
  readonly timeout = new Uint32Array(BATCH_ROWS_MAX);
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
    { key: "S", values: this.status, perRow: 1 },
    { key: "t", values: this.timeout, perRow: 1 },
    { key: "i", values: this.protocolState, perRow: 1 },
    { key: "ws", values: this.windowScale, perRow: 1 },
    { key: "fl", values: this.tcpFlags, perRow: 1 },
    { key: "m", values: this.mark, perRow: 1 },
    { key: "b", values: this.protocolB, perRow: 1 },
    { key: "g", values: this.protocolC, perRow: 1 },
  ];
}

/** Changed flows, by flow id: the whole changeable state, so that applying a row twice is harmless. */
export class UpdateSection extends Section {
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  readonly state = new StateColumns();
  readonly columns: readonly ColumnSpec[] = [{ key: "f", values: this.flowId, perRow: 1 }, ...this.state.columns];
}

/** Ended flows, by flow id, with what the kernel counted and timed; 0 where it did neither. */
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
    { key: "f", values: this.flowId, perRow: 1 },
    { key: "i", values: this.protocolState, perRow: 1 },
    { key: "x", values: this.measured, perRow: 1 },
    { key: "po", values: this.packetsOriginal, perRow: 1 },
    { key: "bo", values: this.bytesOriginal, perRow: 1 },
    { key: "pr", values: this.packetsReply, perRow: 1 },
    { key: "br", values: this.bytesReply, perRow: 1 },
    { key: "t0", values: this.startMicros, perRow: 1 },
    { key: "t1", values: this.stopMicros, perRow: 1 },
  ];
}

/** In `measured` of a destroy row: its counters hold. */
export const MEASURED_COUNTERS = 1;
/** In `measured` of a destroy row: its times hold. */
export const MEASURED_TIMES = 2;

/** Flows that another node carries now: this one gives them up without having seen them end. */
export class MovedSection extends Section {
  readonly flowId = new Uint32Array(BATCH_ROWS_MAX);
  /** Stamp of the other node's claim. */
  readonly stamp = new Float64Array(BATCH_ROWS_MAX);
  /** Which node, as an index into the batch's list of names. */
  readonly owner = new Uint8Array(BATCH_ROWS_MAX);
  readonly columns: readonly ColumnSpec[] = [
    { key: "f", values: this.flowId, perRow: 1 },
    { key: "h", values: this.stamp, perRow: 1 },
    { key: "o", values: this.owner, perRow: 1 },
  ];
}
