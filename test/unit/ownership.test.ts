/** Who carries a flow: every state with every input, as tables that do not come from the implementation. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isClaimRead, isNewerClaim, outcomeOfClaim } from "../../src/ownership/claim.js";
import * as ownership from "../../src/ownership/state.js";
import { Random } from "../support/records.js";

const { after, publicationOf } = ownership;

const STATES = [
  ...["ABSENT", "CLAIMED", "PUBLISHED", "CHANGED", "RECLAIMED", "REPEATED"],
  ...["LEAVING", "LEAVING_ENDED", "SUPERSEDED", "SUPERSEDED_ENDED"],
  ...["ENDED", "ENDED_NEW", "ENDED_REPEATED", "ENDED_LEAVING", "ENDED_SUPERSEDED"],
] as const;
const INPUTS = ["CLAIM", "CHANGE", "CLAIM_AGAIN", "SUPERSEDE", "END_ELSEWHERE", "END", "PUBLISH"] as const;
const PUBLICATIONS = ["NEW", "UPDATE", "DESTROY", "MOVED"] as const;

/** The number of a state, an input or a publication. */
function numberOf(name: string): number {
  const value = (ownership as unknown as Record<string, unknown>)[name];
  assert.equal(typeof value, "number", name);
  return value as number;
}

function nameOf(state: number): string {
  return STATES.find((name) => numberOf(name) === state) ?? `no state: ${state}`;
}

/** What becomes of each state; "=": it stays. */
const TRANSITIONS = `
  state             CLAIM      CHANGE     CLAIM_AGAIN  SUPERSEDE   END_ELSEWHERE     END               PUBLISH
  ABSENT            CLAIMED    =          =            =           =                 =                 =
  CLAIMED           =          =          =            SUPERSEDED  =                 ENDED_NEW         PUBLISHED
  PUBLISHED         RECLAIMED  CHANGED    REPEATED     LEAVING     =                 ENDED             =
  CHANGED           RECLAIMED  =          RECLAIMED    LEAVING     =                 ENDED             PUBLISHED
  RECLAIMED         =          =          =            LEAVING     =                 ENDED_NEW         PUBLISHED
  REPEATED          RECLAIMED  RECLAIMED  =            LEAVING     =                 ENDED_REPEATED    PUBLISHED
  LEAVING           RECLAIMED  =          =            =           LEAVING_ENDED     ENDED_LEAVING     SUPERSEDED
  LEAVING_ENDED     RECLAIMED  =          =            LEAVING     =                 ENDED_LEAVING     SUPERSEDED_ENDED
  SUPERSEDED        CLAIMED    =          =            =           SUPERSEDED_ENDED  ENDED_SUPERSEDED  =
  SUPERSEDED_ENDED  CLAIMED    =          =            SUPERSEDED  =                 ENDED_SUPERSEDED  =
  ENDED             =          =          =            =           =                 =                 ABSENT
  ENDED_NEW         =          =          =            =           =                 =                 ABSENT
  ENDED_REPEATED    =          =          =            =           =                 =                 ABSENT
  ENDED_LEAVING     =          =          =            =           =                 =                 ABSENT
  ENDED_SUPERSEDED  =          =          =            =           =                 =                 ABSENT
`;

/** What each state publishes, by which stamp, and what else it says. */
const FACTS = `
  state             publishes    stamp  pending  in-stream  superseded  ended-elsewhere  ended
  ABSENT            -            -      -        -          -           -                -
  CLAIMED           NEW          next   yes      -          -           -                -
  PUBLISHED         -            -      -        yes        -           -                -
  CHANGED           UPDATE       next   yes      yes        -           -                -
  RECLAIMED         NEW          next   yes      yes        -           -                -
  REPEATED          NEW          old    yes      yes        -           -                -
  LEAVING           MOVED        -      yes      yes        yes         -                -
  LEAVING_ENDED     MOVED        -      yes      yes        yes         yes              -
  SUPERSEDED        -            -      -        -          yes         -                -
  SUPERSEDED_ENDED  -            -      -        -          yes         yes              -
  ENDED             DESTROY      next   yes      -          -           -                yes
  ENDED_NEW         NEW+DESTROY  next   yes      -          -           -                yes
  ENDED_REPEATED    NEW+DESTROY  old    yes      -          -           -                yes
  ENDED_LEAVING     MOVED        -      yes      -          -           -                yes
  ENDED_SUPERSEDED  -            -      yes      -          -           -                yes
`;

/** The rows of a table as text, by their first cell, each by the names of its columns. */
function rowsOf(table: string): Map<string, Map<string, string>> {
  const [head = [], ...rows] = table
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/));
  return new Map(rows.map((cells) => [cells[0] ?? "", new Map(cells.map((cell, i) => [head[i] ?? "", cell]))]));
}

function publicationNames(state: number): string {
  const names = PUBLICATIONS.filter((name) => (publicationOf(state) & numberOf(`PUBLISH_${name}`)) !== 0);
  return names.join("+") || "-";
}

describe("the states of a flow at a node", () => {
  const transitions = rowsOf(TRANSITIONS);
  const facts = rowsOf(FACTS);

  it("are all in the tables", () => {
    assert.deepEqual([...transitions.keys()], [...STATES]);
    assert.deepEqual([...facts.keys()], [...STATES]);
    assert.ok(STATES.every((name) => numberOf(name) < 1 << ownership.STATE_BITS));
    assert.equal(new Set(STATES.map(numberOf)).size, STATES.length);
  });

  for (const [state, row] of transitions) {
    it(`follow ${state}`, () => {
      for (const input of INPUTS) {
        const wanted = row.get(input) === "=" ? state : row.get(input);
        assert.equal(nameOf(after(numberOf(state), numberOf(input))), wanted, input);
      }
    });
  }

  for (const [name, row] of facts) {
    it(`publish and say what they are: ${name}`, () => {
      const state = numberOf(name);
      const yes = (is: boolean): string => (is ? "yes" : "-");
      const stamp = ownership.awaitsStamp(state) ? "next" : "-";
      assert.deepEqual(Object.fromEntries(row), {
        state: name,
        publishes: publicationNames(state),
        stamp: ownership.isRepeated(state) ? "old" : stamp,
        pending: yes(ownership.isPending(state)),
        "in-stream": yes(ownership.isInStream(state)),
        superseded: yes(ownership.isSuperseded(state)),
        "ended-elsewhere": yes(ownership.hasEndedElsewhere(state)),
        ended: yes(ownership.isEnded(state)),
      });
    });
  }
});

/** The same as flags, one for each thing that is known of a row. */
class Flags {
  live = false;
  /** This node's stream says that the flow is here. */
  published = false;
  superseded = false;
  endedElsewhere = false;
  dead = false;
  /** What waits goes out whole; by the old stamp; or is a change. */
  whole = false;
  again = false;
  changed = false;

  enter(input: string): void {
    if (input === "PUBLISH") this.#publish();
    else if (input === "CLAIM") this.#claim();
    else if (this.live && !this.dead) this.#enterLiving(input);
  }

  #claim(): void {
    if (this.dead) return;
    this.live = true;
    this.superseded = false;
    this.endedElsewhere = false;
    this.again = false;
    this.changed = false;
    this.whole = true;
  }

  #enterLiving(input: string): void {
    if (input === "END") {
      this.dead = true;
    } else if (input === "SUPERSEDE") {
      this.superseded = true;
      this.endedElsewhere = false;
      this.whole = false;
      this.again = false;
      this.changed = false;
    } else if (this.superseded) {
      if (input === "END_ELSEWHERE") this.endedElsewhere = true;
    } else if (input === "CHANGE") {
      this.again = false;
      this.changed = !this.whole;
    } else if (input === "CLAIM_AGAIN") {
      this.again ||= !this.whole && !this.changed;
      this.whole = true;
      this.changed = false;
    }
  }

  #publish(): void {
    if (this.dead) {
      Object.assign(this, new Flags());
      return;
    }
    this.published = this.live && !this.superseded;
    this.whole = false;
    this.again = false;
    this.changed = false;
  }

  get publication(): string {
    if (this.superseded) return this.published ? "MOVED" : "-";
    if (this.dead) return this.whole ? "NEW+DESTROY" : "DESTROY";
    if (this.whole) return "NEW";
    return this.changed ? "UPDATE" : "-";
  }
}

describe("the states of a flow, whatever happens", () => {
  const random = new Random(5);
  /** Histories of 40 inputs, each with the states that it leads to. */
  const histories = Array.from({ length: 2000 }, () => {
    let state = ownership.ABSENT;
    return Array.from({ length: 40 }, () => {
      const input = random.pick(INPUTS);
      const before = state;
      state = after(state, numberOf(input));
      return { input, before, state };
    });
  });

  it("are what separate flags would say", () => {
    for (const history of histories) {
      const flags = new Flags();
      for (const { input, state } of history) {
        flags.enter(input);
        const { superseded, endedElsewhere, dead, published, whole, again } = flags;
        assert.equal(publicationNames(state), flags.publication);
        assert.equal(ownership.isEnded(state), dead);
        assert.equal(ownership.isRepeated(state), whole && again && !superseded);
        if (dead) continue;
        assert.equal(ownership.isSuperseded(state), superseded);
        assert.equal(ownership.hasEndedElsewhere(state), endedElsewhere);
        assert.equal(ownership.isInStream(state), published);
      }
    }
  });

  it("are all reached", () => {
    const reached = new Set(histories.flat().map(({ state }) => nameOf(state)));
    assert.deepEqual([...reached].toSorted(), [...STATES].toSorted());
  });

  it("publish a superseded flow as moved or not at all", () => {
    for (const { state } of histories.flat()) {
      if (ownership.isSuperseded(state)) assert.ok(["MOVED", "-"].includes(publicationNames(state)));
    }
  });

  it("are final once the flow has ended, until that is published", () => {
    for (const { input, before, state } of histories.flat()) {
      if (ownership.isEnded(before)) assert.equal(state, input === "PUBLISH" ? ownership.ABSENT : before);
    }
  });

  it("leave nothing to say behind a publication", () => {
    for (const { input, state } of histories.flat()) {
      if (input === "PUBLISH") assert.equal(ownership.isPending(state), false);
    }
  });

  it("publish updates, ends and moves of what readers know, and nothing but a claim of what they do not", () => {
    for (const history of histories) {
      let known = false;
      for (const { input, before } of history) {
        if (input !== "PUBLISH") continue;
        const publication = publicationNames(before);
        if (["UPDATE", "DESTROY", "MOVED"].includes(publication)) assert.ok(known, publication);
        if (publication.startsWith("NEW")) known = true;
        if (publication.endsWith("DESTROY") || publication === "MOVED") known = false;
        assert.equal(known, ownership.isInStream(after(before, ownership.PUBLISH)));
      }
    }
  });

  it("need a claim of this node to be this node's again", () => {
    for (const { input, before, state } of histories.flat()) {
      if (ownership.isSuperseded(before) && !ownership.isSuperseded(state)) {
        assert.ok(input === "CLAIM" || ownership.isEnded(state), input);
      }
    }
  });
});

describe("claims", () => {
  const claims = [1, 2, 3].flatMap((stamp) => ["fw1", "fw2", "fw3"].map((node) => ({ stamp, node })));

  it("have one order: by stamp, and the lesser name first of equal ones", () => {
    const ordered = claims.toSorted((a, b) => a.stamp - b.stamp || (a.node < b.node ? 1 : -1));
    for (const [i, a] of ordered.entries()) {
      for (const [j, b] of ordered.entries()) assert.equal(isNewerClaim(a.stamp, a.node, b.stamp, b.node), i > j);
    }
  });

  it("take a row over, or are stale; the owner's own update it", () => {
    assert.equal(outcomeOfClaim(2, "fw1", 1, "fw2"), "taken");
    assert.equal(outcomeOfClaim(1, "fw1", 2, "fw2"), "stale");
    assert.equal(outcomeOfClaim(1, "fw1", 1, "fw2"), "taken");
    assert.equal(outcomeOfClaim(1, "fw2", 1, "fw1"), "stale");
    for (const stamp of [1, 2, 3]) assert.equal(outcomeOfClaim(stamp, "fw1", 2, "fw1"), "updated");
  });

  it("leave the same owner in whatever order they come", () => {
    const random = new Random(7);
    for (let round = 0; round < 200; round++) {
      const held = { stamp: 0, node: "" };
      const left = [...claims];
      while (left.length > 0) {
        const [claim] = left.splice(random.below(left.length), 1);
        assert.ok(claim !== undefined);
        // An owner's own come in their order.
        if (claim.node === held.node && claim.stamp < held.stamp) continue;
        if (outcomeOfClaim(claim.stamp, claim.node, held.stamp, held.node) !== "stale") Object.assign(held, claim);
      }
      assert.deepEqual(held, { stamp: 3, node: "fw1" });
    }
  });

  it("have been read when their node was heard that far", () => {
    assert.deepEqual([isClaimRead(5, 4), isClaimRead(5, 5), isClaimRead(5, 6)], [false, true, true]);
  });
});
