/**
 * `npm run bench [-- PART …]`: conntrail and conntrackd side by side on this machine, in the same run, in turn. Each part prints
 * what it saw; none passes or fails.
 *
 *   --json FILE     where the figures go, .tmp/bench.json unless said
 *   --rounds N      samples of each figure, 5 unless said
 *   --seconds N     length of a measured load, 5 unless said
 *   --scale X       share of the flows of the large parts, 1 unless said
 */
import { setPriority } from "node:os";
import { parseArgs } from "node:util";
import { benchActive } from "./active.js";
import { benchArchive } from "./archive.js";
import { benchArchiveQuestions } from "./archive-questions.js";
import type { Bench } from "./bench.js";
import { benchChurn } from "./churn.js";
import { benchCommit } from "./commit.js";
import { benchDisk } from "./disk.js";
import { benchFlows } from "./flows.js";
import { benchHistory, benchWho } from "./history.js";
import { benchHook } from "./hook.js";
import { benchIdle } from "./idle.js";
import { benchKeys } from "./keys.js";
import { benchLatency } from "./latency.js";
import { benchLimit } from "./limit.js";
import { benchLink } from "./link.js";
import { LoadProcess } from "./load/client.js";
import { benchMemory } from "./memory.js";
import { benchNodes } from "./nodes.js";
import { benchReplay } from "./replay.js";
import { Report } from "./report.js";
import { benchRestart } from "./restart.js";
import { benchStall } from "./stall.js";
import { benchTakeover } from "./takeover.js";

const NICE = -10;

const PARTS: Record<string, (bench: Bench) => Promise<void>> = {
  churn: benchChurn,
  idle: benchIdle,
  limit: benchLimit,
  commit: benchCommit,
  hook: benchHook,
  takeover: benchTakeover,
  link: benchLink,
  disk: benchDisk,
  memory: benchMemory,
  keys: benchKeys,
  latency: benchLatency,
  stall: benchStall,
  restart: benchRestart,
  flows: benchFlows,
  nodes: benchNodes,
  active: benchActive,
  replay: ({ scale }) => benchReplay(1_000_000 * scale, 3),
  archive: ({ scale }) => benchArchive(2_000_000 * scale),
  "archive-questions": ({ scale }) => benchArchiveQuestions(scale),
  history: ({ scale }) => benchHistory(20_000_000 * scale),
  // As a quiet firewall writes them.
  "history-small": ({ scale }) => benchHistory(3_000_000 * scale, 20),
  who: ({ scale }) => benchWho(100_000_000 * scale),
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "string", default: ".tmp/bench.json" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "5" },
    scale: { type: "string", default: "1" },
  },
});
const unknown = positionals.find((name) => !Object.hasOwn(PARTS, name));
if (unknown !== undefined) {
  console.error(`bench: unknown part ${unknown}, allowed are ${Object.keys(PARTS).join(", ")}`);
  process.exit(2);
}
// Everything that is measured inherits this: other work on the machine then spoils less of it.
setPriority(NICE);
// An ordinary end: what was changed in the kernel's limits is put back.
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => process.exit(1));
const report = new Report(values.json);
await using load = new LoadProcess();
const bench: Bench = {
  load,
  report,
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  scale: Number(values.scale),
};
for (const [name, run] of Object.entries(PARTS)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  report.begin(name);
  try {
    await run(bench);
  } catch (error) {
    report.say(`${name} was not measured: ${error instanceof Error ? error.stack : String(error)}`);
    process.exitCode = 1;
  }
}
report.write();
console.log(`\nall figures: ${values.json}`);
