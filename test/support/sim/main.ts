/**
 * Repeats random histories:
 *
 *   npm run sim -- --mode cache --seed 17 [--flow KEY]
 *   npm run sim -- --mode inject --from 1 --to 20000
 *
 * One that fails is printed, with all that happened to the flow that came out wrong, or to the one of `--flow`. The exit
 * code is then 1.
 */
import { parseArgs } from "node:util";
import { CacheHistory } from "./cache-history.js";
import { AheadHistory, InjectHistory } from "./inject-history.js";
import { Trace } from "./trace.js";

const MODES = { cache: CacheHistory, inject: InjectHistory, ahead: AheadHistory } as const;

const { values } = parseArgs({
  options: {
    mode: { type: "string", default: "cache" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    to: { type: "string", default: "100" },
    flow: { type: "string" },
  },
});
const History = MODES[values.mode as keyof typeof MODES];
if (History === undefined) throw new Error(`no such mode: ${values.mode}; there are ${Object.keys(MODES).join(" ")}`);
const one = values.seed === undefined ? null : Number(values.seed);
const [from, to] = one === null ? [Number(values.from), Number(values.to)] : [one, one];

let failed = 0;
for (let seed = from; seed <= to; seed++) {
  const trace = one === null ? null : new Trace();
  try {
    await new History(seed, trace).run();
  } catch (error) {
    failed++;
    const text = String(error);
    const flow = values.flow ?? /^flow (\S+)/m.exec(text)?.[1] ?? "";
    const reason = text.includes("flow ") ? text : ((error as Error).stack ?? text);
    process.stdout.write(`seed ${seed}: ${[reason, ...(trace?.of(flow) ?? [])].join("\n")}\n\n`);
  }
}
process.stdout.write(`mode ${values.mode}, seeds ${from} to ${to}: ${failed} failed\n`);
process.exit(failed > 0 ? 1 : 0);
