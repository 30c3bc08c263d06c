import { waitFor } from "../../src/lab/process.js";
import { type Bench, RESIDENT_RANGE } from "./bench.js";
import { atRest } from "./commit.js";
import { Arena, type Contender } from "./contender.js";
import { kernelCount, kernelRoom, OtherWork } from "./machine.js";
import type { Measure } from "./report.js";

const SIZES = [10_000, 100_000, 500_000, 1_000_000];
/** A takeover of the largest table takes seconds, and filling it a minute. */
const ROUNDS_MAX = 3;
/** No faster than the daemons read: what an overrun costs is another matter. */
const FILL_FLOWS_PER_SECOND = 30_000;
const EMPTY_TIMEOUT_MS = 120_000;
/** Of `hook primary` in mode `inject`, whatever the size. */
const INJECT_MS_MAX = 50;

/**
 * From the moment at which a backup hears that it is primary until all flows are in its kernel, by the size of the table. In
 * mode `inject`, where they are there already, until the hook returns.
 */
export async function benchTakeover(bench: Bench): Promise<void> {
  const sizes = SIZES.map((size) => Math.round(size * bench.scale));
  using _ = kernelRoom(2 * Math.max(...sizes));
  const cache = await measureMode(bench, sizes, false);
  const inject = await measureMode(bench, sizes, true);
  bench.report.table([
    ...sizes.map((size): Measure => {
      const { conntrail = [], conntrackd = [] } = cache.get(size)!;
      return { name: `takeover of ${size} flows`, unit: "ms", conntrail, other: conntrackd };
    }),
    ...sizes.map((size): Measure => {
      const { conntrail = [] } = inject.get(size)!;
      const goal = { of: "value", at: "most", limit: INJECT_MS_MAX } as const;
      return { name: `hook primary in mode inject, ${size} flows`, unit: "ms", conntrail, goal };
    }),
  ]);
}

type Samples = Partial<Record<Contender["name"], number[]>>;

async function measureMode(bench: Bench, sizes: readonly number[], injects: boolean): Promise<Map<number, Samples>> {
  const found = new Map<number, Samples>();
  await using arena = await Arena.start({ flowsMax: 1 << 20, injects });
  // conntrackd has no counterpart to a hook that has nothing to write.
  const contenders = injects ? [arena.conntrail] : arena.contenders;
  for (const size of sizes) {
    const samples: Samples = {};
    for (let round = 0; round < Math.min(bench.rounds, ROUNDS_MAX); round++) {
      for (const contender of contenders) {
        samples[contender.name] ??= [];
        samples[contender.name]?.push(await takeOverOnce(bench, contender, size, injects));
      }
    }
    found.set(size, samples);
  }
  return found;
}

async function takeOverOnce(bench: Bench, contender: Contender, flows: number, injects: boolean): Promise<number> {
  const { load, report } = bench;
  const { active, backup } = contender;
  const fill = { namespace: active.namespace.name, range: RESIDENT_RANGE, flowsPerSecond: FILL_FLOWS_PER_SECOND };
  await load.ask("fill", { ...fill, from: 0, count: flows });
  await contender.settled(flows);
  if (injects) {
    await waitFor("all flows injected", EMPTY_TIMEOUT_MS, async () => kernelCount(backup.namespace.name) === flows);
  }
  await atRest(contender);
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const startMs = performance.now();
  await backup.takeOver();
  const tookMs = performance.now() - startMs;
  report.others(others.share());
  const count = kernelCount(backup.namespace.name);
  if (count !== flows) throw new Error(`${contender.name} has ${count} of ${flows} flows after its takeover`);
  await atRest(contender);
  await backup.stepDown();
  for (const side of [backup, active]) await load.ask("flush", { namespace: side.namespace.name });
  await waitFor(`${contender.name} without flows`, EMPTY_TIMEOUT_MS, async () => {
    const [a, b] = await Promise.all([active.flows(), backup.flows()]);
    return a.internal + a.external + b.internal + b.external === 0;
  });
  return tookMs;
}
