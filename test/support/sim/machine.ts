/** A machine of a simulated world: a kernel, a broker's store and links, and the daemons that come and go on it. */
import { pino } from "pino";
import { InternalCache } from "../../../src/cache/internal.js";
import { HybridClock } from "../../../src/flow/clock.js";
import type { MessageKind } from "../../../src/stream/format/subjects.js";
import { FORMATS } from "../../../src/stream/format/versions.js";
import { type OwnPast, readOwnPast } from "../../../src/sync/own-past.js";
import type { EarlierRoles, SpokenRole } from "../../../src/sync/ports/carrying.js";
import type { JournalSink } from "../../../src/sync/ports/own-stream.js";
import type { PeerPort } from "../../../src/sync/ports/peer-stream.js";
import { MemoryStream } from "../memory-stream.js";
import type { Random } from "../records.js";
import { keyOf, SimKernel } from "../sim-kernel.js";
import type { SimLink } from "../sim-link.js";
import { SimNode, type SimPeer, simPeer } from "../sim-node.js";
import type { Way, Wire } from "../sim-sockets.js";
import type { Trace } from "./trace.js";

const log = pino({ level: "silent" });
const WAYS: readonly Way[] = ["events", "requests", "dump", "publish"];
/** The relative speeds of the ways. */
const SPEEDS = [1, 1, 3, 10];
/** Messages that wait for a full disk: beyond that the oldest is dropped. */
const UNCONFIRMED_MAX = 16;
/** A daemon that dies may take so many messages with it that it had not written to a copy yet. */
const GATHERED_MAX = 3;

/** What a machine needs of its world. */
export interface Surroundings {
  readonly options: {
    readonly injects: boolean;
    readonly aheadSeconds: number | null;
    readonly publishIntervalMs: number;
  };
  readonly random: Random;
  readonly trace: Trace | null;
  readonly nowMs: number;
  /** The clock by which the kernels' entries time out. */
  readonly kernelMs: number;
  wallMs(): number;
  /** Resolves after the next step. */
  nextStep(): Promise<void>;
}

/** A queue of pending steps. */
export interface Queue {
  readonly weight: number;
  readonly ready: () => boolean;
  readonly step: () => void;
}

/** A call of keepalived for a sync group. */
interface Call {
  readonly role: SpokenRole;
  /** A daemon has carried it out. */
  taken: boolean;
}

/** A message on its way to the broker. */
interface Unconfirmed {
  readonly kind: MessageKind;
  readonly payload: Uint8Array;
  /** The sequence that it gets; null when it is dropped. */
  readonly resolve: (sequence: number | null) => void;
}

/** Its kernel, its broker's store and its links last, while its daemon comes and goes. */
export class Machine implements SimPeer, Wire {
  readonly name: string;
  readonly index: number;
  readonly polls: boolean;
  readonly stream = new MemoryStream();
  readonly kernel: SimKernel;
  readonly links = new Map<Machine, SimLink>();
  /** All connections to its stream. */
  readonly readers: SimLink[] = [];
  /** Peers that its configuration does not name and that it has not discovered yet. */
  readonly strangers = new Set<Machine>();
  /** What keepalived last called for each sync group since the boot. */
  readonly calls = new Map<string, Call>();
  /** The error of its wall clock. */
  skewMs: number;
  /** Null while no daemon runs. */
  node: SimNode | null = null;
  /** True once the daemon works. */
  isReady = false;
  #isFull = false;
  /** Messages were dropped because the disk was full. */
  #hasDropped = false;
  #starting: Promise<void> | null = null;
  readonly #world: Surroundings;
  readonly #steps: Readonly<Record<Way, (() => void)[]>> = { events: [], requests: [], dump: [], publish: [] };
  readonly #unconfirmed: Unconfirmed[] = [];
  /** Number of daemons that have run here. */
  #runs = 0;
  /** Number of the running daemon; 0: none. */
  #running = 0;
  /** True while the kernel's table is that of a boot in which no daemon has run. */
  #hasBooted = false;

  constructor(world: Surroundings, index: number, { polls, skewMs }: { polls: boolean; skewMs: number }) {
    this.name = `fw${index + 1}`;
    this.index = index;
    this.#world = world;
    this.polls = polls;
    this.skewMs = skewMs;
    this.kernel = new SimKernel((index + 1) * 1_000_000, () => world.kernelMs);
  }

  askSnapshot(): void {
    this.node?.askSnapshot();
  }

  /** The queues of this machine, including its links to the others. */
  queues(random: Random): Queue[] {
    const own = WAYS.map((way) => ({
      weight: random.pick(SPEEDS),
      ready: () => this.#steps[way].length > 0 && !(way === "publish" && this.#isFull),
      step: () => this.#steps[way].shift()!(),
    }));
    const links = [...this.links.values()].map((link) => ({
      weight: random.pick(SPEEDS),
      ready: () => link.waiting > 0,
      step: () => link.deliver(this.portion(link.waiting)),
    }));
    return [...own, ...links];
  }

  pass(way: Way, step: () => void): void {
    this.#steps[way].push(step);
  }

  note(words: Uint32Array, text: string): void {
    this.#world.trace?.note(this.#world.nowMs, this.name, keyOf(words, 0), text);
  }

  portion(count: number): number {
    return Math.min(count, this.#world.random.oneIn(2) ? count : 1 + this.#world.random.below(count));
  }

  // ---- The disk.

  get isFull(): boolean {
    return this.#isFull;
  }

  set isFull(isFull: boolean) {
    this.#isFull = isFull;
    if (isFull || !this.#hasDropped) return;
    this.#hasDropped = false;
    this.node?.loseMessages();
  }

  /** No daemon runs, and its broker loses the end of its stream. */
  loseTail(count: number): void {
    this.stream.lose(count);
    for (const link of this.readers) link.shorten();
  }

  // ---- Keepalived.

  /** Keepalived calls. Without a daemon, the call waits for the next one. */
  call(role: SpokenRole, group = ""): void {
    const call = { role, taken: false };
    this.calls.set(group, call);
    if (this.isReady) this.#take(group, call);
  }

  #take(group: string, call: Call): void {
    this.node!.roles.hook(call.role, () => undefined, group).then(
      () => {
        call.taken = true;
      },
      () => undefined,
    );
  }

  #earlier({ lastRole }: OwnPast): EarlierRoles {
    const taken = [...this.calls].filter(([, { taken }]) => taken);
    return {
      groups: new Map(taken.map(([group, { role }]) => [group, role])),
      table: this.calls.size === 0 && !this.#hasBooted ? lastRole : "unknown",
    };
  }

  // ---- The daemon.

  /** True while no daemon runs or starts. */
  get isDown(): boolean {
    return this.node === null && this.#starting === null;
  }

  /** Resolves when a daemon runs and is ready; starts one if none runs. */
  start(): Promise<void> {
    if (this.isReady) return Promise.resolve();
    this.#starting ??= this.#start().finally(() => {
      this.#starting = null;
    });
    return this.#starting;
  }

  async #start(): Promise<void> {
    const world = this.#world;
    const { injects, aheadSeconds, publishIntervalMs } = world.options;
    const clock = { wallMs: () => world.wallMs() + this.skewMs };
    const past = await this.#past(clock);
    const earlier = this.#earlier(past);
    this.#hasBooted = false;
    this.#running = ++this.#runs;
    const node = new SimNode(this.name, this.index + 1, clock, 0, {
      polls: this.polls,
      injects,
      aheadSeconds,
      publishIntervalMs,
      wire: this,
      peers: [...this.links.keys()].filter((peer) => !this.strangers.has(peer)).map((peer) => this.#port(peer)),
      passTurn: () => world.nextStep(),
      run: this.#runs,
      kernel: this.kernel,
      stream: this.stream,
      past,
      sink: this.#sink(this.#runs),
      earlier,
      beat: (heartbeat) => {
        for (const link of this.readers) link.beat(heartbeat);
      },
    });
    this.node = node;
    await node.restore();
    for (const link of this.links.values()) link.follow();
    await node.begin();
    if (node.signal.aborted) return;
    this.isReady = true;
    for (const [group, call] of this.calls) if (!call.taken) this.#take(group, call);
  }

  #past(clock: { wallMs(): number }): Promise<OwnPast> {
    const { messages } = this.stream;
    const lastMark = messages.findLast(({ kind }) => kind === "mark")?.payload ?? null;
    const last = messages.at(-1);
    const tail = {
      lastMark,
      lastSequence: messages.length,
      last: last?.kind === "mark" ? null : (last?.payload ?? null),
    };
    const parts = { node: this.name, internal: new InternalCache(10_000), hybridClock: new HybridClock(clock) };
    return readOwnPast(this.stream, tail, { ...parts, formats: FORMATS, clock, log }, new AbortController().signal);
  }

  #port(peer: Machine): PeerPort {
    const link = this.links.get(peer)!;
    return simPeer(
      peer,
      link,
      () => link.up,
      link.copy,
      (heard) => link.hear(heard),
    );
  }

  /** A peer announces itself. */
  discover(peer: Machine): void {
    this.strangers.delete(peer);
    void this.node?.join(this.#port(peer));
  }

  /** The daemon dies. What it has read and not published is lost. The broker has a part of what the daemon wrote. */
  kill(): void {
    const { node } = this;
    if (node === null) return;
    this.node = null;
    this.isReady = false;
    this.#running = 0;
    void node.stop();
    void node.injector?.stop();
    this.#leave(node);
  }

  #leave(node: SimNode): void {
    const { random } = this.#world;
    for (const way of ["events", "dump"] as const) this.#steps[way].length = 0;
    const sent = this.#steps.publish.splice(0);
    if (!this.#isFull) for (const step of sent.slice(0, random.below(sent.length + 1))) step();
    this.#unconfirmed.length = 0;
    this.#hasDropped = false;
    // The kernel carries out the daemon's requests before the next daemon comes.
    while (this.#steps.requests.length > 0) this.#steps.requests.shift()!();
    for (const [peer, link] of this.links) {
      const follower = node.followers.find((one) => one.node === peer.name);
      link.drop(follower?.state.sequence ?? 0, link.copy === null ? 0 : random.below(GATHERED_MAX));
    }
    node.replicator.stop();
  }

  /** The daemon ends as `systemctl stop` lets it. */
  async stop(): Promise<void> {
    const { node } = this;
    if (node === null || !this.isReady) return;
    this.isReady = false;
    await node.end();
    if (this.node !== node) return;
    while (this.#steps.publish.length > 0 && !this.#isFull) this.#steps.publish.shift()!();
    this.node = null;
    this.#running = 0;
    this.#leave(node);
  }

  /** The machine boots: its kernel is empty, and keepalived has called nothing yet. */
  reboot(): void {
    this.kill();
    this.kernel.load({ id: this.kernel.save().id, flows: [] });
    this.calls.clear();
    this.#hasBooted = true;
  }

  /** The broker stores a daemon's messages later, and none after that daemon is gone. */
  #sink(run: number): JournalSink {
    const store: JournalSink["publishAcked"] = (kind, _number, payload) => {
      const copy = Uint8Array.from(payload);
      if (this.#running === run && this.node !== null) {
        const { nowMs, trace } = this.#world;
        trace?.published(nowMs, this.name, kind, copy, this.node.internal.table);
      }
      return new Promise((resolve) => {
        if (this.#running === run) this.#publish({ kind, payload: copy, resolve });
      });
    };
    return { backlog: { bytes: 0 }, publish: store, publishAcked: store };
  }

  #publish(message: Unconfirmed): void {
    this.#unconfirmed.push(message);
    if (this.#unconfirmed.length > UNCONFIRMED_MAX && this.#isFull) {
      this.#unconfirmed.shift()!.resolve(null);
      this.#hasDropped = true;
      return;
    }
    this.pass("publish", () => {
      const { kind, payload, resolve } = this.#unconfirmed.shift()!;
      this.stream.append(kind, payload);
      resolve(this.stream.messages.length);
    });
  }
}
