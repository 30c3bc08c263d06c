import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import { parseDuration } from "../config/units.js";
import { requestDump } from "../control/client.js";
import type { PeerStatus, StatsReport, StatusReport } from "../control/protocol.js";
import { ConntrailError } from "../errors.js";
import { formatAddress } from "../flow/address.js";
import { RECORD_WORDS, W_ORIG_SRC } from "../flow/record.js";
import { familyOf } from "../flow/record-fields.js";
import type { CommandContext } from "./command/command.js";
import { formatColumns, formatMs } from "./process/terminal.js";

const INTERVAL = "2s";
const INTERVAL_MS_MIN = 500;
/** A larger table is not read for its busiest hosts: that would be work for the daemon at every interval. */
const HOSTS_FLOWS_MAX = 200_000;
const HOSTS_SHOWN = 10;

/** The state of a node at a time. */
export interface TopSample {
  readonly atMs: number;
  readonly status: StatusReport;
  readonly stats: StatsReport;
  /** Sources with the most flows; null: the table was too large to be read. */
  readonly hosts: readonly HostFlows[] | null;
}

/** How many flows a source has. */
export interface HostFlows {
  readonly host: string;
  readonly flows: number;
}

/** `top`: nodes, roles, lag, rates and busiest hosts, live; once where standard output is no terminal. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("top")
    .description("nodes, roles, lag, rates and busiest hosts, live; Ctrl-C ends it")
    .option("--interval <duration>", "time between two looks", INTERVAL)
    .option("--once", "print it once")
    .action((options: { interval: string; once?: boolean }) => top(options, context));
}

async function top({ interval, once }: { interval: string; once?: boolean }, context: CommandContext): Promise<void> {
  const intervalMs = parseDuration(interval);
  if (intervalMs === undefined || intervalMs < INTERVAL_MS_MIN) {
    throw new ConntrailError(
      "USAGE",
      `--interval: found "${interval}", allowed is a duration of at least 500ms, such as 2s`,
    );
  }
  const { terminal } = context;
  const isLive = terminal.isTerminal && once !== true && !context.json;
  let before = await sample(context);
  do {
    await delay(intervalMs, undefined, { signal: terminal.closed }).catch(() => terminal.throwIfClosed());
    const now = await sample(context);
    if (context.json) await terminal.json(ratesOf(now, before));
    else if (isLive) await terminal.screen(formatTop(now, before));
    else await terminal.write(formatTop(now, before));
    before = now;
  } while (isLive);
}

async function sample(context: CommandContext): Promise<TopSample> {
  const status = await context.ask("status", {});
  const stats = await context.ask("stats", {});
  const isOwn = status.internal.flows >= status.external.flows;
  const flows = isOwn ? status.internal.flows : status.external.flows;
  const hosts =
    flows > HOSTS_FLOWS_MAX ? null : await busiest(await context.controlPath(), isOwn ? "internal" : "external");
  return { atMs: performance.now(), status, stats, hosts };
}

async function busiest(control: string, table: "internal" | "external"): Promise<HostFlows[]> {
  const counts = new Map<string, number>();
  for await (const { words } of requestDump(control, table)) {
    for (let base = 0; base < words.length; base += RECORD_WORDS) {
      const host = formatAddress(words, base + W_ORIG_SRC, familyOf(words, base));
      counts.set(host, (counts.get(host) ?? 0) + 1);
    }
  }
  const hosts = [...counts].map(([host, flows]) => ({ host, flows }));
  return hosts.sort((a, b) => b.flows - a.flows || (a.host < b.host ? -1 : 1)).slice(0, HOSTS_SHOWN);
}

/** What happened in a second between two looks. */
export interface TopRates {
  readonly eventsPerSecond: number;
  readonly publishedPerSecond: number;
  readonly publishedBytesPerSecond: number;
  readonly peers: Readonly<Record<string, { readonly rowsPerSecond: number; readonly bytesPerSecond: number }>>;
}

/** The later sample as JSON, with its rates. */
function ratesOf(now: TopSample, before: TopSample): object {
  return { status: now.status, rates: rates(now, before), hosts: now.hosts };
}

/** The rates between two samples; 0 where a daemon has restarted in between. */
export function rates(now: TopSample, before: TopSample): TopRates {
  const seconds = Math.max(0.001, (now.atMs - before.atMs) / 1000);
  const perSecond = (group: string, name: string): number => {
    const grown = (now.stats[group]?.[name] ?? 0) - (before.stats[group]?.[name] ?? 0);
    return Math.max(0, grown) / seconds;
  };
  return {
    eventsPerSecond: perSecond("events", "eventsReceived"),
    publishedPerSecond: perSecond("publisher", "messages"),
    publishedBytesPerSecond: perSecond("publisher", "bytes"),
    peers: Object.fromEntries(
      now.status.peers.map(({ node }) => [
        node,
        { rowsPerSecond: perSecond(`reader.${node}`, "rows"), bytesPerSecond: perSecond(`reader.${node}`, "bytes") },
      ]),
    ),
  };
}

/** The page for a terminal. */
export function formatTop(now: TopSample, before: TopSample): string {
  const { status, hosts } = now;
  const { eventsPerSecond, publishedPerSecond, publishedBytesPerSecond, peers } = rates(now, before);
  const share = status.kernel.max === 0 ? "" : ` (${((status.kernel.entries / status.kernel.max) * 100).toFixed(1)} %)`;
  const head = formatColumns([
    ["node", `${status.node} of cluster ${status.cluster}`],
    ["role", status.role],
    ["in sync", status.inSync ? "yes" : `no${status.reason === null ? "" : `: ${status.reason}`}`],
    ["kernel", `${status.kernel.entries} of ${status.kernel.max} entries${share}, ${rate(eventsPerSecond)} events/s`],
    ["published", `${rate(publishedPerSecond)} messages/s, ${bytes(publishedBytesPerSecond)}/s`],
    ["caches", `internal ${status.internal.flows}, external ${status.external.flows} flows`],
  ]);
  const heading = ["NODE", "ROLE", "IN SYNC", "BEHIND", "LAG", "ROWS/S", "READ/S", "FLOWS", "CLOCK"];
  const rows = status.peers.map((peer) => peerRow(peer, peers[peer.node]));
  const reasons = status.peers.flatMap(({ node, reason }) => (reason === null ? [] : [`${node}: ${reason}\n`]));
  const table = rows.length === 0 ? "no peers\n" : formatColumns([heading, ...rows]);
  return `${head}\n${table}${reasons.join("")}\n${hostsText(hosts)}`;
}

function peerRow(peer: PeerStatus, read: TopRates["peers"][string] | undefined): string[] {
  return [
    peer.node,
    peer.role ?? "-",
    peer.inSync ? "yes" : "no",
    String(peer.lagEvents ?? "-"),
    formatMs(peer.lagMs),
    rate(read?.rowsPerSecond ?? 0),
    bytes(read?.bytesPerSecond ?? 0),
    String(peer.flows),
    peer.clockOffsetMs === null ? "-" : `${peer.clockOffsetMs > 0 ? "+" : ""}${Math.round(peer.clockOffsetMs)} ms`,
  ];
}

function hostsText(hosts: readonly HostFlows[] | null): string {
  if (hosts === null) return `more than ${HOSTS_FLOWS_MAX} flows: the busiest hosts are not looked for\n`;
  if (hosts.length === 0) return "no flows\n";
  return formatColumns([["HOST", "FLOWS"], ...hosts.map(({ host, flows }) => [host, String(flows)])]);
}

function rate(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

function bytes(value: number): string {
  if (value < 1000) return `${Math.round(value)} B`;
  return value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`;
}
