import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeClusterKeys } from "../../../src/lab/lab-keys.js";
import { type LabState, processStart, recordLab, removeLab, removeLeftovers } from "../../../src/lab/leftover.js";
import { Namespace } from "../../../src/lab/namespace.js";
import { toolEnvironment, waitFor } from "../../../src/lab/process.js";
import { kernelAvailable } from "../kernel-namespace.js";
import { natsServerMissing } from "../nats-server.js";
import { BROKER_PORT, ClusterNode, type NodeOptions } from "./node.js";

const JANITOR = fileURLToPath(new URL("janitor.js", import.meta.url));
const NODES_MAX = 16;
const READY_TIMEOUT_MS = 30_000;
const IN_SYNC_TIMEOUT_MS = 30_000;

/** How a cluster is made. */
export interface ClusterOptions extends NodeOptions {
  readonly nodes: number;
  /** Network namespaces of the test's own beside the nodes: it wires them, they go with the cluster. */
  readonly hosts?: readonly string[];
}

/** Why these tests cannot run here, or false. */
export function clusterObstacle(): string | false {
  return kernelAvailable() ?? natsServerMissing();
}

/**
 * Nodes of one cluster, each with a kernel (network namespace), a broker and a daemon of its own, on one bridge. Nothing
 * forwards packets here: flows are made over ctnetlink. All of it goes when the test ends, also when it is killed.
 */
export class Cluster implements AsyncDisposable {
  readonly nodes: readonly ClusterNode[];
  readonly hosts: readonly Namespace[];
  readonly directory: string;
  readonly #hub: Namespace;
  readonly #state: LabState;
  readonly #janitor: ChildProcess;
  #closed = false;

  private constructor(options: ClusterOptions) {
    const id = `${process.pid}-${randomBytes(2).toString("hex")}`;
    const name = (part: string): string => `ctl${id}-${part}`;
    if (options.nodes < 1 || options.nodes > NODES_MAX) throw new RangeError(`1 to ${NODES_MAX} nodes`);
    const numbers = Array.from({ length: options.nodes }, (_, index) => index + 1);
    this.directory = join(tmpdir(), `conntrail-lab-${id}`);
    this.#hub = new Namespace(name("hub"));
    this.hosts = (options.hosts ?? []).map((host) => new Namespace(name(host)));
    this.#state = {
      id,
      ownerPid: process.pid,
      ownerStart: processStart(process.pid) ?? "",
      namespaces: [this.#hub, ...this.hosts]
        .map((space) => space.name)
        .concat(numbers.map((number) => name(`n${number}`))),
      directory: this.directory,
    };
    recordLab(this.#state);
    this.#janitor = startJanitor(this.#state);
    mkdirSync(this.directory, { mode: 0o700 });
    this.nodes = numbers.map(
      (number) =>
        new ClusterNode({
          number,
          nodes: options.nodes,
          namespace: new Namespace(name(`n${number}`)),
          hub: this.#hub,
          directory: join(this.directory, `n${number}`),
          program: conntrailProgram(),
          options,
        }),
    );
  }

  /** Makes namespaces, links and agents; no daemon runs yet. */
  static async create(options: ClusterOptions): Promise<Cluster> {
    removeLeftovers();
    const cluster = new Cluster(options);
    try {
      await cluster.#hub.create();
      await cluster.#hub.ip(["link add br0 type bridge mcast_snooping 0", "link set br0 up"]);
      await Promise.all([...cluster.nodes, ...cluster.hosts].map((place) => place.create()));
      if (options.keys === true) makeClusterKeys("chaos", BROKER_PORT, cluster.nodes);
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** As `create`, with every daemon started and in sync. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = await Cluster.create(options);
    try {
      for (const node of cluster.nodes) node.start();
      await cluster.ready();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Resolves when every daemon says that it is in sync with all others. */
  async ready(nodes: readonly ClusterNode[] = this.nodes): Promise<void> {
    await Promise.all(nodes.map((node) => node.ready(READY_TIMEOUT_MS)));
    await Promise.all(
      nodes.map((node) =>
        waitFor(`${node.name} in sync`, IN_SYNC_TIMEOUT_MS, async () => (await node.status()).inSync),
      ),
    );
  }

  /** Takes everything down. Safe to repeat. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    removeLab(this.#state);
    await Promise.all(this.nodes.map((node) => node.gone()));
    await dismissJanitor(this.#janitor);
  }
}

/**
 * Starts the process that takes a laboratory down should the test be killed. In a session of its own, so that a signal to the
 * test's group spares it; and no reason for the test to stay.
 */
export function startJanitor(state: LabState): ChildProcess {
  const janitor = spawn(process.execPath, [JANITOR, JSON.stringify(state)], {
    detached: true,
    env: toolEnvironment(),
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  janitor.unref();
  janitor.channel?.unref();
  return janitor;
}

/** Tells the janitor that there is nothing left to do for it, and waits until it has gone. */
export async function dismissJanitor(janitor: ChildProcess): Promise<void> {
  if (!janitor.connected) return;
  janitor.ref();
  const ended = new Promise((resolve) => janitor.once("exit", resolve));
  janitor.send("done", () => undefined);
  await ended;
}

/** bin/conntrail of the directory that this file was built in. */
function conntrailProgram(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const program = join(directory, "bin", "conntrail");
    if (existsSync(program)) return program;
    const parent = dirname(directory);
    if (parent === directory) throw new Error("no bin/conntrail above the tests");
    directory = parent;
  }
}
