import { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { KEYS_LINE } from "../../../src/keys/config-line.js";
import type { Firewall } from "../../../src/lab/firewall.js";
import { Lab } from "../../../src/lab/lab.js";
import { signal } from "../../../src/lab/leftover.js";
import { type CommandResult, type LineProcess, projectRoot, runCommand, waitFor } from "../../../src/lab/process.js";
import { MARK_TCP, MARK_UDP } from "../../../src/lab/ruleset.js";
import { END_HOST, ipv4, ipv6, LAN, ROUTED, SYNC, VIRTUAL_HOST, WAN } from "../../../src/lab/topology.js";
import type { AskerQuestion, AskerQuestions, AskerRequest, AskerResponse } from "./asker-protocol.js";
import { Child } from "./child.js";
import {
  LED_PORT,
  TRAFFIC_PORT,
  type TrafficAnswer,
  type TrafficCommand,
  type TrafficFlow,
} from "./traffic-protocol.js";

/** Short, so that connections end soon after their last packet. */
export const TIMEOUT_MS = { fin: 1000, reset: 1000, udp: 2000, icmp: 1000 } as const;
/** `commit.timeout`: what a flow has left at the least on the node that took it over. */
export const COMMIT_TIMEOUT_MS = 4000;
/** The kernel's collector comes by once a minute at the least; a dump takes out what has timed out. */
const SWEEP_SECONDS = 0.2;
/** Marks of connections, by protocol; of those that are led to the inside another. */
export const MARKS = { tcp: MARK_TCP, udp: MARK_UDP, icmp: 0, icmpv6: 0, led: 0x30 } as const;

/** How exact a machine under its load can be, measured. */
export interface Margins {
  /** From a packet's way through the kernel until its event has a stamp in the stream. */
  readonly eventMs: number;
  /** From the time at which the kernel gives an entry up until it is taken out. */
  readonly sweepMs: number;
  /** Whether an end has sent a segment of TCP again, which a firewall counts twice. */
  readonly sentAgain: boolean;
}

/** What else a margin holds: a publication's interval, a client's look at its clock. */
const EVENT_MS_MIN = 150;
/** What was measured at ends on two nodes stands for all events of all. */
const LAG_FACTOR = 2;

const OBSERVER_HOST = 9;
const READY_MS = 30_000;
const TAKEOVER_MS = 30_000;

/** A change of the primary, as seen from outside. */
export interface Failover {
  readonly from: string;
  readonly to: string;
  /** Before anything was done. */
  readonly startMs: number;
  /** The new primary has committed. */
  readonly endMs: number;
}

/** Where a history can be asked. */
export interface Place {
  readonly name: string;
  conntrail(...args: string[]): Promise<CommandResult>;
  ask<Q extends AskerQuestion>(question: Q, args: AskerQuestions[Q]["args"]): Promise<AskerQuestions[Q]["answer"]>;
}

/**
 * Three firewalls with keepalived and conntrail, an observer on the dedicated link, and traffic whose ends know the truth. fw1 and fw3
 * count and time their connections, fw2 does not.
 */
export class Scene implements AsyncDisposable {
  readonly lab: Lab;
  readonly failovers: Failover[] = [];
  readonly observer: Place;
  readonly #children: AsyncDisposable[] = [];
  readonly #places = new Map<string, Place>();
  /** Inside, then outside. */
  readonly #traffic: readonly Child<TrafficCommand, TrafficAnswer>[];
  readonly #follow: string;
  readonly #observerConfig: string;
  /** The observer's configuration with an archive in it, for commands. */
  readonly #archiveConfig: string;
  #observerDaemon: LineProcess | undefined;
  #follower: LineProcess | undefined;
  #archiver: LineProcess | undefined;

  private constructor(lab: Lab) {
    this.lab = lab;
    const { client, server } = lab.topology;
    this.#traffic = [
      new Child(client, "traffic-client.js", [], join(lab.directory, "traffic-client.log")),
      new Child(server, "traffic-client.js", ["outside"], join(lab.directory, "traffic-outside.log")),
    ];
    this.#children.push(...this.#traffic);
    this.#follow = join(lab.directory, "follow.ndjson");
    this.#archiveConfig = join(lab.directory, "observer-archive.yaml");
    this.#observerConfig = join(lab.directory, "observer.yaml");
    this.observer = this.#place("observer", OBSERVER_HOST, lab.topology.switch, this.#observerConfig);
  }

  static async start(): Promise<Scene> {
    const lab = await Lab.create({ firewalls: 3, observer: ipv4(SYNC, OBSERVER_HOST) });
    const scene = new Scene(lab);
    try {
      await scene.#prepare();
      return scene;
    } catch (error) {
      await scene[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #prepare(): Promise<void> {
    const { client, server, switch: hub } = this.lab.topology;
    await client.sysctl({ "net.ipv4.tcp_tw_reuse": 1 });
    for (const firewall of this.lab.firewalls) {
      const measures = firewall.number === 2 ? 0 : 1;
      await firewall.namespace.sysctl({
        "net.netfilter.nf_conntrack_acct": measures,
        "net.netfilter.nf_conntrack_timestamp": measures,
        "net.netfilter.nf_conntrack_tcp_timeout_time_wait": TIMEOUT_MS.fin / 1000,
        "net.netfilter.nf_conntrack_tcp_timeout_close": TIMEOUT_MS.reset / 1000,
        "net.netfilter.nf_conntrack_udp_timeout": TIMEOUT_MS.udp / 1000,
        "net.netfilter.nf_conntrack_udp_timeout_stream": TIMEOUT_MS.udp / 1000,
        "net.netfilter.nf_conntrack_icmp_timeout": TIMEOUT_MS.icmp / 1000,
        "net.netfilter.nf_conntrack_icmpv6_timeout": TIMEOUT_MS.icmp / 1000,
      });
      appendFileSync(firewall.configFile, `commit: { timeout: ${COMMIT_TIMEOUT_MS / 1000}s }\n`);
      firewall.namespace.spawn("sweep", "bash", ["-c", SWEEP], sweepLog(firewall));
      await firewall.namespace.exec("nft", ["-f", "-"], LEADING);
    }
    await hub.ip([`addr add ${ipv4(SYNC, OBSERVER_HOST)}/24 dev sync`]);
    await hub.ip(["link set lo up"]);
    await server.exec("nft", ["-f", "-"], SEEN_PINGS);
    const addresses = [WAN, ROUTED].flatMap((network) => [ipv4(network, END_HOST), ipv6(network, END_HOST)]);
    const script = fileURLToPath(new URL("traffic-server.js", import.meta.url));
    const log = join(this.lab.directory, "traffic-server.log");
    const listening = server.spawn("traffic-server", process.execPath, [script, ...addresses], log);
    const insideLog = join(this.lab.directory, "traffic-inside.log");
    const inside = client.spawn("traffic-server inside", process.execPath, [script], insideLog);
    this.#writeObserver();
    this.startObserver();
    await Promise.all([
      ...[listening, inside].map((child) =>
        child.waitForLine("it listens", READY_MS, (line) => line === "listening" || undefined),
      ),
      this.lab.startDaemons(READY_MS),
      this.observerReady(),
    ]);
    await this.lab.startKeepalived((firewall) => firewall.conntrailHooks());
    await this.inSync();
  }

  #writeObserver(): void {
    const { firewalls, directory } = this.lab;
    const peers = firewalls.map(({ name, number }) => `${name}: ${ipv4(SYNC, number)}`).join(", ");
    const place = join(directory, "observer");
    mkdirSync(place, { mode: 0o700 });
    const config = `cluster: lab
node: observer
mode: observer
listen: ${ipv4(SYNC, OBSERVER_HOST)}
peers: { ${peers} }
broker: { mode: embedded, port: 4222, store: ${join(place, "store")}, max_age: 1h, max_bytes: 64MiB }
control: ${join(place, "control.sock")}
${KEYS_LINE}
`;
    writeFileSync(this.#observerConfig, config);
    writeFileSync(this.#archiveConfig, `${config}archive: { dir: ${join(directory, "archive")} }\n`);
  }

  #place(name: string, host: number, namespace: Firewall["namespace"], config: string): Place {
    const { directory } = this.lab;
    let asker: Child<AskerRequest, AskerResponse> | null = null;
    return {
      name,
      conntrail: (...args) => {
        const program = join(projectRoot(), "bin", "conntrail");
        return runCommand("ip", namespace.execArguments(program, [...args, "-c", config]));
      },
      ask: async <Q extends AskerQuestion>(question: Q, args: AskerQuestions[Q]["args"]) => {
        const server = `${ipv4(SYNC, host)}:4222`;
        if (asker === null) {
          asker = new Child(namespace, "asker.js", [server, name, config], join(directory, `${name}-asker.log`));
          this.#children.push(asker);
        }
        const { answer, error } = await asker.ask({ question, args });
        if (error !== undefined) throw new Error(`${name}, ${question}: ${error}`);
        return answer as AskerQuestions[Q]["answer"];
      },
    };
  }

  /** A firewall as a place to ask. */
  place({ name, number, namespace, configFile }: Firewall): Place {
    const place = this.#places.get(name) ?? this.#place(name, number, namespace, configFile);
    this.#places.set(name, place);
    return place;
  }

  firewall(name: string): Firewall {
    const found = this.lab.firewalls.find((firewall) => firewall.name === name);
    if (found === undefined) throw new Error(`no firewall ${name}`);
    return found;
  }

  // The daemons.

  startObserver(): void {
    const { switch: hub } = this.lab.topology;
    const program = join(projectRoot(), "bin", "conntrail");
    const log = join(this.lab.directory, "observer", "daemon.log");
    this.#observerDaemon = hub.spawn("observer", program, ["daemon", "-c", this.#observerConfig], log);
  }

  async observerReady(): Promise<void> {
    await this.#observerDaemon?.waitForLine("ready", READY_MS, (line) => line.includes('"msg":"ready"') || undefined);
  }

  async stopObserver(): Promise<void> {
    await this.#observerDaemon?.stop(20_000);
  }

  /** `conntrail` on the observer, which knows of the archive there. */
  withArchive(...args: string[]): Promise<CommandResult> {
    const program = join(projectRoot(), "bin", "conntrail");
    const { switch: hub } = this.lab.topology;
    return runCommand("ip", hub.execArguments(program, [...args, "-c", this.#archiveConfig]));
  }

  /** The observer follows the history from now on. */
  startFollowing(): void {
    const now = new Date().toISOString();
    this.#follower = this.#onObserver(
      "follow",
      ["history", "--follow", "--since", now, "--format", "ndjson"],
      this.#follow,
    );
  }

  /** What it was told, a line each. */
  async stopFollowing(): Promise<string> {
    await this.#follower?.stop();
    return readFileSync(this.#follow, "utf8");
  }

  startArchiver(): void {
    const log = join(this.lab.directory, "archiver.log");
    this.#archiver = this.#onObserver("archiver", ["archive", "--follow"], log);
  }

  /** In good order, or as by a failure. */
  async stopArchiver(how: "stop" | "kill"): Promise<void> {
    await this.#archiver?.[how]();
    await this.#archiver?.exited;
  }

  #onObserver(title: string, args: readonly string[], log: string): LineProcess {
    const program = join(projectRoot(), "bin", "conntrail");
    return this.lab.topology.switch.spawn(title, program, [...args, "-c", this.#archiveConfig], log);
  }

  /** How late things have been so far. */
  async margins(): Promise<Margins> {
    const lagMs = await this.observer.ask("lag", null);
    const gaps = this.lab.firewalls.flatMap((firewall) => {
      const times = readFileSync(sweepLog(firewall), "utf8").split("\n").map(Number);
      return times.slice(1, -1).map((time, i) => 1000 * (time - times[i]!));
    });
    // What times out as a dump passes is found by the next one.
    const sweepMs = 2 * Math.ceil(Math.max(...gaps));
    const { client, server } = this.lab.topology;
    const counts = await Promise.all([client, server].map((end) => end.exec("cat", ["/proc/net/snmp"])));
    const sentAgain = counts.some((text) => retransmissions(text) > 0);
    return { eventMs: EVENT_MS_MIN + Math.ceil(LAG_FACTOR * lagMs), sweepMs, sentAgain };
  }

  /** Waits until the observer, and each of these firewalls, is in sync with the rest. */
  async inSync(firewalls: readonly Firewall[] = this.lab.firewalls): Promise<void> {
    const places = [this.observer, ...firewalls.map((firewall) => this.place(firewall))];
    await Promise.all(
      places.map((place) =>
        waitFor(`${place.name} in sync`, READY_MS, async () => (await place.conntrail("status")).code === 0),
      ),
    );
  }

  /** keepalived on the primary ends in good order, or the whole node goes as by a power failure; waits for the next one's commit. */
  async failOver(kind: "handOver" | "cut"): Promise<Failover> {
    const from = await this.lab.waitPrimary(TAKEOVER_MS);
    const commits = new Map(this.lab.firewalls.map((firewall) => [firewall, firewall.commits().length]));
    const startMs = Date.now();
    await from[kind]();
    // As notify_stop would: keepalived itself is silent when it ends, and a daemon that still took itself for the primary would claim
    // what its kernel has when it starts anew.
    if (kind === "handOver") await from.conntrail("hook", "backup");
    const to = await this.lab.waitPrimary(TAKEOVER_MS, from);
    await waitFor("the commit", TAKEOVER_MS, () => to.commits().length > (commits.get(to) ?? 0), { intervalMs: 10 });
    const failover = { from: from.name, to: to.name, startMs, endMs: Date.now() };
    this.failovers.push(failover);
    await this.traffic({ type: "phase" });
    return failover;
  }

  /** Times that a firewall has become primary more than is due to the start and the failovers: the machine stood still for too long. */
  get takenOverByItself(): number {
    const times = this.lab.firewalls.map(({ directory }) => {
      const log = readFileSync(join(directory, "keepalived.log"), "utf8");
      return log.split("(lan) Entering MASTER STATE").length - 1;
    });
    return times.reduce((sum, count) => sum + count, 0) - 1 - this.failovers.length;
  }

  /** A node that was cut off boots again, with an empty table, and stays a backup without keepalived. */
  async boot(firewall: Firewall): Promise<void> {
    await firewall.run("conntrack", "-F");
    await firewall.namespace.ip(["link set sync0 up"]);
    firewall.startDaemon();
    await firewall.waitReady(READY_MS);
  }

  /** The process of a firewall's broker. */
  brokerPid(firewall: Firewall): number {
    const pid = firewall.namespace.pids().find((found) => commandOf(found) === "nats-server");
    if (pid === undefined) throw new Error(`${firewall.name} has no broker`);
    return pid;
  }

  signalBroker(firewall: Firewall, name: NodeJS.Signals): void {
    signal(this.brokerPid(firewall), name);
  }

  /** Its daemon ends for ever and its store goes. */
  async remove(firewall: Firewall): Promise<void> {
    await firewall.daemon?.stop(20_000);
    rmSync(join(firewall.directory, "store"), { recursive: true });
  }

  // The traffic.

  async traffic(command: TrafficCommand): Promise<readonly TrafficFlow[]> {
    const answers = await Promise.all(this.#traffic.map((child) => child.ask(command)));
    const error = answers.find((answer) => answer.error !== undefined)?.error;
    if (error !== undefined) throw new Error(`traffic, ${command.type}: ${error}`);
    const flows = answers.flatMap((answer) => answer.flows);
    if (command.type === "report") await this.#addPings(flows);
    return flows;
  }

  /** The server knows pings by their length, which each has of its own among those of its time. */
  async #addPings(flows: readonly TrafficFlow[]): Promise<void> {
    for (const [set, header, protocol] of [
      ["pings4", 28, "icmp"],
      ["pings6", 48, "icmpv6"],
    ] as const) {
      const text = await this.lab.topology.server.exec("nft", ["-j", "list", "set", "inet", "seen", set]);
      const listed = JSON.parse(text) as { nftables: { set?: { elem?: { concat: [string, number, number] }[] } }[] };
      const elements = listed.nftables.flatMap((entry) => entry.set?.elem ?? []);
      for (const { concat } of elements) {
        const [address, port, length] = concat;
        const flow = flows.find((found) => found.protocol === protocol && found.bytesSent + header === length);
        if (flow !== undefined) flow.public = { address, port };
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab.close();
    for (const child of this.#children) await child[Symbol.asyncDispose]();
  }
}

/** RetransSegs of /proc/net/snmp: a line of names, and one of values. */
function retransmissions(snmp: string): number {
  const [names = [], values = []] = snmp
    .split("\n")
    .flatMap((line) => (line.startsWith("Tcp:") ? [line.split(" ")] : []));
  return Number(values[names.indexOf("RetransSegs")]);
}

const SWEEP = `while :; do conntrack -L >/dev/null 2>&1; echo $EPOCHREALTIME; sleep ${SWEEP_SECONDS}; done`;

function sweepLog({ directory }: Firewall): string {
  return join(directory, "sweep.log");
}

const LEADING = `
insert rule inet lab forward iifname "wan0" oifname "lan0" ct status dnat tcp flags & (fin | syn | rst | ack) == syn ct mark set ${MARKS.led} accept
table ip leading {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "wan0" ip daddr ${ipv4(WAN, VIRTUAL_HOST)} tcp dport ${LED_PORT} dnat to ${ipv4(LAN, END_HOST)}:${TRAFFIC_PORT}
  }
}
`;

const SEEN_PINGS = `
table inet seen {
  set pings4 { typeof ip saddr . icmp id . meta length; flags dynamic; size 10000; }
  set pings6 { typeof ip6 saddr . icmpv6 id . meta length; flags dynamic; size 10000; }
  chain input {
    type filter hook input priority filter; policy accept;
    icmp type echo-request add @pings4 { ip saddr . icmp id . meta length }
    icmpv6 type echo-request add @pings6 { ip6 saddr . icmpv6 id . meta length }
  }
}
`;

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}
