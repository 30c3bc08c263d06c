/** The high half of a row's W_HAS in an internal cache, beside ROW_LIVE of the table, and what a pending row is published as. */

/** The flow goes out whole, as a `new` row. */
export const ROW_NEW = 0x2_0000;
/** The flow has ended; its record waits to be published, then the slot is freed. */
export const ROW_DEAD = 0x4_0000;
/** In the list of pending rows. */
export const ROW_QUEUED = 0x8_0000;
/** Compared with the current generation: touched since the last dump began. */
export const ROW_GENERATION = 0x10_0000;
/** A newer owner holds the flow elsewhere. */
export const ROW_SUPERSEDED = 0x20_0000;
/** That owner has seen the flow end; this kernel still has it. */
export const ROW_ENDED_ELSEWHERE = 0x40_0000;
/** This node's stream says that the flow is here. */
export const ROW_TOLD = 0x80_0000;
/** Goes out whole, but nothing happened to it: the stamp of its claim stays. */
export const ROW_RESTATED = 0x100_0000;
/** The cache was flushed: not shown until an event or a dump tells of the flow again. */
export const ROW_HIDDEN = 0x200_0000;

/** As ROW_GENERATION: its protocol's state was told since the last dump began. */
export const ROW_STATE_GENERATION = 0x400_0000;

/** What a pending row says to the peers, as bits: the flow whole, its changed state, its end, or that it is elsewhere now. */
export const PUBLISH_NEW = 1;
export const PUBLISH_UPDATE = 2;
export const PUBLISH_DESTROY = 4;
export const PUBLISH_MOVED = 8;

/** What a pending row of these bits says to the peers: PUBLISH_* bits. */
export function publicationOf(bits: number): number {
  const told = (bits & ROW_TOLD) !== 0;
  if ((bits & ROW_SUPERSEDED) !== 0) return told ? PUBLISH_MOVED : 0;
  const whole = (bits & ROW_NEW) !== 0;
  if ((bits & ROW_DEAD) !== 0) return whole ? PUBLISH_NEW | PUBLISH_DESTROY : PUBLISH_DESTROY;
  return whole || !told ? PUBLISH_NEW : PUBLISH_UPDATE;
}
