/**
 * A claim: a node says "this connection passes through me", by a stamp of its hybrid clock (flow/clock.ts). Of two
 * claims to one tuple every node believes the same one, in whatever order it hears of them, so all agree on the owner
 * without asking.
 */
export interface Claim {
  /** Name of the node that claims. */
  readonly node: string;
  /** Stamp of the claim. */
  readonly stamp: number;
}

/**
 * The rule: the greater stamp wins; of equal stamps, the lesser name. True when the claim of `node` by `stamp` is newer
 * than the one that is held. A claim is not newer than itself.
 */
export function isNewerClaim(stamp: number, node: string, heldStamp: number, heldNode: string): boolean {
  return stamp === heldStamp ? node < heldNode : stamp > heldStamp;
}

/** What a node's claim does to a row: it updates the node's own, takes another's over, or is stale. */
export type ClaimOutcome = "updated" | "taken" | "stale";

/** By the rule above; an owner's own claims come in their order, whatever their stamps. */
export function outcomeOfClaim(stamp: number, node: string, heldStamp: number, heldNode: string): ClaimOutcome {
  if (node === heldNode) return "updated";
  return isNewerClaim(stamp, node, heldStamp, heldNode) ? "taken" : "stale";
}

/**
 * A node gives a flow up for the claim of another node by this stamp. True when that node's stream was read so far
 * (`heardStamp`): a row that is the first node's still has ended on the other meanwhile. False: the claim is yet to
 * come, and takes the row over.
 */
export function isClaimRead(stamp: number, heardStamp: number): boolean {
  return heardStamp >= stamp;
}
