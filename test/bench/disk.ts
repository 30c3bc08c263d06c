import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { requestReport } from "../../src/control/client.js";
import { waitFor } from "../../src/lab/process.js";
import { snapshotDueBytes } from "../../src/sync/out/journal.js";
import { Cluster } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { type Bench, CHURN_LIVE, CHURN_RANGE } from "./bench.js";
import { conntrailOptions } from "./contender.js";
import type { Measure } from "./report.js";

const RATES = [1000, 10_000, 50_000];
/** Less than makes a snapshot due: that is measured by itself. */
const EVENTS_MAX = 100_000;
const SETTLE_MS = 30_000;
const SETTLE_EVERY_MS = 300;
const DAY_SECONDS = 86_400;

/** Bytes in the active node's store: of an event at different rates, of a flow in a snapshot, and what a day comes to. */
export async function benchDisk(bench: Bench): Promise<void> {
  await using cluster = await Cluster.start(conntrailOptions({}));
  const [active] = cluster.nodes;
  const churn = { namespace: active!.namespace.name, range: CHURN_RANGE, live: CHURN_LIVE };
  await bench.load.ask("prepare", churn);
  const snapshots: number[] = [];
  const snapshot = async (): Promise<void> => {
    const before = await settledBytes(active!);
    await requestReport(active!.control, "bulk", {}, { silenceMsMax: SETTLE_MS });
    snapshots.push(((await settledBytes(active!)) - before) / CHURN_LIVE);
  };
  const measures: Measure[] = [];
  const days: Measure[] = [];
  for (const eventsPerSecond of RATES) {
    const bytes: number[] = [];
    const perDay: number[] = [];
    for (let round = 0; round < bench.rounds; round++) {
      await snapshot();
      const before = await settledBytes(active!);
      const seconds = Math.min(bench.seconds, EVENTS_MAX / eventsPerSecond);
      const { events } = await bench.load.ask("churn", { ...churn, eventsPerSecond, seconds });
      const perEvent = ((await settledBytes(active!)) - before) / events;
      const perSnapshot = snapshots.at(-1)! * CHURN_LIVE;
      const snapshotShare = perSnapshot / snapshotDueBytes(perSnapshot);
      bytes.push(perEvent);
      perDay.push((perEvent * (1 + snapshotShare) * eventsPerSecond * DAY_SECONDS) / 1e9);
    }
    measures.push({ name: `store, ${eventsPerSecond} events/s`, unit: "bytes/event", conntrail: bytes });
    days.push({ name: `store, ${eventsPerSecond} events/s, snapshots included`, unit: "GB/day", conntrail: perDay });
  }
  measures.push({ name: `store, snapshot of ${CHURN_LIVE} flows`, unit: "bytes/flow", conntrail: snapshots });
  bench.report.table([...measures, ...days]);
}

/** Bytes of the node's store when the broker writes no more. */
async function settledBytes(node: ClusterNode): Promise<number> {
  let last = -1;
  return waitFor(`the store of ${node.name} to be written`, SETTLE_MS, async () => {
    const bytes = storeBytes(node.store);
    const settled = bytes === last;
    last = bytes;
    if (settled) return bytes;
    await delay(SETTLE_EVERY_MS);
    return undefined;
  });
}

function storeBytes(directory: string): number {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true });
  return files.reduce((sum, file) => {
    return file.isFile()
      ? sum + (statSync(join(file.parentPath, file.name), { throwIfNoEntry: false })?.size ?? 0)
      : sum;
  }, 0);
}
