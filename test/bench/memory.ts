import { setTimeout as delay } from "node:timers/promises";
import { type Bench, fillPaced } from "./bench.js";
import { Arena, sideBytes } from "./contender.js";
import { kernelRoom } from "./machine.js";

const FLOWS = 1_000_000;
const IDLE_MS = 3000;

/** Memory per cached flow, over the idle process: of the internal cache on the active node and the external one on the backup. */
export async function benchMemory(bench: Bench): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  using _ = kernelRoom(2 * FLOWS);
  await using arena = await Arena.start({ flowsMax: 1 << 20 });
  const { load, report } = bench;
  await delay(IDLE_MS);
  const found: Record<string, { idle: number[]; daemon: number[]; all: number[] }> = {};
  for (const contender of arena.contenders) {
    const idle = contender.sides.map(sideBytes);
    const { active, backup } = contender;
    await fillPaced(bench, active.namespace.name, flows, async () => (await backup.flows()).external);
    await delay(IDLE_MS);
    const full = contender.sides.map(sideBytes);
    const per = (kind: "daemon" | "all") => full.map((bytes, index) => (bytes[kind] - idle[index]![kind]) / flows);
    found[contender.name] = { idle: idle.map(({ all }) => all / 2 ** 20), daemon: per("daemon"), all: per("all") };
    await contender.stop();
    await load.ask("flush", { namespace: active.namespace.name });
  }
  const { conntrail, conntrackd } = found as Record<string, { idle: number[]; daemon: number[]; all: number[] }>;
  const goal = { of: "ratio", at: "most", limit: 0.4 } as const;
  report.table(
    ["active", "backup"].flatMap((side, index) => [
      {
        name: `memory per flow, ${side}, ${flows} flows`,
        unit: "bytes",
        conntrail: [conntrail!.daemon[index]!],
        other: [conntrackd!.daemon[index]!],
        goal,
      },
      {
        name: `the same with the broker, ${side}`,
        unit: "bytes",
        conntrail: [conntrail!.all[index]!],
        other: [conntrackd!.all[index]!],
      },
      {
        name: `memory at rest, broker included, ${side}`,
        unit: "MiB",
        conntrail: [conntrail!.idle[index]!],
        other: [conntrackd!.idle[index]!],
      },
    ]),
  );
}
