/**
 * Explores deeper than the tests do:
 *
 *   npm run explore -- [--scopes failover,crash] [--times 10] [--seconds 600] [--keep folder]
 *
 * `--times` multiplies the states of each scope (`all`: until none is left), `--seconds` limits the time of each.
 * Counterexamples are printed, and kept as files with `--keep`. The exit code is then 1.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { exploreAll } from "./exploration.js";
import { PLANS } from "./scopes.js";

const { values } = parseArgs({
  options: {
    scopes: { type: "string" },
    times: { type: "string", default: "1" },
    seconds: { type: "string" },
    keep: { type: "string" },
  },
});
const all = PLANS.map(({ scope }) => scope.name);
const names = values.scopes?.split(",") ?? all;
for (const name of names)
  if (!all.includes(name)) throw new Error(`no such scope: ${name}; there are ${all.join(" ")}`);

await exploreAll({
  names,
  factor: values.times === "all" ? Number.POSITIVE_INFINITY : Number(values.times),
  seconds: values.seconds === undefined ? null : Number(values.seconds),
  fault: null,
  report: ({ name, states, transitions, depth, atRest, complete, seconds, counterexamples }) => {
    const rest = complete ? "all states" : "there are more";
    process.stdout.write(
      `${name.padEnd(14)} ${states} states (${rest}), ${transitions} steps, ${depth} deep, ` +
        `${atRest} at rest, ${seconds.toFixed(1)} s\n`,
    );
    for (const [index, text] of counterexamples.entries()) {
      process.exitCode = 1;
      process.stdout.write(`\n${text}\n`);
      if (values.keep !== undefined) writeFileSync(join(values.keep, `${name}-${index + 1}.txt`), text);
    }
  },
});
