import { W_PROTOINFO } from "../../flow/record.js";
import type { NewSection } from "../../stream/format/columns.js";

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

/** A test for "this chunk states the flow id", asked in ascending order: both sections are sorted by flow id. */
export function statedIn(new4: NewSection | null, new6: NewSection | null): (flowId: number) => boolean {
  new4?.take("f");
  new6?.take("f");
  let row4 = 0;
  let row6 = 0;
  return (flowId) => {
    while (new4 !== null && row4 < new4.rows && new4.flowId[row4]! < flowId) row4++;
    while (new6 !== null && row6 < new6.rows && new6.flowId[row6]! < flowId) row6++;
    const stated4 = new4 !== null && row4 < new4.rows && new4.flowId[row4] === flowId;
    return stated4 || (new6 !== null && row6 < new6.rows && new6.flowId[row6] === flowId);
  };
}
