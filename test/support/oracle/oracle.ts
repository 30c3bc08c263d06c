import { join } from "node:path";
import { RequestSocket } from "../../../src/ctnetlink/request-socket.js";
import { type Flow, flowFromRecord } from "../../../src/flow/flow.js";
import { Cluster } from "../cluster/cluster.js";
import type { ClusterNode } from "../cluster/node.js";
import { CONNTRACKD } from "../conntrackd-host.js";
import { inNamespace } from "../kernel-namespace.js";
import { expectationLines, kernelLines } from "./compare.js";
import { Conntrackd, type ConntrackdClient } from "./conntrackd.js";
import { HostSockets } from "./host-sockets.js";
import { buildNetwork } from "./network.js";
import { Traffic } from "./traffic.js";

const LINK = "sync0";
/** Loopback and the dedicated link: neither daemon takes flows of its own or of the other. */
const IGNORED = ["127.0.0.1", "::1", "10.77.0.1", "10.77.0.2"];

/** One firewall with both daemons on the same kernel. */
export interface OracleNode {
  readonly node: ClusterNode;
  readonly conntrackd: Conntrackd;
  /** bin/conntrackd, which asks conntrail. */
  readonly dropIn: ConntrackdClient;
  /** The kernel's table, over a socket of the test's own. */
  readonly kernel: RequestSocket;
}

/**
 * Firewalls A, between a client and a server, and B, with a dedicated link on which conntrail and conntrackd each replicate for
 * themselves. Both ignore the link's addresses.
 */
export class Oracle implements AsyncDisposable {
  readonly a: OracleNode;
  readonly b: OracleNode;
  readonly traffic: Traffic;
  readonly #cluster: Cluster;

  private constructor(cluster: Cluster, windowTracking: boolean) {
    this.#cluster = cluster;
    const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
    const [client, server] = cluster.hosts;
    const side = (node: ClusterNode, peer: ClusterNode): OracleNode => {
      const conntrackd = new Conntrackd({
        namespace: node.namespace,
        directory: join(node.directory, "conntrackd"),
        own: node.address,
        peer: peer.address,
        device: LINK,
        ignore: IGNORED,
        windowTracking,
      });
      const dropIn = conntrackd.clientOf(CONNTRACKD, node.control);
      return { node, conntrackd, dropIn, kernel: inNamespace(node.namespace.name, () => new RequestSocket()) };
    };
    this.a = side(a, b);
    this.b = side(b, a);
    this.traffic = new Traffic(new HostSockets(client!), new HostSockets(server!));
  }

  /** Builds the network and starts all four daemons. `windowTracking`: both commit TCP so that its windows are watched. */
  static async start({ windowTracking = false } = {}): Promise<Oracle> {
    const cluster = await Cluster.create({
      nodes: 2,
      hosts: ["client", "server"],
      netlinkBuffer: ["8MiB", "32MiB"],
      configure: () => [
        `filter: { ignore: ${JSON.stringify(IGNORED)} }`,
        `commit: { window_tracking: ${windowTracking} }`,
      ],
    });
    try {
      const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
      await buildNetwork(cluster.hosts[0]!, cluster.hosts[1]!, a.namespace, b.namespace);
      const oracle = new Oracle(cluster, windowTracking);
      for (const { node } of [oracle.a, oracle.b]) node.start();
      await Promise.all([oracle.a.conntrackd.start(), oracle.b.conntrackd.start(), cluster.ready()]);
      return oracle;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** conntrackd alone commits on B; what its kernel holds then. The kernel is empty afterwards, and conntrackd gone. */
  async committedByConntrackd(): Promise<KernelTables> {
    const { node, conntrackd, kernel } = this.b;
    await node.stop();
    await conntrackd.client.ask("-c");
    const tables = await kernelTables(node, kernel);
    await conntrackd.stop();
    await kernel.flush();
    return tables;
  }

  /** conntrail starts anew on B and commits what it has kept; what the kernel holds then. */
  async committedByConntrail(): Promise<KernelTables> {
    const { node, dropIn, kernel } = this.b;
    node.start();
    await this.#cluster.ready([node]);
    await dropIn.ask("-c");
    return kernelTables(node, kernel);
  }

  get client(): Cluster["hosts"][number] {
    return this.#cluster.hosts[0]!;
  }

  get server(): Cluster["hosts"][number] {
    return this.#cluster.hosts[1]!;
  }

  get directory(): string {
    return this.#cluster.directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.traffic[Symbol.dispose]();
    for (const { kernel } of [this.a, this.b]) kernel.close();
    await this.#cluster[Symbol.asyncDispose]();
    await Promise.all([this.a.conntrackd.gone(), this.b.conntrackd.gone()]);
  }
}

/** Everything that a kernel tells of its tables, but for what is of the dedicated link. */
export interface KernelTables {
  /** Over ctnetlink, with every attribute. */
  readonly flows: readonly Flow[];
  /** What conntrack(8) prints. */
  readonly lines: readonly string[];
  readonly expectations: readonly string[];
}

/** Reads the tables of a node's kernel. */
export async function kernelTables(node: ClusterNode, kernel: RequestSocket): Promise<KernelTables> {
  const flows: Flow[] = [];
  const { malformed } = await kernel.dump({}, ({ words, rare }) => {
    const flow = flowFromRecord(words, 0, rare);
    if (!flow.orig.src.startsWith("10.77.0.")) flows.push(flow);
  });
  if (malformed > 0) throw new Error(`${malformed} messages of the kernel's dump could not be decoded`);
  const expectations: string[] = [];
  for (const family of ["ipv4", "ipv6"]) {
    expectations.push(...expectationLines(await node.exec("conntrack", "-L", "expect", "-f", family)));
  }
  return { flows, lines: kernelLines(await node.exec("conntrack", "-L")), expectations };
}
