/** The port to a log of the connections that have ended in this kernel. */
import type { DecodedFlow, RareAttributes } from "../../flow/record.js";

/** Hears of each flow of this node's own that has ended, once. What it is given is valid during the call only. */
export interface EndedFlows {
  /** As the kernel reported the end. */
  ended(flow: DecodedFlow): void;
  /** The kernel's report was lost, and a dump no longer lists the flow: what was last known of it. */
  missed(words: Uint32Array, base: number, rare: RareAttributes | null): void;
}
