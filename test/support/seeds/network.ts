/**
 * The networks of the seeds: hosts and firewalls in namespaces, on bridges, with the interface names and addresses that the
 * texts give them. What a test makes goes when it ends, also when it is killed.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { labObstacle } from "../../../src/lab/lab.js";
import { type LabState, processStart, recordLab, removeLab, removeLeftovers } from "../../../src/lab/leftover.js";
import { Namespace } from "../../../src/lab/namespace.js";
import { findTool, type LineProcess, runOrThrow } from "../../../src/lab/process.js";
import type { SessionTarget } from "../../../src/lab/session-protocol.js";
import { Sessions } from "../../../src/lab/sessions.js";
import { buildEndHost, buildSwitch, prepareFirewall, veth } from "../../../src/lab/topology.js";
import { dismissJanitor, startJanitor } from "../cluster/cluster.js";
import { type FirewallFiles, PRIMARY_BACKUP, SeedFirewall } from "./firewall.js";

/** An interface of a host: the bridge that it is on and its addresses with prefix lengths. */
export interface LinkPlan {
  readonly bridge: string;
  readonly addresses: readonly string[];
}

/** A host: its interfaces by name, and its routes as ip(8) takes them. */
export interface HostPlan {
  readonly links: Readonly<Record<string, LinkPlan>>;
  readonly routes?: readonly string[];
}

/** A seed's network: the hosts at its edge, and its firewalls with their files. Names are unique in both. */
export interface NetworkPlan {
  readonly hosts: Readonly<Record<string, HostPlan>>;
  readonly firewalls: Readonly<Record<string, HostPlan & FirewallFiles>>;
}

/** Why the seeds cannot run here, or false. */
export function seedsObstacle(): string | false {
  const obstacle = labObstacle();
  if (obstacle !== undefined) return obstacle;
  for (const tool of ["iptables", "ip6tables", "conntrackd", "wget", "nsenter"]) {
    if (findTool(tool) === undefined) return `not installed: ${tool}; run: npm run setup`;
  }
  if (!existsSync(PRIMARY_BACKUP)) return `${PRIMARY_BACKUP} is not there: install conntrackd with its documentation`;
  return false;
}

/** From now on so many sessions, and no others, still answer within `timeoutMs`, and none has broken. */
export async function assertAlive(sessions: Sessions, count: number, timeoutMs: number): Promise<void> {
  await sessions.mark();
  const { answering, reasons } = await sessions.settle(timeoutMs);
  assert.deepEqual({ answering, reasons }, { answering: count, reasons: [] });
}

/** A seed's network, up and running; no daemon and no keepalived yet. */
export class SeedNetwork implements AsyncDisposable {
  readonly directory: string;
  readonly #hosts: ReadonlyMap<string, Namespace>;
  readonly #firewalls: ReadonlyMap<string, SeedFirewall>;
  readonly #switch: Namespace;
  readonly #state: LabState;
  readonly #janitor: ChildProcess;
  readonly #processes: LineProcess[] = [];
  #failed = false;

  private constructor(plan: NetworkPlan) {
    const id = `${process.pid}-${randomBytes(2).toString("hex")}`;
    const namespace = (name: string): Namespace => new Namespace(`ctl${id}-${name}`);
    this.directory = join(tmpdir(), `conntrail-lab-${id}`);
    this.#switch = namespace("switch");
    this.#hosts = new Map(Object.keys(plan.hosts).map((name) => [name, namespace(name)]));
    const firewalls = Object.keys(plan.firewalls).map((name) => ({ name, namespace: namespace(name) }));
    const all = [this.#switch, ...this.#hosts.values(), ...firewalls.map((firewall) => firewall.namespace)];
    this.#state = {
      id,
      ownerPid: process.pid,
      ownerStart: processStart(process.pid) ?? "",
      namespaces: all.map(({ name }) => name),
      directory: this.directory,
    };
    recordLab(this.#state);
    this.#janitor = startJanitor(this.#state);
    mkdirSync(this.directory, { mode: 0o700 });
    this.#firewalls = new Map(
      firewalls.map(({ name, namespace: own }) => [name, new SeedFirewall(name, own, join(this.directory, name))]),
    );
  }

  /** Builds the network of a plan, runs `body` in it and takes it down; when that fails, prints what the daemons have said. */
  static async run(plan: NetworkPlan, body: (network: SeedNetwork) => Promise<void>): Promise<void> {
    removeLeftovers();
    await using network = new SeedNetwork(plan);
    try {
      await network.#build(plan);
      await body(network);
    } catch (error) {
      network.#failed = true;
      throw error;
    }
  }

  /** The namespace of a host. */
  host(name: string): Namespace {
    const namespace = this.#hosts.get(name);
    if (namespace === undefined) throw new RangeError(`no host ${name} in this network`);
    return namespace;
  }

  /** A firewall. */
  firewall(name: string): SeedFirewall {
    const firewall = this.#firewalls.get(name);
    if (firewall === undefined) throw new RangeError(`no firewall ${name} in this network`);
    return firewall;
  }

  /** Has a process waited for when the network goes, which ends it. */
  adopt<T extends LineProcess>(child: T): T {
    this.#processes.push(child);
    return child;
  }

  /** Opens sessions from a host, as `Sessions.open` does, which end with the network; `log`: the file of what they say. */
  async openSessions(
    host: string,
    targets: readonly SessionTarget[],
    ssh: readonly string[] = [],
    log = "sessions.log",
  ): Promise<Sessions> {
    const sessions = new Sessions(this.host(host), join(this.directory, log));
    this.adopt(sessions.process);
    await sessions.open(targets, ssh);
    return sessions;
  }

  async #build(plan: NetworkPlan): Promise<void> {
    const hosts = { ...plan.hosts, ...plan.firewalls };
    const namespaceOf = (name: string): Namespace => this.#hosts.get(name) ?? this.firewall(name).namespace;
    const links = Object.entries(hosts).flatMap(([name, host]) =>
      Object.entries(host.links).map(([device, link]) => ({ name, device, port: `${name}-${device}`, ...link })),
    );
    await Promise.all(this.#state.namespaces.map((name) => new Namespace(name).create()));
    await Promise.all([
      buildSwitch(this.#switch, [...new Set(links.map(({ bridge }) => bridge))]),
      ...[...this.#hosts.values()].map(buildEndHost),
      ...[...this.#firewalls.values()].map((firewall) => prepareFirewall(firewall.namespace)),
    ]);
    const pairs = links.map(({ name, device, port }) => veth(this.#switch, port, namespaceOf(name), device));
    await runOrThrow("ip", ["-batch", "-"], `${pairs.join("\n")}\n`);
    await this.#switch.ip(links.map(({ port, bridge }) => `link set ${port} master ${bridge} up`));
    for (const [name, host] of Object.entries(hosts)) {
      await namespaceOf(name).ip([
        ...Object.entries(host.links).flatMap(([device, link]) => [
          `link set ${device} up`,
          ...link.addresses.map(
            (address) => `addr add ${address} ${address.includes(":") ? "nodad " : ""}dev ${device}`,
          ),
        ]),
        ...(host.routes ?? []).map((route) => `route add ${route}`),
      ]);
    }
    await Promise.all(Object.entries(plan.firewalls).map(([name, files]) => this.firewall(name).install(files)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#failed) {
      for (const firewall of this.#firewalls.values()) process.stderr.write(await firewall.lastWords());
    }
    removeLab(this.#state);
    await Promise.all([
      ...this.#processes.map((child) => child.exited),
      ...[...this.#firewalls.values()].map((firewall) => firewall.gone()),
    ]);
    await dismissJanitor(this.#janitor);
  }
}
