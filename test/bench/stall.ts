import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { requestDump, requestReport } from "../../src/control/client.js";
import { waitFor } from "../../src/lab/process.js";
import { Cluster } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { type Bench, fillPaced } from "./bench.js";
import { conntrailOptions } from "./contender.js";
import type { LoopDelays } from "./loop-delay.js";
import { kernelRoom } from "./machine.js";
import type { Measure } from "./report.js";

const FLOWS = 1_000_000;
const PRELOAD = new URL("loop-delay.js", import.meta.url).href;
const PATIENT = { silenceMsMax: 120_000 };
const REST_MS = 3000;

/** The longest that the event loop of a daemon stands still while large things run. */
export async function benchStall(bench: Bench): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  using _ = kernelRoom(2 * FLOWS);
  await using cluster = await Cluster.create(conntrailOptions({ flowsMax: 1 << 20 }));
  const [active, backup] = cluster.nodes as [ClusterNode, ClusterNode];
  const file = join(cluster.directory, "loop-delay");
  withEnvironment({ NODE_OPTIONS: `--import=${PRELOAD}`, LOOP_DELAY_FILE: file }, () => {
    for (const node of cluster.nodes) node.start();
  });
  await cluster.ready();
  await fillPaced(bench, active.namespace.name, flows, async () => (await backup.status()).external.flows);
  const watch = (node: ClusterNode): LoopDelay => new LoopDelay(node.daemon!.pid!, file);
  const [a, b] = [watch(active), watch(backup)];
  const stalls = new Map<string, LoopDelays[]>();
  const run = async (name: string, delays: LoopDelay, what: () => Promise<unknown>): Promise<void> => {
    await delays.take();
    await what();
    stalls.set(name, [...(stalls.get(name) ?? []), await delays.take()]);
  };
  const rounds = Math.min(bench.rounds, 3);
  for (let round = 0; round < rounds; round++) {
    await run("at rest", a, () => delay(REST_MS));
    await run("dump of the internal cache", a, () => dump(active, "internal"));
    await run("snapshot (bulk)", a, () => requestReport(active.control, "bulk", {}, PATIENT));
    await run("kernel resync", a, () => requestReport(active.control, "resync", { source: "kernel" }, PATIENT));
    await run("dump of the external cache", b, () => dump(backup, "external"));
    await run("resync of the peers", b, () => requestReport(backup.control, "resync", { source: "peers" }, PATIENT));
  }
  // Once: afterwards the flows are the backup's own.
  await run("commit", b, () => requestReport(backup.control, "commit", {}, PATIENT));
  const measures = [...stalls].flatMap(([name, delays]): Measure[] => [
    {
      name: `longest stall, ${flows} flows, ${name}`,
      unit: "ms",
      conntrail: delays.map(({ maxMs }) => maxMs),
      ...(name === "at rest" ? {} : { goal: { of: "value", at: "most", limit: 20 } }),
    },
    { name: "  without waiting for a core", unit: "ms", conntrail: delays.map(({ ownMs }) => ownMs) },
  ]);
  bench.report.table(measures);
}

/** The event loop's delays of one daemon. */
class LoopDelay {
  readonly #pid: number;
  readonly #file: string;
  #number = 0;

  constructor(pid: number, file: string) {
    this.#pid = pid;
    this.#file = `${file}.${pid}`;
  }

  /** The longest since the last call. */
  async take(): Promise<LoopDelays> {
    process.kill(this.#pid, "SIGUSR2");
    const found = await waitFor("the event loop's delays", 30_000, () => this.#read(), { intervalMs: 20 });
    this.#number = found.number;
    return found;
  }

  #read(): LoopDelays | undefined {
    try {
      const found = JSON.parse(readFileSync(this.#file, "utf8")) as LoopDelays;
      return found.number > this.#number ? found : undefined;
    } catch {
      return undefined;
    }
  }
}

async function dump(node: ClusterNode, table: "internal" | "external"): Promise<void> {
  for await (const _ of requestDump(node.control, table, PATIENT));
}

/** Processes that are started by `start` have these in their environment. */
function withEnvironment(more: Readonly<Record<string, string>>, start: () => void): void {
  Object.assign(process.env, more);
  try {
    start();
  } finally {
    for (const name of Object.keys(more)) delete process.env[name];
  }
}
