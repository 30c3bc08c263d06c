/** A world of simulated machines. One seed determines everything that happens in it, so a failure can be repeated. */

import type { TestContext } from "node:test";
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { FORMATS } from "../../src/stream/format/versions.js";
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
/** The relative speeds of the ways. */
const SPEEDS = [1, 1, 3, 10];
/** Steps after which everything must be at rest. */
const STEPS_MAX = 20_000;
/** Interval of the timers' checks, and so the longest delay of a timer. */
const PASS_MS_MAX = 1000;

/** The settings of the nodes of a world. */
export interface WorldOptions {
  readonly nodes: number;
  readonly injects: boolean;
  /** True for the nodes that poll their kernel. */
  readonly polls: (index: number) => boolean;
  readonly skewMs: (index: number) => number;
  readonly publishIntervalMs: number;
}

/** A queue of pending steps. */
interface Queue {
  readonly weight: number;
  readonly ready: () => boolean;
  readonly step: () => void;
}

/** A machine. Its kernel, its broker's store and its links last, while its daemon comes and goes. */
export class Machine implements SimPeer, Wire {
  readonly name: string;
  readonly index: number;
  readonly polls: boolean;
  readonly stream = new MemoryStream();
  readonly kernel: SimKernel;
  readonly links = new Map<Machine, SimLink>();
  /** Null while no daemon runs. */
  node: SimNode | null = null;
  /** True once the daemon works. */
  isReady = false;
  #starting: Promise<void> | null = null;
  readonly #world: World;
  readonly #steps: Readonly<Record<Way, (() => void)[]>> = { events: [], requests: [], dump: [], publish: [] };
  /** Number of daemons that have run here. */
  #runs = 0;
  /** Number of the running daemon; 0: none. */
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

  /** The queues of this machine, including its links to the others. */
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
    const { injects, publishIntervalMs } = world.options;
    const skewMs = world.options.skewMs(this.index);
    const clock = { wallMs: () => world.wallMs() + skewMs };
    const lastMark = this.stream.messages.findLast(({ kind }) => kind === "mark")?.payload ?? null;
    const tail = { lastMark, lastSequence: this.stream.messages.length };
    const parts = { node: this.name, internal: new InternalCache(10_000), hybridClock: new HybridClock(clock) };
    const past = await readOwnPast(
      this.stream,
      tail,
      { ...parts, formats: FORMATS, clock, log },
      new AbortController().signal,
    );
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

  /** The daemon dies. What it has read and not published is lost. The broker has a part of what the daemon wrote. */
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
    // The kernel carries out the daemon's requests before the next daemon comes.
    while (this.#steps.requests.length > 0) this.#steps.requests.shift()!();
    for (const [index, link] of [...this.links.values()].entries()) link.drop(node.followers[index]!.state.sequence);
    node.replicator.stop();
  }

  /** The broker stores a daemon's messages later, and none after that daemon is gone. */
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
 * Machines and a clock that advances only when the world advances it. The seed determines what happens next: which
 * queue continues, how many of its steps run, and how much time that takes.
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

  /** Continues one of the queues. False when all are empty. */
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

  /** Advances the clock. */
  pass(ms: number): void {
    for (let left = ms; left > 0; ) {
      const part = Math.min(left, PASS_MS_MAX);
      this.#nowMs += part;
      left -= part;
      this.#timers.tick(part);
    }
  }

  /** Steps until every queue is empty. */
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
