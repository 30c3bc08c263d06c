/**
 * A firewall's node, built from its ports: whatever lies behind those (kernel, broker and clocks, or a simulator's), this is how the parts
 * between them belong together, and in which order they start and end.
 */
import type { Logger } from "pino";
import { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import { ConntrailError } from "../errors.js";
import type { Clock } from "../flow/clock.js";
import type { FlowPredicate } from "../flow/filter.js";
import { FORMAT_VERSION } from "../stream/format/envelope.js";
import { followersCaughtUp } from "./caught-up.js";
import type { Follower } from "./in/follower.js";
import { Injector } from "./inject/injector.js";
import { Journal } from "./out/journal.js";
import { Polling } from "./out/polling.js";
import { Replicator } from "./out/replicator.js";
import { epochReason, type OwnPast } from "./own-past.js";
import { Peers } from "./peers.js";
import { Carrying, type EarlierRoles } from "./ports/carrying.js";
import type { HelperNames, InjectorKernel, KernelEvents, KernelRequests, KernelTable } from "./ports/kernel.js";
import type { OwnStream } from "./ports/own-stream.js";
import type { PeerPort } from "./ports/peer-stream.js";
import { TakeDown } from "./take-down.js";
import { Roles } from "./takeover/roles.js";

/** What a node has to do with. Whoever opened them closes them, but for the events and the ways to the peers. */
export interface NodePorts {
  readonly kernel: KernelRequests & KernelTable & { readonly portId: number };
  /** Null: the kernel is polled (`pollMs`). */
  readonly events: KernelEvents | null;
  /** Mode `inject`: requests of a port of their own, by which their echoes are known. Null: mode `cache`. */
  readonly injects: (InjectorKernel & { readonly portId: number }) | null;
  /** What this node's own stream holds. */
  readonly past: OwnPast;
  /** What keepalived made of it before it started. */
  readonly earlier: EarlierRoles;
  readonly ownStream: OwnStream;
  /** The peers that are known when it starts. */
  readonly peers: readonly PeerPort[];
  /** Addresses of this machine now, virtual ones included, as inet_ntop prints them. */
  readonly addresses: () => ReadonlySet<string>;
  readonly clock: Clock;
  /** Lets one of the turns pass that a start waits for its peers. */
  readonly passTurn: (signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** The end has begun; `stop` follows. */
  readonly signal: AbortSignal;
}

/** How a node works. */
export interface NodeOptions {
  readonly cluster: string;
  readonly node: string;
  /** How long a peer's daemon may be silent before it is not in sync any more. */
  readonly silenceMsMax: number;
  /** Flows of all peers that the external cache holds at the most. */
  readonly externalFlowsMax: number;
  /** Which flows are replicated. */
  readonly filter: FlowPredicate;
  /** Whose expectations are replicated; null: nobody's. */
  readonly helpers: HelperNames | null;
  /** How long after a dump in place of events the next one begins; null: there is none but those that are asked for. */
  readonly pollMs: number | null;
  /** How long after an overrun the table is compared; null: not at all. */
  readonly overrunResyncMs: number | null;
  readonly publishIntervalMs: number;
  /** Kernel timeout of committed entries; null: the time that was left. */
  readonly commitTimeoutSeconds: number | null;
  /** Committed TCP flows keep their window tracking. */
  readonly commitWindowTracking: boolean;
  readonly purgeAfterSeconds: number;
}

/** How often it is looked whether a snapshot is due. */
const SNAPSHOT_CHECK_MS = 1000;
/** How often the peers hear that this daemon lives, and how far its stream goes. */
const HEARTBEAT_MS = 1000;
/** How often the kernel's table is read anew for flows that found no room in the cache. */
const MAKE_ROOM_MS = 30_000;
/** How often injected entries are looked at that are about to run out. */
const RENEW_MS = 1000;
/** How long the end waits for the broker to confirm what was published. */
const FLUSH_TIMEOUT_MS = 3000;

/** A firewall: its kernel's events out, its peers' streams in. `restore`, then `start`, then `stop`. */
export class FirewallNode {
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly kernel: NodePorts["kernel"];
  readonly journal: Journal;
  readonly replicator: Replicator;
  /** Null in mode `cache`. */
  readonly injector: Injector | null;
  readonly peers: Peers;
  readonly roles: Roles;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly #ports: NodePorts;
  readonly #options: NodeOptions;
  readonly #down = new TakeDown();

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
    const external = new ExternalCache(options.externalFlowsMax);
    this.external = external;
    const injector = injects === null ? null : this.#createInjector(injects);
    this.injector = injector;
    const { continues, epoch } = past;
    const base = { internal, clock, hybridClock, log };
    const journal = new Journal({ ...base, node: options.node, epoch, continues, sink: ownStream.sink });
    this.journal = journal;
    const carrying = new Carrying({ earlier: ports.earlier, injects: injects !== null });
    const ownPorts = new Set([(injects ?? kernel).portId]);
    const parts = { internal, external, journal, kernel, carrying, clock, log };
    const { filter, helpers, overrunResyncMs, publishIntervalMs } = options;
    const replicating = { filter, helpers, overrunResyncMs, publishIntervalMs, ownPorts, signal };
    const replicator = new Replicator({ ...parts, ...replicating, events, injection: injector });
    this.replicator = replicator;
    // What it injects it need not be told of, ever.
    if (injects !== null) events?.mute(injects.portId);
    const named = { cluster: options.cluster, node: options.node, silenceMsMax: options.silenceMsMax };
    const local = { node: options.node, internal, sinceStamp: hybridClock.next() };
    this.peers = new Peers({ external, local, keepsAll: false, ...named, hybridClock, clock, log });
    for (const peer of ports.peers) this.peers.add(peer);
    const { followers } = this.peers;
    const committing = { commitTimeoutSeconds, commitWindowTracking, purgeAfterSeconds, injects: injects !== null };
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
      log,
    });
    external.listen(injector);
    return injector;
  }

  /** The followers of all peers, also of those that are found later. */
  get followers(): readonly Follower[] {
    return this.peers.followers;
  }

  /** True in mode `inject`: what peers say is in the kernel, and the external cache only keeps the books. */
  get injects(): boolean {
    return this.injector !== null;
  }

  /** Rebuilds the peers' flows from the copies of their streams. */
  restore(): Promise<void> {
    return this.peers.restore(this.signal);
  }

  /**
   * Does its work from now on. Resolves when the kernel's table is read.
   * @throws ConntrailError KERNEL when it cannot be read, or not be listened to
   */
  async start(): Promise<void> {
    const { journal, replicator, peers, injector, signal, log } = this;
    const { past, passTurn } = this.#ports;
    // From here on nothing of the kernel's is missed. The epoch's mark comes before whatever it says.
    this.#listen();
    this.#beginEpoch();
    peers.run(signal);
    this.#down.push(() => peers.ended());
    // What was injected last may not be in the copies, and without it the kernel's table cannot be told apart.
    if (injector !== null) await followersCaughtUp(peers.list, signal, log, passTurn);
    if (!(await replicator.resyncKernel()) && !signal.aborted) {
      throw new ConntrailError("KERNEL", "the kernel's conntrack table could not be read; the log has the reason");
    }
    if (signal.aborted) return;
    this.#beat();
    every(HEARTBEAT_MS, signal, () => this.#beat());
    every(MAKE_ROOM_MS, signal, () => {
      if (this.internal.unpublished > 0 && this.internal.hasRoom) void replicator.resyncKernel();
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

  /** Writes the first mark of the epoch, and from now on snapshots when they are due, asked for, or needed after a loss. */
  #beginEpoch(): void {
    const { internal, journal, replicator, signal } = this;
    const { past, ownStream } = this.#ports;
    const previousNumber = past.continues?.number ?? 0;
    journal.writeMark({ type: "epoch", reason: epochReason(past), previousEpoch: past.lastEpoch, previousNumber });
    // What the copies have left to publish waits until then.
    internal.listen(() => replicator.poke());
    every(SNAPSHOT_CHECK_MS, signal, () => {
      if (journal.snapshotDue) void journal.writeSnapshot(signal);
    });
    const unlisten = ownStream.listen({
      lost: (reason) => void journal.lost(reason, signal),
      snapshotAsked: () => void journal.writeSnapshot(signal),
    });
    this.#down.push(unlisten);
  }

  #beat(): void {
    const { internal, journal, roles } = this;
    const { ownStream, clock } = this.#ports;
    const { cluster, node } = this.#options;
    ownStream.beat({
      cluster,
      node,
      writes: FORMAT_VERSION,
      reads: [FORMAT_VERSION],
      epoch: journal.epoch,
      number: journal.number,
      ...journal.tally,
      wallMs: clock.wallMs(),
      role: roles.role,
      groups: roles.namedGroups,
      unpublished: internal.unpublished,
      trouble: ownStream.trouble,
    });
  }

  /** The last word of the epoch, where that has begun. */
  async #endStream(): Promise<void> {
    if (this.journal.number === 0) return;
    this.journal.writeMark({ type: "stop" });
    if (await this.#ports.ownStream.flush(FLUSH_TIMEOUT_MS)) return;
    this.log.warn("the broker did not confirm the last messages in time");
  }

  /** Ends what was started, last first. The signal has been given. */
  stop(): Promise<void> {
    return this.#down.run(this.log);
  }
}

/** Calls `work` every so many milliseconds until the signal. */
function every(intervalMs: number, signal: AbortSignal, work: () => void): void {
  if (signal.aborted) return;
  const timer = setInterval(work, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
