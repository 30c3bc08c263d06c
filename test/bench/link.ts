import { type Bench, measureChurn } from "./bench.js";
import { Arena } from "./contender.js";

const EVENTS_PER_SECOND = 10_000;

/** Bytes on the dedicated link, both directions, per event. */
export async function benchLink(bench: Bench): Promise<void> {
  await using arena = await Arena.start();
  const bytes: Record<string, number[]> = { conntrail: [], conntrackd: [] };
  for (const contender of arena.contenders) await measureChurn(bench, contender, EVENTS_PER_SECOND, 2);
  for (let round = 0; round < bench.rounds; round++) {
    for (const contender of arena.contenders) {
      const before = await contender.linkBytes();
      const { events } = await measureChurn(bench, contender, EVENTS_PER_SECOND, bench.seconds);
      bytes[contender.name]!.push(((await contender.linkBytes()) - before) / events);
    }
  }
  bench.report.table([
    {
      name: `dedicated link, ${EVENTS_PER_SECOND} events/s`,
      unit: "bytes/event",
      conntrail: bytes.conntrail!,
      other: bytes.conntrackd!,
      goal: { of: "ratio", at: "most", limit: 0.5 },
    },
  ]);
}
