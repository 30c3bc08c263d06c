/**
 * Every order of events in small scopes: few nodes, flows and faults, and all that can happen to them, with the caches,
 * the journal, the appliers, the roles and the commit that ship. A counterexample is printed as a scenario. Kept in
 * test/scenarios, it is replayed in every run.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { exploreAll, type Report } from "../support/explore/exploration.js";
import { openPrivates } from "../support/explore/open-privates.js";
import { PLANS } from "../support/explore/scopes.js";

openPrivates(null);
const { replay } = await import("../support/explore/scenario.js");

const STATES_MIN = 300_000;
const FOLDER = "test/scenarios";

describe("every order of events in small scopes", () => {
  for (const file of readdirSync(FOLDER).sort()) {
    const text = readFileSync(join(FOLDER, file), "utf8");
    it(`scenario ${file}`, async () => {
      const { violation, missed, lines } = await replay(text);
      assert.equal(violation, null, `\n${lines.join("\n")}`);
      assert.deepEqual(missed, [], `\n${lines.join("\n")}`);
    });
  }

  it(`what must hold holds in ${STATES_MIN} states`, async () => {
    const reports: Report[] = [];
    const names = PLANS.map(({ scope }) => scope.name);
    await exploreAll({ names, factor: 1, seconds: null, fault: null, report: (report) => reports.push(report) });
    for (const { name, counterexamples } of reports) {
      assert.deepEqual(counterexamples, [], `${name}:\n${counterexamples.join("\n")}`);
    }
    const states = reports.reduce((sum, report) => sum + report.states, 0);
    assert.ok(states >= STATES_MIN, `${states} states`);
  });

  const faults = [
    {
      what: "the older claim wins",
      scope: "takeover",
      file: "ownership/claim.js",
      from: "stamp > heldStamp",
      to: "stamp < heldStamp",
    },
    {
      what: "a newer claim does not supersede",
      scope: "takeover",
      file: "sync/in/applier.js",
      from: "internal.supersede(slot, { node: this.node, stamp });",
      to: "",
    },
    {
      what: "an end is not heard",
      scope: "takeover",
      file: "sync/in/applier.js",
      from: "this._external.destroy(this._origin, flowId);",
      to: "",
    },
    {
      what: "a dump revives what has ended since it began",
      scope: "overrun",
      file: "cache/dump-generation.js",
      from: "this._endedIds?.has(id) === true",
      to: "false",
    },
    {
      what: "an injected entry outlives its owner's",
      scope: "inject",
      file: "sync/inject/injector.js",
      from: "this._endings.add(slot, this._loop.isStarted);",
      to: "",
    },
  ];
  for (const { what, scope, ...fault } of faults) {
    it(`a fault is found: ${what}`, async () => {
      const reports: Report[] = [];
      await exploreAll({ names: [scope], factor: 1, seconds: null, fault, report: (report) => reports.push(report) });
      assert.equal(reports[0]?.counterexamples.length, 1);
    });
  }
});
