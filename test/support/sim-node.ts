import type { ExternalCache } from "../../src/cache/external.js";
import type { InternalCache } from "../../src/cache/internal.js";
import type { Clock } from "../../src/flow/clock.js";
import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import type { NodeRequest } from "../../src/stream/format/subjects.js";
import type { Follower } from "../../src/sync/in/follower.js";
import type { Injector } from "../../src/sync/inject/injector.js";
import type { FirewallNode, NodePorts } from "../../src/sync/node.js";
import type { Journal } from "../../src/sync/out/journal.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import type { OwnPast } from "../../src/sync/own-past.js";
import type { EarlierRoles } from "../../src/sync/ports/carrying.js";
import type { JournalSink } from "../../src/sync/ports/own-stream.js";
import type { CopySource, PeerPort, PeerStream } from "../../src/sync/ports/peer-stream.js";
import type { Roles } from "../../src/sync/takeover/roles.js";
import { MemoryStream } from "./memory-stream.js";
import { keyOf, SimKernel, statusOf } from "./sim-kernel.js";
import { AT_ONCE, SimSockets, type Wire } from "./sim-sockets.js";
import { firstStart, testNode } from "./test-node.js";

const OWN_PORT = 4711;

/** The parts and settings of a node that differ from the usual ones. */
export interface SimNodeOptions {
  /** The kernel sends no events; `poll` reads its table. */
  readonly polls?: boolean;
  /** Mode `inject`. */
  readonly injects?: boolean;
  /** With `injects`: mode `cache` with `commit.ahead`. */
  readonly aheadSeconds?: number | null;
  /** As in the replicator. */
  readonly overrunResyncMs?: number | null;
  readonly publishIntervalMs?: number;
  readonly wire?: Wire;
  readonly peers?: readonly PeerPort[];
  readonly passTurn?: NodePorts["passTurn"];
  /** Number of the daemon on its kernel, from 1 on. */
  readonly run?: number;
  /** What an earlier daemon left. */
  readonly kernel?: SimKernel;
  readonly stream?: MemoryStream;
  readonly past?: OwnPast;
  /** Replaces the stream. */
  readonly sink?: JournalSink;
  /** Sends its heartbeats. */
  readonly beat?: (heartbeat: Heartbeat) => void;
  /** The roles that earlier daemons were given. */
  readonly earlier?: EarlierRoles;
}

/** A peer to follow, whichever of its daemons is running. */
export interface SimPeer {
  readonly name: string;
  readonly stream: MemoryStream;
  askSnapshot(): void;
}

/** The connection to a peer, over `stream`. `copy`: null where a shared broker keeps all streams. */
export function simPeer(
  peer: SimPeer,
  stream: PeerStream,
  reached: () => boolean = () => true,
  copy: CopySource | null = null,
  hear: PeerPort["hear"] = () => () => undefined,
): PeerPort {
  const ask = (): boolean => {
    if (!reached()) return false;
    peer.askSnapshot();
    return true;
  };
  return {
    ...{ node: peer.name, address: "", discovered: false, stream, copy, reached, ask },
    unreachable: () => null,
    hear,
    close: () => undefined,
  };
}

/** A node with a simulated kernel and broker. The parts between them are those of the shipped node. */
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
  readonly followers: readonly Follower[];
  readonly roles: Roles;
  readonly #node: FirewallNode;
  readonly #end = new AbortController();
  readonly #polls: boolean;
  #asked: (request: NodeRequest) => void = () => undefined;
  #lost: (reason: string) => void = () => undefined;

  /** `skewMs`: the error of this node's wall clock. */
  constructor(name: string, index: number, clock: Clock, skewMs: number, options: SimNodeOptions = {}) {
    const { polls = false, injects = false, wire = AT_ONCE, publishIntervalMs = 0, run = 1, passTurn } = options;
    const ownClock = { wallMs: () => clock.wallMs() + skewMs };
    this.name = name;
    this.#polls = polls;
    this.stream = options.stream ?? new MemoryStream();
    this.kernel = options.kernel ?? new SimKernel(index * 1_000_000);
    this.sockets = new SimSockets(this.kernel, { portId: OWN_PORT + run, wire });
    this.#node = testNode(
      {
        kernel: this.sockets,
        events: polls ? null : this.sockets,
        injects: injects ? this.sockets : null,
        past: options.past ?? firstStart(ownClock),
        ownStream: {
          sink: options.sink ?? this.stream,
          listen: ({ asked, lost }) => {
            this.#asked = asked;
            this.#lost = lost;
            return () => undefined;
          },
          flush: async () => true,
          trouble: null,
          beat: options.beat ?? (() => undefined),
        },
        peers: options.peers ?? [],
        clock: ownClock,
        signal: this.#end.signal,
        ...(passTurn === undefined ? {} : { passTurn }),
        ...(options.earlier === undefined ? {} : { earlier: options.earlier }),
      },
      {
        node: name,
        externalFlowsMax: 50_000,
        overrunResyncMs: options.overrunResyncMs === undefined ? 0 : options.overrunResyncMs,
        publishIntervalMs,
        aheadSeconds: options.aheadSeconds ?? null,
      },
    );
    const { internal, external, journal, replicator, injector, followers, roles } = this.#node;
    this.internal = internal;
    this.external = external;
    this.journal = journal;
    this.replicator = replicator;
    this.injector = injector;
    this.followers = followers;
    this.roles = roles;
  }

  /** Aborted when the daemon is gone. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  /** Why the first peer that is not in sync is not; null when all are. */
  get outOfSync(): string | null {
    return this.#node.peers.list.map(({ watch }) => watch.reason).find((reason) => reason !== null) ?? null;
  }

  askSnapshot(): void {
    this.#asked("snapshot");
  }

  /** Messages did not reach the stream. */
  loseMessages(): void {
    this.#lost("no space left on the device");
  }

  /** Rebuilds the peers' flows from the copies. */
  restore(): Promise<void> {
    return this.#node.restore();
  }

  /** Starts the node's work. */
  begin(): Promise<void> {
    return this.#node.start();
  }

  /** Starts the node, and writes the first snapshot. */
  async start(): Promise<void> {
    await this.restore();
    await this.begin();
    await this.journal.writeSnapshot(this.#end.signal);
  }

  /** Replaces events: applies what has changed since the last dump. */
  async poll(): Promise<void> {
    if (this.#polls) await this.replicator.pollKernel();
  }

  /** Follows another node from now on. */
  follow(peer: SimPeer): void {
    this.#node.peers.add(simPeer(peer, peer.stream));
    this.#node.peers.run(this.#end.signal);
  }

  /** Follows a peer that has announced itself. */
  join(peer: PeerPort): Promise<void> {
    return this.#node.peers.join(peer, this.#end.signal);
  }

  /** Ends it as `systemctl stop` does. */
  end(): Promise<void> {
    this.#end.abort();
    return this.#node.stop();
  }

  /** Ends it as a crash does: nothing more is read or written. */
  stop(): Promise<void> {
    this.#end.abort();
    void this.sockets.close();
    return this.roles.stop();
  }

  /** Flows by key, with their status. */
  view(cache: "internal" | "external"): Map<string, number> {
    const { table } = this[cache];
    return this.#flows(cache, (slot) => statusOf(table.slab(slot), table.base(slot)));
  }

  /** Flows by key, with the birth of their connection. */
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

/** Resolves when every follower has applied everything that its peer has written, and that has caused nothing new. */
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
