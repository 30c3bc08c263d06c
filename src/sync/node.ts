/**
 * A firewall's node, built from its ports: kernel, broker and clocks, or a simulator's. It guarantees that the daemon,
 * the simulators and the tests connect the parts alike, and start and end them in the same order.
 */
import type { Logger } from "pino";
import { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import { ConntrailError } from "../errors.js";
import type { Clock } from "../flow/clock.js";
import type { FlowPredicate } from "../flow/filter.js";
import type { NodeRequest } from "../stream/format/subjects.js";
import { type Formats, versionNumbers } from "../stream/format/versions.js";
import { followersCaughtUp } from "./caught-up.js";
import type { Follower } from "./in/follower.js";
import { Injector } from "./inject/injector.js";
import { type AskedLimits, AskedSnapshots } from "./out/asked-snapshots.js";
import { Journal } from "./out/journal.js";
import { Polling } from "./out/polling.js";
import { Replicator } from "./out/replicator.js";
import { epochReason, type OwnPast } from "./own-past.js";
import { Peers } from "./peers.js";
import { Carrying, type EarlierRoles } from "./ports/carrying.js";
import type { EndedFlows } from "./ports/ended-flows.js";
import type { HelperNames, InjectorKernel, KernelEvents, KernelRequests, KernelTable } from "./ports/kernel.js";
import type { OwnStream } from "./ports/own-stream.js";
import type { PeerPort } from "./ports/peer-stream.js";
import { TakeDown } from "./take-down.js";
import { Roles } from "./takeover/roles.js";
import { WrittenFormat } from "./written-format.js";

/**
 * The ports of a node. Whoever opened them closes them, except the events and the connections to peers, which the node
 * closes.
 */
export interface NodePorts {
  readonly kernel: KernelRequests & KernelTable & { readonly portId: number };
  /** Null: the kernel is polled (`pollMs`). */
  readonly events: KernelEvents | null;
  /**
   * Mode `inject`, and mode `cache` with `commit.ahead`: requests from a socket of their own, whose port ID identifies the
   * events that they cause. Null: the kernel is given no peers' flows but by a takeover.
   */
  readonly injects: (InjectorKernel & { readonly portId: number }) | null;
  /** What this node's own stream held at the start. */
  readonly past: OwnPast;
  /** The roles that keepalived gave this node before the daemon started. */
  readonly earlier: EarlierRoles;
  /** Null: this node publishes nothing and keeps only its own tables. */
  readonly ownStream: OwnStream | null;
  /** The log of this node's flows that have ended; null: there is none. */
  readonly ended: EndedFlows | null;
  /** The peers that are known at the start. */
  readonly peers: readonly PeerPort[];
  /** Current addresses of this machine, virtual and broadcast ones included, as inet_ntop prints them. */
  readonly addresses: () => ReadonlySet<string>;
  readonly clock: Clock;
  /** Waits for one turn of a start that waits for its peers. */
  readonly passTurn: (signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** Aborted when the node is to end; `stop` follows. */
  readonly signal: AbortSignal;
}

/** The settings of a node. */
export interface NodeOptions {
  readonly cluster: string;
  readonly node: string;
  /** How long a peer's daemon may be silent before the peer no longer counts as in sync. */
  readonly silenceMsMax: number;
  /** The versions of the stream's format that this node writes and reads. */
  readonly formats: Formats;
  /** Limit of flows in the external cache, for all peers together. */
  readonly externalFlowsMax: number;
  /** Limit of the flows of one peer; as for all of them unless said. */
  readonly peerFlowsMax?: number;
  /** Which flows are replicated. */
  readonly filter: FlowPredicate;
  /** Helpers whose expectations are replicated; null: none. */
  readonly helpers: HelperNames | null;
  /** Time from the end of a polling dump to the next one; null: dumps run only on request. */
  readonly pollMs: number | null;
  /** Time from an overrun to the comparison with the kernel's table; null: no comparison. */
  readonly overrunResyncMs: number | null;
  readonly publishIntervalMs: number;
  /** Kernel timeout of committed entries; null: the time that the owner's entry had left. */
  readonly commitTimeoutSeconds: number | null;
  /** Committed TCP flows keep their window tracking. */
  readonly commitWindowTracking: boolean;
  readonly purgeAfterSeconds: number;
  /**
   * The peers' flows are written into this kernel when they have lived for so long; 0 in mode `inject`. Only with the
   * port `injects`. Null: a takeover writes them.
   */
  readonly aheadSeconds: number | null;
  /** Limits of the snapshots that peers ask for. */
  readonly snapshotsAsked: AskedLimits;
}

/** How often the node checks whether a snapshot is due. */
const SNAPSHOT_CHECK_MS = 1000;
/** How often the node sends its peers a heartbeat, which names the last position of its stream. */
const HEARTBEAT_MS = 1000;
/** Heartbeats that are sent on request, until the next regular one. */
const BEATS_ASKED_MAX = 8;
/** How often the kernel's table is read again for flows that found no room in the cache. */
const MAKE_ROOM_MS = 30_000;
/** How often the node looks for injected entries that are about to expire. */
const RENEW_MS = 1000;
/** Longest time that the end waits for the broker to confirm what was published. */
const FLUSH_TIMEOUT_MS = 3000;

/**
 * A firewall: publishes its kernel's flows and follows its peers' streams. Call `restore`, then `start`, then `stop`.
 */
export class FirewallNode {
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly kernel: NodePorts["kernel"];
  readonly journal: Journal;
  readonly replicator: Replicator;
  /** Null where a takeover writes the peers' flows. */
  readonly injector: Injector | null;
  readonly peers: Peers;
  /** The format version of this node's messages. */
  readonly format: WrittenFormat;
  readonly roles: Roles;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly #ports: NodePorts;
  readonly #options: NodeOptions;
  readonly #down = new TakeDown();
  readonly #askedSnapshots: AskedSnapshots;
  /** None before the kernel's table has been read. */
  #beatsLeft = 0;

  constructor(ports: NodePorts, options: NodeOptions) {
    const { kernel, events, injects, past, ownStream, clock, log, signal } = ports;
    const { internal, hybridClock } = past;
    const { commitTimeoutSeconds, commitWindowTracking, purgeAfterSeconds } = options;
    this.#ports = ports;
    this.#options = options;
    this.internal = internal;
    this.kernel = kernel;
    this.signal = signal;
    this.log = log;
    const external = new ExternalCache(options.externalFlowsMax, options.peerFlowsMax);
    this.external = external;
    const injector = injects === null ? null : this.#createInjector(injects);
    this.injector = injector;
    const { continues, epoch } = past;
    const base = { internal, clock, hybridClock, log };
    const journal = new Journal({ ...base, node: options.node, epoch, continues, sink: ownStream?.sink ?? null });
    this.journal = journal;
    const limits = options.snapshotsAsked;
    this.#askedSnapshots = new AskedSnapshots({ journal, limits, nowMs: () => performance.now(), signal, log });
    const carrying = new Carrying({ earlier: ports.earlier, injects: injects !== null });
    const ownPorts = new Set([(injects ?? kernel).portId]);
    const parts = { internal, external, journal, kernel, carrying, clock, log };
    const { filter, helpers, overrunResyncMs, publishIntervalMs } = options;
    const replicating = { ended: ports.ended, filter, helpers, overrunResyncMs, publishIntervalMs, ownPorts, signal };
    const replicator = new Replicator({ ...parts, ...replicating, events, injection: injector });
    this.replicator = replicator;
    // This node never needs events about the flows that it injects.
    if (injects !== null) events?.mute(injects.portId);
    const { cluster, silenceMsMax, formats } = options;
    const named = { cluster, node: options.node, silenceMsMax, formats };
    const local = { node: options.node, internal, sinceStamp: hybridClock.next() };
    const onSkip = (): void => this.#askedSnapshots.ask();
    this.peers = new Peers({ external, local, keepsAll: false, ...named, hybridClock, onSkip, clock, log });
    for (const peer of ports.peers) this.peers.add(peer);
    this.format = new WrittenFormat({ formats, journal, peers: this.peers, log });
    const { followers } = this.peers;
    const ahead = (options.aheadSeconds ?? 0) > 0 ? injector : null;
    const committing = {
      commitTimeoutSeconds,
      commitWindowTracking,
      purgeAfterSeconds,
      injects: injects !== null,
      ahead,
    };
    this.roles = new Roles({ ...parts, ...committing, replicator, followers, addresses: ports.addresses });
    this.#down.push(() => injector?.stop());
    this.#down.push(() => this.peers.close());
  }

  #createInjector(kernel: InjectorKernel): Injector {
    const { internal, external } = this;
    const { clock, log } = this.#ports;
    const injector = new Injector({
      internal,
      external,
      kernel,
      hears: (node) => this.peers.hears(node),
      timeoutSeconds: this.#options.commitTimeoutSeconds,
      liberal: !this.#options.commitWindowTracking,
      wallSeconds: () => Math.floor(clock.wallMs() / 1000),
      intervalMs: this.#options.publishIntervalMs,
      aheadSeconds: this.#options.aheadSeconds ?? 0,
      log,
    });
    external.listen(injector);
    return injector;
  }

  /** The followers of all peers, including those that are discovered later. */
  get followers(): readonly Follower[] {
    return this.peers.followers;
  }

  /** True in mode `inject` and with `commit.ahead`: the kernel holds the peers' flows, and the external cache only records them. */
  get injects(): boolean {
    return this.injector !== null;
  }

  /** Rebuilds the peers' flows from the copies of their streams. */
  restore(): Promise<void> {
    return this.peers.restore(this.signal);
  }

  /**
   * Starts the node's work. Resolves when the kernel's table has been read.
   * @throws ConntrailError KERNEL when the table cannot be read, or its events cannot be received
   */
  async start(): Promise<void> {
    const { journal, replicator, peers, injector, signal, log } = this;
    const { past, passTurn } = this.#ports;
    // From here on no kernel event is missed. The epoch's first mark precedes every row that they cause.
    this.#listen();
    this.#beginEpoch();
    peers.run(signal);
    this.#down.push(() => peers.ended());
    // The copies may lack the flows that were injected last. Without those, own and injected flows cannot be told
    // apart.
    if (injector !== null) await followersCaughtUp(peers.list, signal, log, passTurn);
    if (!(await replicator.resyncKernel()) && !signal.aborted) {
      throw new ConntrailError("KERNEL", "the kernel's conntrack table could not be read; the log has the reason");
    }
    if (signal.aborted) return;
    this.#beatFromNow();
    every(MAKE_ROOM_MS, signal, () => {
      if (this.internal.hasRoomForUnpublished) void replicator.resyncKernel();
    });
    if (past.continues === null) void journal.writeSnapshot(signal);
    this.#down.push(() => this.roles.stop());
    if (injector === null) return;
    injector.start({
      claim: (flow) => replicator.claim(flow),
      readEvents: () => replicator.readEvents(),
      resync: () => void replicator.resyncKernel(),
    });
    every(RENEW_MS, signal, () => injector.tick());
  }

  #listen(): void {
    const { replicator, signal } = this;
    const { events } = this.#ports;
    const { pollMs } = this.#options;
    const polling = pollMs === null ? null : new Polling(() => replicator.pollKernel(), pollMs, signal);
    this.#down.push(() => this.#endStream());
    this.#down.push(async () => {
      await events?.close();
      await polling?.ended();
      replicator.stop();
    });
    events?.listen(replicator);
    polling?.start();
  }

  /**
   * Writes the epoch's first mark. From then on, snapshots are written when they are due, requested, or needed after a
   * loss.
   */
  #beginEpoch(): void {
    const { internal, journal, replicator, signal } = this;
    const { past, ownStream } = this.#ports;
    const previousNumber = past.continues?.number ?? 0;
    const begins = { reason: epochReason(past), previousEpoch: past.lastEpoch, previousNumber };
    journal.writeMark({ type: "epoch", ...begins, ...this.#versions });
    // Rows that the copies made pending wait until here to be published.
    internal.listen(() => replicator.poke());
    every(SNAPSHOT_CHECK_MS, signal, () => {
      if (journal.snapshotDue) void journal.writeSnapshot(signal);
    });
    const unlisten = ownStream?.listen({
      lost: (reason) => {
        void journal.lost(reason, signal);
        // Claims may be among what was lost. This node has dropped the rows of the flows that it claimed, but their
        // owners still carry them.
        for (const follower of this.followers) follower.resync();
      },
      asked: (request) => this.#answer(request),
    });
    this.#down.push(() => unlisten?.());
  }

  #answer(request: NodeRequest): void {
    if (request === "snapshot") {
      this.format.look();
      this.#askedSnapshots.ask();
    } else if (this.#beatsLeft > 0) {
      this.#beatsLeft--;
      void this.#sendHeartbeat();
    }
  }

  /** The format versions of this node, as marks and heartbeats report them. */
  get #versions(): { writes: number; reads: number[] } {
    return { writes: this.journal.format.version, reads: versionNumbers(this.#options.formats.reads) };
  }

  /** Sends heartbeats, unless there is no stream whose readers they are for. */
  #beatFromNow(): void {
    if (this.#ports.ownStream === null) return;
    this.#beat();
    every(HEARTBEAT_MS, this.signal, () => this.#beat());
  }

  #beat(): void {
    this.#beatsLeft = BEATS_ASKED_MAX;
    void this.#sendHeartbeat();
  }

  /**
   * The kernel's events come first. After a standstill the timer of the heartbeat is served before them, and peers would
   * take this node's old position for all that there is.
   */
  async #sendHeartbeat(): Promise<void> {
    const { internal, journal, replicator, roles, signal } = this;
    await replicator.catchUp();
    if (signal.aborted) return;
    this.format.look();
    const { ownStream, clock } = this.#ports;
    const { cluster, node } = this.#options;
    ownStream?.beat({
      cluster,
      node,
      ...this.#versions,
      epoch: journal.epoch,
      number: journal.number,
      ...journal.tally,
      wallMs: clock.wallMs(),
      role: roles.role,
      groups: roles.namedGroups,
      unpublished: internal.unpublished,
      unread: this.replicator.isUnread,
      trouble: ownStream?.trouble ?? null,
      holds: this.peers.held,
    });
  }

  /** Writes the epoch's last mark, if the epoch has begun. */
  async #endStream(): Promise<void> {
    if (this.journal.number === 0) return;
    this.journal.writeMark({ type: "stop" });
    if (await this.#ports.ownStream?.flush(FLUSH_TIMEOUT_MS)) return;
    this.log.warn("the broker did not confirm the last messages in time");
  }

  /** Ends what was started, in reverse order. The signal has been aborted before. */
  stop(): Promise<void> {
    return this.#down.run(this.log);
  }
}

/** Calls `work` every `intervalMs` milliseconds until the signal. */
function every(intervalMs: number, signal: AbortSignal, work: () => void): void {
  if (signal.aborted) return;
  const timer = setInterval(work, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
