import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { KEYS_LINE } from "../keys/config-line.js";
import { ADVERT_SECONDS, type HookCommands, type NotifyPaths, type SyncGroups, startKeepalived } from "./keepalived.js";
import { signal } from "./leftover.js";
import type { Namespace } from "./namespace.js";
import { type CommandResult, type LineProcess, projectRoot, runCommand } from "./process.js";
import { ipv4, LAN, SYNC, VIRTUAL_HOST } from "./topology.js";

/** A commit in a daemon's log. */
export interface CommitLine {
  /** Entries created in the kernel. */
  readonly committed: number;
  /** Entries that the kernel already had. */
  readonly updated: number;
  /** Entries that the kernel refused, for any reason. */
  readonly failed: number;
  readonly durationMs: number;
  /** When it was finished, milliseconds since the Unix epoch. */
  readonly timeMs: number;
}

/** The cluster of a laboratory's firewalls, and the port of their brokers. */
export const LAB_CLUSTER = "lab";
export const BROKER_PORT = 4222;
/** pino's level of warnings. */
const LEVEL_WARN = 40;

/** One firewall of the laboratory: its namespace, its keepalived and its conntrail daemon. */
export class Firewall {
  readonly name: string;
  readonly number: number;
  readonly namespace: Namespace;
  readonly directory: string;
  readonly configFile: string;
  daemon: LineProcess | undefined;
  keepalived: LineProcess | undefined;
  /** True after `cut`: nothing runs here any more. */
  dead = false;
  readonly #advertSeconds: number;

  constructor(number: number, namespace: Namespace, labDirectory: string, advertSeconds = ADVERT_SECONDS) {
    this.number = number;
    this.name = `fw${number}`;
    this.namespace = namespace;
    this.directory = join(labDirectory, this.name);
    this.configFile = join(this.directory, "conntrail.yaml");
    this.#advertSeconds = advertSeconds;
  }

  /** Its address on the dedicated link. */
  get address(): string {
    return ipv4(SYNC, this.number);
  }

  /** Writes conntrail.yaml for this node of a cluster of `nodes`. `withFifo`: for keepalived with `conntrailPaths`. */
  writeConfig(nodes: readonly Firewall[], withFifo = false): void {
    mkdirSync(this.directory, { recursive: true, mode: 0o700 });
    const { fifo, trackFile } = this.conntrailPaths();
    const lines = withFifo ? `keepalived: { fifo: ${fifo}, track_file: ${trackFile} }\n` : "";
    writeFileSync(this.configFile, `${conntrailConfig(this, nodes)}${lines}`, { mode: 0o600 });
  }

  /** Starts `conntrail daemon`, or that of another program; `waitReady` waits until it works. */
  startDaemon([file, ...args]: readonly [string, ...string[]] = [conntrailBinary()]): void {
    this.daemon = this.namespace.spawn(
      `conntrail ${this.name}`,
      file,
      [...args, "daemon", "-c", this.configFile],
      join(this.directory, "daemon.log"),
    );
  }

  /** Waits for the daemon's line "ready". */
  async waitReady(timeoutMs: number): Promise<void> {
    await this.daemon?.waitForLine("ready", timeoutMs, (line) =>
      logMessage(line)?.msg === "ready" ? true : undefined,
    );
  }

  /** Starts keepalived; without `notify` it moves the addresses and calls nobody. */
  startKeepalived(notify: HookCommands | NotifyPaths | undefined, several?: SyncGroups): void {
    mkdirSync(this.directory, { recursive: true, mode: 0o700 });
    const options = { several, advertSeconds: this.#advertSeconds };
    this.keepalived = startKeepalived(this.namespace, this.number, this.directory, notify, options);
  }

  /** Waits until keepalived has heard the primary, or at least listens to it. */
  async waitBackup(timeoutMs: number): Promise<void> {
    await this.keepalived?.waitForLine("it is a backup", timeoutMs, (line) =>
      /BACKUP STATE/.test(line) ? true : undefined,
    );
  }

  /** The hooks that keepalived calls for this firewall's daemon. */
  conntrailHooks(): HookCommands {
    const hook = (state: string): string => `${conntrailBinary()} hook ${state} -c ${this.configFile}`;
    return { primary: hook("primary"), backup: hook("backup"), fault: hook("fault") };
  }

  /** The FIFO from which its daemon takes its role, and the file that lowers its priority. */
  conntrailPaths(): NotifyPaths {
    return { fifo: join(this.directory, "keepalived.fifo"), trackFile: join(this.directory, "behind") };
  }

  /** Runs a conntrail command against this firewall's daemon. */
  async conntrail(...args: string[]): Promise<CommandResult> {
    return this.run(conntrailBinary(), ...args, "-c", this.configFile);
  }

  /** Runs any command inside; a failing one is a value. */
  async run(file: string, ...args: string[]): Promise<CommandResult> {
    return runCommand("ip", this.namespace.execArguments(file, args));
  }

  /** True when it has the virtual address of the LAN in a sync group. */
  async isPrimary(group = 1): Promise<boolean> {
    if (this.dead) return false;
    const result = await runCommand("ip", ["-n", this.namespace.name, "-o", "-4", "addr", "show", "dev", "lan0"]);
    return result.stdout.includes(` ${ipv4(LAN, VIRTUAL_HOST + group - 1)}/32 `);
  }

  /** The commits in the daemon's log, oldest first. */
  commits(): CommitLine[] {
    const commits: CommitLine[] = [];
    for (const line of this.daemon?.lines ?? []) {
      const entry = logMessage(line);
      if (entry?.msg !== "commit") continue;
      commits.push({
        committed: Number(entry.committed ?? 0),
        updated: Number(entry.updated ?? 0),
        failed: Object.values(entry.failed ?? {}).reduce((sum: number, count) => sum + Number(count), 0),
        durationMs: Number(entry.durationMs ?? 0),
        timeMs: Number(entry.time ?? Number.NaN),
      });
    }
    return commits;
  }

  /** The last `count` lines of the daemon that are warnings or worse, or that are not JSON. */
  complaints(count: number): string[] {
    const bad = (this.daemon?.lines ?? []).filter(
      (line) => Number(logMessage(line)?.level ?? LEVEL_WARN) >= LEVEL_WARN,
    );
    return bad.slice(-count);
  }

  /** A clean handover: keepalived ends, removes its addresses and announces that with an advert of priority 0. */
  async handOver(): Promise<void> {
    await this.keepalived?.stop();
    this.keepalived = undefined;
  }

  /**
   * Cuts it off like a power failure: no process may send anything more. They are frozen first, because keepalived's
   * processes watch each other, and the first to notice a death would send a last advert.
   */
  async cut(): Promise<void> {
    this.dead = true;
    for (const pid of this.namespace.pids()) signal(pid, "SIGSTOP");
    await this.namespace.ip(["link set lan0 down", "link set wan0 down", "link set sync0 down"]);
    for (const pid of this.namespace.pids()) signal(pid, "SIGKILL");
    await Promise.all([this.keepalived?.exited, this.daemon?.exited]);
  }
}

/** The laboratory's conntrail.yaml; src/config/schema.ts has the keys. */
function conntrailConfig(node: Firewall, nodes: readonly Firewall[]): string {
  const peers = nodes.filter((peer) => peer !== node).map((peer) => `  ${peer.name}: ${ipv4(SYNC, peer.number)}`);
  return `cluster: ${LAB_CLUSTER}
node: ${node.name}
listen: ${ipv4(SYNC, node.number)}
peers:
${peers.join("\n")}
broker:
  mode: embedded
  port: ${BROKER_PORT}
  store: ${join(node.directory, "store")}
  max_age: 1h
  max_bytes: 64MiB
control: ${join(node.directory, "control.sock")}
${KEYS_LINE}
filter:
  protocols: [tcp, udp, icmp, icmpv6]
  ignore: [${SYNC.ipv4}.0/24]
  local: true
log:
  level: info
`;
}

function conntrailBinary(): string {
  return join(projectRoot(), "bin", "conntrail");
}

/** A line of the daemon's log as an object, or undefined for a line of another kind. */
function logMessage(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}
