/** A minute of `npm run soak`, so that it keeps working: the long one is run by hand (CONTRIBUTING.md). */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { labObstacle } from "../../src/lab/lab.js";
import { runSoak } from "../soak/soak.js";

const SECONDS = 60;
const SEED = 1;

describe("soak", { skip: labObstacle() ?? false, timeout: 600_000 }, () => {
  it("a minute of random faults: status never lies, and what it calls safe survives", async (t) => {
    const result = await runSoak({ seconds: SECONDS, seed: SEED, print: (line) => t.diagnostic(line) });
    assert.deepEqual(result.violations, []);
    assert.ok(Object.keys(result.faults).length >= 4, `faults: ${JSON.stringify(result.faults)}`);
    assert.ok(result.yes > 0 && result.flows > 0, `${result.yes} claims with ${result.flows} flows were checked`);
    assert.ok(result.poisonStored > 0, "no poisoned message was stored");
    assert.ok(result.takeoversSaidSafe > 0 && result.sessionsOwed > 0, `${result.takeovers} takeovers`);
  });
});
