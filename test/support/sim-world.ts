import type { TestContext } from "node:test";
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { MarkCodec } from "../../src/stream/format/mark.js";
import { restoreInternal } from "../../src/sync/in/restore.js";
import type { Journal, JournalSink } from "../../src/sync/out/journal.js";
import { MemoryStream } from "./memory-stream.js";
import type { Random } from "./records.js";
import { SimKernel } from "./sim-kernel.js";
import { SimLink } from "./sim-link.js";
import { SimNode, type SimPeer } from "./sim-node.js";
import type { Way, Wire } from "./sim-sockets.js";

const log = pino({ level: "silent" });
const START_MS = 1_800_000_000_000;
const WAYS: readonly Way[] = ["events", "requests", "dump", "publish"];
/** How much more often one way is taken than another. */
const SPEEDS = [1, 1, 3, 10];
/** Steps that a daemon which starts waits for its peers' streams at the most. */
const CATCH_UP_STEPS = 60;
/** Steps until everything must have come to rest. */
const STEPS_MAX = 20_000;
const TICK_MS = 1000;

/** How the nodes of a world work. */
export interface WorldOptions {
  readonly nodes: number;
  readonly injects: boolean;
  /** Which nodes poll their kernel. */
  readonly polls: (index: number) => boolean;
  readonly skewMs: (index: number) => number;
  readonly publishIntervalMs: number;
}

/** Where something waits to go on. */
interface Queue {
  readonly weight: number;
  readonly ready: () => boolean;
  readonly step: () => void;
}

/** A machine: its kernel, its broker's store and its ways to the others last, its daemon comes and goes. */
export class Machine implements SimPeer, Wire {
  readonly name: string;
  readonly index: number;
  readonly polls: boolean;
  readonly stream = new MemoryStream();
  readonly kernel: SimKernel;
  readonly links = new Map<Machine, SimLink>();
  /** Null while no daemon runs. */
  node: SimNode | null = null;
  /** True once the daemon does its work. */
  isReady = false;
  #starting: Promise<void> | null = null;
  readonly #world: World;
  readonly #steps: Readonly<Record<Way, (() => void)[]>> = { events: [], requests: [], dump: [], publish: [] };
  #epoch = 0;
  /** Epoch of the daemon that runs; 0: none does. */
  #running = 0;

  constructor(world: World, index: number) {
    this.name = `fw${index + 1}`;
    this.index = index;
    this.#world = world;
    this.polls = world.options.polls(index);
    this.kernel = new SimKernel((index + 1) * 1_000_000, () => world.nowMs);
  }

  get journal(): Journal {
    return this.node!.journal;
  }

  /** The ways of this machine, those to the other ones among them. */
  queues(random: Random): Queue[] {
    const own = WAYS.map((way) => ({
      weight: random.pick(SPEEDS),
      ready: () => this.#steps[way].length > 0,
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

  portion(count: number): number {
    return Math.min(count, this.#world.random.oneIn(2) ? count : 1 + this.#world.random.below(count));
  }

  /** Resolves when a daemon runs and is ready; one is started where none is. */
  start(): Promise<void> {
    if (this.isReady) return Promise.resolve();
    this.#starting ??= this.#start().finally(() => {
      this.#starting = null;
    });
    return this.#starting;
  }

  /** As the real one does (daemon.ts). */
  async #start(): Promise<void> {
    const world = this.#world;
    const { injects, publishIntervalMs } = world.options;
    const skewMs = world.options.skewMs(this.index);
    const clock = { wallMs: () => world.wallMs() + skewMs };
    const hybridClock = new HybridClock(clock);
    const internal = new InternalCache(10_000);
    const lastMark = this.stream.messages.findLast(({ kind }) => kind === "mark")?.payload ?? null;
    const last = lastMark === null ? null : new MarkCodec().decode(lastMark);
    if (last !== null) hybridClock.observe(last.envelope.stamp);
    const tail = { lastMark, lastSequence: this.stream.messages.length };
    const never = new AbortController().signal;
    const continues = await restoreInternal(this.stream, tail, this.name, internal, hybridClock, log, never);
    this.#running = ++this.#epoch;
    const node = new SimNode(this.name, this.index + 1, world, skewMs, {
      polls: this.polls,
      injects,
      publishIntervalMs,
      wire: this,
      kernel: this.kernel,
      stream: this.stream,
      internal,
      hybridClock,
      epoch: this.#epoch,
      continues,
      sink: this.#sink(this.#epoch),
    });
    this.node = node;
    const followers = [...this.links].map(([peer, link]) => node.follower(peer, link));
    for (const follower of followers) await follower.restore(node.signal);
    for (const link of this.links.values()) link.follow();
    const previousEpoch = continues?.epoch ?? last?.envelope.epoch ?? 0;
    const previousNumber = continues?.number ?? 0;
    node.journal.writeMark({ type: "epoch", reason: "test", previousEpoch, previousNumber });
    for (const follower of followers) void follower.run(node.signal);
    await this.#caughtUp(node);
    await node.replicator.resyncKernel();
    if (node.signal.aborted) return;
    if (continues === null) void node.journal.writeSnapshot(node.signal);
    node.injector?.start({
      claim: (flow) => node.replicator.claim(flow),
      readEvents: () => node.replicator.readEvents(),
      resync: () => void node.replicator.resyncKernel(),
    });
    this.isReady = true;
  }

  async #caughtUp(node: SimNode): Promise<void> {
    const targets = new Map([...this.links].map(([peer, link]) => [link, peer.stream.messages.length]));
    for (let steps = 0; steps < CATCH_UP_STEPS && !node.signal.aborted; steps++) {
      if ([...targets].every(([link, target]) => link.readTo >= target)) return;
      await this.#world.nextStep();
    }
  }

  /** The daemon dies: what it has read and not told of yet is lost, and what it wrote the broker has a part of. */
  kill(): void {
    const { node } = this;
    if (node === null) return;
    this.node = null;
    this.isReady = false;
    this.#running = 0;
    void node.stop();
    void node.injector?.stop();
    for (const way of ["events", "dump"] as const) this.#steps[way].length = 0;
    const sent = this.#steps.publish.splice(0);
    for (const step of sent.slice(0, this.#world.random.below(sent.length + 1))) step();
    // What it has asked of its kernel is done before the next daemon comes.
    while (this.#steps.requests.length > 0) this.#steps.requests.shift()!();
    for (const [index, link] of [...this.links.values()].entries()) link.drop(node.followers[index]!.state.sequence);
    node.replicator.stop();
  }

  /** What a daemon hands over its broker stores later; nothing more once that daemon is gone. */
  #sink(epoch: number): JournalSink {
    const { stream } = this;
    const store: JournalSink["publishAcked"] = (kind, number, payload) => {
      const copy = Uint8Array.from(payload);
      return new Promise((resolve) => {
        if (this.#running !== epoch) return;
        this.pass("publish", () => {
          stream.publish(kind, number, copy);
          resolve(stream.messages.length);
        });
      });
    };
    return { backlog: { bytes: 0 }, publish: store, publishAcked: store };
  }
}

/**
 * Machines, and a time that only goes on when the world says so. What happens next is drawn by the seed: which of the things that
 * wait goes on, how much of it, and how much time that takes.
 */
export class World {
  readonly options: WorldOptions;
  readonly random: Random;
  readonly machines: Machine[];
  #nowMs = 0;
  #nextTickMs = TICK_MS;
  readonly #queues: Queue[];
  readonly #timers: { tick(ms: number): void };
  #waiting: (() => void)[] = [];

  constructor(options: WorldOptions, random: Random, t: TestContext) {
    this.options = options;
    this.random = random;
    t.mock.method(performance, "now", () => this.#nowMs);
    t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
    this.#timers = t.mock.timers;
    this.machines = Array.from({ length: options.nodes }, (_, index) => new Machine(this, index));
    for (const machine of this.machines) {
      for (const peer of this.machines) if (peer !== machine) machine.links.set(peer, new SimLink(peer.stream));
    }
    this.#queues = this.machines.flatMap((machine) => machine.queues(random));
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return START_MS + Math.floor(this.#nowMs);
  }

  /** Resolves after the next step. */
  nextStep(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** One of the things that wait goes on. False when nothing waits. */
  async step(): Promise<boolean> {
    this.pass(this.random.below(3));
    const ready = this.#queues.filter((queue) => queue.ready());
    const total = ready.reduce((sum, { weight }) => sum + weight, 0);
    let at = this.random.below(Math.max(1, total));
    const next = ready.find(({ weight }) => {
      at -= weight;
      return at < 0;
    });
    next?.step();
    for (const resolve of this.#waiting.splice(0)) resolve();
    for (let turns = this.random.below(3); turns > 0; turns--) await turn();
    return ready.length > 0;
  }

  /** Time passes. */
  pass(ms: number): void {
    for (let left = ms; left > 0; ) {
      const part = Math.min(left, this.#nextTickMs - this.#nowMs);
      this.#nowMs += part;
      left -= part;
      this.#timers.tick(part);
      if (this.#nowMs < this.#nextTickMs) continue;
      this.#nextTickMs += TICK_MS;
      for (const machine of this.machines) if (machine.isReady) machine.node?.injector?.tick();
    }
  }

  /** Until nothing waits any more. */
  async rest(): Promise<void> {
    for (let steps = 0, idle = 0; idle < 4; steps++) {
      if (steps > STEPS_MAX) throw new Error("the nodes do not come to rest");
      idle = (await this.step()) ? 0 : idle + 1;
      await turn();
      await turn();
    }
  }

  end(): void {
    for (const machine of this.machines) machine.kill();
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
