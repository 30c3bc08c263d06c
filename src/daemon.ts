/**
 * The composition root. It builds a node from its configuration, starts the parts in order, and ends them in reverse
 * order. All other code gets its clock, logger and sockets from here.
 */
import { once } from "node:events";
import type { Logger } from "pino";
import { ExternalCache } from "./cache/external.js";
import { InternalCache } from "./cache/internal.js";
import type { Config } from "./config/config.js";
import { HookTrace } from "./control/hook-trace.js";
import type { ReloadReport } from "./control/protocol.js";
import { type ControlHandlers, type ControlServer, type NodeHandlers, serveControl } from "./control/server.js";
import { checkKernel, enableEvents, type KernelState } from "./ctnetlink/sysctl.js";
import { type ArchiveSupervisor, openArchive } from "./daemon/archive.js";
import { EndedLog } from "./daemon/ended-log.js";
import { earlierRoles, Hooks, readTrace } from "./daemon/hooks.js";
import { KeepalivedLink } from "./daemon/keepalived.js";
import { KernelSide, machineAddresses } from "./daemon/kernel-side.js";
import { LinkKeys } from "./daemon/link-keys.js";
import { metricsPages, openMetrics } from "./daemon/metrics.js";
import { configuredPeers, createDiscovery, reloadPeers, startDiscovery, watchCopies } from "./daemon/peers.js";
import { openRehearsal } from "./daemon/rehearsal.js";
import type { Reload } from "./daemon/reload.js";
import { reloadNode } from "./daemon/reload-node.js";
import { whenStarted } from "./daemon/start-wait.js";
import { NO_REHEARSAL, NO_STREAM, noPast, statisticsHandlers } from "./daemon/statistics.js";
import { type OwnBroker, openBroker, PublishedStream, readPast, watchStore } from "./daemon/streams.js";
import { Systemd, statusLine } from "./daemon/systemd.js";
import { peersMax, streamsMax } from "./discovery/announcement.js";
import { withDiscovered } from "./discovery/discovered-peers.js";
import type { Discovery } from "./discovery/discovery.js";
import { HybridClock } from "./flow/clock.js";
import { systemClock } from "./os/system-clock.js";
import { FORMATS, type Formats, versionNumbers } from "./stream/format/versions.js";
import { keptStreams } from "./stream/kept-streams.js";
import { passTurn } from "./sync/caught-up.js";
import { createHandlers, createObserverHandlers } from "./sync/handlers.js";
import { FirewallNode, type NodeOptions } from "./sync/node.js";
import { Peers } from "./sync/peers.js";
import { nodeCounters, Reports } from "./sync/reports.js";
import { TakeDown } from "./sync/take-down.js";

/** The daemon's connection to the process that runs it. */
export interface DaemonControls {
  /** The release, for the metrics. */
  readonly version: string;
  /** Aborted at SIGTERM or SIGINT: end cleanly. */
  readonly signal: AbortSignal;
  /** The parts that apply a changed configuration while they run. */
  readonly reload: Pick<Reload, "onReload">;
  /** Reads the configuration again, as SIGHUP does. Throws ConntrailError CONFIG when the file cannot be used. */
  reloadNow(): Promise<ReloadReport>;
  /** The control socket asks the daemon to end, as SIGTERM does. */
  stop(): void;
  /** Called once the node works. */
  ready?(): void;
}

/** Room for every table that this kernel allows, and for the ended flows that wait to be published. */
const FLOWS_MAX_FACTOR = 2;
/** Limit of flows of each peer on an observer, which has no kernel limit to follow. */
const OBSERVER_FLOWS_MAX = 4 * 1024 * 1024;

/** Least time between two snapshots that peers ask for, and the part of the own stream that they may take in a day. */
const SNAPSHOT_PAUSE_MS = 5000;
const SNAPSHOT_SHARE_A_DAY = 16;

/** What a node is started with. */
interface Given {
  readonly config: Config;
  readonly formats: Formats;
  readonly log: Logger;
  readonly controls: DaemonControls;
  readonly stopping: AbortSignal;
  readonly down: TakeDown;
}

/** A node whose control socket is open: no other daemon of its configuration runs. */
interface Footing extends Given {
  readonly hybridClock: HybridClock;
  readonly keys: LinkKeys;
  readonly control: ControlServer;
  /** Null: no service manager listens. */
  readonly systemd: Systemd | null;
  /** Answers requests with these handlers from now on, and serves metrics from the reports. */
  answerWith(handlers: NodeHandlers, reports: Reports): Promise<void>;
}

/** The parts of a node that has a broker. */
interface Ground extends Footing {
  readonly broker: OwnBroker;
}

/**
 * Runs a node until the signal. Resolves after a clean end; throws ConntrailError if something that it needs fails to
 * start. In either case, everything that was started is ended again in reverse order.
 * @param formats The versions of the stream's format that it writes and reads
 */
export async function runDaemon(
  config: Config,
  log: Logger,
  controls: DaemonControls,
  formats: Formats = FORMATS,
): Promise<void> {
  const down = new TakeDown();
  const stopping = new AbortController();
  try {
    const known = await withDiscovered(config, log);
    const given = { config: known, formats, log, controls, stopping: stopping.signal, down };
    if (known.mode === "observer") await startObserver(await layGround(await openControl(given)));
    else if (known.mode === "stats") await startStatistics(given);
    else await startNode(given);
    if (!controls.signal.aborted) await once(controls.signal, "abort");
  } finally {
    stopping.abort();
    await down.run(log);
  }
}

/** Opens the broker and the connection to it. */
async function layGround(footing: Footing): Promise<Ground> {
  const { config, keys, log, down } = footing;
  return { ...footing, broker: await openBroker(config, keys, log, down) };
}

/** Opens the control socket. Requests wait until the node answers. */
async function openControl(given: Given): Promise<Footing> {
  const { config, log, controls, stopping, down } = given;
  const keys = new LinkKeys(config, log, systemClock);
  down.push(() => keys.close());
  const systemd = Systemd.open(process.env, log);
  down.push(() => systemd?.close());
  controls.signal.addEventListener("abort", () => systemd?.stopping(), { once: true });
  const parts = config.mode === "stats" ? "the kernel's table" : "the broker, then this node's and its peers' streams";
  systemd?.starting(`starting: ${parts}`);
  // The control socket comes first. It is the lock that keeps a second daemon away from this one's broker and store.
  let handlers: NodeHandlers | null = null;
  const stands = new AbortController();
  const begun = AbortSignal.any([stands.signal, stopping]);
  const waiting = whenStarted(() => handlers, begun, stopping);
  const rekey = async () => ({ keys: await keys.reload() });
  const reload = () => controls.reloadNow();
  const answering = { ...waiting, rekey, reload, stop: () => controls.stop() } satisfies ControlHandlers;
  const control = await serveControl(config.control, answering, { logger: log });
  down.push(() => control.close());
  const hybridClock = new HybridClock(systemClock);
  const answerWith = async (started: NodeHandlers, reports: Reports): Promise<void> => {
    handlers = started;
    stands.abort();
    if (config.metrics === null) return;
    await openMetrics(config.metrics, metricsPages(reports, config, controls.version), log, down);
  };
  controls.reload.onReload([], async () => {
    await keys.reload();
    return [];
  });
  return { ...given, keys, hybridClock, control, systemd, answerWith };
}

/** Starts a firewall: it publishes its kernel's flows and follows its peers' streams. */
async function startNode(given: Given): Promise<void> {
  const { config, formats, log, stopping, down } = given;
  const polls = config.netlink.pollMs !== null;
  const kernelState = readyKernel(polls, log);
  const locked = await openControl(given);
  const trace = new HookTrace(config.control);
  const remembered = readTrace(trace, log);
  const wasPrimary = remembered.some(({ role }) => role === "primary");
  const keepalived = new KeepalivedLink(config, wasPrimary, log);
  const ground = await layGround(locked);
  const { hybridClock, broker } = ground;
  const clock = systemClock;
  const flowsMax = (config.cacheLimit ?? kernelState.max) * FLOWS_MAX_FACTOR;
  const internal = new InternalCache(flowsMax, config.cacheLimit ?? flowsMax);
  const kernelSide = await KernelSide.open(config, log, down);
  const past = await readPast(config, broker, { internal, formats, clock, hybridClock, log }, stopping);
  const ownStream = await PublishedStream.open(config, broker, past.epoch, log, down);
  const peers = configuredPeers(ground);
  const earlier = earlierRoles(remembered, past);
  const { kernel, events, injects } = kernelSide;
  const ended = openEndedLog(given);
  const sides = { kernel, events, injects, ended, past, earlier, ownStream, peers, addresses: machineAddresses };
  const ports = { ...sides, clock, passTurn, log };
  const node = new FirewallNode({ ...ports, signal: stopping }, nodeOptions(given, kernelSide, flowsMax));
  kernelSide.reportFilter();
  watchCopies(node.peers, broker, ownStream.store, down);
  const discovery = createDiscovery(ground, node.peers);
  down.push(() => node.stop());
  await node.restore();
  await node.start();
  const archive = openArchive(config, log, down);
  const reports = new Reports({
    ...reportSources(ground, node.peers, node.external),
    ...brokerSources(broker),
    internal: () => internal.size,
    role: () => node.roles.role,
    epoch: past.epoch,
    kernelState: () => checkKernel(polls),
    publisher: () => ownStream.status,
    format: () => {
      const { format, reason } = node.format.choice;
      return { writes: format.version, reads: versionNumbers(formats.reads), reason };
    },
    own: () => ({
      trouble: ownStream.trouble,
      unpublished: internal.unpublished,
      unread: node.replicator.isUnread,
      groups: node.roles.namedGroups,
    }),
    groups: () => ({
      ...nodeCounters(node, { events: kernelSide.eventCounters, publisher: ownStream.sink.counters }),
      ...besides(discovery, archive),
      ...(keepalived.counters === null ? {} : { keepalived: keepalived.counters }),
      ...endedCounters(ended),
    }),
  });
  const handlers = createHandlers(node, reports, openRehearsal(ground, node, polls));
  const hooks = new Hooks({
    trace,
    act: handlers.hook,
    settled: () => node.roles.committed(),
    forget: (group) => node.roles.forget(group),
    taken: remembered.filter(({ taken }) => taken),
    log,
  });
  await ground.answerWith(keepalived.around(hooks.around(handlers)), reports);
  hooks.open();
  down.push(() => hooks.close());
  keepalived.open(node, hooks, down);
  reloadNode(given, node, kernelSide, { internal, flowsMax });
  reloadPeers(ground, node.peers);
  startDiscovery(discovery, down);
  ready(ground, reports, { epoch: past.epoch, flows: internal.table.size, external: node.external.table.size });
}

/** Starts a node in mode `stats`: its own kernel, and the log of flows that have ended. */
async function startStatistics(given: Given): Promise<void> {
  const { config, log, stopping, down } = given;
  const polls = config.netlink.pollMs !== null;
  const kernelState = readyKernel(polls, log);
  const footing = await openControl(given);
  const clock = systemClock;
  const flowsMax = (config.cacheLimit ?? kernelState.max) * FLOWS_MAX_FACTOR;
  const internal = new InternalCache(flowsMax, config.cacheLimit ?? flowsMax);
  const kernelSide = await KernelSide.open(config, log, down);
  const epoch = clock.wallMs();
  const past = noPast(internal, footing.hybridClock, epoch);
  const ended = openEndedLog(given);
  const { kernel, events } = kernelSide;
  const alone = {
    injects: null,
    earlier: { groups: new Map(), table: "unknown" },
    ownStream: null,
    peers: [],
  } as const;
  const sides = { kernel, events, ended, past, ...alone, addresses: machineAddresses };
  const node = new FirewallNode(
    { ...sides, clock, passTurn, log, signal: stopping },
    nodeOptions(given, kernelSide, 1),
  );
  kernelSide.reportFilter();
  down.push(() => node.stop());
  await node.start();
  const reports = new Reports({
    ...reportSources(footing, node.peers, node.external),
    ...NO_STREAM,
    internal: () => internal.size,
    role: () => "unknown",
    epoch,
    kernelState: () => checkKernel(polls),
    own: () => ({ trouble: null, unpublished: 0, unread: node.replicator.isUnread, groups: {} }),
    groups: () => ({
      ...nodeCounters(node, { events: kernelSide.eventCounters, publisher: {} }),
      ...endedCounters(ended),
    }),
  });
  await footing.answerWith(statisticsHandlers(createHandlers(node, reports, NO_REHEARSAL)), reports);
  reloadNode(given, node, kernelSide, { internal, flowsMax });
  ready(footing, reports, { flows: internal.table.size });
}

/** Null where ended flows are not logged. */
function openEndedLog({ config, controls, down }: Given): EndedLog | null {
  if (config.stats === null) return null;
  const ended = new EndedLog(config.stats, () => systemClock.wallMs());
  down.push(() => ended.close());
  // logrotate's signal, too.
  controls.reload.onReload([], () => {
    ended.reopen();
    return [];
  });
  controls.reload.onReload(["stats"], ({ stats }, changed) => {
    if (stats === null) return changed;
    ended.reopen(stats);
    return [];
  });
  return ended;
}

function endedCounters(ended: EndedLog | null) {
  return ended === null ? {} : { ended: { ...ended.counters } };
}

/** `flowsMax`: limit of the flows of one node, where the configuration has none for all of them. */
function nodeOptions({ config, formats }: Given, kernelSide: KernelSide, flowsMax: number): NodeOptions {
  const { netlink, publishIntervalMs, commitTimeoutSeconds, commitWindowTracking, purgeAfterSeconds } = config;
  return {
    cluster: config.cluster,
    node: config.node,
    silenceMsMax: config.peerTimeoutMs,
    formats,
    // Peers may be added while the node runs.
    externalFlowsMax: config.cacheLimit ?? flowsMax * streamsMax(config),
    peerFlowsMax: config.cacheLimit ?? flowsMax,
    filter: kernelSide.compileFilter(),
    helpers: kernelSide.helpers,
    pollMs: netlink.pollMs,
    overrunResyncMs: netlink.overrunResyncMs,
    snapshotsAsked: { pauseMs: SNAPSHOT_PAUSE_MS, bytesADay: config.broker.bytesMax / SNAPSHOT_SHARE_A_DAY },
    aheadSeconds: config.mode === "inject" ? 0 : config.commitAheadSeconds,
    ...{ publishIntervalMs, commitTimeoutSeconds, commitWindowTracking, purgeAfterSeconds },
  };
}

/** Starts an observer: a host that follows all firewalls and keeps their streams, without a kernel side. */
async function startObserver(ground: Ground): Promise<void> {
  const { config, formats, log, stopping, down, hybridClock, broker } = ground;
  const peerFlowsMax = config.cacheLimit ?? OBSERVER_FLOWS_MAX;
  const external = new ExternalCache(config.cacheLimit ?? peerFlowsMax * Math.max(1, peersMax(config)), peerFlowsMax);
  const named = { cluster: config.cluster, node: config.node, silenceMsMax: config.peerTimeoutMs, formats };
  const peers = new Peers({ external, local: null, keepsAll: true, ...named, hybridClock, clock: systemClock, log });
  for (const port of configuredPeers(ground)) peers.add(port);
  down.push(() => peers.close());
  watchCopies(peers, broker, await watchStore(config, broker, log, down), down);
  await peers.restore(stopping);
  peers.run(stopping);
  down.push(() => peers.ended());
  const discovery = createDiscovery(ground, peers);
  const archive = openArchive(config, ground.log, down);
  const reports = new Reports({
    ...reportSources(ground, peers, external),
    ...brokerSources(broker),
    internal: () => 0,
    role: () => "unknown",
    epoch: 0,
    kernelState: () => null,
    publisher: () => ({ state: "none", confirmedNumber: 0, unconfirmed: 0 }),
    format: () => ({ writes: null, reads: versionNumbers(formats.reads), reason: null }),
    own: () => ({ trouble: null, unpublished: 0, unread: false, groups: {} }),
    groups: () => besides(discovery, archive),
  });
  const parts = { external, followers: peers.followers, signal: stopping, log };
  await ground.answerWith(createObserverHandlers(parts, reports), reports);
  startDiscovery(discovery, down);
  ready(ground, reports, { external: external.table.size });
}

function reportSources(footing: Footing, peers: Peers, external: ExternalCache) {
  const { config, control, keys } = footing;
  return {
    node: config.node,
    cluster: config.cluster,
    external,
    peers,
    control: () => ({ ...control.counters }),
    keys: () => keys.status,
    keysWarnings: () => keys.warnings,
    clock: systemClock,
  };
}

function brokerSources(broker: OwnBroker) {
  return { broker: () => broker.status(), streams: () => keptStreams(broker.connection) };
}

/** The counters of optional parts that any kind of node may have. */
function besides(discovery: Discovery | null, archive: ArchiveSupervisor | null) {
  return {
    ...(discovery === null ? {} : { discovery: { ...discovery.counters } }),
    ...(archive === null ? {} : { archive: archive.counters }),
  };
}

/** Throws ConntrailError KERNEL when this kernel does not report its connections. */
function readyKernel(polls: boolean, log: Logger): KernelState {
  const state = checkKernel(polls);
  if (!polls && state.events === 2 && !enableEvents()) {
    log.warn("nf_conntrack_events is 2: flows made while nobody listens stay silent; set it to 1 with sysctl");
  }
  return state;
}

/** Reports that the node works: in the log, to systemd, and to the process that runs the daemon. */
function ready({ log, systemd, controls }: Footing, reports: Reports, fields: Record<string, number>): void {
  log.info(fields, "ready");
  systemd?.ready(() => statusLine(reports.ownStatus()));
  controls.ready?.();
}
