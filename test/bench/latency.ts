import { type Bench, CHURN_RANGE } from "./bench.js";
import { Arena, type Contender } from "./contender.js";
import { OtherWork } from "./machine.js";
import { type Measure, median } from "./report.js";

const EVENTS_PER_SECOND = 1000;
/** Flows of a churn, after which a tuple comes again. */
const LIVE = 4096;

/** When a flow begins in the active kernel and when it is in the backup's, by the notes of the kernels themselves. */
export async function benchLatency(bench: Bench): Promise<void> {
  const results: Record<string, Measure[]> = {};
  for (const [title, publishInterval, p50, p99] of [
    ["default pacing", undefined, 6, 20],
    ["publish.interval 0", "0", 1, 3],
  ] as const) {
    await using arena = await Arena.start({
      injects: true,
      ...(publishInterval === undefined ? {} : { publishInterval }),
    });
    const found: Record<string, { p50: number[]; p99: number[] }> = {};
    for (const contender of arena.contenders) {
      found[contender.name] = { p50: [], p99: [] };
      for (const side of contender.sides) await side.namespace.sysctl({ "net.netfilter.nf_conntrack_timestamp": 1 });
      await sample(bench, contender, 2);
    }
    for (let round = 0; round < bench.rounds; round++) {
      for (const contender of arena.contenders) {
        const sorted = await sample(bench, contender, Math.min(bench.seconds, LIVE / EVENTS_PER_SECOND));
        found[contender.name]!.p50.push(median(sorted));
        found[contender.name]!.p99.push(sorted[Math.floor(sorted.length * 0.99)]!);
      }
    }
    const { conntrail, conntrackd } = found;
    results[title] = (["p50", "p99"] as const).map((name) => ({
      name: `kernel to kernel, ${title}, ${name}`,
      unit: "ms",
      conntrail: conntrail![name],
      other: conntrackd![name],
      goal: { of: "value", at: "most", limit: name === "p50" ? p50 : p99 },
    }));
  }
  bench.report.table(Object.values(results).flat());
}

/** Milliseconds between the two kernels of the flows that a churn has made, sorted. */
async function sample({ load, report }: Bench, contender: Contender, seconds: number): Promise<number[]> {
  const { active, backup } = contender;
  const churn = {
    namespace: active.namespace.name,
    range: CHURN_RANGE,
    live: LIVE,
    eventsPerSecond: EVENTS_PER_SECOND,
  };
  const others = new OtherWork([load.pid, ...contender.pids()]);
  // The flows that were there before it began in one go, and are no measure of anything.
  await load.ask("churn", { ...churn, seconds: 0 });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const sinceMicros = Date.now() * 1000;
  await load.ask("churn", { ...churn, seconds });
  await new Promise((resolve) => setTimeout(resolve, 500));
  report.others(others.share());
  const [here, there] = await Promise.all(
    [active, backup].map(({ namespace }) => load.ask("starts", { namespace: namespace.name })),
  );
  const latencies: number[] = [];
  let missing = 0;
  for (const [flow, startMicros] of here!) {
    if (startMicros < sinceMicros) continue;
    const arrivedMicros = there!.get(flow);
    if (arrivedMicros === undefined) missing++;
    else latencies.push((arrivedMicros - startMicros) / 1000);
  }
  if (missing > 0) report.say(`${contender.name}: ${missing} of ${here!.size} flows are not in the other kernel`);
  if (latencies.length < 100) throw new Error(`${contender.name}: only ${latencies.length} flows were injected`);
  return latencies.sort((a, b) => a - b);
}
