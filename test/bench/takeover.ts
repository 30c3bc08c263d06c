import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "../../src/lab/process.js";
import { type Bench, CHURN_RANGE, RESIDENT_RANGE } from "./bench.js";
import { atRest } from "./commit.js";
import { Arena, type ArenaOptions, type Contender } from "./contender.js";
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
const AHEAD = "2s";
/** Flows that are younger than that when the takeover comes. */
const YOUNG = 20_000;
const AHEAD_MS_MAX = 250;

/** How the nodes are set up, and which flows there are. */
interface Setting extends Pick<ArenaOptions, "injects" | "ahead"> {
  readonly flows: number;
  /** How many of them have just begun. */
  readonly young: number;
}

/**
 * From the moment at which a backup hears that it is primary until all flows are in its kernel, by the size of the table:
 * with a commit, with what has lived for a while written beforehand, and in mode `inject`, where all are there already.
 */
export async function benchTakeover(bench: Bench): Promise<void> {
  const sizes = SIZES.map((size) => Math.round(size * bench.scale));
  using _ = kernelRoom(2 * Math.max(...sizes));
  const young = YOUNG;
  const cache = await measureMode(bench, sizes, { young: 0 });
  const ahead = await measureMode(bench, sizes, { ahead: AHEAD, young });
  const inject = await measureMode(bench, sizes, { injects: true, young: 0 });
  const commits = sizes.map((size): Measure => {
    const { conntrail = [], conntrackd = [] } = cache.get(size) ?? {};
    return { name: `takeover of ${size} flows`, unit: "ms", conntrail, other: conntrackd };
  });
  const aheads = sizes.map((size): Measure => {
    const goal = { of: "value", at: "most", limit: AHEAD_MS_MAX } as const;
    const name = `the same with commit.ahead, ${Math.min(young, size)} of ${size} younger`;
    return {
      name,
      unit: "ms",
      conntrail: ahead.get(size)?.conntrail ?? [],
      other: cache.get(size)?.conntrackd ?? [],
      goal,
    };
  });
  const injects = sizes.map((size): Measure => {
    const goal = { of: "value", at: "most", limit: INJECT_MS_MAX } as const;
    return {
      name: `hook primary in mode inject, ${size} flows`,
      unit: "ms",
      conntrail: inject.get(size)?.conntrail ?? [],
      goal,
    };
  });
  bench.report.table([...commits, ...aheads, ...injects]);
}

type Samples = Partial<Record<Contender["name"], number[]>>;

async function measureMode(
  bench: Bench,
  sizes: readonly number[],
  mode: Omit<Setting, "flows">,
): Promise<Map<number, Samples>> {
  const found = new Map<number, Samples>();
  const { young: _, ...options } = mode;
  await using arena = await Arena.start({ flowsMax: 1 << 20, ...options });
  // conntrackd writes nothing beforehand, and has no hook that has nothing to write.
  const contenders = mode.injects || mode.ahead !== undefined ? [arena.conntrail] : arena.contenders;
  for (const flows of sizes) {
    const samples: Samples = {};
    for (let round = 0; round < Math.min(bench.rounds, ROUNDS_MAX); round++) {
      for (const contender of contenders) {
        samples[contender.name] ??= [];
        samples[contender.name]?.push(await takeOverOnce(bench, contender, { ...mode, flows }));
      }
    }
    found.set(flows, samples);
  }
  return found;
}

async function takeOverOnce(bench: Bench, contender: Contender, setting: Setting): Promise<number> {
  const { load, report } = bench;
  const { active, backup } = contender;
  const { flows, injects = false, ahead } = setting;
  const young = Math.min(setting.young, flows);
  const namespace = active.namespace.name;
  const fill = { namespace, from: 0, flowsPerSecond: FILL_FLOWS_PER_SECOND };
  await load.ask("fill", { ...fill, range: RESIDENT_RANGE, count: flows - young });
  await contender.settled(flows - young);
  if (injects || ahead !== undefined) {
    await waitFor("what is old enough is in the backup's kernel", EMPTY_TIMEOUT_MS, async () => {
      return kernelCount(backup.namespace.name) === flows - young;
    });
  }
  await atRest(contender);
  if (young > 0) {
    await load.ask("fill", { ...fill, range: CHURN_RANGE, count: young });
    await waitFor(
      "the young flows on the backup",
      EMPTY_TIMEOUT_MS,
      async () => (await backup.flows()).external === flows,
      {
        intervalMs: 5,
      },
    );
  }
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const startMs = performance.now();
  await backup.takeOver();
  const tookMs = performance.now() - startMs;
  report.others(others.share());
  const count = kernelCount(backup.namespace.name);
  if (count !== flows) throw new Error(`${contender.name} has ${count} of ${flows} flows after its takeover`);
  await atRest(contender);
  await backup.stepDown();
  for (const side of [backup, active]) {
    await load.ask("flush", { namespace: side.namespace.name });
    // What the other node makes of that must be over before the same tuples begin anew.
    await delay(100);
    await atRest(contender);
  }
  await waitFor(`${contender.name} without flows`, EMPTY_TIMEOUT_MS, async () => {
    const [a, b] = await Promise.all([active.flows(), backup.flows()]);
    return a.internal + a.external + b.internal + b.external === 0;
  });
  return tookMs;
}
