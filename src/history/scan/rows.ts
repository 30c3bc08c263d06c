import { hasFlowId, type NewSection } from "../../stream/format/columns.js";

/** A test for "this chunk states the flow id". */
export function statedIn(new4: NewSection | null, new6: NewSection | null): (flowId: number) => boolean {
  new4?.take("f");
  new6?.take("f");
  return hasFlowId(new4, new6);
}
