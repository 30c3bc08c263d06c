/**
 * The composition root: builds a node from its configuration, starts the parts in order, and takes them down in the
 * opposite order. Everything else gets its clock, logger and sockets from here.
 */
import { execFile } from "node:child_process";
import type { Logger } from "pino";
import { ExternalCache } from "./cache/external.js";
import { InternalCache } from "./cache/internal.js";
import type { Config, FilterConfig } from "./config/config.js";
import { type ControlHandlers, serveControl } from "./control/server.js";
import { EventSocket } from "./ctnetlink/event-socket.js";
import { LocalAddresses } from "./ctnetlink/local-addresses.js";
import { RequestSocket } from "./ctnetlink/request-socket.js";
import { checkKernel, enableEvents } from "./ctnetlink/sysctl.js";
import { ConntrailError } from "./errors.js";
import { parseCidr } from "./flow/address.js";
import { type Clock, HybridClock, systemClock } from "./flow/clock.js";
import { compileFilter, type FilterRules, type FlowPredicate } from "./flow/filter.js";
import { EmbeddedBroker } from "./stream/broker.js";
import { hostPort } from "./stream/broker-config.js";
import { type BrokerConnection, connectBroker } from "./stream/connection.js";
import { createNumberReader, MarkCodec } from "./stream/mark.js";
import { readLastOf } from "./stream/own-stream.js";
import { Publisher } from "./stream/publisher.js";
import { StreamReader } from "./stream/reader.js";
import { Follower } from "./sync/follower.js";
import { createHandlers } from "./sync/handlers.js";
import { Journal } from "./sync/journal.js";
import { Replicator } from "./sync/replicator.js";
import { Reports } from "./sync/reports.js";
import { Roles } from "./sync/roles.js";

/** How the daemon hears from the process that it lives in. */
export interface DaemonControls {
  /** Aborted at SIGTERM or SIGINT: end cleanly. */
  readonly signal: AbortSignal;
  /** `callback` gets the configuration as it is now, at each SIGHUP after which the file is sound. */
  onReload(callback: (config: Config) => void | Promise<void>): void;
}

/** How long the own broker may take to answer at the start; a large store is read through first. */
const CONNECT_TIMEOUT_MS = 60_000;
/** How long the end waits for the broker to confirm what was published. */
const FLUSH_TIMEOUT_MS = 3000;
/** A table that this kernel allows, and room for what waits to be published. */
const FLOWS_MAX_FACTOR = 2;

/**
 * Runs a node until the signal. Resolves after a clean end; throws ConntrailError for what it cannot start without.
 * Whatever was started is taken down again in either case, last first.
 */
export async function runDaemon(config: Config, log: Logger, controls: DaemonControls): Promise<void> {
  refuseUnsupported(config);
  const down: (() => Promise<void> | void)[] = [];
  const stopping = new AbortController();
  try {
    await startNode(config, log, controls, down, stopping.signal);
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

function refuseUnsupported(config: Config): void {
  if (config.mode === "inject") {
    throw new ConntrailError("CONFIG", `${config.path}: mode: inject is not supported yet, allowed is cache`);
  }
  if (config.broker.mode === "shared") {
    throw new ConntrailError(
      "CONFIG",
      `${config.path}: broker.mode: shared is not supported yet, allowed is embedded or external`,
    );
  }
  if (config.metrics !== null) {
    throw new ConntrailError(
      "CONFIG",
      `${config.path}: metrics is not supported yet, leave it out; \`conntrail stats --json\` has the counters`,
    );
  }
}

async function startNode(
  config: Config,
  log: Logger,
  controls: DaemonControls,
  down: (() => Promise<void> | void)[],
  stopping: AbortSignal,
): Promise<void> {
  const clock = systemClock;
  const kernelState = checkKernel();
  if (kernelState.events === 2 && !enableEvents()) {
    log.warn("nf_conntrack_events is 2: flows made while nobody listens stay silent; set it to 1 with sysctl");
  }
  const flowsMax = kernelState.max * FLOWS_MAX_FACTOR;
  const internal = new InternalCache(flowsMax);
  const external = new ExternalCache(flowsMax * Math.max(1, config.peers.length));

  // The control socket first: it is the lock that keeps a second daemon away from this one's broker and store.
  const late: { handlers: ControlHandlers | null } = { handlers: null };
  const control = await serveControl(config.control, whenStarted(late), { logger: log });
  down.push(() => control.close());

  const broker = await startBroker(config, log, down);
  const connection = connectOwn(config, broker, log);
  down.push(() => connection.close());
  const hybridClock = new HybridClock(clock);
  const { epoch, previousEpoch } = await nextEpoch(config, connection, clock, hybridClock);
  const onLost: { handle: (first: number, last: number) => void } = { handle: () => undefined };
  const publisher = new Publisher({
    node: config.node,
    epoch,
    connection,
    retention: { maxAgeMs: config.broker.maxAgeSeconds * 1000, bytesMax: config.broker.maxBytes },
    readNumber: createNumberReader(),
    log,
    onLost: (first, last) => onLost.handle(first, last),
  });
  await publisher.start();
  down.push(() => publisher.close());

  const journal = new Journal({ node: config.node, epoch, internal, sink: publisher, clock, hybridClock, log });
  const addresses = config.filter.local ? await LocalAddresses.open() : null;
  if (addresses !== null) down.push(() => addresses.close());
  const kernel = new RequestSocket();
  down.push(() => kernel.close());

  const replicator = new Replicator({
    internal,
    external,
    journal,
    kernel: {
      dump: (visit, dumpSignal) => kernel.dump({ signal: dumpSignal }, visit),
      growBuffer: () => events.growBuffer(),
    },
    ownPorts: new Set([kernel.portId]),
    filter: compileFilterConfig(config.filter, addresses),
    publishIntervalMs: config.publishIntervalMs,
    clock,
    log,
    signal: stopping,
  });
  const events = new EventSocket(replicator, {
    bufferBytes: config.netlink.bufferBytes,
    bufferBytesMax: config.netlink.bufferBytesMax,
    reliable: config.netlink.reliable,
    gatherMs: config.publishIntervalMs === 0 ? 0 : 10,
  });
  down.push(async () => {
    await events.close();
    replicator.stop();
    journal.writeMark({ type: "stop" });
    if (!(await publisher.flush(FLUSH_TIMEOUT_MS))) log.warn("the broker did not confirm the last messages in time");
  });

  const peers = startFollowers(config, { internal, external, hybridClock, clock, log, replicator }, stopping, down);
  const followers = peers.map((peer) => peer.follower);
  const roles = new Roles({
    internal,
    external,
    kernel,
    journal,
    followers,
    commitTimeoutSeconds: config.commitTimeoutSeconds,
    purgeAfterSeconds: config.purgeAfterSeconds,
    clock,
    log,
  });
  down.push(() => roles.stop());
  const reports = new Reports({
    node: config.node,
    cluster: config.cluster,
    internal,
    external,
    journal,
    replicator,
    roles,
    peers,
    kernelState: checkKernel,
    events: () => events.counters,
    publisher: () => ({
      status: {
        state: publisher.state,
        confirmedNumber: publisher.confirmedNumber,
        unconfirmed: publisher.backlog.messages,
      },
      counters: publisher.counters,
    }),
    broker: () => brokerStatus(config, broker, connection),
    control: () => ({ ...control.counters }),
    clock,
  });
  late.handlers = createHandlers({
    internal,
    external,
    kernel,
    journal,
    replicator,
    followers,
    roles,
    reports,
    signal: stopping,
  });
  onLost.handle = (first, last) => {
    log.warn({ first, last }, "messages were dropped while the broker was away; a snapshot follows");
    journal.writeMark({ type: "gap", reason: "messages dropped while the broker was away" });
    void journal.writeSnapshot(stopping);
  };
  controls.onReload(async (next) => {
    replicator.setFilter(compileFilterConfig(next.filter, addresses));
    await replicator.resyncKernel();
  });

  journal.writeMark({ type: "epoch", reason: previousEpoch === 0 ? "first start" : "start", previousEpoch });
  if (!(await replicator.resyncKernel()) && !stopping.aborted) {
    throw new ConntrailError("KERNEL", "the kernel's conntrack table could not be read; the log has the reason");
  }
  void journal.writeSnapshot(stopping);
  log.info({ epoch, flows: internal.table.size, peers: followers.map((follower) => follower.node) }, "ready");
  notifySystemd(log);
}

/** Until the node stands, every command is told so; the socket is there from the first moment on. */
function whenStarted(late: { handlers: ControlHandlers | null }): ControlHandlers {
  const handlers = (): ControlHandlers => {
    if (late.handlers !== null) return late.handlers;
    throw new ConntrailError("CONTROL", "the daemon is starting; try again in a moment");
  };
  return {
    status: () => handlers().status(),
    stats: () => handlers().stats(),
    dump: async (table, sink, signal) => handlers().dump(table, sink, signal),
    commit: async (progress) => handlers().commit(progress),
    flush: async (table) => handlers().flush(table),
    resync: async (source, progress) => handlers().resync(source, progress),
    bulk: async (progress) => handlers().bulk(progress),
    purge: () => handlers().purge(),
    hook: async (role, progress) => handlers().hook(role, progress),
  };
}

async function startBroker(
  config: Config,
  log: Logger,
  down: (() => Promise<void> | void)[],
): Promise<EmbeddedBroker | null> {
  if (config.broker.mode !== "embedded") return null;
  const { port, store, maxBytes } = config.broker;
  const broker = new EmbeddedBroker({
    node: config.node,
    listen: { host: config.listen, port },
    storeDir: store,
    storeBytesMax: maxBytes * (config.peers.length + 1),
    ...(config.tls === null ? {} : { tls: config.tls }),
    log: log.child({ part: "broker" }),
  });
  down.push(() => broker.stop());
  await broker.start();
  return broker;
}

function connectOwn(config: Config, broker: EmbeddedBroker | null, log: Logger): BrokerConnection {
  return connectBroker({
    servers: broker === null ? config.broker.servers : [broker.address],
    node: config.node,
    purpose: "publisher",
    serverName: config.node,
    ...(config.tls === null ? {} : { tls: config.tls }),
    log,
  });
}

/** An epoch above the last one in the own stream, whatever the wall clock says; stamps go on from there too. */
async function nextEpoch(
  config: Config,
  connection: BrokerConnection,
  clock: Clock,
  hybridClock: HybridClock,
): Promise<{ epoch: number; previousEpoch: number }> {
  const client = await connection.ready(CONNECT_TIMEOUT_MS);
  const last = await readLastOf(await client.jetstreamManager({ checkAPI: false }), config.node, "mark");
  const mark = last === null ? null : new MarkCodec().decode(last.payload);
  if (mark === null) return { epoch: clock.wallMs(), previousEpoch: 0 };
  hybridClock.observe(mark.envelope.stamp);
  const previousEpoch = mark.envelope.epoch;
  return { epoch: Math.max(clock.wallMs(), previousEpoch + 1), previousEpoch };
}

function startFollowers(
  config: Config,
  parts: {
    internal: InternalCache;
    external: ExternalCache;
    hybridClock: HybridClock;
    clock: Clock;
    log: Logger;
    replicator: Replicator;
  },
  signal: AbortSignal,
  down: (() => Promise<void> | void)[],
): { follower: Follower; address: string }[] {
  const { log, replicator } = parts;
  const sinceStamp = parts.hybridClock.next();
  return config.peers.map((peer) => {
    const connection = connectBroker({
      servers: [hostPort(peer.address, config.broker.port)],
      node: config.node,
      purpose: `follows ${peer.node}`,
      serverName: peer.node,
      ...(config.tls === null ? {} : { tls: config.tls }),
      log: log.child({ peer: peer.node }),
    });
    const follower = new Follower({
      ...parts,
      node: peer.node,
      stream: new StreamReader({ connection, node: peer.node, log }),
      reassert: (slot) => replicator.reassert(slot),
      sinceStamp,
    });
    const running = follower.run(signal);
    down.push(async () => {
      await running;
      await connection.close();
    });
    return { follower, address: peer.address };
  });
}

function compileFilterConfig(filter: FilterConfig, addresses: LocalAddresses | null): FlowPredicate {
  const rules: FilterRules = {};
  if (filter.protocols !== null) rules.protocols = filter.protocols;
  if (filter.states !== null) rules.tcpStates = filter.states;
  if (filter.addresses !== null) {
    rules.addresses = {
      logic: filter.addresses.logic,
      values: filter.addresses.values.flatMap((text) => parseCidr(text) ?? []),
    };
  }
  return compileFilter(rules, addresses ?? undefined);
}

function brokerStatus(
  config: Config,
  broker: EmbeddedBroker | null,
  connection: BrokerConnection,
): { mode: Config["broker"]["mode"]; state: string; url: string; version: string | null; restarts: number } {
  return {
    mode: config.broker.mode,
    state: connection.connected ? "up" : (broker?.state ?? "unreachable"),
    url: broker === null ? config.broker.servers.join(",") : broker.address,
    version: connection.client?.info?.version ?? null,
    restarts: broker?.restarts ?? 0,
  };
}

/** Tells systemd that the unit is up; `Type=notify` waits for it. */
function notifySystemd(log: Logger): void {
  if (process.env.NOTIFY_SOCKET === undefined) return;
  execFile("systemd-notify", ["--ready"], (error) => {
    if (error !== null) log.warn({ err: error }, "systemd could not be told that the daemon is ready");
  });
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
