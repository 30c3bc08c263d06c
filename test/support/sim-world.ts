import type { TestContext } from "node:test";
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { readOwnPast } from "../../src/sync/own-past.js";
import type { JournalSink } from "../../src/sync/ports/own-stream.js";
import { MemoryStream } from "./memory-stream.js";
import type { Random } from "./records.js";
import { SimKernel } from "./sim-kernel.js";
import { SimLink } from "./sim-link.js";
import { SimNode, type SimPeer, simPeer } from "./sim-node.js";
import type { Way, Wire } from "./sim-sockets.js";

const log = pino({ level: "silent" });
const START_MS = 1_800_000_000_000;
const WAYS: readonly Way[] = ["events", "requests", "dump", "publish"];
/** How much more often one way is taken than another. */
const SPEEDS = [1, 1, 3, 10];
/** Steps until everything must have come to rest. */
const STEPS_MAX = 20_000;
/** Timers are looked at so often: none comes later than it is due by more. */
const PASS_MS_MAX = 1000;

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
  /** Daemons that ran here. */
  #runs = 0;
  /** Which of them runs; 0: none does. */
  #running = 0;

  constructor(world: World, index: number) {
    this.name = `fw${index + 1}`;
    this.index = index;
    this.#world = world;
    this.polls = world.options.polls(index);
    this.kernel = new SimKernel((index + 1) * 1_000_000, () => world.nowMs);
  }

  askSnapshot(): void {
    this.node?.askSnapshot();
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

  async #start(): Promise<void> {
    const world = this.#world;
    const { injects, publishIntervalMs } = world.options;
    const skewMs = world.options.skewMs(this.index);
    const clock = { wallMs: () => world.wallMs() + skewMs };
    const lastMark = this.stream.messages.findLast(({ kind }) => kind === "mark")?.payload ?? null;
    const tail = { lastMark, lastSequence: this.stream.messages.length };
    const parts = { node: this.name, internal: new InternalCache(10_000), hybridClock: new HybridClock(clock) };
    const past = await readOwnPast(this.stream, tail, { ...parts, clock, log }, new AbortController().signal);
    this.#running = ++this.#runs;
    const node = new SimNode(this.name, this.index + 1, world, skewMs, {
      polls: this.polls,
      injects,
      publishIntervalMs,
      wire: this,
      peers: [...this.links].map(([peer, link]) => simPeer(peer, link, () => link.up)),
      passTurn: () => world.nextStep(),
      run: this.#runs,
      kernel: this.kernel,
      stream: this.stream,
      past,
      sink: this.#sink(this.#runs),
    });
    this.node = node;
    await node.restore();
    for (const link of this.links.values()) link.follow();
    await node.begin();
    this.isReady = !node.signal.aborted;
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
  #sink(run: number): JournalSink {
    const { stream } = this;
    const store: JournalSink["publishAcked"] = (kind, number, payload) => {
      const copy = Uint8Array.from(payload);
      return new Promise((resolve) => {
        if (this.#running !== run) return;
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
      const part = Math.min(left, PASS_MS_MAX);
      this.#nowMs += part;
      left -= part;
      this.#timers.tick(part);
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
