import { setTimeout as delay } from "node:timers/promises";
import type { Bench } from "./bench.js";
import { Arena, sideSeconds } from "./contender.js";
import { OtherWork } from "./machine.js";

/** Of its first seconds a daemon has to do, and V8 compiles what came of it. */
const START_MS = 15_000;

/** CPU when nothing happens. */
export async function benchIdle(bench: Bench): Promise<void> {
  await using arena = await Arena.start();
  await delay(START_MS);
  const percents: Record<string, number[]> = { conntrail: [], conntrackd: [] };
  for (let round = 0; round < bench.rounds; round++) {
    const others = new OtherWork([bench.load.pid, ...arena.contenders.flatMap((contender) => contender.pids())]);
    const before = arena.contenders.map(({ active }) => sideSeconds(active));
    const startMs = performance.now();
    await delay(bench.seconds * 1000);
    const seconds = (performance.now() - startMs) / 1000;
    for (const [index, { name, active }] of arena.contenders.entries()) {
      percents[name]!.push(((sideSeconds(active) - before[index]!) / seconds) * 100);
    }
    bench.report.others(others.share());
  }
  bench.report.table([
    {
      name: "CPU when nothing happens",
      unit: "% of a core",
      conntrail: percents.conntrail!,
      other: percents.conntrackd!,
      goal: { of: "value", at: "most", limit: 0.5 },
    },
  ]);
}
