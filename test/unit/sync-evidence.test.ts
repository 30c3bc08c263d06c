/** Each way in which "in sync" could be wrong, and the words that say so. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type PeerEvidence, reasonAgainst } from "../../src/sync/in/evidence.js";
import { heartbeat } from "../support/heartbeats.js";

const LIMITS = { silenceMsMax: 3000, reads: [1] };

const SOUND: PeerEvidence = {
  expected: { node: "fw2", cluster: "edge", address: "10.77.0.2" },
  self: "fw1",
  unreachable: null,
  heartbeat: heartbeat(),
  silentMs: 900,
  doubled: false,
  applied: { epoch: 1000, number: 42 },
  due: { epoch: 1000, number: 40 },
  exact: true,
  refused: 0,
  refusal: "",
  noRoom: 0,
  missing: 0,
  copyTrouble: null,
  aside: null,
};

const AGAINST: readonly (readonly [what: string, change: Partial<PeerEvidence>, reason: string])[] = [
  ["the broker is away", { unreachable: "" }, "its broker at 10.77.0.2 does not answer"],
  ["the broker refuses", { unreachable: "connection refused" }, "connection refused"],
  ["another node answers", { heartbeat: heartbeat({ node: "fw3" }) }, "10.77.0.2 is node fw3, not fw2"],
  [
    "this node's own name answers",
    { heartbeat: heartbeat({ node: "fw1" }) },
    "10.77.0.2 is also called fw1: give each node a name of its own",
  ],
  [
    "another cluster answers",
    { heartbeat: heartbeat({ cluster: "core" }) },
    "10.77.0.2 belongs to the cluster core, not edge",
  ],
  ["two daemons use one name", { doubled: true }, "two daemons call themselves fw2: give each node a name of its own"],
  ["no daemon yet", { heartbeat: null, silentMs: 1000 }, "waiting for its daemon"],
  [
    "no daemon at all",
    { heartbeat: null, silentMs: 5000 },
    "its daemon has not been heard: does it run, and is it up to date?",
  ],
  ["the daemon stands still", { silentMs: 12_000 }, "its daemon has been silent for 12 s"],
  [
    "a later format",
    { heartbeat: heartbeat({ writes: 2, reads: [1, 2] }) },
    "speaks format 2, this node reads 1: upgrade this node first",
  ],
  [
    "an earlier format",
    { heartbeat: heartbeat({ writes: 0 }) },
    "speaks format 0, this node reads 1: upgrade that node first",
  ],
  ["it cannot publish", { heartbeat: heartbeat({ trouble: "its disk is full" }) }, "cannot publish: its disk is full"],
  [
    "its cache is full",
    { heartbeat: heartbeat({ unpublished: 7 }) },
    "its cache is full: 7 of its flows are not replicated",
  ],
  [
    "a message was refused",
    { refused: 2, refusal: "stamp out of range" },
    "2 of its messages were refused: stamp out of range",
  ],
  ["no room here", { noRoom: 9 }, "9 of its flows found no room: raise the limit of the external cache"],
  ["no snapshot yet", { exact: false }, "waiting for a complete snapshot of it"],
  ["no place to compare with", { due: null }, "waiting for its daemon"],
  ["behind", { applied: { epoch: 1000, number: 30 } }, "10 of its messages have not been read yet"],
  ["an epoch behind", { applied: { epoch: 999, number: 77 } }, "its new epoch has not been read yet"],
  ["flows are missing", { missing: 5 }, "5 of its 300 flows are missing here"],
  [
    "it has lost events of its kernel",
    { heartbeat: heartbeat({ unread: true }) },
    "has lost events of its kernel, and has not read the kernel's table since",
  ],
  [
    "a later epoch was read than that of its daemon",
    { applied: { epoch: 1001, number: 1 } },
    "its daemon names an earlier epoch than its stream did",
  ],
  ["flows are too many", { missing: -5 }, "5 of its 300 flows are too many here"],
  ["it is put aside", { aside: "put aside for 10 s", refused: 300, refusal: "malformed" }, "put aside for 10 s"],
  [
    "the copy is damaged",
    { copyTrouble: "its copy on this node is damaged, being made anew" },
    "its copy on this node is damaged, being made anew",
  ],
];

describe("evidence", () => {
  it("says nothing against a peer of which all is known to be well", () => {
    assert.equal(reasonAgainst(SOUND, LIMITS), null);
    assert.equal(reasonAgainst({ ...SOUND, silentMs: 3000 }, LIMITS), null, "just in time");
  });

  for (const [what, change, reason] of AGAINST) {
    it(`${what}: ${reason}`, () => assert.equal(reasonAgainst({ ...SOUND, ...change }, LIMITS), reason));
  }

  // What each change sets besides the heartbeat, or in it, does not touch what the others set.
  const graver: readonly (readonly [what: string, graver: string, lesser: string])[] = [
    ["the broker is away", "the broker is away", "another node answers"],
    ["another node answers", "another node answers", "no room here"],
    ["it cannot publish", "it cannot publish", "no room here"],
    ["it has lost events of its kernel", "it has lost events of its kernel", "flows are too many"],
    ["no room here", "no room here", "flows are too many"],
    ["flows are too many", "flows are too many", "the copy is damaged"],
  ];
  for (const [what, first, second] of graver) {
    it(`tells the graver reason first: ${what} before ${second}`, () => {
      const found = [first, second].map((name) => AGAINST.find(([each]) => each === name));
      const [[, change, reason], [, other]] = found as [(typeof AGAINST)[number], (typeof AGAINST)[number]];
      assert.equal(reasonAgainst({ ...SOUND, ...other, ...change }, LIMITS), reason);
    });
  }
});
