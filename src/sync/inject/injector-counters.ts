/** What the injector counts; the group `inject` of `stats`. */
export class InjectorCounters {
  /** Flows of peers that were created in this kernel. */
  injected = 0;
  updated = 0;
  /** Entries with another translation, or older ones of the same tuple, that a peer's flow replaced. */
  replaced = 0;
  removed = 0;
  failed = 0;
  /** Entries whose timeout was renewed, or that were written again, because their owner still has the flow. */
  renewed = 0;
  /** Flows of peers that this node claimed, because its kernel knew more or its packets kept them alive. */
  claimed = 0;
  /** Ends that were not remembered for want of room: those entries stay until they expire, or become this node's own. */
  endingsDropped = 0;
  /** Flows that were not looked up for want of room: this kernel may have them in another state than was published. */
  unverified = 0;
}
