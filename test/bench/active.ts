import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Namespace } from "../../src/lab/namespace.js";
import { veth } from "../../src/lab/topology.js";
import { Cluster } from "../support/cluster/cluster.js";
import { Conntrackd } from "../support/oracle/conntrackd.js";
import type { Bench } from "./bench.js";
import { conntrailOptions } from "./contender.js";
import { cpuSeconds, OtherWork } from "./machine.js";
import type { Measure } from "./report.js";

const SIZES = [2, 5, 10];
const RATES = [0, 20, 200, 1000];
const RANGE = 1;
const LIVE = 1000;
const WARM_UP_SECONDS = 10;
/** V8 collects garbage until some 10 s after the last work, which is no cost of doing nothing. */
const REST_MS = 15_000;
const TAIL_MS = 300;
const GROUP = "225.0.0.50";
const LINK = "sync0";

/** Goals at 200 events/s on each node, as ratios of the CPU of a node; of a node where nothing happens, % of a core. */
const GOALS: Record<number, { ratio: number; idle: number }> = {
  2: { ratio: 1, idle: 0.2 },
  5: { ratio: 1.5, idle: 0.5 },
  10: { ratio: 1.5, idle: 0.5 },
};

/** Every node carries traffic: what a node costs as the cluster grows, beside conntrackd in mode NOTRACK over multicast. */
export async function benchActive(bench: Bench): Promise<void> {
  for (const nodes of SIZES) {
    const own = await measureNodes(bench, nodes);
    const other = await measureConntrackd(bench, nodes);
    const { ratio, idle } = GOALS[nodes]!;
    const measures = RATES.flatMap((rate): Measure[] => {
      const name = `${nodes} nodes, all active, ${rate} events/s each`;
      const { cpu, sent, received } = own.get(rate)!;
      const goal =
        rate === 0
          ? ({ goal: { of: "value", at: "most", limit: idle } } as const)
          : rate === 200
            ? ({ goal: { of: "ratio", at: "most", limit: ratio } } as const)
            : {};
      return [
        { name: `CPU, ${name}`, unit: "% of a core", conntrail: cpu, other: other.get(rate)!.cpu, ...goal },
        { name: `messages sent, ${name}`, unit: "1/s", conntrail: sent },
        { name: `messages received, ${name}`, unit: "1/s", conntrail: received },
      ];
    });
    bench.report.table(measures);
  }
}

interface Costs {
  readonly cpu: number[];
  readonly sent: number[];
  readonly received: number[];
}

/** What a load at each rate costs a node, as the mean of all nodes. `counts`: messages sent and received by all so far. */
async function measure(
  { load, report, rounds, seconds }: Bench,
  namespaces: readonly string[],
  pids: readonly number[],
  counts: () => Promise<readonly [sent: number, received: number]>,
): Promise<Map<number, Costs>> {
  const found = new Map<number, Costs>();
  const run = async (eventsPerSecond: number, forSeconds: number): Promise<void> => {
    if (eventsPerSecond === 0) return delay(forSeconds * 1000);
    const args = { namespaces, range: RANGE, live: LIVE, eventsPerSecond, seconds: forSeconds };
    const { refused } = await load.ask("churnAll", args);
    if (refused > 0) throw new Error(`the kernel refused ${refused} requests of the load`);
  };
  for (const namespace of namespaces) await load.ask("prepare", { namespace, range: RANGE, live: LIVE });
  await run(200, WARM_UP_SECONDS);
  await delay(REST_MS);
  for (const rate of RATES) {
    const costs: Costs = { cpu: [], sent: [], received: [] };
    found.set(rate, costs);
    for (let round = 0; round < rounds; round++) {
      const others = new OtherWork([load.pid, ...pids]);
      const used = (): number => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
      const startMs = performance.now();
      const [before, [sent, received]] = [used(), await counts()];
      await run(rate, seconds);
      await delay(TAIL_MS);
      const [after, [sentAfter, receivedAfter]] = [used(), await counts()];
      const perNodeSecond = (namespaces.length * (performance.now() - startMs)) / 1000;
      costs.cpu.push(((after - before) / perNodeSecond) * 100);
      costs.sent.push((sentAfter - sent) / perNodeSecond);
      costs.received.push((receivedAfter - received) / perNodeSecond);
      report.others(others.share());
    }
  }
  return found;
}

async function measureNodes(bench: Bench, nodes: number): Promise<Map<number, Costs>> {
  const ignore = Array.from({ length: nodes }, (_, index) => `"10.77.0.${index + 1}"`);
  await using cluster = await Cluster.start({
    ...conntrailOptions({}),
    nodes,
    configure: () => [`filter: { ignore: ["127.0.0.1", "::1", ${ignore.join(", ")}] }`],
  });
  const pids = cluster.nodes.flatMap((node) => [node.daemon!.pid!, node.brokerPid!]);
  const namespaces = cluster.nodes.map((node) => node.namespace.name);
  return await measure(bench, namespaces, pids, async () => {
    const stats = await Promise.all(cluster.nodes.map((node) => node.stats()));
    const sum = (group: (name: string) => boolean, counter: string): number =>
      stats
        .flatMap((each) => Object.entries(each))
        .reduce((total, [name, counters]) => total + (group(name) ? (counters[counter] ?? 0) : 0), 0);
    return [sum((name) => name === "publisher", "messages"), sum((name) => name.startsWith("reader."), "messages")];
  });
}

async function measureConntrackd(bench: Bench, nodes: number): Promise<Map<number, Costs>> {
  const names = Array.from({ length: nodes }, (_, index) => `d${index + 1}`);
  await using cluster = await Cluster.create({ nodes: 1, hosts: ["bridge", ...names] });
  const [bridge, ...hosts] = cluster.hosts;
  await bridge!.ip(["link add br0 type bridge mcast_snooping 0", "link set br0 up"]);
  const daemons: Conntrackd[] = [];
  try {
    for (const [index, namespace] of hosts.entries()) {
      await wire(bridge!, namespace, index);
      const daemon = new Conntrackd({
        namespace,
        directory: join(cluster.directory, `conntrackd-${index}`),
        own: addressOf(index),
        peer: "",
        multicastGroup: GROUP,
        device: LINK,
        ignore: ["127.0.0.1", "::1", ...hosts.map((_, each) => addressOf(each))],
        windowTracking: false,
      });
      daemons.push(daemon);
      await daemon.start();
    }
    const pids = daemons.map((daemon) => daemon.pid!);
    const namespaces = hosts.map(({ name }) => name);
    return await measure(bench, namespaces, pids, async () => [0, 0]);
  } finally {
    await Promise.all(daemons.map((daemon) => daemon.stop()));
  }
}

function addressOf(index: number): string {
  return `10.78.0.${index + 1}`;
}

async function wire(bridge: Namespace, host: Namespace, index: number): Promise<void> {
  const port = `p${index + 1}`;
  await bridge.ip([veth(bridge, port, host, LINK), `link set ${port} master br0`, `link set ${port} up`]);
  await host.ip(["link set lo up", `addr add ${addressOf(index)}/24 dev ${LINK}`, `link set ${LINK} up`]);
  await host.sysctl({ "net.netfilter.nf_conntrack_events": 1 });
}
