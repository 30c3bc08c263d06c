/** What happens to each flow, in words: what `npm run sim` prints of a flow that came out wrong. */
import type { FlowTable } from "../../../src/flow/flow-table.js";
import { BatchDecoder } from "../../../src/stream/format/batch.js";
import type { StreamMessage } from "../../../src/stream/reader.js";
import { keyOf } from "../sim-kernel.js";

/** A row of a message, with the key of its flow. */
export interface NamedRow {
  readonly key: string;
  readonly text: string;
}

/** Lines by the key of a flow, oldest first. */
export class Trace {
  readonly #lines = new Map<string, string[]>();
  readonly #decoder = new BatchDecoder();
  /** The rows of each message that a machine has published. */
  readonly #rows = new WeakMap<Uint8Array, readonly NamedRow[]>();

  /** Something happens to a flow on a machine. */
  note(nowMs: number, machine: string, key: string, text: string): void {
    const lines = this.#lines.get(key) ?? [];
    if (lines.length === 0) this.#lines.set(key, lines);
    lines.push(`${String(nowMs).padStart(8)} ${machine} ${text}`);
  }

  /** All that happened to a flow. */
  of(key: string): readonly string[] {
    return this.#lines.get(key) ?? [];
  }

  /** A machine publishes a message; `table` is that of its internal cache. `payload` is the copy that its stream keeps. */
  published(nowMs: number, machine: string, kind: string, payload: Uint8Array, table: FlowTable): void {
    const rows = kind === "mark" ? [] : namedRows(payload, table, this.#decoder);
    this.#rows.set(payload, rows);
    for (const { key, text } of rows) this.note(nowMs, machine, key, `publishes (${kind}) ${text}`);
  }

  /** A machine is about to read a message of a peer. */
  read(nowMs: number, machine: string, peer: string, { sequence, payload }: StreamMessage): void {
    for (const { key, text } of this.#rows.get(payload) ?? []) {
      this.note(nowMs, machine, key, `reads message ${sequence} of ${peer}: ${text}`);
    }
  }
}

/** The rows of a batch or a chunk that a node has just published; `table` is that of its internal cache. */
export function namedRows(payload: Uint8Array, table: FlowTable, decoder = new BatchDecoder()): NamedRow[] {
  if (decoder.decode(payload) === null) return [];
  const { new4, updates, destroys, moved, movedTo } = decoder;
  const key = (slot: number): string => keyOf(table.slab(slot), table.base(slot));
  const rows: NamedRow[] = [];
  for (let row = 0; row < new4.rows; row++) {
    const [id, stamp, birth] = [new4.flowId[row]!, new4.stamp[row]!, new4.birth[row]!];
    const state = new4.state.protocolState[row];
    rows.push({ key: key(id), text: `new, id ${id}, state ${state}, stamp ${stamp || "its own"}, birth ${birth}` });
  }
  for (let row = 0; row < updates.rows; row++) {
    const id = updates.flowId[row]!;
    rows.push({ key: key(id), text: `update, id ${id}, state ${updates.state.protocolState[row]}` });
  }
  for (let row = 0; row < destroys.rows; row++) {
    const id = destroys.flowId[row]!;
    rows.push({ key: key(id), text: `destroy, id ${id}` });
  }
  for (let row = 0; row < moved.rows; row++) {
    const id = moved.flowId[row]!;
    rows.push({ key: key(id), text: `moved, id ${id}, to ${movedTo[moved.owner[row]!]} at ${moved.stamp[row]}` });
  }
  return rows;
}
