import { setTimeout as delay } from "node:timers/promises";
import { type Bench, CHURN_LIVE, CHURN_RANGE, measureChurn } from "./bench.js";
import { Arena, type Contender } from "./contender.js";

const START_EVENTS_PER_SECOND = 30_000;
const STEP = 1.4;
/** The search ends when what held and what did not are so close. */
const PRECISION = 1.1;
const SETTLE_MS = 20_000;
const HOLD_SECONDS_MAX = 10;

interface Limit {
  readonly eventsPerSecond: number;
  /** True when the machine had no more load to give, so the limit lies higher. */
  readonly loadBound: boolean;
}

/** The highest churn that is held with no overrun and equal tables afterwards. */
export async function benchLimit(bench: Bench): Promise<void> {
  await using arena = await Arena.start();
  const seconds = Math.min(HOLD_SECONDS_MAX, bench.seconds * 2);
  const found: Record<string, number[]> = { conntrail: [], conntrackd: [] };
  const bound: Record<string, number> = { conntrail: 0, conntrackd: 0 };
  for (let round = 0; round < bench.rounds; round++) {
    for (const contender of arena.contenders) {
      const limit = await findLimit(bench, contender, seconds);
      found[contender.name]!.push(limit.eventsPerSecond);
      if (limit.loadBound) bound[contender.name]!++;
      bench.report.say(
        `${contender.name}: ${limit.eventsPerSecond}${limit.loadBound ? ", all that the load gives" : ""}`,
      );
    }
  }
  bench.report.table([
    {
      name: `highest churn held for ${seconds} s`,
      unit: "events/s",
      conntrail: found.conntrail!,
      other: found.conntrackd!,
      goal: { of: "ratio", at: "least", limit: 1.5 },
      note: `the load had no more to give, so the limit lies higher: ${rounds(bound)}`,
    },
  ]);
}

function rounds(bound: Readonly<Record<string, number>>): string {
  return Object.entries(bound)
    .map(([name, count]) => `${name} in ${count} rounds`)
    .join(", ");
}

async function findLimit(bench: Bench, contender: Contender, seconds: number): Promise<Limit> {
  let held = 0;
  let failed = Number.POSITIVE_INFINITY;
  let next = START_EVENTS_PER_SECOND;
  while (failed / Math.max(1, held) > PRECISION) {
    const trial = await hold(bench, contender, next, seconds);
    if (trial.held) held = Math.round(trial.eventsPerSecond);
    else failed = Math.min(next, trial.eventsPerSecond);
    // The load made less than it was asked to, and that was held.
    if (trial.held && trial.eventsPerSecond < next * 0.95) return { eventsPerSecond: held, loadBound: true };
    if (failed < Number.POSITIVE_INFINITY && failed <= START_EVENTS_PER_SECOND / 10) break;
    next = Math.round(
      failed === Number.POSITIVE_INFINITY ? held * STEP : held === 0 ? failed / 2 : Math.sqrt(held * failed),
    );
  }
  return { eventsPerSecond: held, loadBound: false };
}

async function hold(
  bench: Bench,
  contender: Contender,
  eventsPerSecond: number,
  seconds: number,
): Promise<{ held: boolean; eventsPerSecond: number }> {
  const before = await overruns(contender);
  const churned = await measureChurn(bench, contender, eventsPerSecond, seconds, { complains: false });
  const settled = await contender.settled(churned.alive, SETTLE_MS).then(
    () => true,
    () => false,
  );
  const held = settled && (await overruns(contender)) === before;
  // After an overrun a table may be put right much later: the next trial begins with daemons that never had one.
  if (!held) await restart(bench, contender);
  return { held, eventsPerSecond: churned.events / churned.seconds };
}

async function overruns(contender: Contender): Promise<number> {
  const all = await Promise.all(contender.sides.map((side) => side.overruns()));
  return all.reduce((sum, each) => sum + each, 0);
}

async function restart({ load }: Bench, contender: Contender): Promise<void> {
  const namespace = contender.active.namespace.name;
  await load.ask("flush", { namespace });
  await contender.stop();
  await contender.start();
  await load.ask("churn", { namespace, range: CHURN_RANGE, live: CHURN_LIVE, eventsPerSecond: 1000, seconds: 1 });
  await delay(500);
}
