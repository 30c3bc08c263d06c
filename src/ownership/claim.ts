/**
 * A claim: a node publishes "this connection passes through me", with a stamp of its hybrid clock (flow/clock.ts). Of
 * two claims to one tuple, every node accepts the same one, in whatever order they arrive. So all nodes agree on the
 * owner without asking each other.
 */
export interface Claim {
  /** Name of the node that claims. */
  readonly node: string;
  /** Stamp of the claim. */
  readonly stamp: number;
}

/**
 * The rule: the greater stamp wins; of equal stamps, the lesser name. True when the claim of `node` with `stamp` is
 * newer than the held one. A claim is not newer than itself.
 */
export function isNewerClaim(stamp: number, node: string, heldStamp: number, heldNode: string): boolean {
  return stamp === heldStamp ? node < heldNode : stamp > heldStamp;
}

/** The effect of a node's claim on a row: it updates the node's own row, takes over another's, or is stale. */
export type ClaimOutcome = "updated" | "taken" | "stale";

/** Applies the rule above, except that an owner's own claims come in order, whatever their stamps. */
export function outcomeOfClaim(stamp: number, node: string, heldStamp: number, heldNode: string): ClaimOutcome {
  if (node === heldNode) return "updated";
  return isNewerClaim(stamp, node, heldStamp, heldNode) ? "taken" : "stale";
}

/**
 * A node gives a flow up because of another node's claim with this stamp. True when that node's stream was already read
 * up to the claim (`heardStamp`). If the row is still the first node's then, the flow has ended on the other node
 * meanwhile. False: the claim has yet to come, and will take the row over.
 */
export function isClaimRead(stamp: number, heardStamp: number): boolean {
  return heardStamp >= stamp;
}
