import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { requestDump, requestReport } from "../../../src/control/client.js";
import type {
  CommandArgs,
  CommandReports,
  FlowTableName,
  HookReport,
  HookRole,
  ReportCommand,
  StatsReport,
  StatusReport,
} from "../../../src/control/protocol.js";
import { KEYS_LINE } from "../../../src/keys/config-line.js";
import { signal } from "../../../src/lab/leftover.js";
import type { Namespace } from "../../../src/lab/namespace.js";
import { type CommandResult, type LineProcess, runCommand, waitFor } from "../../../src/lab/process.js";
import { fillDisk } from "../full-disk.js";
import { Agent } from "./agent-client.js";
import type { BulkOperation, LoadOptions, LoadTruth, MarkView, StreamView } from "./agent-protocol.js";
import { type FlowMap, flowMap } from "./flow-map.js";

/** The port of each node's broker. */
export const BROKER_PORT = 4222;
const BROKER_TIMEOUT_MS = 20_000;
const LOAD_TIMEOUT_MS = 60_000;
const SKEWED_CLOCK = new URL("skewed-clock.js", import.meta.url).href;

/** What a test may want otherwise. */
export interface NodeOptions {
  /** `broker.max_bytes`; 64MiB unless said. */
  readonly maxBytes?: string;
  /** `publish.interval`; the product's default unless said. */
  readonly publishInterval?: string;
  /** `purge.after`; an hour unless said. */
  readonly purgeAfter?: string;
  /** `netlink.buffer` and `netlink.buffer_max`. */
  readonly netlinkBuffer?: readonly [string, string];
  /** The nodes have keys, and a client of the test's own gets nothing; none unless said. */
  readonly keys?: boolean;
  /** The store lies on a file system of its own of so many bytes, gone with the daemon. */
  readonly storeBytes?: number;
  /** How far each node's wall clock is off, by node number, in milliseconds. */
  readonly clockOffsetMs?: (number: number) => number;
  /**
   * The daemons run as this user, with the capabilities and the read-only /proc/sys that deploy/conntrail.service gives
   * them; as root unless said.
   */
  readonly user?: number;
  /** Lines of a node's configuration, by node number, that take the place of those of the same key, or are added. */
  readonly configure?: (number: number) => readonly string[];
}

interface Parts {
  readonly number: number;
  readonly nodes: number;
  readonly namespace: Namespace;
  readonly hub: Namespace;
  readonly directory: string;
  readonly program: string;
  readonly options: NodeOptions;
}

/** One node: its kernel, its daemon with its broker, its link to the bridge, and the ways in which these fail. */
export class ClusterNode {
  readonly name: string;
  readonly number: number;
  readonly address: string;
  readonly control: string;
  readonly store: string;
  daemon: LineProcess | null = null;
  readonly #parts: Parts;
  readonly #configFile: string;
  #agent: Agent | null = null;
  #loading = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.number = parts.number;
    this.name = `n${parts.number}`;
    this.address = addressOf(parts.number);
    this.control = join(parts.directory, "control.sock");
    this.store = join(parts.directory, "store");
    this.#configFile = join(parts.directory, "conntrail.yaml");
  }

  /** `host:port` of its broker. */
  get server(): string {
    return `${this.address}:${BROKER_PORT}`;
  }

  /** Makes namespace, link, configuration and agent. */
  async create(): Promise<void> {
    const { namespace, directory } = this.#parts;
    await namespace.create();
    await namespace.ip(["link set lo up"]);
    await this.link();
    await namespace.sysctl({ "net.netfilter.nf_conntrack_events": 1 });
    mkdirSync(directory, { mode: 0o700 });
    writeFileSync(this.#configFile, this.#config(), { mode: 0o600 });
    this.#agent = new Agent(namespace, join(directory, "agent.log"));
  }

  /** Makes its link to the bridge; once more after `sync0` was deleted. */
  async link(): Promise<void> {
    const { namespace, hub } = this.#parts;
    await hub.ip([
      `link add ${this.#port} type veth peer name sync0 netns ${namespace.name}`,
      `link set ${this.#port} master br0`,
      `link set ${this.#port} up`,
    ]);
    await namespace.ip([`addr add ${this.address}/24 dev sync0`, "link set sync0 up"]);
  }

  get #port(): string {
    return `p${this.number}`;
  }

  #config(): string {
    const { nodes, options } = this.#parts;
    const peers = Array.from({ length: nodes }, (_, index) => index + 1)
      .filter((number) => number !== this.number)
      .map((number) => `n${number}: ${addressOf(number)}`);
    const { maxBytes = "64MiB", publishInterval, purgeAfter = "1h", netlinkBuffer } = options;
    const lines = [
      "cluster: chaos",
      `node: ${this.name}`,
      `listen: ${this.address}`,
      `peers: { ${peers.join(", ")} }`,
      `broker: { mode: embedded, port: ${BROKER_PORT}, store: ${this.store}, max_age: 1h, max_bytes: ${maxBytes} }`,
      `control: ${this.control}`,
      `purge: { after: ${purgeAfter} }`,
      // Without keys, the tests' own clients can look into the brokers, and break them.
      options.keys === true ? KEYS_LINE : "tls: false",
    ];
    if (publishInterval !== undefined) lines.push(`publish: { interval: ${publishInterval} }`);
    if (netlinkBuffer !== undefined) {
      lines.push(`netlink: { buffer: ${netlinkBuffer[0]}, buffer_max: ${netlinkBuffer[1]} }`);
    }
    const keyOf = (line: string): string => line.slice(0, line.indexOf(":"));
    const more = options.configure?.(this.number) ?? [];
    const replaced = new Set(more.map(keyOf));
    return `${[...lines.filter((line) => !replaced.has(keyOf(line))), ...more].join("\n")}\n`;
  }

  /** Starts a process of the test's own in its namespace; it ends with the cluster. */
  spawn(title: string, file: string, ...args: string[]): LineProcess {
    const { namespace, directory } = this.#parts;
    return namespace.spawn(title, file, args, join(directory, `${title}.log`));
  }

  /** Runs a command in its namespace and gives what it printed. */
  exec(file: string, ...args: string[]): Promise<string> {
    return this.#parts.namespace.exec(file, args);
  }

  get namespace(): Namespace {
    return this.#parts.namespace;
  }

  /** bin/conntrail. */
  get program(): string {
    return this.#parts.program;
  }

  /** Its configuration. */
  get configFile(): string {
    return this.#configFile;
  }

  /** Where its files are. */
  get directory(): string {
    return this.#parts.directory;
  }

  // The daemon.

  /** Starts the daemon of `program`, `bin/conntrail` unless said; `ready` tells when it works. */
  start(program: readonly string[] = [this.program]): void {
    if (this.daemon?.running === true) throw new Error(`${this.name} runs already`);
    const { namespace, directory, options } = this.#parts;
    const offsetMs = options.clockOffsetMs?.(this.number) ?? 0;
    const skew = [`NODE_OPTIONS=--import=${SKEWED_CLOCK}`, `CLOCK_OFFSET_MS=${offsetMs}`];
    const daemon = [...(offsetMs === 0 ? [] : skew), ...program, "daemon", "-c", this.#configFile];
    const command =
      options.user !== undefined
        ? this.#asUser(options.user, daemon)
        : options.storeBytes === undefined
          ? ["env", ...daemon]
          : this.#withOwnStore(options.storeBytes, daemon);
    this.daemon = namespace.spawn(this.name, command[0]!, command.slice(1), join(directory, "daemon.log"));
  }

  #asUser(user: number, daemon: readonly string[]): string[] {
    // As systemd gives RuntimeDirectory and StateDirectory to the user.
    execFileSync("chown", ["-R", `${user}:${user}`, this.#parts.directory]);
    const caps = "-all,+net_admin,+sys_nice";
    const bounds = [`--inh-caps=${caps}`, `--ambient-caps=${caps}`, `--bounding-set=${caps}`, "--no-new-privs"];
    const who = [`--reuid=${user}`, `--regid=${user}`, "--clear-groups"];
    const script = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && umask 0077 && exec "$@"';
    return ["unshare", "--mount", "sh", "-c", script, "sh", "setpriv", ...who, ...bounds, "env", ...daemon];
  }

  /** A mount in a namespace of the daemon's own, so that nothing has to be unmounted. */
  #withOwnStore(bytes: number, daemon: readonly string[]): string[] {
    mkdirSync(this.store, { recursive: true, mode: 0o700 });
    const script = `mount -t tmpfs -o size=${bytes} store "$0" && exec env "$@"`;
    return ["unshare", "--mount", "sh", "-c", script, this.store, ...daemon];
  }

  /** Fills the store's own file system to the last byte; gives the file whose removal makes room again. */
  fillStore(): string {
    const file = `/proc/${this.#running.pid}/root${this.store}/filler`;
    fillDisk(file);
    return file;
  }

  /** Resolves when the daemon says that it is ready. */
  async ready(timeoutMs = 30_000): Promise<void> {
    await this.#running.waitForLine("ready", timeoutMs, (line) => logEntry(line)?.msg === "ready" || undefined);
  }

  get #running(): LineProcess {
    if (this.daemon === null) throw new Error(`${this.name} has not been started`);
    return this.daemon;
  }

  /** SIGTERM; resolves with the exit code. */
  async stop(): Promise<number> {
    return this.#running.stop(20_000);
  }

  /** SIGKILL; resolves when it and its broker are gone. */
  async kill9Daemon(): Promise<void> {
    this.#running.kill();
    await this.#running.exited;
    await waitFor(`the broker of ${this.name} gone with its daemon`, BROKER_TIMEOUT_MS, () => this.brokerPid === null, {
      intervalMs: 5,
    });
  }

  /** SIGKILL; resolves when the daemon has started another. */
  async kill9Broker(): Promise<void> {
    const pid = this.brokerPid;
    if (pid === null) throw new Error(`${this.name} has no broker`);
    signal(pid, "SIGKILL");
    await waitFor(`another broker of ${this.name}`, BROKER_TIMEOUT_MS, () => ![null, pid].includes(this.brokerPid));
  }

  /** SIGKILL, the broker first, so that each dies without the other's help. */
  async kill9Both(): Promise<void> {
    const pid = this.brokerPid;
    if (pid !== null) signal(pid, "SIGKILL");
    await this.kill9Daemon();
  }

  /** As a power failure: nothing says goodbye, for everything is frozen and the link is down before anything dies. */
  async die(): Promise<void> {
    const pids = this.#parts.namespace.pids().filter((pid) => pid !== this.#agent?.pid);
    for (const pid of pids) signal(pid, "SIGSTOP");
    await this.cutLink();
    for (const pid of pids) signal(pid, "SIGKILL");
    await this.#running.exited;
  }

  /** Process id of the broker, or null. */
  get brokerPid(): number | null {
    return this.#parts.namespace.pids().find((pid) => commandOf(pid) === "nats-server") ?? null;
  }

  /** Freezes the broker, as a hung disk does. */
  pauseBroker(): void {
    signal(this.brokerPid ?? 0, "SIGSTOP");
  }

  resumeBroker(): void {
    signal(this.brokerPid ?? 0, "SIGCONT");
  }

  /** The names of the processes in its namespace, the agent left out. */
  processes(): string[] {
    return this.#parts.namespace
      .pids()
      .filter((pid) => pid !== this.#agent?.pid)
      .map(commandOf);
  }

  /** Resident memory of the daemon in bytes. */
  get daemonBytes(): number {
    const status = readFileSync(`/proc/${this.#running.pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
  }

  /** What the daemon has logged as a warning or worse, or not as a log at all; the last of it. */
  complaints(count = 5): string[] {
    const bad = (this.daemon?.lines ?? []).filter((line) => Number(logEntry(line)?.level ?? 40) >= 40);
    return bad.slice(-count);
  }

  // The link and the store.

  async cutLink(): Promise<void> {
    await this.#parts.hub.ip([`link set ${this.#port} down`]);
  }

  async healLink(): Promise<void> {
    await this.#parts.hub.ip([`link set ${this.#port} up`]);
  }

  /** Removes the store; the daemon must be down. */
  wipeStore(): void {
    rmSync(this.store, { recursive: true });
  }

  /** Cuts so many bytes off the end of a stream's last block file; the daemon must be down. Gives what was cut. */
  truncateStream(name: string, bytes: number): number {
    const directory = join(this.store, "jetstream", "$G", "streams", name, "msgs");
    const blocks = readdirSync(directory).filter((file) => file.endsWith(".blk"));
    const last = blocks.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).at(-1);
    if (last === undefined) throw new Error(`${name} has no block in ${directory}`);
    const file = join(directory, last);
    const { size } = statSync(file);
    truncateSync(file, Math.max(0, size - bytes));
    return Math.min(size, bytes);
  }

  // What it says.

  request<C extends ReportCommand>(command: C, args: CommandArgs[C]): Promise<CommandReports[C]> {
    return requestReport(this.control, command, args);
  }

  status(): Promise<StatusReport> {
    return this.request("status", {});
  }

  stats(): Promise<StatsReport> {
    return this.request("stats", {});
  }

  /** One counter of `stats`; 0 where there is no such group or counter. */
  async counter(group: string, name: string): Promise<number> {
    return (await this.stats())[group]?.[name] ?? 0;
  }

  /** What keepalived would call. */
  hook(role: HookRole): Promise<HookReport> {
    return this.request("hook", { role });
  }

  /** A command of the command line, as a person types it. */
  conntrail(...args: string[]): Promise<CommandResult> {
    const { namespace, program } = this.#parts;
    return runCommand("ip", namespace.execArguments(program, [...args, "-c", this.#configFile]));
  }

  /** A table as the daemon has it. */
  async table(table: Exclude<FlowTableName, "kernel">): Promise<FlowMap> {
    const flows: FlowMap = new Map();
    for await (const { words } of requestDump(this.control, table)) flowMap(words, flows);
    return flows;
  }

  /** The kernel's table, read by the agent and not by the daemon. */
  async kernel(): Promise<FlowMap> {
    return flowMap(await this.#ask.ask("dump", null));
  }

  // Load.

  get #ask(): Agent {
    if (this.#agent === null) throw new Error(`${this.name} has not been created`);
    return this.#agent;
  }

  /** Makes, changes and destroys flows as fast as the kernel takes it; the kernel must accept every request. */
  async apply(...operations: BulkOperation[]): Promise<void> {
    const refused = await this.#ask.ask("apply", operations);
    if (Object.keys(refused).length > 0) {
      throw new Error(`${this.name}'s kernel refused ${JSON.stringify(refused)} of ${JSON.stringify(operations)}`);
    }
  }

  /** Starts a load that goes on until `stopLoad`. */
  async startLoad(options: LoadOptions): Promise<void> {
    await this.#ask.ask("startLoad", options);
    this.#loading = true;
  }

  /** Resolves when the load has done so many more operations. */
  async loadGoesOn(operations: number): Promise<void> {
    const wanted = (await this.#ask.ask("progress", null)) + operations;
    const what = `${operations} operations more of the load on ${this.name}`;
    await waitFor(what, LOAD_TIMEOUT_MS, async () => (await this.#ask.ask("progress", null)) >= wanted, {
      intervalMs: 5,
    });
  }

  /** Ends the load and tells what the kernel must hold of its range. Throws when the kernel refused any of it. */
  async stopLoad(): Promise<LoadTruth> {
    this.#loading = false;
    const truth = await this.#ask.ask("stopLoad", null);
    if (Object.keys(truth.refused).length > 0) {
      throw new Error(`${this.name}'s kernel refused some of the load: ${JSON.stringify(truth.refused)}`);
    }
    return truth;
  }

  get loading(): boolean {
    return this.#loading;
  }

  // The broker, seen by a client of the test's own.

  /** Streams and consumers of a node's broker, this one's unless said. */
  streams(server = this.server): Promise<readonly StreamView[]> {
    return this.#ask.ask("streams", { server });
  }

  /** The marks in a node's stream on this node's broker. */
  marks(node = this.name, server = this.server): Promise<readonly MarkView[]> {
    return this.#ask.ask("marks", { server, node });
  }

  /** The format versions of the last messages of a node's stream on this node's broker. */
  versions(count: number, node = this.name): Promise<readonly unknown[]> {
    return this.#ask.ask("versions", { server: this.server, node, configFile: null, count });
  }

  async deleteStream(name: string): Promise<void> {
    await this.#ask.ask("deleteStream", { server: this.server, name });
  }

  /** Stores a message in a stream of its broker, as anybody on the link can. */
  async storeMessage(node: string, kind: string, payload: Uint8Array): Promise<void> {
    const args = { server: this.server, node, kind, payload: Buffer.from(payload).toString("base64") };
    await this.#ask.ask("storeMessage", args);
  }

  /** Resolves when nothing of it runs any more; the cluster has killed it. */
  async gone(): Promise<void> {
    await Promise.all([this.daemon?.exited, this.#agent?.exited]);
  }
}

function addressOf(number: number): string {
  return `10.77.0.${number}`;
}

/** Name of a process, empty when it has ended. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}

/** A line of the daemon's log as an object; undefined when it is something else. */
function logEntry(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
