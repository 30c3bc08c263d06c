import type { DecodedFlow } from "../../flow/record.js";

/** What an injector asks of the rest of the node. */
export interface InjectorNode {
  /** What this node's own flow with this original tuple is like, copied; null when it carries none. */
  own(words: Uint32Array, base: number): Uint32Array | null;
  /** True when this node has, or had, a flow with this original tuple that its kernel told of and still has. */
  knows(words: Uint32Array, base: number): boolean;
  /** True while it can take in another flow of its own: else its kernel has flows that it does not know. */
  hasRoom(): boolean;
  /** Takes in the kernel's events up to now. */
  readEvents(): void;
  /** Makes a flow of this kernel this node's own and tells the peers so. */
  claim(flow: DecodedFlow): void;
  /** True while the stream of a peer is followed. */
  hears(node: string): boolean;
  /** Compares the kernel's table with what is known of it: what became of some requests is not. */
  resync(): void;
}
