/**
 * Who carries a flow, as one node knows it: the states of a flow (or an expectation) in this node's kernel, and what
 * follows on each input. TABLE below is the code; `test/unit/ownership.test.ts` specifies it from the outside.
 *
 *   this node's                                            a peer's, because its claim is newer
 *
 *   ABSENT ──CLAIM──▶ CLAIMED ─────────SUPERSEDE─────────▶ SUPERSEDED ◀────┐
 *                        │    ◀──────────CLAIM────────────                 │
 *                     PUBLISH                                           PUBLISH
 *                        ▼                                                 │
 *                    PUBLISHED ────────SUPERSEDE─────────▶ LEAVING ────────┘
 *           CHANGE       │ ▲                                 │   ▲
 *           CLAIM_AGAIN  │ PUBLISH                         CLAIM │
 *           CLAIM        ▼ │                                 ▼   │
 *       CHANGED, REPEATED, RECLAIMED                   RECLAIMED │
 *                          └───────────SUPERSEDE─────────────────┘
 *
 *   END_ELSEWHERE turns SUPERSEDED and LEAVING into SUPERSEDED_ENDED and LEAVING_ENDED, until a node claims the tuple
 *   again. END leads from every state to an ENDED one, which shows what is left to publish. Those are final: PUBLISH
 *   makes them ABSENT.
 *
 * A claim is published whole, as a `new` row, with the stamp of its message. REPEATED keeps the claim's original stamp.
 */

/** There is no row. */
export const ABSENT = 0;
/** This node's first claim is pending. */
export const CLAIMED = 1;
/** This node's stream has the flow as it is. */
export const PUBLISHED = 2;
/** A change is pending. */
export const CHANGED = 3;
/** Published before and claimed again: the whole row is pending. */
export const RECLAIMED = 4;
/** A peer's older claim is answered: the same claim is pending again, with its original stamp. */
export const REPEATED = 5;
/** A peer has a newer claim, and this node's stream has not given the flow up yet. */
export const LEAVING = 6;
/** As LEAVING, and that peer has seen the flow end. */
export const LEAVING_ENDED = 7;
/** A peer has a newer claim, and this node's stream claims nothing. */
export const SUPERSEDED = 8;
/** As SUPERSEDED, and that peer has seen the flow end. */
export const SUPERSEDED_ENDED = 9;
/** Gone from this kernel: a `destroy` is pending. */
export const ENDED = 10;
/** Begun and ended between two publications: both are pending. */
export const ENDED_NEW = 11;
/** As ENDED_NEW, for a claim that keeps its original stamp. */
export const ENDED_REPEATED = 12;
/** Gone after a peer had claimed it: its move is pending. */
export const ENDED_LEAVING = 13;
/** Gone, and nothing is to be published. */
export const ENDED_SUPERSEDED = 14;

/** A local event makes the tuple this node's own: it is new, was a peer's, or belongs to another flow now. */
export const CLAIM = 0;
/** A local event has changed the flow. */
export const CHANGE = 1;
/** A peer's claim was older than this node's and must be answered. */
export const CLAIM_AGAIN = 2;
/** A peer's claim is newer. */
export const SUPERSEDE = 3;
/** The peer with the newer claim has seen the flow end. */
export const END_ELSEWHERE = 4;
/** The kernel no longer has the flow. */
export const END = 5;
/** The pending row has been written to this node's stream. */
export const PUBLISH = 6;

/**
 * The content that a pending row is published with, in bits: the whole flow, its changed state, its end, or its move.
 */
export const PUBLISH_NEW = 1;
export const PUBLISH_UPDATE = 2;
export const PUBLISH_DESTROY = 4;
export const PUBLISH_MOVED = 8;

const STAY = -1;

/** The next state, by state and input. */
// biome-ignore format: read by its columns
const TABLE: readonly (readonly number[])[] = [
  // state           CLAIM      CHANGE     CLAIM_AGAIN SUPERSEDE   END_ELSEWHERE     END               PUBLISH
  [ABSENT,           CLAIMED,   STAY,      STAY,       STAY,       STAY,             STAY,             STAY],
  [CLAIMED,          STAY,      STAY,      STAY,       SUPERSEDED, STAY,             ENDED_NEW,        PUBLISHED],
  [PUBLISHED,        RECLAIMED, CHANGED,   REPEATED,   LEAVING,    STAY,             ENDED,            STAY],
  // The pending change is newer than the claim, but the peer may have given the flow up: the row is published whole.
  [CHANGED,          RECLAIMED, STAY,      RECLAIMED,  LEAVING,    STAY,             ENDED,            PUBLISHED],
  [RECLAIMED,        STAY,      STAY,      STAY,       LEAVING,    STAY,             ENDED_NEW,        PUBLISHED],
  [REPEATED,         RECLAIMED, RECLAIMED, STAY,       LEAVING,    STAY,             ENDED_REPEATED,   PUBLISHED],
  [LEAVING,          RECLAIMED, STAY,      STAY,       STAY,       LEAVING_ENDED,    ENDED_LEAVING,    SUPERSEDED],
  [LEAVING_ENDED,    RECLAIMED, STAY,      STAY,       LEAVING,    STAY,             ENDED_LEAVING,    SUPERSEDED_ENDED],
  [SUPERSEDED,       CLAIMED,   STAY,      STAY,       STAY,       SUPERSEDED_ENDED, ENDED_SUPERSEDED, STAY],
  [SUPERSEDED_ENDED, CLAIMED,   STAY,      STAY,       SUPERSEDED, STAY,             ENDED_SUPERSEDED, STAY],
  [ENDED,            STAY,      STAY,      STAY,       STAY,       STAY,             STAY,             ABSENT],
  [ENDED_NEW,        STAY,      STAY,      STAY,       STAY,       STAY,             STAY,             ABSENT],
  [ENDED_REPEATED,   STAY,      STAY,      STAY,       STAY,       STAY,             STAY,             ABSENT],
  [ENDED_LEAVING,    STAY,      STAY,      STAY,       STAY,       STAY,             STAY,             ABSENT],
  [ENDED_SUPERSEDED, STAY,      STAY,      STAY,       STAY,       STAY,             STAY,             ABSENT],
];

// The facts that a state implies beside the PUBLISH_* bits.
/** This node's stream has the flow. */
const IN_STREAM = 0x10;
/** A peer has the newer claim, and (the next bit) has seen the flow end. */
const ELSEWHERE = 0x20;
const OVER_ELSEWHERE = 0x40;
/** This kernel no longer has the flow. */
const OVER = 0x80;
/** The pending row gets a new stamp, newer than all that was published about it. */
const NEWER_STAMP = 0x100;
/** The pending row keeps the original stamp of its claim. */
const OLD_STAMP = 0x200;

/** The facts and PUBLISH_* bits of each state. */
// biome-ignore format: read by its columns
const FACTS = Uint16Array.of(
  /* ABSENT           */ 0,
  /* CLAIMED          */ PUBLISH_NEW | NEWER_STAMP,
  /* PUBLISHED        */ IN_STREAM,
  /* CHANGED          */ IN_STREAM | PUBLISH_UPDATE | NEWER_STAMP,
  /* RECLAIMED        */ IN_STREAM | PUBLISH_NEW | NEWER_STAMP,
  /* REPEATED         */ IN_STREAM | PUBLISH_NEW | OLD_STAMP,
  /* LEAVING          */ IN_STREAM | PUBLISH_MOVED | ELSEWHERE,
  /* LEAVING_ENDED    */ IN_STREAM | PUBLISH_MOVED | ELSEWHERE | OVER_ELSEWHERE,
  /* SUPERSEDED       */ ELSEWHERE,
  /* SUPERSEDED_ENDED */ ELSEWHERE | OVER_ELSEWHERE,
  /* ENDED            */ OVER | PUBLISH_DESTROY | NEWER_STAMP,
  /* ENDED_NEW        */ OVER | PUBLISH_NEW | PUBLISH_DESTROY | NEWER_STAMP,
  /* ENDED_REPEATED   */ OVER | PUBLISH_NEW | PUBLISH_DESTROY | OLD_STAMP,
  /* ENDED_LEAVING    */ OVER | PUBLISH_MOVED,
  /* ENDED_SUPERSEDED */ OVER,
);

const PUBLISH_MASK = PUBLISH_NEW | PUBLISH_UPDATE | PUBLISH_DESTROY | PUBLISH_MOVED;

/** Number of bits that a state needs, for rows that keep it beside other bits. */
export const STATE_BITS = 4;

/** TABLE as bytes, at input << STATE_BITS | state. */
const NEXT = flatten();

function flatten(): Uint8Array {
  const next = new Uint8Array((PUBLISH + 1) << STATE_BITS);
  for (const [state = 0, ...columns] of TABLE) {
    for (const [input, to] of columns.entries()) next[(input << STATE_BITS) | state] = to === STAY ? state : to;
  }
  return next;
}

/** The next state on an input. */
export function after(state: number, input: number): number {
  return NEXT[(input << STATE_BITS) | state]!;
}

/** The content that a row in this state is published with: PUBLISH_* bits; 0 when nothing is to be published. */
export function publicationOf(state: number): number {
  return FACTS[state]! & PUBLISH_MASK;
}

/** True while something is pending: a publication, or the slot of an ended row, which is freed in its turn. */
export function isPending(state: number): boolean {
  return (FACTS[state]! & (PUBLISH_MASK | OVER)) !== 0;
}

/** True while this node's stream has the flow. */
export function isInStream(state: number): boolean {
  return (FACTS[state]! & IN_STREAM) !== 0;
}

/** True when a peer has a newer claim to what this kernel has. */
export function isSuperseded(state: number): boolean {
  return (FACTS[state]! & ELSEWHERE) !== 0;
}

/** True when that peer has seen the flow end. */
export function hasEndedElsewhere(state: number): boolean {
  return (FACTS[state]! & OVER_ELSEWHERE) !== 0;
}

/** True when this kernel no longer has the flow. */
export function isEnded(state: number): boolean {
  return (FACTS[state]! & OVER) !== 0;
}

/** True when the pending row is newer than every claim made so far. */
export function awaitsStamp(state: number): boolean {
  return (FACTS[state]! & NEWER_STAMP) !== 0;
}

/** True when the pending row repeats a claim with its original stamp. */
export function isRepeated(state: number): boolean {
  return (FACTS[state]! & OLD_STAMP) !== 0;
}
