import { type Bench, measureChurn } from "./bench.js";
import { Arena } from "./contender.js";
import type { Measure } from "./report.js";

const RATES = [
  { eventsPerSecond: 50_000, active: 0.6, backup: 0.7 },
  { eventsPerSecond: 10_000, active: 1, backup: null },
  { eventsPerSecond: 1000, active: 1.5, backup: null },
];
/** What runs fifty or a hundred times a second is compiled late: a daemon runs for weeks, so that is no part of what is measured. */
const WARM_UP_SECONDS = 12;
const SLOW_WARM_UP_SECONDS = 40;

/** CPU per event on both nodes, at three rates; the link's bytes per event beside it. */
export async function benchChurn(bench: Bench): Promise<void> {
  await using arena = await Arena.start();
  for (const contender of arena.contenders) {
    await measureChurn(bench, contender, RATES[0]!.eventsPerSecond, WARM_UP_SECONDS);
  }
  const alive: Record<string, number> = {};
  const measures: Measure[] = [];
  for (const { eventsPerSecond, active, backup } of RATES) {
    const costs: Record<string, { active: number[]; backup: number[] }> = {
      conntrail: { active: [], backup: [] },
      conntrackd: { active: [], backup: [] },
    };
    if (eventsPerSecond <= 1000) {
      await measureChurn(bench, arena.conntrail, eventsPerSecond, Math.min(SLOW_WARM_UP_SECONDS, bench.seconds * 8));
    }
    for (let round = 0; round < bench.rounds; round++) {
      for (const contender of arena.contenders) {
        const cost = await measureChurn(bench, contender, eventsPerSecond, bench.seconds);
        costs[contender.name]!.active.push(cost.activeMicros);
        costs[contender.name]!.backup.push(cost.backupMicros);
        alive[contender.name] = cost.alive;
      }
    }
    for (const [side, limit] of [
      ["active", active],
      ["backup", backup],
    ] as const) {
      measures.push({
        name: `CPU, ${side}, ${eventsPerSecond} events/s`,
        unit: "µs/event",
        conntrail: costs.conntrail![side],
        other: costs.conntrackd![side],
        ...(limit === null ? {} : { goal: { of: "ratio", at: "most", limit } }),
      });
    }
  }
  for (const contender of arena.contenders) {
    await contender.settled(alive[contender.name]!, 10_000);
    const overruns = await contender.active.overruns();
    if (overruns > 0) bench.report.say(`${contender.name}: ${overruns} overruns`);
  }
  bench.report.table(measures);
}
