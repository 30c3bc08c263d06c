/**
 * `npm run soak`: three firewalls under traffic, while faults strike at random. Each second it holds what `status` says against
 * the kernels.
 *
 *   --minutes N     how long faults strike, 30 unless said
 *   --seed N        the same seed draws the same faults; a random one unless said
 *   --only KINDS    kinds of faults, with commas: tear,fill,stop,restart,poison,cut,hook,handover,unplug,power
 *   --logs DIR      keeps the logs of daemons, brokers and keepalived there
 *
 * Exit code 1 if `status` lied, a session that was said to be safe was lost, or a node was not in sync in the end.
 */
import { randomInt } from "node:crypto";
import { parseArgs } from "node:util";
import { labObstacle } from "../../src/lab/lab.js";
import { FAULT_KINDS, type FaultKind } from "./fault-plan.js";
import { runSoak, type SoakResult } from "./soak.js";

const SEED_MAX = 2 ** 31;

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function usage(text: string): never {
  process.stderr.write(`soak: ${text}\n`);
  process.exit(2);
}

function kindsOf(list: string | undefined): readonly FaultKind[] {
  if (list === undefined) return FAULT_KINDS;
  return list.split(",").map((name) => {
    return FAULT_KINDS.find((kind) => kind === name) ?? usage(`--only ${name}: known are ${FAULT_KINDS.join(", ")}`);
  });
}

function report(result: SoakResult): void {
  const { faults, violations } = result;
  const number = Object.values(faults).reduce((sum, count) => sum + count, 0);
  const kinds = Object.entries(faults).map(([kind, count]) => `${kind} ${count}`);
  print(`\nfaults             ${number}: ${kinds.join(", ")}`);
  print(`seconds checked    ${result.seconds}`);
  print(`answers            ${result.yes} in sync, ${result.no} not, ${result.silent} without an answer`);
  print(`flows compared     ${result.flows}, ${result.inOwnKernel} of them only in the node's own kernel`);
  print(
    `takeovers          ${result.takeovers}, ${result.takeoversSaidSafe} said safe, ${result.sessionsOwed} sessions owed`,
  );
  print(`poison             ${result.poisonStored} messages stored`);
  print(`short flows        ${result.shortFlows}`);
  print(`violations         ${violations.length}`);
  for (const violation of violations) print(`  ${violation}`);
}

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "30" },
    seed: { type: "string", default: String(randomInt(SEED_MAX)) },
    only: { type: "string" },
    logs: { type: "string" },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
if (!(minutes > 0)) usage(`--minutes ${values.minutes}: a number above 0`);
if (!Number.isInteger(seed)) usage(`--seed ${values.seed}: a whole number`);
const only = kindsOf(values.only);
const obstacle = labObstacle();
if (obstacle !== undefined) usage(obstacle);
print(`seed ${seed}, ${minutes} minutes`);
const options = {
  seconds: minutes * 60,
  seed,
  only,
  print,
  ...(values.logs === undefined ? {} : { logs: values.logs }),
};
const result = await runSoak(options);
report(result);
process.exitCode = result.violations.length > 0 ? 1 : 0;
