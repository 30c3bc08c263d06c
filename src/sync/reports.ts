import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { BrokerStatus, PeerStatus, PublisherStatus, StatsReport, StatusReport } from "../control/protocol.js";
import type { EventCounters } from "../ctnetlink/event-socket.js";
import type { KernelState } from "../ctnetlink/sysctl.js";
import type { Clock } from "../flow/clock.js";
import type { PublisherCounters } from "../stream/publisher-options.js";
import type { Follower } from "./follower.js";
import type { Journal } from "./journal.js";
import type { Replicator } from "./replicator.js";
import type { Roles } from "./roles.js";

/** Where the numbers come from. */
export interface ReportSources {
  readonly node: string;
  readonly cluster: string;
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly journal: Journal;
  readonly replicator: Replicator;
  readonly roles: Roles;
  readonly peers: readonly { readonly follower: Follower; readonly address: string }[];
  readonly kernelState: () => KernelState;
  readonly events: () => Readonly<EventCounters>;
  readonly publisher: () => { status: PublisherStatus; counters: Readonly<PublisherCounters> };
  readonly broker: () => BrokerStatus;
  readonly control: () => Readonly<Record<string, number>>;
  readonly clock: Clock;
}

/** `status` and `stats`: what a node says of itself. */
export class Reports {
  readonly #sources: ReportSources;
  readonly #startedMs: number;

  constructor(sources: ReportSources) {
    this.#sources = sources;
    this.#startedMs = sources.clock.wallMs();
  }

  status(): StatusReport {
    const { node, cluster, internal, external, journal, roles } = this.#sources;
    const peers = this.#sources.peers.map((peer) => this.#peer(peer.follower, peer.address));
    const publisher = this.#sources.publisher().status;
    const { count, max } = this.#sources.kernelState();
    return {
      node,
      cluster,
      role: roles.role,
      epoch: journal.epoch,
      inSync: publisher.state === "up" && peers.every((peer) => peer.inSync),
      kernel: { entries: count, max },
      internal: { flows: internal.table.size },
      external: { flows: external.table.size },
      broker: this.#sources.broker(),
      publisher,
      peers,
    };
  }

  #peer(follower: Follower, address: string): PeerStatus {
    const { connected, inSync, lagEvents, lagMs, lastHeardMs, epoch } = follower.state;
    return {
      node: follower.node,
      address,
      connected,
      inSync,
      lagEvents: connected ? lagEvents : null,
      lagMs: connected ? lagMs : null,
      lastHeardMs: lastHeardMs === null ? null : Math.max(0, this.#sources.clock.wallMs() - lastHeardMs),
      epoch,
      flows: follower.flows,
    };
  }

  stats(): StatsReport {
    const { internal, external, journal, replicator, roles, clock } = this.#sources;
    const publisher = this.#sources.publisher().counters;
    const followers = this.#sources.peers.map((peer) => peer.follower);
    const sum = (pick: (follower: Follower) => number): number =>
      followers.reduce((total, follower) => total + pick(follower), 0);
    return {
      runtime: { uptimeSeconds: Math.floor((clock.wallMs() - this.#startedMs) / 1000) },
      internal: {
        active: internal.table.size,
        ...internal.counters,
        createFailed: internal.counters.createFailedFull,
        updateFailed: 0,
        destroyFailed: internal.counters.destroyUnknown + internal.counters.destroyStale,
      },
      external: {
        active: external.table.size,
        ...external.counters,
        createFailed: external.counters.createFailedFull + external.counters.stale,
        updateFailed: external.counters.unknown,
        destroyFailed: 0,
      },
      traffic: { bytes: 0, packets: 0 },
      link: {
        bytesSent: publisher.bytes,
        packetsSent: publisher.messages,
        bytesReceived: sum((follower) => follower.counters.bytes),
        packetsReceived: sum((follower) => follower.counters.messages),
        sendErrors: publisher.droppedMessages,
        receiveErrors: sum((follower) => follower.counters.malformed),
      },
      messages: {
        malformed: replicator.counters.malformed + sum((follower) => follower.counters.malformed),
        lost: sum((follower) => follower.counters.holes),
      },
      events: { ...this.#sources.events() },
      replicator: { ...replicator.counters },
      journal: { ...journal.counters },
      publisher: { ...publisher },
      commit: { ...roles.counters },
      control: { ...this.#sources.control() },
      ...Object.fromEntries(followers.map((follower) => [`reader.${follower.node}`, { ...follower.counters }])),
    };
  }
}
