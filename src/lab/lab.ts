import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConntrailError } from "../errors.js";
import { BROKER_PORT, Firewall, LAB_CLUSTER } from "./firewall.js";
import type { HookCommands, NotifyPaths } from "./keepalived.js";
import { makeClusterKeys } from "./lab-keys.js";
import { type LabState, processStart, recordLab, removeLab, removeLeftovers } from "./leftover.js";
import { findTool, type LineProcess, toolEnvironment, waitFor } from "./process.js";
import { firewallRuleset, loadRuleset } from "./ruleset.js";
import type { SessionTarget } from "./session-protocol.js";
import { Sessions, startEchoServer } from "./sessions.js";
import { startSsh } from "./ssh.js";
import {
  buildTopology,
  END_HOST,
  FIREWALLS_MAX,
  ipv4,
  namespacesOf,
  planTopology,
  type Topology,
  WAN,
} from "./topology.js";

/** A tool that the laboratory runs and the Debian package that brings it. */
export interface LabTool {
  readonly tool: string;
  readonly debianPackage: string;
}

const TOOLS: readonly LabTool[] = [
  { tool: "ip", debianPackage: "iproute2" },
  { tool: "sysctl", debianPackage: "procps" },
  { tool: "nft", debianPackage: "nftables" },
  { tool: "conntrack", debianPackage: "conntrack" },
  { tool: "keepalived", debianPackage: "keepalived" },
  { tool: "nats-server", debianPackage: "nats-server" },
  { tool: "sshd", debianPackage: "openssh-server" },
  { tool: "ssh", debianPackage: "openssh-client" },
  { tool: "ssh-keygen", debianPackage: "openssh-client" },
];

const ELECTION_TIMEOUT_MS = 30_000;

/** Why this machine cannot run a laboratory, as one line with what to do about it; undefined when it can. */
export function labObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return "network namespaces need root: run it as root";
  const missing = TOOLS.filter((entry) => findTool(entry.tool) === undefined);
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((entry) => entry.debianPackage))].join(" ");
    return `not installed: ${missing.map((entry) => entry.tool).join(", ")}; run: apt-get install ${packages}`;
  }
  if (!existsSync("/proc/net/if_inet6")) return "the kernel runs without IPv6: start it without ipv6.disable=1";
  return kernelObstacle();
}

/** Loads the ruleset in a temporary namespace, to see whether kernel and container allow all of it. */
function kernelObstacle(): string | undefined {
  const result = spawnSync("unshare", ["--net", "nft", "-f", "-"], {
    encoding: "utf8",
    env: toolEnvironment(),
    input: firewallRuleset(),
    timeout: 10_000,
  });
  if (result.status === 0) return undefined;
  const detail = (result.error?.message ?? result.stderr).trim().split("\n")[0];
  return `this kernel or container has no network namespaces with nftables, conntrack and NAT: ${detail}`;
}

/**
 * Real firewalls in network namespaces: a client on a LAN, a server on a WAN, between them firewalls that share
 * virtual addresses by keepalived. Everything it makes is gone after `close`, when the process exits or is told to end
 * by a signal, and after the next run's start at the latest.
 */
export class Lab {
  readonly id: string;
  readonly directory: string;
  readonly topology: Topology;
  readonly firewalls: readonly Firewall[];
  sessions: Sessions | undefined;
  #state: LabState;
  #closed = false;
  #removeAtExit: () => void;
  #releaseSignals: () => void = () => undefined;
  #processes: LineProcess[] = [];

  /**
   * Builds namespaces, links and rulesets (with `rules` as more tables of each firewall); no daemon and no keepalived
   * runs yet. keepalived sends an advert every `advertSeconds`, and a backup takes over after three times that. First
   * removes what killed runs have left.
   */
  static async create(
    options: {
      readonly firewalls?: number;
      readonly rules?: string;
      readonly advertSeconds?: number;
      /** The daemons take their roles from keepalived's FIFO: give `startKeepalived` their `conntrailPaths`. */
      readonly fifo?: boolean;
      /** A host that gets keys as an observer; its configuration is `observer.yaml` in the laboratory's directory. */
      readonly observer?: string;
    } = {},
  ): Promise<Lab> {
    const obstacle = labObstacle();
    if (obstacle !== undefined) throw new ConntrailError("KERNEL", obstacle);
    removeLeftovers();
    const lab = new Lab(options.firewalls ?? 3, options.advertSeconds);
    const building = lab.#build(options);
    lab.#releaseSignals = exitOnSignals(building);
    try {
      await building;
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  private constructor(count: number, advertSeconds: number | undefined) {
    if (count < 2 || count > FIREWALLS_MAX) {
      throw new ConntrailError("USAGE", `${count} firewalls: 2 to ${FIREWALLS_MAX} are possible`);
    }
    this.id = `${process.pid}-${randomBytes(2).toString("hex")}`;
    this.directory = join(tmpdir(), `conntrail-lab-${this.id}`);
    this.topology = planTopology(this.id, count);
    this.#state = {
      id: this.id,
      ownerPid: process.pid,
      ownerStart: processStart(process.pid) ?? "",
      namespaces: namespacesOf(this.topology).map((namespace) => namespace.name),
      directory: this.directory,
    };
    recordLab(this.#state);
    mkdirSync(this.directory, { mode: 0o700 });
    this.firewalls = this.topology.firewalls.map(
      (namespace, index) => new Firewall(index + 1, namespace, this.directory, advertSeconds),
    );
    this.#removeAtExit = () => removeLab(this.#state);
    process.once("exit", this.#removeAtExit);
  }

  async #build({ rules, observer, fifo }: { rules?: string; observer?: string; fifo?: boolean }): Promise<void> {
    await buildTopology(this.topology);
    await Promise.all(this.topology.firewalls.map((firewall) => loadRuleset(firewall, rules)));
    for (const firewall of this.firewalls) firewall.writeConfig(this.firewalls, fifo);
    const configFile = join(this.directory, "observer.yaml");
    const more = observer === undefined ? [] : [{ name: "observer", address: observer, configFile, isObserver: true }];
    makeClusterKeys(LAB_CLUSTER, BROKER_PORT, [...this.firewalls, ...more]);
  }

  /** Starts every conntrail daemon, and waits until all are ready. */
  async startDaemons(timeoutMs = 20_000): Promise<void> {
    for (const firewall of this.firewalls) firewall.startDaemon();
    await Promise.all(this.firewalls.map((firewall) => firewall.waitReady(timeoutMs)));
  }

  /** Starts keepalived with what `notifyOf` gives: on the first firewall, and when that is primary on the others. */
  async startKeepalived(notifyOf: (firewall: Firewall) => HookCommands | NotifyPaths | undefined): Promise<Firewall> {
    const [first, ...others] = this.firewalls;
    assert.ok(first !== undefined, "a laboratory has two firewalls or more");
    first.startKeepalived(notifyOf(first));
    await this.waitPrimary(ELECTION_TIMEOUT_MS);
    for (const firewall of others) firewall.startKeepalived(notifyOf(firewall));
    await Promise.all(others.map((firewall) => firewall.waitBackup(ELECTION_TIMEOUT_MS)));
    return this.waitPrimary(ELECTION_TIMEOUT_MS);
  }

  /** Waits until exactly one firewall, other than `except`, has the virtual address. */
  async waitPrimary(timeoutMs: number, except?: Firewall): Promise<Firewall> {
    return waitFor(
      "one firewall that holds the virtual addresses",
      timeoutMs,
      async () => {
        const holds = await Promise.all(this.firewalls.map((firewall) => firewall.isPrimary()));
        const primaries = this.firewalls.filter((_, index) => holds[index]);
        return primaries.length === 1 && primaries[0] !== except ? primaries[0] : undefined;
      },
      { intervalMs: 20 },
    );
  }

  /** The firewalls that run and are not `primary`. */
  backups(primary: Firewall): Firewall[] {
    return this.firewalls.filter((firewall) => firewall !== primary && !firewall.dead);
  }

  /** Starts echo service and sshd, and opens the sessions, the last one by ssh on request. */
  async openSessions(targets: readonly SessionTarget[], options: { readonly ssh: boolean }): Promise<Sessions> {
    this.#processes.push(await startEchoServer(this.topology.server, this.directory));
    let sshArguments: readonly string[] = [];
    if (options.ssh) {
      const ssh = await startSsh(this.topology.server, ipv4(WAN, END_HOST), this.directory);
      this.#processes.push(ssh.process);
      sshArguments = ssh.clientArguments;
    }
    this.sessions = new Sessions(this.topology.client, join(this.directory, "session-client.log"));
    this.#processes.push(this.sessions.process);
    await this.sessions.open(targets, sshArguments);
    return this.sessions;
  }

  /** Removes everything. Safe to repeat. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    process.removeListener("exit", this.#removeAtExit);
    this.#releaseSignals();
    removeLab(this.#state);
    const running = [
      ...this.#processes,
      ...this.firewalls.flatMap((firewall) => [firewall.keepalived, firewall.daemon]),
    ];
    await Promise.all(running.map((child) => child?.exited));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Makes ending signals run the exit hooks, which remove the laboratory, until the returned function is called. */
function exitOnSignals(building: Promise<void>): () => void {
  const codes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
  const handlers = Object.entries(codes).map(([name, code]) => {
    // A namespace that is being made cannot be removed yet, so let the building come to its end.
    const handler = (): void => void building.catch(() => {}).finally(() => process.exit(code));
    process.once(name, handler);
    return { name, handler };
  });
  return () => {
    for (const { name, handler } of handlers) process.removeListener(name, handler);
  };
}
