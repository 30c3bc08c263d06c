import type { ExternalCache } from "../cache/external.js";
import type {
  BrokerStatus,
  FormatStatus,
  HookRole,
  KeysStatus,
  OwnStatus,
  PeerStatus,
  PublisherStatus,
  StatsReport,
  StatusReport,
  StreamStatus,
} from "../control/protocol.js";
import type { KernelState } from "../ctnetlink/sysctl.js";
import type { Clock } from "../flow/clock.js";
import type { Role } from "../stream/format/mark.js";
import type { Follower } from "./in/follower.js";
import type { FirewallNode } from "./node.js";
import type { Peer, Peers } from "./peers.js";

/** Clocks that differ by more make logs and the times in the history hard to compare. */
const CLOCK_WARN_MS = 10_000;

/** A delayed or switched-off `netlink.overrun_resync`, or a table that cannot be read. */
const UNREAD =
  "this node has lost events of its kernel and has not read the kernel's table since: conntrail resync kernel reads it";

type Counters = Readonly<Record<string, number>>;

/** The sources of the figures. */
export interface ReportSources {
  readonly node: string;
  readonly cluster: string;
  /** Number of flows in the internal cache. */
  readonly internal: () => number;
  readonly external: ExternalCache;
  readonly role: () => HookRole | "unknown";
  readonly epoch: number;
  readonly peers: Peers;
  /** Null on an observer, which has no kernel. */
  readonly kernelState: () => KernelState | null;
  readonly publisher: () => PublisherStatus;
  /**
   * Which of this node's own flows do not reach its stream, and what keepalived last reported for each named sync
   * group.
   */
  readonly own: () => {
    readonly trouble: string | null;
    readonly unpublished: number;
    /** Events of the kernel were lost, and its table has not been read since. */
    readonly unread: boolean;
    readonly groups: Readonly<Record<string, Role>>;
  };
  readonly format: () => FormatStatus;
  readonly broker: () => BrokerStatus;
  /** The streams that the broker keeps; rejects when the broker cannot be reached. */
  readonly streams: () => Promise<readonly StreamStatus[]>;
  readonly control: () => Counters;
  /** Until when the keys of the link are valid; null: there are none. */
  readonly keys: () => KeysStatus | null;
  /** What the operator should know about them, in words; null: nothing. */
  readonly keysWarnings: () => readonly string[];
  /** The counters of this kind of node, by group. */
  readonly groups: () => Readonly<Record<string, Counters>>;
  readonly clock: Clock;
}

/** Builds the answers of `status` and `stats`. A report never fails because the broker cannot be reached. */
export class Reports {
  readonly #sources: ReportSources;
  readonly #startedMs: number;

  constructor(sources: ReportSources) {
    this.#sources = sources;
    this.#startedMs = sources.clock.wallMs();
  }

  /** The answer of `status`, which includes what the broker keeps. */
  async status(): Promise<StatusReport> {
    const streams = await this.#sources.streams().catch(() => null);
    const { archive } = this.#sources.groups();
    const kept = { untilMs: archive?.archivedUntilMs ?? null, daysCut: archive?.daysRemoved ?? 0 };
    return { ...this.ownStatus(), streams, ...(archive === undefined ? {} : { archive: kept }) };
  }

  ownStatus(): OwnStatus {
    const { node, cluster, external, role, epoch, broker } = this.#sources;
    const peers = this.#sources.peers.list.map((peer) => this.#peer(peer));
    const publisher = this.#sources.publisher();
    const reason = this.#ownReason(publisher);
    const kernel = this.#sources.kernelState();
    const keys = this.#sources.keys();
    return {
      node,
      cluster,
      role: role(),
      epoch,
      inSync: reason === null && peers.every((peer) => peer.inSync),
      reason,
      warnings: this.#warnings(peers),
      kernel: { entries: kernel?.count ?? 0, max: kernel?.max ?? 0 },
      internal: { flows: this.#sources.internal() },
      external: { flows: external.table.size },
      format: this.#sources.format(),
      broker: broker(),
      publisher,
      peers,
      ...(keys === null ? {} : { keys }),
    };
  }

  /** Why peers cannot have all of this node's flows, in words; null when they can have them. */
  #ownReason({ state }: PublisherStatus): string | null {
    const { trouble, unpublished, unread } = this.#sources.own();
    if (trouble !== null) return `this node cannot publish: ${trouble}`;
    if (state === "down") return "this node cannot publish: its broker is away";
    if (unread) return UNREAD;
    return unpublished > 0 ? `the cache is full: ${unpublished} flows are not replicated; raise cache.limit` : null;
  }

  #warnings(peers: readonly PeerStatus[]): string[] {
    const { groups } = this.#sources.own();
    const found = [...this.#sources.keysWarnings()];
    if (peers.length === 0 && this.#sources.broker().mode !== "none")
      found.push("no peers are configured: nothing is replicated to this node");
    for (const { node, role, clockOffsetMs, inSync, couldTakeOver } of peers) {
      // Of a peer that is not in sync, the reason is shown, and what it said last may be old.
      if (inSync && couldTakeOver === false)
        found.push(`${node} would lose flows of this node if it took over now: conntrail status there says why`);
      const heard = this.#sources.peers.list.find(({ follower }) => follower.node === node)?.watch.heartbeat;
      const shared = Object.keys(groups).filter(
        (group) => groups[group] === "primary" && heard?.groups[group] === "primary",
      );
      const unnamed = Object.keys(groups).length === 0 && this.#sources.role() === "primary" && role === "primary";
      if (unnamed) found.push(`this node and ${node} are both primary`);
      for (const group of shared) found.push(`this node and ${node} are both primary for the group ${group}`);
      if (clockOffsetMs !== null && Math.abs(clockOffsetMs) > CLOCK_WARN_MS) {
        const seconds = (Math.abs(clockOffsetMs) / 1000).toFixed(1);
        found.push(`the clock of ${node} is ${seconds} s ${clockOffsetMs > 0 ? "ahead of" : "behind"} this node's`);
      }
    }
    return found;
  }

  #peer({ follower, watch, address, discovered }: Peer): PeerStatus {
    const { connected, lagEvents, lagMs, lastHeardMs, epoch } = follower.state;
    const { heartbeat, reason, clockOffsetMs } = watch;
    // An observer has no flows that could be taken over.
    const hasStream = this.#sources.publisher().state !== "none";
    return {
      node: follower.node,
      address,
      discovered,
      connected,
      inSync: reason === null,
      reason,
      role: heartbeat?.role ?? null,
      cluster: heartbeat?.cluster ?? null,
      formatVersion: heartbeat?.writes ?? null,
      formatsRead: watch.formatsRead,
      clockOffsetMs,
      couldTakeOver: hasStream ? watch.couldTakeOver : null,
      lagEvents: connected ? lagEvents : null,
      lagMs: connected ? lagMs : null,
      lastHeardMs: lastHeardMs === null ? null : Math.max(0, this.#sources.clock.wallMs() - lastHeardMs),
      epoch,
      flows: follower.flows,
    };
  }

  stats(): StatsReport {
    const { external, clock } = this.#sources;
    const { internal = {}, ...groups } = this.#sources.groups();
    const { followers } = this.#sources.peers;
    const sum = (pick: (follower: Follower) => number): number =>
      followers.reduce((total, follower) => total + pick(follower), 0);
    return {
      runtime: { uptimeSeconds: Math.floor((clock.wallMs() - this.#startedMs) / 1000) },
      internal: {
        active: this.#sources.internal(),
        ...internal,
        createFailed: internal.createFailedFull ?? 0,
        updateFailed: 0,
        destroyFailed: (internal.destroyUnknown ?? 0) + (internal.destroyStale ?? 0),
      },
      external: {
        active: external.table.size,
        ...external.counters,
        createFailed: external.counters.createFailedFull + external.counters.stale,
        updateFailed: external.counters.unknown,
        destroyFailed: 0,
      },
      traffic: { bytes: 0, packets: 0, ...groups.traffic },
      link: {
        bytesSent: groups.publisher?.bytes ?? 0,
        packetsSent: groups.publisher?.messages ?? 0,
        bytesReceived: sum((follower) => follower.counters.bytes),
        packetsReceived: sum((follower) => follower.counters.messages),
        sendErrors: groups.publisher?.droppedMessages ?? 0,
        receiveErrors: sum((follower) => follower.counters.malformed),
      },
      messages: {
        malformed: (groups.replicator?.malformed ?? 0) + sum((follower) => follower.counters.malformed),
        lost: sum((follower) => follower.counters.holes),
      },
      ...groups,
      expectations: {
        internalActive: 0,
        ...groups.expectations,
        externalActive: external.expectations.size,
        ...prefixed("external", external.expectations.counters),
      },
      control: this.#sources.control(),
      ...Object.fromEntries(
        this.#sources.peers.list.map(({ follower, watch }) => [
          `reader.${follower.node}`,
          { ...follower.counters, ...watch.counters },
        ]),
      ),
    };
  }
}

/** The counters of a firewall's node. `events` and `publisher` are those of its ports. */
export function nodeCounters(
  { internal, replicator, journal, roles, injector }: FirewallNode,
  { events, publisher }: { events: Readonly<object>; publisher: Readonly<object> },
): Record<string, Counters> {
  const expectations = {
    internalActive: internal.expectations.size,
    ...prefixed("internal", internal.expectations.counters),
    ...roles.expectationCounters,
    ...replicator.lookupCounters,
  };
  return {
    internal: { ...internal.counters },
    traffic: replicator.traffic,
    events: { ...events },
    replicator: { ...replicator.counters, reasserted: internal.reasserted },
    journal: { ...journal.counters },
    publisher: { ...publisher },
    commit: roles.counters,
    takeover: roles.lastTakeover,
    expectations,
    ...(injector === null ? {} : { inject: { ...injector.counters } }),
  };
}

/** Puts the counters of several tables in one group: `created` of the external cache becomes `externalCreated`. */
function prefixed(prefix: string, counters: Readonly<object>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(counters).map(([name, value]) => [
      `${prefix}${name.charAt(0).toUpperCase()}${name.slice(1)}`,
      value,
    ]),
  );
}
