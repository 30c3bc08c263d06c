import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { type Clock, HybridClock } from "../../src/flow/clock.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import { Injector } from "../../src/sync/inject/injector.js";
import { type Continuation, Journal, type JournalSink } from "../../src/sync/out/journal.js";
import { Replicator } from "../../src/sync/out/replicator.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";
import { Roles } from "../../src/sync/takeover/roles.js";
import { MemoryStream } from "./memory-stream.js";
import { keyOf, SimKernel, statusOf } from "./sim-kernel.js";
import { AT_ONCE, SimSockets, type Wire } from "./sim-sockets.js";

const OWN_PORT = 4711;
const log = pino({ level: "silent" });

/** What a node is made of and how it works, where that is not the usual. */
export interface SimNodeOptions {
  /** The kernel sends no events; its table is read by `poll`. */
  readonly polls?: boolean;
  /** Mode `inject`. */
  readonly injects?: boolean;
  /** As in the replicator. */
  readonly overrunResyncMs?: number | null;
  readonly publishIntervalMs?: number;
  readonly wire?: Wire;
  /** What a daemon before this one has left. */
  readonly kernel?: SimKernel;
  readonly stream?: MemoryStream;
  readonly internal?: InternalCache;
  readonly hybridClock?: HybridClock;
  readonly epoch?: number;
  readonly continues?: Continuation | null;
  /** In place of the stream itself. */
  readonly sink?: JournalSink;
}

/** A peer to follow, whichever of its daemons is running. */
export interface SimPeer {
  readonly name: string;
  readonly stream: MemoryStream;
  readonly journal: Journal;
}

/** A node without kernel and broker: every part between them is the real one. */
export class SimNode implements SimPeer {
  readonly name: string;
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly stream: MemoryStream;
  readonly kernel: SimKernel;
  readonly sockets: SimSockets;
  readonly journal: Journal;
  readonly replicator: Replicator;
  /** Null in mode `cache`. */
  readonly injector: Injector | null;
  readonly followers: Follower[] = [];
  readonly roles: Roles;
  readonly #hybridClock: HybridClock;
  readonly #clock: Clock;
  readonly #end = new AbortController();
  readonly #polls: boolean;
  /** This daemon's first stamp. */
  readonly #sinceStamp: number;

  /** `skewMs`: how far this node's wall clock is off. */
  constructor(name: string, index: number, clock: Clock, skewMs: number, options: SimNodeOptions = {}) {
    const { polls = false, injects = false, wire = AT_ONCE, publishIntervalMs = 0, epoch = 1 } = options;
    this.name = name;
    this.#polls = polls;
    this.#clock = { wallMs: () => clock.wallMs() + skewMs };
    this.#hybridClock = options.hybridClock ?? new HybridClock(this.#clock);
    this.#sinceStamp = this.#hybridClock.next();
    this.internal = options.internal ?? new InternalCache(10_000);
    this.stream = options.stream ?? new MemoryStream();
    this.kernel = options.kernel ?? new SimKernel(index * 1_000_000);
    this.sockets = new SimSockets(this.kernel, {
      portId: OWN_PORT + epoch,
      wire,
      muted: injects,
      sink: () => this.replicator,
    });
    if (!polls) this.sockets.listen();
    this.external = new ExternalCache(50_000);
    this.injector = injects ? this.#injector(publishIntervalMs) : null;
    if (this.injector !== null) this.external.listen(this.injector);
    this.journal = new Journal({
      node: name,
      epoch,
      continues: options.continues ?? null,
      internal: this.internal,
      sink: options.sink ?? this.stream,
      clock: this.#clock,
      hybridClock: this.#hybridClock,
      log,
    });
    this.replicator = new Replicator({
      internal: this.internal,
      external: this.external,
      journal: this.journal,
      kernel: this.sockets,
      ownPorts: new Set([this.sockets.portId]),
      filter: () => true,
      carries: () => this.roles.carries,
      standsBack: () => this.roles.standsBack,
      ignoresOwn: injects,
      injection: this.injector,
      overrunResyncMs: options.overrunResyncMs === undefined ? 0 : options.overrunResyncMs,
      publishIntervalMs,
      clock: this.#clock,
      log,
      signal: this.#end.signal,
    });
    // Not before the epoch has begun.
    this.internal.listen(() => (this.journal.number > 0 ? this.replicator.poke() : undefined));
    this.roles = new Roles({
      internal: this.internal,
      external: this.external,
      kernel: this.sockets,
      journal: this.journal,
      followers: this.followers,
      injects,
      reader: () => this.replicator,
      before: "unknown",
      commitTimeoutSeconds: null,
      commitWindowTracking: false,
      purgeAfterSeconds: 60,
      clock: this.#clock,
      log,
    });
  }

  #injector(intervalMs: number): Injector {
    return new Injector({
      internal: this.internal,
      external: this.external,
      kernel: this.sockets,
      hears: (node) => this.followers.some((follower) => follower.node === node && follower.state.connected),
      timeoutSeconds: null,
      liberal: true,
      wallSeconds: () => Math.floor(this.#clock.wallMs() / 1000),
      intervalMs,
      log,
    });
  }

  /** Aborted when the daemon is gone. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  /** Writes the epoch mark and the first snapshot. */
  async start(): Promise<void> {
    this.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    await this.replicator.resyncKernel();
    await this.journal.writeSnapshot(this.#end.signal);
  }

  /** In place of events: takes what has changed since the last dump. */
  async poll(): Promise<void> {
    if (this.#polls) await this.replicator.pollKernel();
  }

  /** Follows another node from now on. */
  follow(peer: SimPeer): void {
    void this.follower(peer, peer.stream).run(this.#end.signal);
  }

  /** What is to follow another node, over `stream`. */
  follower(peer: SimPeer, stream: PeerStream): Follower {
    const local = { node: this.name, internal: this.internal, sinceStamp: this.#sinceStamp };
    const { external } = this;
    const follower = new Follower({
      stream,
      copy: null,
      applier: new Applier({ node: peer.name, external, local, hybridClock: this.#hybridClock, log }),
      whole: false,
      ask: () => {
        void peer.journal.writeSnapshot(new AbortController().signal);
        return true;
      },
      clock: this.#clock,
      log,
    });
    this.followers.push(follower);
    return follower;
  }

  /** Ends it as a crash does: nothing more is read or written. */
  stop(): Promise<void> {
    this.#end.abort();
    this.sockets.close();
    return this.roles.stop();
  }

  /** Flows by key, with their status. */
  view(cache: "internal" | "external"): Map<string, number> {
    const { table } = this[cache];
    return this.#flows(cache, (slot) => statusOf(table.slab(slot), table.base(slot)));
  }

  /** Flows by key, with the stamp of their connection's first claim. */
  births(cache: "internal" | "external"): Map<string, number> {
    return this.#flows(cache, (slot) => this[cache].table.birth(slot));
  }

  #flows(cache: "internal" | "external", pick: (slot: number) => number): Map<string, number> {
    const { table } = this[cache];
    const flows = new Map<string, number>();
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      const shown = cache === "internal" ? this.internal.isFlow(slot) : table.isLive(slot);
      if (shown) flows.set(keyOf(table.slab(slot), table.base(slot)), pick(slot));
    }
    return flows;
  }
}

/** Resolves when every follower has applied all that its peer has written, and nothing new came of that. */
export async function settled(nodes: readonly SimNode[]): Promise<void> {
  for (let quiet = 0, turns = 0; quiet < 3; turns++) {
    if (turns > 10_000) throw new Error("the nodes do not come to rest");
    await new Promise(setImmediate);
    const written = new Map(nodes.map((node) => [node.name, node.stream.messages.length]));
    const behind = nodes.some((node) =>
      node.followers.some(
        (follower) => written.has(follower.node) && follower.state.sequence < written.get(follower.node)!,
      ),
    );
    quiet = behind ? 0 : quiet + 1;
  }
}
