import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { Applier, type LocalFlows } from "./in/applier.js";
import { Follower } from "./in/follower.js";
import { PeerWatch } from "./in/peer-watch.js";
import type { PeerPort } from "./ports/peer-stream.js";

/** How often it is looked whether peers are in sync. */
const LOOK_MS = 1000;

/** A peer and what follows it. */
export interface Peer extends Pick<PeerPort, "address" | "discovered"> {
  readonly follower: Follower;
  /** Says why it is not in sync. */
  readonly watch: PeerWatch;
  /** True while its broker is connected. */
  reached(): boolean;
}

/** The peers that a node follows. Their number only grows. */
export class Peers {
  readonly #parts: {
    external: ExternalCache;
    local: LocalFlows | null;
    keepsAll: boolean;
    cluster: string;
    node: string;
    silenceMsMax: number;
    hybridClock: HybridClock;
    clock: Clock;
    log: Logger;
  };
  readonly #list: Peer[] = [];
  readonly #followers: Follower[] = [];
  readonly #ports: PeerPort[] = [];
  readonly #running: Promise<void>[] = [];
  #looking: NodeJS.Timeout | null = null;

  constructor(options: {
    external: ExternalCache;
    /** Null on an observer, which has no kernel. */
    local: LocalFlows | null;
    /** A copy that is begun takes all that a peer's stream still holds, not only what is needed from its last snapshot on. */
    keepsAll: boolean;
    cluster: string;
    /** This node's name. */
    node: string;
    /** How long a peer's daemon may be silent before it is not in sync any more. */
    silenceMsMax: number;
    hybridClock: HybridClock;
    clock: Clock;
    log: Logger;
  }) {
    this.#parts = options;
  }

  /** All peers, also those that come later. */
  get list(): readonly Peer[] {
    return this.#list;
  }

  /** The followers of all peers, also of those that come later. */
  get followers(): readonly Follower[] {
    return this.#followers;
  }

  /** Another peer, which does not run yet. */
  add(port: PeerPort): Follower {
    const follower = this.#create(port);
    this.#enlist(port, follower);
    return follower;
  }

  /** Another peer while the others run: it joins them when its copy is read. */
  async join(port: PeerPort, signal: AbortSignal): Promise<void> {
    const follower = this.#create(port);
    await follower.restore(signal);
    if (signal.aborted) return;
    this.#enlist(port, follower);
    this.run(signal);
  }

  #create(port: PeerPort): Follower {
    const { external, local, keepsAll, hybridClock, clock, log } = this.#parts;
    this.#ports.push(port);
    return new Follower({
      stream: port.stream,
      copy: port.copy,
      applier: new Applier({ node: port.node, external, local, hybridClock, log }),
      whole: keepsAll,
      ask: () => port.ask(),
      clock,
      log,
    });
  }

  #enlist(port: PeerPort, follower: Follower): void {
    const { address, discovered } = port;
    const { external, cluster, node, silenceMsMax, clock, log } = this.#parts;
    const base = { port, follower, external, cluster, self: node, silenceMsMax };
    const watch = new PeerWatch({ ...base, wallMs: () => clock.wallMs(), log });
    this.#list.push({ follower, watch, address, discovered, reached: () => port.reached() });
    this.#followers.push(follower);
  }

  /** Rebuilds all tables from the copies. Before `run`. */
  async restore(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#followers.map((follower) => follower.restore(signal)));
  }

  /** Lets all followers run until the signal, those that do not run yet. */
  run(signal: AbortSignal): void {
    for (const { follower, watch } of this.#list.slice(this.#running.length)) {
      this.#running.push(follower.run(signal));
      watch.start();
    }
    if (this.#looking !== null || signal.aborted) return;
    const looking = setInterval(() => this.#look(), LOOK_MS);
    this.#looking = looking;
    signal.addEventListener("abort", () => clearInterval(looking), { once: true });
  }

  #look(): void {
    for (const { watch } of this.#list) watch.look();
  }

  /** The own broker is back: copying goes on. */
  resumeCopies(): void {
    for (const follower of this.#followers) follower.resumeCopy();
  }

  /** True while the stream of a peer is followed. */
  hears(node: string): boolean {
    return this.#followers.some((follower) => follower.node === node && follower.state.connected);
  }

  /** Resolves when none runs any more; the signal has been given. */
  async ended(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Closes the ways to the peers. */
  async close(): Promise<void> {
    for (const { watch } of this.#list) watch.stop();
    await Promise.all(this.#ports.map((port) => port.close()));
  }
}
