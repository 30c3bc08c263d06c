/**
 * Who carries a flow, as one node knows it: the states of a flow (or an expectation) that this node's kernel has, and
 * what each input makes of them. TABLE below is the code; `test/unit/ownership.test.ts` states it from the outside.
 *
 *   this node's                                            a peer's, by a newer claim
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
 *   END_ELSEWHERE makes SUPERSEDED and LEAVING their _ENDED pair, until anybody claims the tuple anew.
 *   END takes every state to an ENDED one, which says what is left to publish. That is final: PUBLISH makes it ABSENT.
 *
 * A claim is published whole, as a `new` row, by the stamp of its message. REPEATED goes by the stamp that the claim had.
 */

/** There is no such row. */
export const ABSENT = 0;
/** The first claim of this node waits to be published. */
export const CLAIMED = 1;
/** This node's stream says that the flow is here, as it is. */
export const PUBLISHED = 2;
/** A change waits. */
export const CHANGED = 3;
/** Published before, and claimed anew: the row waits to go out whole. */
export const RECLAIMED = 4;
/** A peer's older claim is answered: the claim waits to be published once more, by its old stamp. */
export const REPEATED = 5;
/** A peer holds a newer claim, and this node's stream has yet to give the flow up. */
export const LEAVING = 6;
/** As LEAVING; and that peer has seen the flow end. */
export const LEAVING_ENDED = 7;
/** A peer holds a newer claim, and this node's stream claims nothing. */
export const SUPERSEDED = 8;
/** As SUPERSEDED; and that peer has seen the flow end. */
export const SUPERSEDED_ENDED = 9;
/** Gone from this kernel: a `destroy` waits. */
export const ENDED = 10;
/** Begun and gone between two publications: both wait. */
export const ENDED_NEW = 11;
/** As ENDED_NEW, of a claim that goes by its old stamp. */
export const ENDED_REPEATED = 12;
/** Gone, but it was a peer's by then: that it moved waits to be published. */
export const ENDED_LEAVING = 13;
/** Gone, and nobody needs to hear of it. */
export const ENDED_SUPERSEDED = 14;

/** A local event that makes the tuple this node's own: it is new, a peer's so far, or another flow's by now. */
export const CLAIM = 0;
/** A local event has changed the flow. */
export const CHANGE = 1;
/** A peer's claim was older than this node's, and is answered. */
export const CLAIM_AGAIN = 2;
/** A peer's claim is newer. */
export const SUPERSEDE = 3;
/** The peer that holds the newer claim has seen the flow end. */
export const END_ELSEWHERE = 4;
/** The kernel has it no more. */
export const END = 5;
/** What waited is in this node's stream. */
export const PUBLISH = 6;

/** What a pending row is published as, in bits: the flow whole, its changed state, its end, or that it moved. */
export const PUBLISH_NEW = 1;
export const PUBLISH_UPDATE = 2;
export const PUBLISH_DESTROY = 4;
export const PUBLISH_MOVED = 8;

const STAY = -1;

/** The state that follows, by state and input. */
// biome-ignore format: read by its columns
const TABLE: readonly (readonly number[])[] = [
  // state           CLAIM      CHANGE     CLAIM_AGAIN SUPERSEDE   END_ELSEWHERE     END               PUBLISH
  [ABSENT,           CLAIMED,   STAY,      STAY,       STAY,       STAY,             STAY,             STAY],
  [CLAIMED,          STAY,      STAY,      STAY,       SUPERSEDED, STAY,             ENDED_NEW,        PUBLISHED],
  [PUBLISHED,        RECLAIMED, CHANGED,   REPEATED,   LEAVING,    STAY,             ENDED,            STAY],
  // What waits is newer than the claim, but may be a change of what the peer has given up: it goes out whole.
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

// What a state says beside what it publishes.
/** This node's stream says that the flow is here. */
const IN_STREAM = 0x10;
/** A peer holds the newer claim; that peer has seen it end. */
const ELSEWHERE = 0x20;
const OVER_ELSEWHERE = 0x40;
/** This kernel has it no more. */
const OVER = 0x80;
/** What waits goes out by a stamp of its own, newer than all that was published of the row. */
const NEWER_STAMP = 0x100;
/** What waits goes out by the stamp that the claim had. */
const OLD_STAMP = 0x200;

/** By state. */
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

/** Bits of a state, for rows that keep it beside others. */
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

/** The state that follows on an input. */
export function after(state: number, input: number): number {
  return NEXT[(input << STATE_BITS) | state]!;
}

/** What a row in this state is published as: PUBLISH_* bits; 0 when nobody needs to hear of it. */
export function publicationOf(state: number): number {
  return FACTS[state]! & PUBLISH_MASK;
}

/** True while something waits: a publication, or the slot of an ended row, which is freed in its turn. */
export function isPending(state: number): boolean {
  return (FACTS[state]! & (PUBLISH_MASK | OVER)) !== 0;
}

/** True while this node's stream says that the flow is here. */
export function isInStream(state: number): boolean {
  return (FACTS[state]! & IN_STREAM) !== 0;
}

/** True when a peer holds a newer claim to what this kernel has. */
export function isSuperseded(state: number): boolean {
  return (FACTS[state]! & ELSEWHERE) !== 0;
}

/** True when that peer has seen it end. */
export function hasEndedElsewhere(state: number): boolean {
  return (FACTS[state]! & OVER_ELSEWHERE) !== 0;
}

/** True when this kernel has it no more. */
export function isEnded(state: number): boolean {
  return (FACTS[state]! & OVER) !== 0;
}

/** True when what waits is newer than every claim that was made so far. */
export function awaitsStamp(state: number): boolean {
  return (FACTS[state]! & NEWER_STAMP) !== 0;
}

/** True when what waits is a claim once more, by the stamp that it had. */
export function isRepeated(state: number): boolean {
  return (FACTS[state]! & OLD_STAMP) !== 0;
}
