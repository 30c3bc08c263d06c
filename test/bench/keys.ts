import { type Bench, measureChurn } from "./bench.js";
import { Arena } from "./contender.js";

const EVENTS_PER_SECOND = 10_000;
const WARM_UP_SECONDS = 12;
const RATIO_MAX = 1.15;

/** CPU per event of nodes with keys (TLS, accounts), and of nodes without, in turns. */
export async function benchKeys(bench: Bench): Promise<void> {
  await using keyed = await Arena.create({ keys: true });
  await using open = await Arena.create({ keys: false });
  const contenders = [open.conntrail, keyed.conntrail] as const;
  const costs = contenders.map(() => ({ active: [] as number[], backup: [] as number[] }));
  for (const contender of contenders) {
    await contender.start();
    await measureChurn(bench, contender, EVENTS_PER_SECOND, WARM_UP_SECONDS);
  }
  for (let round = 0; round < bench.rounds; round++) {
    for (const [index, contender] of contenders.entries()) {
      const { activeMicros, backupMicros } = await measureChurn(bench, contender, EVENTS_PER_SECOND, bench.seconds);
      costs[index]!.active.push(activeMicros);
      costs[index]!.backup.push(backupMicros);
    }
  }
  bench.report.table(
    (["active", "backup"] as const).map((side) => ({
      name: `CPU with keys, ${side}, ${EVENTS_PER_SECOND} events/s`,
      unit: "µs/event",
      conntrail: costs[1]![side],
      other: costs[0]![side],
      beside: "without keys",
      goal: { of: "ratio", at: "most", limit: RATIO_MAX },
    })),
  );
}
