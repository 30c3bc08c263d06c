/**
 * A process beside the test that outlives it: when the test is gone, however it went, it takes down the namespaces and
 * processes that the test had made. Told "done" when the test has cleaned up itself.
 */
import { type LabState, removeLab } from "../../../src/lab/leftover.js";

const state = JSON.parse(process.argv[2] ?? "") as LabState;
process.on("message", () => process.exit(0));
process.on("disconnect", () => {
  removeLab(state);
  process.exit(0);
});
