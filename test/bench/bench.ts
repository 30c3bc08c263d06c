import { waitFor } from "../../src/lab/process.js";
import type { Contender } from "./contender.js";
import { sideSeconds } from "./contender.js";
import type { LoadProcess } from "./load/client.js";
import type { Churned } from "./load/protocol.js";
import { OtherWork } from "./machine.js";
import type { Report } from "./report.js";

/** What every part works with. */
export interface Bench {
  readonly load: LoadProcess;
  readonly report: Report;
  /** Samples of each figure. */
  readonly rounds: number;
  /** Length of a measured load. */
  readonly seconds: number;
  /** How many flows "a million" and "200,000" are: 1, or less for a trial. */
  readonly scale: number;
}

/** The range of the flows that come and go, and the ranges of those that stay. */
export const CHURN_RANGE = 1;
export const RESIDENT_RANGE = 2;
/** Flows alive during a churn: a flow lives long enough that its beginning and its end are told of apart. */
export const CHURN_LIVE = 20_000;
const FILL_FLOWS = 50_000;
const FILL_FLOWS_PER_SECOND = 40_000;
const FILL_TIMEOUT_MS = 60_000;
/** What has been sent is read within this time; that is part of the cost. */
const TAIL_MS = 300;

/** A churn on the active node of a contender, with what it cost. */
export interface ChurnCost extends Churned {
  readonly activeMicros: number;
  readonly backupMicros: number;
}

/** Runs a churn and gives the CPU time per event on both nodes. */
export async function measureChurn(
  { load, report }: Pick<Bench, "load" | "report">,
  contender: Contender,
  eventsPerSecond: number,
  seconds: number,
  { live = CHURN_LIVE, complains = true }: { live?: number; complains?: boolean } = {},
): Promise<ChurnCost> {
  const namespace = contender.active.namespace.name;
  await load.ask("prepare", { namespace, range: CHURN_RANGE, live });
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const before = contender.sides.map(sideSeconds);
  const churned = await load.ask("churn", {
    namespace,
    range: CHURN_RANGE,
    live,
    eventsPerSecond,
    seconds,
  });
  await new Promise((resolve) => setTimeout(resolve, TAIL_MS));
  const [active, backup] = contender.sides.map((side, index) => sideSeconds(side) - before[index]!);
  report.others(others.share());
  if (churned.refused > 0) throw new Error(`the kernel refused ${churned.refused} requests of the load`);
  if (complains && churned.events < eventsPerSecond * seconds * 0.98) {
    const rate = Math.round(churned.events / churned.seconds);
    report.say(`the load made ${rate} events/s in place of ${eventsPerSecond}: the machine has no more`);
  }
  return {
    ...churned,
    activeMicros: (active! * 1e6) / churned.events,
    backupMicros: (backup! * 1e6) / churned.events,
  };
}

/** Makes flows no faster than a daemon reads of them: what an overrun costs is another matter. */
export async function fillPaced(
  { load }: Bench,
  namespace: string,
  flows: number,
  arrived: () => Promise<number>,
): Promise<void> {
  for (let from = 0; from < flows; from += FILL_FLOWS) {
    const count = Math.min(FILL_FLOWS, flows - from);
    await load.ask("fill", { namespace, range: RESIDENT_RANGE, from, count, flowsPerSecond: FILL_FLOWS_PER_SECOND });
    const wanted = from + count;
    await waitFor(`${wanted} flows on the backup`, FILL_TIMEOUT_MS, async () => (await arrived()) === wanted);
  }
}
