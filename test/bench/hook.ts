import { spawn } from "node:child_process";
import { toolEnvironment } from "../../src/lab/process.js";
import { type Bench, RESIDENT_RANGE } from "./bench.js";
import { Arena, type Contender } from "./contender.js";
import { OtherWork } from "./machine.js";

const FLOWS = 20_000;
/** A process that is short needs more samples than a load that is long. */
const SAMPLES_PER_ROUND = 3;

/** From keepalived's call to the first entry in the kernel, process start included. */
export async function benchHook(bench: Bench): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  await using arena = await Arena.start();
  const times: Record<string, number[]> = { conntrail: [], conntrackd: [], node: [] };
  for (let round = 0; round < bench.rounds * SAMPLES_PER_ROUND; round++) {
    for (const contender of arena.contenders) times[contender.name]!.push(await hookOnce(bench, contender, flows));
    const start = performance.now();
    await run(process.execPath, ["-e", "0"]);
    times.node!.push(performance.now() - start);
  }
  const name = "hook primary to the first entry";
  bench.report.table([
    {
      name,
      unit: "ms",
      conntrail: times.conntrail!,
      other: times.conntrackd!,
      goal: { of: "value", at: "most", limit: 150 },
    },
    {
      name: `${name}, and node -e 0`,
      unit: "ms",
      conntrail: times.conntrail!,
      other: times.node!,
      beside: "node -e 0",
    },
  ]);
}

async function hookOnce({ load, report }: Bench, contender: Contender, flows: number): Promise<number> {
  const { active, backup } = contender;
  await load.ask("fill", { namespace: active.namespace.name, range: RESIDENT_RANGE, from: 0, count: flows });
  await contender.settled(flows);
  await load.ask("listen", { namespace: backup.namespace.name });
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const first = load.ask("first", null);
  const startedMs = Number(process.hrtime.bigint()) / 1e6;
  const done = run("ip", backup.namespace.execArguments(backup.primaryCommand[0], backup.primaryCommand.slice(1)));
  const firstMs = await first;
  report.others(others.share());
  if (firstMs === null) throw new Error(`${contender.name} put no entry into the kernel`);
  await done;
  for (const side of [backup, active]) await load.ask("flush", { namespace: side.namespace.name });
  return firstMs - startedMs;
}

function run(file: string, args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env: toolEnvironment(), stdio: ["ignore", "ignore", "inherit"] });
    child.once("error", reject);
    child.once("exit", (code) =>
      code === 0 ? resolve() : reject(new Error(`${file} ${args.join(" ")}: exit ${code}`)),
    );
  });
}
