/** A process that explores scopes, one after the other: started by exploration.ts, which it answers. */
import { type Fault, openPrivates } from "./open-privates.js";

const { fault, names, factor, seconds } = JSON.parse(process.argv[2] ?? "{}") as {
  readonly fault: Fault | null;
  readonly names: readonly string[];
  readonly factor: number;
  readonly seconds: number | null;
};
openPrivates(fault);
const { explore } = await import("./explorer.js");
const { scenarioText } = await import("./scenario.js");
const { PLANS } = await import("./scopes.js");

for (const { scope, states } of PLANS.filter((one) => names.includes(one.scope.name))) {
  const { counterexamples, ...figures } = await explore(scope, {
    statesMax: states * factor,
    secondsMax: seconds ?? Number.POSITIVE_INFINITY,
    restEvery: 16,
    counterexamplesMax: 1,
  });
  process.send?.({ name: scope.name, ...figures, counterexamples: counterexamples.map(scenarioText) });
}
process.disconnect();
