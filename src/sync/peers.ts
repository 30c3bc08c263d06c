import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { Clock, HybridClock } from "../flow/clock.js";
import { type Formats, versionNumbers } from "../stream/format/versions.js";
import { Applier, type LocalFlows } from "./in/applier.js";
import { Follower } from "./in/follower.js";
import type { Repair } from "./in/losses.js";
import { PeerWatch } from "./in/peer-watch.js";
import type { PeerPort } from "./ports/peer-stream.js";

/** How often the node checks whether its peers are in sync. */
const LOOK_MS = 1000;

/** A peer with its follower and its watch. */
export interface Peer extends Pick<PeerPort, "address" | "discovered"> {
  /** As in PeerPort; rejects where nobody can be asked. */
  check(payload: Uint8Array): Promise<string>;
  readonly follower: Follower;
  /** Reports why the peer is not in sync. */
  readonly watch: PeerWatch;
  /** True while its broker is connected. */
  reached(): boolean;
}

/** The peers that a node follows. A peer is never removed while the node runs. */
export class Peers {
  readonly #parts: {
    external: ExternalCache;
    local: LocalFlows | null;
    keepsAll: boolean;
    cluster: string;
    node: string;
    silenceMsMax: number;
    formats: Formats;
    hybridClock: HybridClock;
    onSkip?: () => void;
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
    /** A new copy takes all that the peer's stream still holds, instead of starting at the peer's last snapshot. */
    keepsAll: boolean;
    cluster: string;
    /** This node's name. */
    node: string;
    /** How long a peer's daemon may be silent before the peer no longer counts as in sync. */
    silenceMsMax: number;
    formats: Formats;
    hybridClock: HybridClock;
    /** Claims of a peer may have been skipped, by which others have dropped flows that this node still carries. */
    onSkip?: () => void;
    clock: Clock;
    log: Logger;
  }) {
    this.#parts = options;
  }

  /** Sets how long a peer's daemon may be silent before the peer no longer counts as in sync. */
  setSilence(silenceMsMax: number): void {
    this.#parts.silenceMsMax = silenceMsMax;
    for (const { watch } of this.#list) watch.silenceMsMax = silenceMsMax;
  }

  /** All peers, including those that were added later. */
  get list(): readonly Peer[] {
    return this.#list;
  }

  /** Names of the peers that this node is in sync with. */
  get held(): string[] {
    return this.#list.filter(({ watch }) => watch.reason === null).map(({ follower }) => follower.node);
  }

  /** The followers of all peers, including those that were added later. */
  get followers(): readonly Follower[] {
    return this.#followers;
  }

  /** Adds a peer, whose follower does not run yet. */
  add(port: PeerPort): Follower {
    const follower = this.#create(port);
    this.#enlist(port, follower);
    return follower;
  }

  /** Adds a peer while the others run. Its follower starts when its copy has been read. */
  async join(port: PeerPort, signal: AbortSignal): Promise<void> {
    const follower = this.#create(port);
    await follower.restore(signal);
    if (signal.aborted) return;
    this.#enlist(port, follower);
    this.run(signal);
  }

  #create(port: PeerPort): Follower {
    const { external, local, keepsAll, formats, hybridClock, clock, log } = this.#parts;
    this.#ports.push(port);
    return new Follower({
      stream: port.stream,
      copy: port.copy,
      applier: new Applier({
        ...{ node: port.node, external, local, formats, hybridClock, log },
        onRepair: (repair) => this.#repaired(port.node, repair),
      }),
      whole: keepsAll,
      ask: () => this.#writesReadable(port.node) && port.ask(),
      clock,
      log,
    });
  }

  /**
   * A claim that a peer's stream does not hold any more may have taken rows over from other peers: these are read again.
   */
  #repaired(node: string, { skipped, retracted }: Repair): void {
    if (skipped) this.#parts.onSkip?.();
    if (!retracted) return;
    for (const follower of this.#followers) if (follower.node !== node) follower.resync();
  }

  /** False while a snapshot of the peer would be of no use. */
  #writesReadable(node: string): boolean {
    return this.#list.find(({ follower }) => follower.node === node)?.watch.writesReadable !== false;
  }

  #enlist(port: PeerPort, follower: Follower): void {
    const { address, discovered } = port;
    const { external, cluster, node, silenceMsMax, formats, clock, log } = this.#parts;
    const base = { port, follower, external, cluster, self: node, silenceMsMax, reads: versionNumbers(formats.reads) };
    const watch = new PeerWatch({ ...base, wallMs: () => clock.wallMs(), log });
    const check = (payload: Uint8Array): Promise<string> =>
      port.check?.(payload) ?? Promise.reject(new Error("it cannot be asked"));
    this.#list.push({ follower, watch, address, discovered, reached: () => port.reached(), check });
    this.#followers.push(follower);
  }

  /** Rebuilds all peers' tables from the copies. Call it before `run`. */
  async restore(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#followers.map((follower) => follower.restore(signal)));
  }

  /** Starts every follower that does not run yet. They run until the signal. */
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

  /** The own broker is connected again: copying resumes. */
  resumeCopies(): void {
    for (const follower of this.#followers) follower.resumeCopy();
  }

  /** True while the stream of a peer is followed. */
  hears(node: string): boolean {
    return this.#followers.some((follower) => follower.node === node && follower.state.connected);
  }

  /** Resolves when no follower runs any more. The signal has been aborted before. */
  async ended(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Closes the connections to the peers. */
  async close(): Promise<void> {
    for (const { watch } of this.#list) watch.stop();
    await Promise.all(this.#ports.map((port) => port.close()));
  }
}
