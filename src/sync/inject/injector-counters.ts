/** The counters of the injector; the group `inject` of `stats`. */
export class InjectorCounters {
  /** Peers' flows that were created in this kernel. */
  injected = 0;
  updated = 0;
  /** Entries that a peer's flow replaced: they had another translation, or were older flows with the same tuple. */
  replaced = 0;
  removed = 0;
  failed = 0;
  /** Entries that were renewed or written again because their owner still has the flow. */
  renewed = 0;
  /** Peers' flows that this node claimed, because its kernel knew more or its packets kept them alive. */
  claimed = 0;
  /** Ends that found no room. Their entries stay until they expire or become this node's own. */
  endingsDropped = 0;
  /** Flows that found no room to be looked up. This kernel may have them in another state than the published one. */
  unverified = 0;
}
