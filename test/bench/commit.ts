import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "../../src/lab/process.js";
import { KernelNamespace } from "../support/kernel-namespace.js";
import { type Bench, RESIDENT_RANGE } from "./bench.js";
import { Arena, type Contender } from "./contender.js";
import { cpuSeconds, kernelCount, OtherWork } from "./machine.js";

const FLOWS = 200_000;
const EMPTY_TIMEOUT_MS = 60_000;
const REST_TIMEOUT_MS = 60_000;
/** A contender is at rest when it takes less than this share of a core for so long. */
const REST_SHARE = 0.05;
const REST_MS = 500;

/** A takeover's commit into an empty kernel, beside conntrackd's and beside a bare sender of the same batches. */
export async function benchCommit(bench: Bench): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  await using arena = await Arena.start({ flowsMax: 1 << 20 });
  await using bare = await KernelNamespace.create();
  const rates: Record<string, number[]> = { conntrail: [], conntrackd: [], bare: [] };
  const overruns: Record<string, number[]> = { conntrail: [], conntrackd: [] };
  // Who fills memory first that the machine has not used yet waits for its host.
  const warmUp = { namespace: bare.name, range: RESIDENT_RANGE };
  await bench.load.ask("fill", { ...warmUp, from: 0, count: flows });
  await bench.load.ask("fill", { ...warmUp, from: flows, count: flows });
  await bench.load.ask("flush", { namespace: bare.name });
  for (let round = 0; round < bench.rounds; round++) {
    for (const contender of arena.contenders) {
      const { seconds, overran } = await commitOnce(bench, contender, flows);
      rates[contender.name]!.push(flows / seconds);
      overruns[contender.name]!.push(overran);
    }
    const { seconds } = await bench.load.ask("fill", {
      namespace: bare.name,
      range: RESIDENT_RANGE,
      from: 0,
      count: flows,
    });
    rates.bare!.push(flows / seconds);
    await bench.load.ask("flush", { namespace: bare.name });
  }
  bench.report.table([
    {
      name: `commit of ${flows} flows`,
      unit: "flows/s",
      conntrail: rates.conntrail!,
      other: rates.conntrackd!,
      goal: { of: "ratio", at: "least", limit: 4 },
    },
    {
      name: "the same, and a bare sender of the same batches",
      unit: "flows/s",
      conntrail: rates.conntrail!,
      other: rates.bare!,
      beside: "bare",
      goal: { of: "ratio", at: "least", limit: 0.75 },
      note: "the bare sender's kernel has nobody who listens to its events",
    },
    {
      name: "overruns during a commit",
      unit: "times",
      conntrail: overruns.conntrail!,
      other: overruns.conntrackd!,
      goal: { of: "value", at: "most", limit: 0 },
    },
  ]);
}

async function commitOnce(
  { load, report }: Bench,
  contender: Contender,
  flows: number,
): Promise<{ seconds: number; overran: number }> {
  const { active, backup } = contender;
  await load.ask("fill", { namespace: active.namespace.name, range: RESIDENT_RANGE, from: 0, count: flows });
  await contender.settled(flows);
  await atRest(contender);
  const before = await backup.overruns();
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const start = performance.now();
  await backup.commit();
  const seconds = (performance.now() - start) / 1000;
  report.others(others.share());
  const count = kernelCount(backup.namespace.name);
  if (count !== flows) throw new Error(`${contender.name} committed ${count} of ${flows} flows`);
  // What it was told of its own commit is still being read.
  await delay(2000);
  const overran = (await backup.overruns()) - before;
  for (const side of [backup, active]) await load.ask("flush", { namespace: side.namespace.name });
  await waitFor(`${contender.name} without flows`, EMPTY_TIMEOUT_MS, async () => {
    const [a, b] = await Promise.all([active.flows(), backup.flows()]);
    return a.internal + a.external + b.internal + b.external === 0;
  }).catch((error: unknown) => report.say(String(error)));
  return { seconds, overran };
}

/** Resolves when nothing is under way that the fill has set off, such as a snapshot. */
export async function atRest(contender: Contender): Promise<void> {
  await waitFor(`${contender.name} at rest`, REST_TIMEOUT_MS, async () => {
    const before = contender.pids().map(cpuSeconds);
    const start = performance.now();
    await delay(REST_MS);
    const seconds = (performance.now() - start) / 1000;
    const taken = contender.pids().reduce((sum, pid, index) => sum + cpuSeconds(pid) - before[index]!, 0);
    return taken / seconds < REST_SHARE ? true : undefined;
  });
}
