/**
 * A claim: a node says "this connection passes through me", by a stamp of its hybrid clock (flow/clock.ts). Of two claims to one
 * tuple every node believes the same one, in whatever order it hears of them, so all agree on the owner without asking.
 */
export interface Claim {
  /** Name of the node that claims. */
  readonly node: string;
  /** Stamp of the claim. */
  readonly stamp: number;
}

/**
 * The rule: the greater stamp wins; of equal stamps, the lesser name. True when the claim of `node` by `stamp` is newer than
 * the one that is held. A claim is not newer than itself.
 */
export function isNewerClaim(stamp: number, node: string, heldStamp: number, heldNode: string): boolean {
  return stamp === heldStamp ? node < heldNode : stamp > heldStamp;
}
