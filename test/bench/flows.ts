import { type Bench, measureChurn } from "./bench.js";
import { Arena } from "./contender.js";
import { kernelRoom } from "./machine.js";
import { type Measure, median } from "./report.js";

const SIZES = [1000, 10_000, 100_000, 1_000_000];
const EVENTS_PER_SECOND = 10_000;
/** Filling a large table compiles what a small one leaves to be compiled while it is measured. */
const WARM_UP_SECONDS = 15;

/** What an event costs on the active node as the table grows. */
export async function benchFlows(bench: Bench): Promise<void> {
  const sizes = SIZES.map((size) => Math.max(1000, Math.round(size * (size > 100_000 ? bench.scale : 1))));
  using _ = kernelRoom(2 * sizes.at(-1)!);
  const measures: Measure[] = [];
  for (const live of sizes) {
    // Warm-up and table of their own each time, so that no size profits from the one before.
    await using arena = await Arena.start({ flowsMax: 1 << 20 });
    const costs: Record<string, number[]> = { conntrail: [], conntrackd: [] };
    for (const contender of arena.contenders) {
      const { alive } = await measureChurn(bench, contender, EVENTS_PER_SECOND, WARM_UP_SECONDS, { live });
      await contender.settled(alive);
    }
    for (let round = 0; round < bench.rounds; round++) {
      for (const contender of arena.contenders) {
        const { activeMicros } = await measureChurn(bench, contender, EVENTS_PER_SECOND, bench.seconds, { live });
        costs[contender.name]!.push(activeMicros);
      }
    }
    measures.push({
      name: `CPU, active, ${EVENTS_PER_SECOND} events/s, ${live} flows`,
      unit: "µs/event",
      conntrail: costs.conntrail!,
      other: costs.conntrackd!,
    });
  }
  // Of medians: the dearest sample is always dearer than the cheapest, whatever the table.
  const costs = measures.map(({ conntrail }) => median(conntrail));
  const flatness = [Math.max(...costs) / Math.min(...costs)];
  measures.push({
    name: "the dearest size by the cheapest",
    unit: "times",
    conntrail: flatness,
    goal: { of: "value", at: "most", limit: 1.2 },
  });
  bench.report.table(measures);
}
