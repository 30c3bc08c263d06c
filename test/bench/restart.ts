import { waitFor } from "../../src/lab/process.js";
import { Cluster } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { type Bench, fillPaced } from "./bench.js";
import { conntrailOptions } from "./contender.js";
import { kernelRoom, OtherWork } from "./machine.js";

const FLOWS = 1_000_000;
const TIMEOUT_MS = 60_000;

/** From the start of a daemon to its external cache being whole again. conntrackd's comes back empty. */
export async function benchRestart(bench: Bench): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  using _ = kernelRoom(2 * FLOWS);
  await using cluster = await Cluster.start(conntrailOptions({ flowsMax: 1 << 20 }));
  const [active, backup] = cluster.nodes as [ClusterNode, ClusterNode];
  await fillPaced(bench, active.namespace.name, flows, async () => (await backup.status()).external.flows);
  const seconds: number[] = [];
  for (let round = 0; round < bench.rounds; round++) {
    await backup.stop();
    const others = new OtherWork([bench.load.pid, active.daemon!.pid!]);
    const start = performance.now();
    backup.start();
    const { pid } = backup.daemon!;
    await waitFor("the external cache whole again", TIMEOUT_MS, () => isWhole(backup, flows), { intervalMs: 20 });
    seconds.push((performance.now() - start) / 1000);
    bench.report.others(others.share([pid!, backup.brokerPid ?? 0]));
  }
  bench.report.table([
    {
      name: `restart to ${flows} flows in the external cache`,
      unit: "s",
      conntrail: seconds,
      goal: { of: "value", at: "most", limit: 2 },
      note: "process start included; conntrackd's cache stays empty",
    },
  ]);
}

async function isWhole(node: ClusterNode, flows: number): Promise<boolean> {
  // The daemon does not answer before it listens.
  const status = await node.status().catch(() => null);
  return status?.inSync === true && status.external.flows === flows;
}
