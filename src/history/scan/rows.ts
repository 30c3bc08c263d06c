import { W_PROTOINFO } from "../../flow/record.js";
import { hasFlowId, type NewSection } from "../../stream/format/columns.js";

/** Writes the last protocol state into a record. */
export function setState(words: Uint32Array, base: number, state: number): void {
  const at = base + W_PROTOINFO;
  words[at] = (words[at]! & ~0xff) | state;
}

/** A stamp of a row; 0, none, for what no clock has made. */
export function stampIn(column: Float64Array, row: number): number {
  const value = column[row]!;
  return value > 0 && value <= Number.MAX_SAFE_INTEGER && Number.isInteger(value) ? value : 0;
}

/** A test for "this chunk states the flow id", asked in ascending order. */
export function statedIn(new4: NewSection | null, new6: NewSection | null): (flowId: number) => boolean {
  new4?.take("f");
  new6?.take("f");
  return hasFlowId(new4, new6);
}
