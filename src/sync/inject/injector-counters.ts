/** What an injector counts; the group `inject` of `stats`. */
export interface InjectorCounters {
  /** Flows of peers that were created in this kernel. */
  injected: number;
  updated: number;
  /** Entries of another translation, or older ones of the same tuple, that a peer's flow took the place of. */
  replaced: number;
  removed: number;
  failed: number;
  /** Entries prolonged, or written again, because their owner still has the flow. */
  renewed: number;
  /** Flows of peers that became this node's own, because its kernel knew more, or its packets kept them alive. */
  claimed: number;
  /** Ends of flows that were not remembered for want of room: their entries stay until they expire, or become this node's. */
  endingsDropped: number;
  /** Flows that were to be looked up, and were not for want of room: this kernel may have them in another state than was told. */
  unverified: number;
}

/** All at zero. */
export function newInjectorCounters(): InjectorCounters {
  return {
    injected: 0,
    updated: 0,
    replaced: 0,
    removed: 0,
    failed: 0,
    renewed: 0,
    claimed: 0,
    endingsDropped: 0,
    unverified: 0,
  };
}
