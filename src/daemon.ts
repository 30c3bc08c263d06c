/**
 * The composition root: builds a node from its configuration, starts the parts in order, and takes them down in the
 * opposite order. Everything else gets its clock, logger and sockets from here.
 */

import type { Logger } from "pino";
import { ExternalCache } from "./cache/external.js";
import { InternalCache } from "./cache/internal.js";
import type { Config } from "./config/config.js";
import { type ControlHandlers, type ControlServer, type NodeHandlers, serveControl } from "./control/server.js";
import { RequestSocket } from "./ctnetlink/request-socket.js";
import { checkKernel, enableEvents, type KernelState } from "./ctnetlink/sysctl.js";
import { openArchive } from "./daemon/archive.js";
import { followersCaughtUp, openInjection } from "./daemon/injection.js";
import { openKernelSide } from "./daemon/kernel-side.js";
import { createDiscovery, createPeers, type Peer, runPeers, startDiscovery } from "./daemon/peers.js";
import { type OwnBroker, openBroker, openOwnStream, type TakeDown } from "./daemon/streams.js";
import { Systemd } from "./daemon/systemd.js";
import { peersMax } from "./discovery/announcement.js";
import { withDiscovered } from "./discovery/discovered-peers.js";
import { ConntrailError } from "./errors.js";
import { HybridClock, systemClock } from "./flow/clock.js";
import { formatMetrics, serveMetrics } from "./metrics/prometheus.js";
import { pause } from "./os/pause.js";
import { keptStreams } from "./stream/kept-streams.js";
import { createHandlers, createObserverHandlers } from "./sync/handlers.js";
import { prefixed, Reports } from "./sync/reports.js";
import { PassingTraffic } from "./sync/takeover/passing.js";
import { Roles } from "./sync/takeover/roles.js";

/** How the daemon hears from the process that it lives in. */
export interface DaemonControls {
  /** Aborted at SIGTERM or SIGINT: end cleanly. */
  readonly signal: AbortSignal;
  /** `callback` gets the configuration as it is now, at each SIGHUP after which the file is sound. */
  onReload(callback: (config: Config) => void | Promise<void>): void;
  /** Somebody asks for the end over the control socket: as SIGTERM. */
  stop(): void;
  /** Called when the node does its work. */
  ready?(): void;
}

/** How long the end waits for the broker to confirm what was published. */
const FLUSH_TIMEOUT_MS = 3000;
/** How long a request waits for a node that starts: a large store is read through. */
const START_WAIT_MS_MAX = 60_000;
/** A table that this kernel allows, and room for what waits to be published. */
const FLOWS_MAX_FACTOR = 2;
/** Flows of each peer that an observer, which has no kernel to go by, holds at the most. */
const OBSERVER_FLOWS_MAX = 4 * 1024 * 1024;

/** What every kind of node stands on. */
interface Ground {
  readonly config: Config;
  readonly log: Logger;
  readonly controls: DaemonControls;
  readonly stopping: AbortSignal;
  readonly down: TakeDown;
  readonly hybridClock: HybridClock;
  readonly control: ControlServer;
  readonly broker: OwnBroker;
  /** Null: no service manager listens. */
  readonly systemd: Systemd | null;
  /** From now on requests are answered by these, and metrics are served from the reports. */
  answerWith(handlers: NodeHandlers, reports: Reports): Promise<void>;
}

/**
 * Runs a node until the signal. Resolves after a clean end; throws ConntrailError for what it cannot start without.
 * Whatever was started is taken down again in either case, last first.
 */
export async function runDaemon(config: Config, log: Logger, controls: DaemonControls): Promise<void> {
  const down: TakeDown = [];
  const stopping = new AbortController();
  try {
    const known = await withDiscovered(config, log);
    if (known.mode === "observer") await startObserver(await layGround(known, log, controls, stopping.signal, down));
    else await startNode(known, log, controls, stopping.signal, down);
    await aborted(controls.signal);
  } finally {
    stopping.abort();
    for (const stop of down.reverse()) {
      try {
        await stop();
      } catch (error) {
        log.warn({ err: error }, "a part did not end cleanly");
      }
    }
  }
}

/** Control socket, broker, connection. */
async function layGround(
  config: Config,
  log: Logger,
  controls: DaemonControls,
  stopping: AbortSignal,
  down: TakeDown,
): Promise<Ground> {
  const systemd = Systemd.open(process.env, log);
  down.push(() => systemd?.close());
  controls.signal.addEventListener("abort", () => systemd?.stopping(), { once: true });
  // The control socket first: it is the lock that keeps a second daemon away from this one's broker and store.
  let handlers: NodeHandlers | null = null;
  const stands = new AbortController();
  const begun = AbortSignal.any([stands.signal, stopping]);
  const answering = { ...whenStarted(() => handlers, begun), stop: () => controls.stop() } satisfies ControlHandlers;
  const control = await serveControl(config.control, answering, { logger: log });
  down.push(() => control.close());
  const broker = await openBroker(config, log, down);
  const hybridClock = new HybridClock(systemClock);
  const answerWith = async (started: NodeHandlers, reports: Reports): Promise<void> => {
    handlers = started;
    stands.abort();
    if (config.metrics === null) return;
    down.push(await serveMetrics(config.metrics, () => formatMetrics(reports.ownStatus(), reports.stats())));
  };
  return { config, log, controls, stopping, down, hybridClock, control, broker, systemd, answerWith };
}

/** A firewall: its kernel's events out, its peers' streams in. */
// biome-ignore lint/complexity/noExcessiveLinesPerFunction: split with the node
async function startNode(
  config: Config,
  log: Logger,
  controls: DaemonControls,
  stopping: AbortSignal,
  down: TakeDown,
): Promise<void> {
  const polls = config.netlink.pollMs !== null;
  const kernelState = readyKernel(polls, log);
  const ground = await layGround(config, log, controls, stopping, down);
  const { hybridClock, broker } = ground;
  const clock = systemClock;
  const flowsMax = (config.cacheLimit ?? kernelState.max) * FLOWS_MAX_FACTOR;
  const internal = new InternalCache(flowsMax, config.cacheLimit ?? flowsMax);
  const kernel = new RequestSocket();
  down.push(() => kernel.close());
  const external = new ExternalCache(config.cacheLimit ?? flowsMax * Math.max(1, peersMax(config)));
  const injection =
    config.mode !== "inject"
      ? null
      : openInjection(config, { internal, external, followers: () => followers, log }, down);
  const injector = injection?.injector ?? null;

  const base = { internal, clock, hybridClock, log };
  const ownStream = await openOwnStream(config, broker, base, stopping, down);
  const { journal, publisher } = ownStream;
  const sinceStamp = hybridClock.next();
  const local = { node: config.node, internal, sinceStamp };
  const peerParts = { external, local, hybridClock, clock, log };
  const peers = createPeers(config, broker, peerParts, down);
  await Promise.all(peers.map(({ follower }) => follower.restore(stopping)));
  const followers = peers.map(({ follower }) => follower);
  const discovery = createDiscovery(config, broker, peerParts, { peers, followers }, stopping, down);

  const roles = new Roles({
    internal,
    external,
    kernel,
    journal,
    followers,
    injects: injector !== null,
    before: ownStream.role,
    reader: () => kernelSide.replicator,
    passing: new PassingTraffic({ internal, list: (visit) => kernel.dump({}, visit) }),
    commitTimeoutSeconds: config.commitTimeoutSeconds,
    commitWindowTracking: config.commitWindowTracking,
    purgeAfterSeconds: config.purgeAfterSeconds,
    clock,
    log,
  });
  down.push(async () => {
    journal.writeMark({ type: "stop" });
    if (!(await publisher.flush(FLUSH_TIMEOUT_MS))) log.warn("the broker did not confirm the last messages in time");
  });
  const carries = (): boolean => roles.carries;
  const standsBack = (): boolean => roles.standsBack;
  const kernelParts = { ...base, external, journal, kernel, injection, carries, standsBack };
  const kernelSide = await openKernelSide(config, kernelParts, stopping, down);
  const { replicator, events } = kernelSide;
  ownStream.begin();
  // Not before: the copies are read when there is nothing to publish with.
  internal.listen(() => replicator.poke());
  runPeers(peers, stopping, down);
  if (injector !== null) await followersCaughtUp(peers, stopping, log);
  if (!(await replicator.resyncKernel()) && !stopping.aborted) {
    throw new ConntrailError("KERNEL", "the kernel's conntrack table could not be read; the log has the reason");
  }
  if (!ownStream.goesOn) void journal.writeSnapshot(stopping);
  injector?.start({
    claim: (flow) => replicator.claim(flow),
    readEvents: () => replicator.readEvents(),
    resync: () => void replicator.resyncKernel(),
  });
  down.push(() => roles.stop());
  const archive = openArchive(config, log, down);

  const reports = new Reports({
    ...reportSources(ground, peers, external),
    internal: () => internal.size,
    role: () => roles.role,
    epoch: journal.epoch,
    kernelState: () => checkKernel(polls),
    publisher: () => ({
      state: publisher.state,
      confirmedNumber: publisher.confirmedNumber,
      unconfirmed: publisher.backlog.messages,
    }),
    groups: () => ({
      internal: { ...internal.counters },
      events: { ...events.counters },
      replicator: { ...replicator.counters, reasserted: internal.reasserted },
      journal: { ...journal.counters },
      publisher: { ...publisher.counters },
      commit: { ...roles.counters },
      expectations: {
        internalActive: internal.expectations.size,
        ...prefixed("internal", internal.expectations.counters),
        ...roles.expectationCounters,
        ...replicator.sequenceWatch.counters,
      },
      ...(injector === null ? {} : { inject: { ...injector.counters } }),
      ...(discovery === null ? {} : { discovery: { ...discovery.counters } }),
      ...(archive === null ? {} : { archive: archive.counters }),
    }),
  });
  const injects = injector !== null;
  const parts = {
    internal,
    external,
    kernel,
    journal,
    replicator,
    followers,
    roles,
    reports,
    injects,
    signal: stopping,
    log,
  };
  await ground.answerWith(createHandlers(parts), reports);
  controls.onReload(async (next) => {
    kernelSide.setFilter(next.filter);
    await replicator.resyncKernel();
  });
  startDiscovery(discovery, down);
  ready(ground, { epoch: journal.epoch, flows: internal.table.size, external: external.table.size });
}

/** A host that follows all firewalls and keeps their streams; it has no kernel side. */
async function startObserver(ground: Ground): Promise<void> {
  const { config, log, stopping, down, hybridClock, broker } = ground;
  const external = new ExternalCache(config.cacheLimit ?? OBSERVER_FLOWS_MAX * Math.max(1, peersMax(config)));
  const parts = { external, local: null, hybridClock, clock: systemClock, log };
  const peers = createPeers(config, broker, parts, down);
  await Promise.all(peers.map(({ follower }) => follower.restore(stopping)));
  runPeers(peers, stopping, down);
  const followers = peers.map(({ follower }) => follower);
  const discovery = createDiscovery(config, broker, parts, { peers, followers }, stopping, down);
  const archive = openArchive(config, ground.log, down);
  const reports = new Reports({
    ...reportSources(ground, peers, external),
    internal: () => 0,
    role: () => "unknown",
    epoch: 0,
    kernelState: () => null,
    publisher: () => ({ state: "none", confirmedNumber: 0, unconfirmed: 0 }),
    groups: () => ({
      ...(discovery === null ? {} : { discovery: { ...discovery.counters } }),
      ...(archive === null ? {} : { archive: archive.counters }),
    }),
  });
  await ground.answerWith(createObserverHandlers({ external, followers, reports, signal: stopping, log }), reports);
  startDiscovery(discovery, down);
  ready(ground, { external: external.table.size });
}

function reportSources(ground: Ground, peers: readonly Peer[], external: ExternalCache) {
  const { config, broker, control } = ground;
  return {
    node: config.node,
    cluster: config.cluster,
    external,
    peers,
    broker: () => broker.status(),
    streams: () => keptStreams(broker.connection),
    control: () => ({ ...control.counters }),
    clock: systemClock,
  };
}

/** Throws ConntrailError KERNEL when this kernel tells nothing of its connections. */
function readyKernel(polls: boolean, log: Logger): KernelState {
  const state = checkKernel(polls);
  if (!polls && state.events === 2 && !enableEvents()) {
    log.warn("nf_conntrack_events is 2: flows made while nobody listens stay silent; set it to 1 with sysctl");
  }
  return state;
}

/**
 * Until the node stands, requests wait for it: a hook that keepalived calls while both start must not be lost, and a script that
 * asks whether a daemon runs (conntrackd's primary-backup.sh) must not start a second one. `begun` is aborted when it stands, or is not going to.
 */
function whenStarted(current: () => NodeHandlers | null, begun: AbortSignal): NodeHandlers {
  const handlers = async (): Promise<NodeHandlers> => {
    if (current() === null) await pause(START_WAIT_MS_MAX, begun);
    const started = current();
    if (started !== null) return started;
    throw new ConntrailError("CONTROL", "the daemon has not started: look at its log, or try again in a moment");
  };
  return {
    status: async () => (await handlers()).status(),
    stats: async () => (await handlers()).stats(),
    dump: async (table, sink, signal) => (await handlers()).dump(table, sink, signal),
    expectations: async (table) => (await handlers()).expectations(table),
    commit: async (progress, only) => (await handlers()).commit(progress, only),
    flush: async (table, only) => (await handlers()).flush(table, only),
    resync: async (source, progress, wait) => (await handlers()).resync(source, progress, wait),
    bulk: async (progress, wait) => (await handlers()).bulk(progress, wait),
    purge: async () => (await handlers()).purge(),
    hook: async (role, progress, group) => (await handlers()).hook(role, progress, group),
  };
}

/** Says so in the log, and tells systemd and whoever started it. */
function ready(ground: Ground, fields: Record<string, number>): void {
  ground.log.info(fields, "ready");
  ground.systemd?.ready();
  ground.controls.ready?.();
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
