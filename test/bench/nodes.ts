import { Cluster } from "../support/cluster/cluster.js";
import { type Bench, CHURN_LIVE, CHURN_RANGE } from "./bench.js";
import { conntrailOptions } from "./contender.js";
import { cpuSeconds, OtherWork } from "./machine.js";
import type { Measure } from "./report.js";

const SIZES = [2, 3, 5];
/** Low enough that the backups of the largest cluster find room beside each other on a small machine. */
const EVENTS_PER_SECOND = 5000;
const WARM_UP_SECONDS = 5;
const TAIL_MS = 300;

/** What an event costs as the cluster grows: every peer reads the active node's stream and keeps a copy of it. */
export async function benchNodes(bench: Bench): Promise<void> {
  const measures: Measure[] = [];
  for (const nodes of SIZES) {
    await using cluster = await Cluster.start({ ...conntrailOptions({}), nodes });
    const costs: { active: number[]; backup: number[] } = { active: [], backup: [] };
    const [active, backup] = cluster.nodes;
    const sides = [active!, backup!].map(pidsOf);
    const seconds = (): number[] => sides.map((pids) => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0));
    const churn = { namespace: active!.namespace.name, range: CHURN_RANGE, live: CHURN_LIVE };
    await bench.load.ask("prepare", churn);
    await bench.load.ask("churn", { ...churn, eventsPerSecond: EVENTS_PER_SECOND, seconds: WARM_UP_SECONDS });
    for (let round = 0; round < bench.rounds; round++) {
      const others = new OtherWork([bench.load.pid, ...cluster.nodes.flatMap(pidsOf)]);
      const before = seconds();
      const load = { ...churn, eventsPerSecond: EVENTS_PER_SECOND, seconds: bench.seconds };
      const { events } = await bench.load.ask("churn", load);
      await new Promise((resolve) => setTimeout(resolve, TAIL_MS));
      const [activeMicros, backupMicros] = seconds().map((after, index) => ((after - before[index]!) * 1e6) / events);
      costs.active.push(activeMicros!);
      costs.backup.push(backupMicros!);
      bench.report.others(others.share());
    }
    for (const side of ["active", "backup"] as const) {
      const name = `CPU, ${side}, ${EVENTS_PER_SECOND} events/s, ${nodes} nodes`;
      measures.push({ name, unit: "µs/event", conntrail: costs[side] });
    }
  }
  const [two, five] = [measures[0]!.conntrail, measures.at(-2)!.conntrail];
  const perPeer = two.map((cost, round) => (five[round]! - cost) / (SIZES.at(-1)! - SIZES[0]!));
  measures.push({ name: "CPU, active, each further peer", unit: "µs/event", conntrail: perPeer });
  const sixteen = two.map((cost, round) => cost + 14 * perPeer[round]!);
  measures.push({ name: "CPU, active, 16 nodes, computed", unit: "µs/event", conntrail: sixteen });
  bench.report.table(measures);
}

function pidsOf(node: Cluster["nodes"][number]): number[] {
  return [node.daemon!.pid!, node.brokerPid!];
}
