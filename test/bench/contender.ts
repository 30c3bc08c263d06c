/** conntrackd and conntrail as a measurement sees them: an active node, a backup, and a link between them. */
import { join } from "node:path";
import { requestReport } from "../../src/control/client.js";
import type { Namespace } from "../../src/lab/namespace.js";
import { waitFor } from "../../src/lab/process.js";
import { veth } from "../../src/lab/topology.js";
import { Cluster, type ClusterOptions } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { Conntrackd } from "../support/oracle/conntrackd.js";
import { cpuSeconds, linkBytes, residentBytes } from "./machine.js";

const LINK = "sync0";
const SETTLE_MS = 120_000;
const FLOWS_MAX = 262_144;

/** One node of a contender. */
export interface Side {
  readonly namespace: Namespace;
  /** All that it needs to run: conntrail's broker, too. */
  pids(): number[];
  /** The daemon alone, without a broker. */
  daemonPid(): number;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Flows of the two caches. */
  flows(): Promise<{ internal: number; external: number }>;
  /** Times that the kernel had to drop events. */
  overruns(): Promise<number>;
  /** Writes the external cache into the kernel; resolves when that is done. */
  commit(): Promise<void>;
  /** Becomes primary, without the start of a process; resolves when keepalived's script would go on. */
  takeOver(): Promise<void>;
  /** Is backup again. */
  stepDown(): Promise<void>;
  /** The command that keepalived would have called to make this node primary. */
  readonly primaryCommand: readonly [string, ...string[]];
}

/** Two nodes of the same software. */
export class Contender {
  readonly name: "conntrail" | "conntrackd";
  readonly active: Side;
  readonly backup: Side;

  constructor(name: Contender["name"], active: Side, backup: Side) {
    this.name = name;
    this.active = active;
    this.backup = backup;
  }

  get sides(): readonly Side[] {
    return [this.active, this.backup];
  }

  pids(): number[] {
    return this.sides.flatMap((side) => side.pids());
  }

  async start(): Promise<void> {
    await Promise.all(this.sides.map((side) => side.start()));
  }

  async stop(): Promise<void> {
    await Promise.all(this.sides.map((side) => side.stop()));
  }

  /** Resolves when the active node's cache and what the backup has of it both hold so many flows. */
  async settled(flows: number, timeoutMs = SETTLE_MS): Promise<void> {
    let seen = "";
    const settled = async (): Promise<boolean> => {
      const [active, backup] = await Promise.all(this.sides.map((side) => side.flows()));
      seen = `${active!.internal} on the active node, ${backup!.external} on the backup`;
      return active!.internal === flows && backup!.external === flows;
    };
    await waitFor(`${this.name} holds ${flows} flows on both nodes`, timeoutMs, settled).catch((error: unknown) => {
      throw new Error(`${this.name} does not come to ${flows} flows: ${seen}`, { cause: error });
    });
  }

  /** Bytes on the dedicated link in both directions so far. */
  async linkBytes(): Promise<number> {
    return linkBytes(await this.active.namespace.exec("ip", ["-s", "-j", "link", "show", LINK]));
  }
}

/** CPU seconds of a side so far. */
export function sideSeconds(side: Side): number {
  return side.pids().reduce((sum, pid) => sum + cpuSeconds(pid), 0);
}

/** Resident bytes of a side: of the daemon, and of all that it needs. */
export function sideBytes(side: Side): { daemon: number; all: number } {
  return {
    daemon: residentBytes(side.daemonPid()),
    all: side.pids().reduce((sum, pid) => sum + residentBytes(pid), 0),
  };
}

class ConntrackdSide implements Side {
  readonly namespace: Namespace;
  readonly primaryCommand: readonly [string, ...string[]];
  readonly #daemon: Conntrackd;

  constructor(namespace: Namespace, daemon: Conntrackd, configFile: string) {
    this.namespace = namespace;
    this.#daemon = daemon;
    this.primaryCommand = ["conntrackd", "-C", configFile, "-c"];
  }

  pids(): number[] {
    return [this.daemonPid()];
  }

  daemonPid(): number {
    return this.#daemon.pid!;
  }

  start(): Promise<void> {
    return this.#daemon.start();
  }

  async stop(): Promise<void> {
    await this.#daemon.stop();
  }

  async flows(): Promise<{ internal: number; external: number }> {
    const text = await this.#daemon.client.ask("-s");
    const [internal = 0, external = 0] = [...text.matchAll(/current active connections:\s+(\d+)/g)].map(([, n]) =>
      Number(n),
    );
    return { internal, external };
  }

  async overruns(): Promise<number> {
    const text = await this.#daemon.client.ask("-s", "runtime");
    const found = /overruns?[^\d\n]*(\d+)/i.exec(text)?.[1];
    if (found === undefined) throw new Error(`conntrackd tells of no overruns: ${text}`);
    return Number(found);
  }

  async commit(): Promise<void> {
    await this.#daemon.client.ask("-c");
  }

  /** primary-backup.sh begins so; what follows concerns its caches and peers. */
  takeOver(): Promise<void> {
    return this.commit();
  }

  async stepDown(): Promise<void> {}
}

/** A node of conntrail. */
export class ConntrailSide implements Side {
  readonly primaryCommand: readonly [string, ...string[]];
  readonly node: ClusterNode;
  readonly #brokerPid: { value: number } = { value: 0 };

  constructor(node: ClusterNode) {
    this.node = node;
    this.primaryCommand = [node.program, "hook", "primary", "-c", node.configFile];
  }

  get namespace(): Namespace {
    return this.node.namespace;
  }

  pids(): number[] {
    return [this.daemonPid(), this.#brokerPid.value];
  }

  daemonPid(): number {
    return this.node.daemon!.pid!;
  }

  async start(): Promise<void> {
    this.node.start();
    await this.node.ready();
    // Looked up once: finding it reads all of /proc.
    this.#brokerPid.value = this.node.brokerPid ?? 0;
  }

  async stop(): Promise<void> {
    await this.node.stop();
  }

  async flows(): Promise<{ internal: number; external: number }> {
    const { internal, external } = await this.node.status();
    return { internal: internal.flows, external: external.flows };
  }

  overruns(): Promise<number> {
    return this.node.counter("replicator", "overruns");
  }

  async commit(): Promise<void> {
    await requestReport(this.node.control, "commit", {}, { silenceMsMax: SETTLE_MS });
  }

  async takeOver(): Promise<void> {
    await requestReport(this.node.control, "hook", { role: "primary" }, { silenceMsMax: SETTLE_MS });
  }

  async stepDown(): Promise<void> {
    await requestReport(this.node.control, "hook", { role: "backup" }, { silenceMsMax: SETTLE_MS });
  }
}

/** How the contenders are set up; both in the same way, as far as that can be. */
export interface ArenaOptions {
  /** Flows that a cache may hold. */
  readonly flowsMax?: number;
  /** What a peer tells goes straight into the kernel. */
  readonly injects?: boolean;
  /** conntrail's `commit.ahead`. */
  readonly ahead?: string;
  readonly publishInterval?: string;
  /** conntrail's nodes have keys, as after `init`. */
  readonly keys?: boolean;
  /** The FIFO from which a node of conntrail takes its role, by its number. */
  readonly fifo?: (number: number) => string;
}

/** Two nodes of conntrail, set up so. */
export function conntrailOptions({
  flowsMax = FLOWS_MAX,
  injects = false,
  ahead,
  publishInterval,
  keys = true,
  fifo,
}: ArenaOptions): ClusterOptions {
  return {
    nodes: 2,
    maxBytes: "2GiB",
    // conntrackd asks for 8 and 32 MiB, and the kernel doubles that.
    netlinkBuffer: ["16MiB", "64MiB"],
    ...(publishInterval === undefined ? {} : { publishInterval }),
    keys,
    configure: (number) => [
      ...(fifo === undefined ? [] : [`keepalived: { fifo: ${fifo(number)} }`]),
      `filter: { ignore: ["127.0.0.1", "::1", "10.77.0.1", "10.77.0.2"] }`,
      `cache: { limit: ${flowsMax} }`,
      `mode: ${injects ? "inject" : "cache"}`,
      ...(ahead === undefined ? [] : [`commit: { ahead: ${ahead} }`]),
    ],
  };
}

/** Both contenders on this machine, in namespaces of their own; everything ends with it. */
export class Arena implements AsyncDisposable {
  readonly conntrail: Contender;
  readonly conntrackd: Contender;
  readonly #cluster: Cluster;
  readonly #daemons: readonly Conntrackd[];

  private constructor(cluster: Cluster, options: ArenaOptions) {
    this.#cluster = cluster;
    const [active, backup] = cluster.nodes;
    this.conntrail = new Contender("conntrail", new ConntrailSide(active!), new ConntrailSide(backup!));
    const { flowsMax = FLOWS_MAX, injects = false } = options;
    this.#daemons = cluster.hosts.map((namespace, index) => {
      return new Conntrackd({
        namespace,
        directory: join(cluster.directory, `conntrackd-${index}`),
        own: addressOf(index),
        peer: addressOf(1 - index),
        device: LINK,
        ignore: ["127.0.0.1", "::1", addressOf(0), addressOf(1)],
        windowTracking: false,
        flowsMax,
        injects,
      });
    });
    const sides = this.#daemons.map((daemon, index) => {
      const configFile = join(cluster.directory, `conntrackd-${index}`, "conntrackd.conf");
      return new ConntrackdSide(cluster.hosts[index]!, daemon, configFile);
    });
    this.conntrackd = new Contender("conntrackd", sides[0]!, sides[1]!);
  }

  /** Makes the namespaces and links; nothing runs yet. */
  static async create(options: ArenaOptions = {}): Promise<Arena> {
    const cluster = await Cluster.create({ ...conntrailOptions(options), hosts: ["d1", "d2"] });
    try {
      await wire(cluster.hosts[0]!, cluster.hosts[1]!);
      return new Arena(cluster, options);
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** As `create`, with all daemons running. */
  static async start(options: ArenaOptions = {}): Promise<Arena> {
    const arena = await Arena.create(options);
    try {
      await Promise.all(arena.contenders.map((contender) => contender.start()));
      return arena;
    } catch (error) {
      await arena[Symbol.asyncDispose]();
      throw error;
    }
  }

  get contenders(): readonly Contender[] {
    return [this.conntrackd, this.conntrail];
  }

  /** For files of the measurement's own. */
  get directory(): string {
    return this.#cluster.directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cluster[Symbol.asyncDispose]();
    await Promise.all(this.#daemons.map((daemon) => daemon.gone()));
  }
}

function addressOf(index: number): string {
  return `10.78.0.${index + 1}`;
}

async function wire(active: Namespace, backup: Namespace): Promise<void> {
  await active.ip([veth(active, LINK, backup, LINK)]);
  for (const [index, namespace] of [active, backup].entries()) {
    await namespace.ip(["link set lo up", `addr add ${addressOf(index)}/24 dev ${LINK}`, `link set ${LINK} up`]);
    await namespace.sysctl({ "net.netfilter.nf_conntrack_events": 1 });
  }
}
