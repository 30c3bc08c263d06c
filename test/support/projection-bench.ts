/** Two streams that a unit test writes message by message, read by one projection. */
import { STAMPS_PER_MS, stampMs } from "../../src/flow/clock.js";
import type { FlowQuery } from "../../src/flow/filter.js";
import type { Connection } from "../../src/history/connection.js";
import { Projection } from "../../src/history/scan/projection.js";
import { compileRowFilter, RowFilter } from "../../src/history/scan/row-filter.js";
import type { BatchEncoder } from "../../src/stream/format/batch.js";
import { createMessageOpener } from "../../src/stream/format/batch-view.js";
import { tcpRecord } from "./records.js";
import { StreamWriter, type WrittenMessage } from "./stream-writer.js";

const ALL = 0xffff_ffff;
/** Stamps of the year 2027, so that their times are plausible. */
export const BEGIN = 909_980_570_000_000;

/** Two nodes whose stamps a test sets, and what a projection reports of them. */
export class Bench {
  readonly fw1 = new StreamWriter("fw1");
  readonly fw2 = new StreamWriter("fw2");
  /** Ends that are final, and ends as they were published. */
  readonly settled: Connection[] = [];
  readonly over: Connection[] = [];
  readonly changes: string[] = [];
  readonly projection: Projection;
  readonly #open = createMessageOpener();
  readonly #jumps = new Set<string>();
  #skips = false;
  #stamp = BEGIN;

  constructor(filter: FlowQuery | RowFilter = {}, sinceMs: number | null = null) {
    this.projection = new Projection({
      filter: filter instanceof RowFilter ? filter : compileRowFilter(filter),
      sinceMs,
      listener: {
        ended: (connection) => this.settled.push(connection),
        over: (connection) => this.over.push(connection),
        changed: (type) => this.changes.push(type),
      },
    });
  }

  /** All connections that have ended, if no message comes any more. */
  get ended(): Connection[] {
    this.projection.settle(Number.POSITIVE_INFINITY);
    return this.settled;
  }

  /** Time passes. */
  pass(ms: number): void {
    this.#stamp += ms * STAMPS_PER_MS;
  }

  /** The reader skips what the node writes here. */
  skip(writer: StreamWriter, write: () => void): void {
    this.#skips = true;
    write();
    this.#skips = false;
    this.#jumps.add(nameOf(this, writer));
  }

  /** Writes a message ten milliseconds after the last, and reads it. Returns its stamp. */
  say(writer: StreamWriter, write: (writer: StreamWriter) => WrittenMessage): number {
    this.#stamp += 10 * STAMPS_PER_MS;
    writer.stamp = this.#stamp - 10;
    writer.wallMs = stampMs(this.#stamp);
    const message = write(writer);
    if (!this.#skips) this.read(nameOf(this, writer), message);
    return this.#stamp;
  }

  /** Reads a message of a node. */
  read(node: string, { payload }: WrittenMessage): void {
    const message = this.#open(payload);
    if (message === null) this.projection.skip();
    else this.projection.apply(this.projection.node(node), message, this.#jumps.delete(node));
  }

  /** Writes and reads a batch. */
  events(writer: StreamWriter, fill: (batch: BatchEncoder) => void): number {
    return this.say(writer, (w) => w.events(fill));
  }

  /** Writes and reads a snapshot of one chunk. */
  snapshot(writer: StreamWriter, fill: (batch: BatchEncoder) => void): number {
    this.say(writer, (w) => w.mark({ type: "snapshot-begin", id: 7, flows: 0 }));
    this.say(writer, (w) => w.chunk(0, ALL, fill));
    return this.say(writer, (w) => w.mark({ type: "snapshot-end", id: 7, flows: 0 }));
  }

  /** The connections that are alive. */
  get alive(): Connection[] {
    return [...this.projection.open()];
  }
}

function nameOf({ fw1 }: Bench, writer: StreamWriter): string {
  return writer === fw1 ? "fw1" : "fw2";
}

/** A new row. Flow id and tuple have the same number unless a test says otherwise. */
export function add(
  batch: BatchEncoder,
  id: number,
  tuple = id,
  birth = 0,
  stated: { stamp: number } | null = null,
): void {
  batch.addNew(id, tcpRecord(tuple), 0, null, stated, birth);
}

/** The end of a row with that flow id. */
export function destroy(batch: BatchEncoder, id: number): void {
  batch.addDestroy(id, tcpRecord(id), 0, undefined);
}
