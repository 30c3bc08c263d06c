import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { requestDump, requestReport } from "../../src/control/client.js";
import type { PeerStatus, StatusReport } from "../../src/control/protocol.js";
import { KEYS_LINE } from "../../src/keys/config-line.js";
import { BROKER_PORT, type Firewall } from "../../src/lab/firewall.js";
import { signal } from "../../src/lab/leftover.js";
import type { Namespace } from "../../src/lab/namespace.js";
import { type LineProcess, projectRoot, runCommand, waitFor } from "../../src/lab/process.js";
import { ipv4, ipv6, LAN, SYNC, VIRTUAL_HOST, WAN } from "../../src/lab/topology.js";
import { Agent } from "../support/cluster/agent-client.js";
import { fillDisk } from "../support/full-disk.js";
import { type FlowTable, flowTable } from "./flow-table.js";

/** The networks that a firewall of the laboratory is plugged into. */
export type Plug = "lan" | "wan" | "sync";

const PLUGS: readonly Plug[] = ["lan", "wan", "sync"];
/** Each stream may take the 16 MiB that are the least, so a disk that nobody fills has room. */
const STORE_BYTES = 64 * 1024 * 1024;
/** A daemon that works answers sooner; one that does not claims nothing. */
const ANSWER_MS_MAX = 1500;
const READY_MS_MAX = 60_000;
const BROKER_MS_MAX = 20_000;
/**
 * `peer_timeout`: how long evidence may be old. The soak holds `status` to 2 s, the shortest that can be configured; with
 * the default of 3 s it promises 3 s.
 */
const PEER_TIMEOUT = "2s";
const PURGE_AFTER = "20s";

/** A firewall of the soak's laboratory, and the ways in which it fails. */
export class SoakNode {
  readonly firewall: Firewall;
  /** False while its daemon is down on purpose. */
  isMeantToRun = false;
  hasPower = true;
  readonly #switch: Namespace;
  readonly #control: string;
  readonly #keeper: LineProcess;
  readonly #agent: Agent;

  private constructor(firewall: Firewall, network: Namespace, keeper: LineProcess) {
    this.firewall = firewall;
    this.#switch = network;
    this.#control = join(firewall.directory, "control.sock");
    this.#keeper = keeper;
    this.#agent = new Agent(firewall.namespace, join(firewall.directory, "agent.log"));
  }

  /**
   * Adds what the soak needs to a firewall that was built: a small file system for the store, which outlives daemons, and an
   * agent. `network`: the laboratory's switch.
   */
  static async create(firewall: Firewall, network: Namespace): Promise<SoakNode> {
    const config = readFileSync(firewall.configFile, "utf8")
      .replace("max_bytes: 64MiB", "max_bytes: 16MiB")
      // With keys nobody could poison a stream.
      .replace(KEYS_LINE, "tls: false");
    writeFileSync(firewall.configFile, `${config}peer_timeout: ${PEER_TIMEOUT}\npurge: { after: ${PURGE_AFTER} }\n`);
    await firewall.namespace.sysctl(SHORT_TIMEOUTS);
    const store = join(firewall.directory, "store");
    // The mount belongs to a mount namespace of its own, which ends with its last process: nothing has to be unmounted.
    const script = `mkdir -p "$0" && mount -t tmpfs -o size=${STORE_BYTES} store "$0" && echo mounted && exec sleep infinity`;
    const keeper = firewall.namespace.spawn(
      `keeper of ${firewall.name}`,
      "unshare",
      ["--mount", "sh", "-c", script, store],
      join(firewall.directory, "keeper.log"),
    );
    await keeper.waitForLine("its mount", BROKER_MS_MAX, (line) => line === "mounted" || undefined);
    return new SoakNode(firewall, network, keeper);
  }

  get name(): string {
    return this.firewall.name;
  }

  /** The store as this process sees it. */
  get store(): string {
    return `/proc/${this.#keeper.pid}/root${join(this.firewall.directory, "store")}`;
  }

  // The daemon and its broker.

  /** Starts the daemon; `ready` tells when it works. */
  start(): void {
    const program = join(projectRoot(), "bin", "conntrail");
    this.isMeantToRun = true;
    this.firewall.daemon = this.firewall.namespace.spawn(
      `conntrail ${this.name}`,
      "nsenter",
      [`--mount=/proc/${this.#keeper.pid}/ns/mnt`, "--", program, "daemon", "-c", this.firewall.configFile],
      join(this.firewall.directory, "daemon.log"),
    );
  }

  /** Resolves when the daemon says that it is ready. */
  async ready(): Promise<void> {
    await this.#daemon.waitForLine("ready", READY_MS_MAX, (line) => line.includes('"msg":"ready"') || undefined);
  }

  get #daemon(): LineProcess {
    if (this.firewall.daemon === undefined) throw new Error(`${this.name} has not been started`);
    return this.firewall.daemon;
  }

  /** True when its daemon ended without being told to. */
  get hasEnded(): boolean {
    return this.isMeantToRun && !this.#daemon.running;
  }

  get daemonPid(): number {
    return this.#daemon.pid ?? 0;
  }

  /** Process id of the broker, or null. */
  get brokerPid(): number | null {
    return this.firewall.namespace.pids().find((pid) => commandOf(pid) === "nats-server") ?? null;
  }

  /** SIGTERM, as systemd does. */
  async stop(): Promise<void> {
    this.isMeantToRun = false;
    await this.#daemon.stop(BROKER_MS_MAX);
  }

  /** SIGKILL; resolves when it and its broker are gone. */
  async kill(): Promise<void> {
    this.isMeantToRun = false;
    this.#daemon.kill();
    await this.#daemon.exited;
    await waitFor(`the broker of ${this.name} gone with its daemon`, BROKER_MS_MAX, () => this.brokerPid === null);
  }

  /** SIGKILL, the broker first, so that neither helps the other to an orderly end. */
  async killBoth(): Promise<void> {
    this.isMeantToRun = false;
    const pid = this.brokerPid;
    if (pid !== null) signal(pid, "SIGKILL");
    await this.kill();
  }

  /** Fills the store's file system; the returned function makes room again. */
  fillStore(): () => void {
    const filler = join(this.store, "filler");
    fillDisk(filler);
    return () => rmSync(filler, { force: true });
  }

  // Power and links.

  /** Plugs cables of its switch in or out. */
  async plug(state: "up" | "down", ...plugs: readonly Plug[]): Promise<void> {
    await this.#switch.ip(plugs.map((plug) => `link set ${this.name}-${plug} ${state}`));
  }

  /** Drops what comes in, or goes out, on the dedicated link: all of it, or to and from one other node. */
  async dropOnLink(direction: "in" | "out", other: SoakNode | null): Promise<() => Promise<void>> {
    const [hook, device, side] = direction === "in" ? ["input", "iifname", "saddr"] : ["output", "oifname", "daddr"];
    const match = other === null ? "" : ` ip ${side} ${ipv4(SYNC, other.firewall.number)}`;
    const rules = `table inet soak { chain loss { type filter hook ${hook} priority -10; ${device} "sync0"${match} drop; }; }`;
    await this.firewall.namespace.exec("nft", ["-f", "-"], rules);
    return async () => void (await this.firewall.namespace.exec("nft", ["delete", "table", "inet", "soak"]));
  }

  /** A power cut: everything is frozen, cables are dead, then nothing lives any more. */
  async cutPower(): Promise<void> {
    this.isMeantToRun = false;
    this.hasPower = false;
    const spared = [this.#agent.pid, this.#keeper.pid];
    const pids = this.firewall.namespace.pids().filter((pid) => !spared.includes(pid));
    for (const pid of pids) signal(pid, "SIGSTOP");
    await this.plug("down", ...PLUGS);
    for (const pid of pids) signal(pid, "SIGKILL");
    await Promise.all([this.firewall.daemon?.exited, this.firewall.keepalived?.exited]);
  }

  /** The machine starts again: its kernel knows no connection, /run is empty, and the store is what `store` holds. */
  async restorePower(): Promise<void> {
    const { namespace } = this.firewall;
    for (const family of ["ipv4", "ipv6"]) await namespace.exec("conntrack", ["-F", "-f", family]);
    for (const [network, device] of [
      [LAN, "lan0"],
      [WAN, "wan0"],
    ] as const) {
      // What keepalived had no time to remove.
      for (const address of [`${ipv4(network, VIRTUAL_HOST)}/32`, `${ipv6(network, VIRTUAL_HOST)}/128`]) {
        await runCommand("ip", ["-n", namespace.name, "addr", "del", address, "dev", device]);
      }
    }
    for (const file of [`${this.#control}.hooks`, ...PID_FILES.map((name) => join(this.firewall.directory, name))]) {
      rmSync(file, { recursive: true, force: true });
    }
    await this.plug("up", ...PLUGS);
    this.hasPower = true;
    this.start();
    this.startKeepalived();
    await this.ready();
  }

  startKeepalived(): void {
    this.firewall.startKeepalived(this.firewall.conntrailHooks());
  }

  // What it says and what its kernel holds.

  /** What `status --json` prints; null when the daemon does not answer. */
  async status(): Promise<StatusReport | null> {
    const options = { signal: AbortSignal.timeout(ANSWER_MS_MAX) };
    return requestReport(this.#control, "status", {}, options).catch(() => null);
  }

  /** What its status says of a peer; null when it does not answer. */
  async statusOf(peer: SoakNode): Promise<PeerStatus | null> {
    return (await this.status())?.peers.find(({ node }) => node === peer.name) ?? null;
  }

  /** Its external cache; null when the daemon does not answer. */
  async external(): Promise<FlowTable | null> {
    const options = { signal: AbortSignal.timeout(ANSWER_MS_MAX) };
    try {
      const flows: FlowTable = new Map();
      for await (const { words } of requestDump(this.#control, "external", options)) flowTable(words, flows);
      return flows;
    } catch {
      return null;
    }
  }

  /** Its kernel's table, which the agent reads and not the daemon. */
  async kernel(): Promise<FlowTable> {
    return flowTable(await this.#agent.ask("dump", null));
  }

  /** Stores a message on its broker, in the stream of `node` or its copy. False when the broker does not take it. */
  async storeMessage(node: string, kind: string, payload: Uint8Array): Promise<boolean> {
    const server = `${ipv4(SYNC, this.firewall.number)}:${BROKER_PORT}`;
    const args = { server, node, kind, payload: Buffer.from(payload).toString("base64") };
    return this.#agent.ask("storeMessage", args).then(
      () => true,
      () => false,
    );
  }

  /** Calls a hook as a person would. */
  async hook(role: string): Promise<number> {
    return (await this.firewall.conntrail("hook", role)).code;
  }
}

/** keepalived's, of which it would believe that they are those of a running one. */
const PID_FILES = ["keepalived.pid", "vrrp.pid", "check.pid"];
/** Ended flows would otherwise fill the tables for two minutes. */
const SHORT_TIMEOUTS = {
  "net.netfilter.nf_conntrack_tcp_timeout_time_wait": 10,
  "net.netfilter.nf_conntrack_udp_timeout": 10,
  "net.netfilter.nf_conntrack_udp_timeout_stream": 20,
} as const;

/** Name of a process, empty when it has ended. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}
