/** A world of simulated machines. One seed determines everything that happens in it, so a failure can be repeated. */
import type { StreamMessage } from "../../../src/stream/reader.js";
import type { Random } from "../records.js";
import { SimLink } from "../sim-link.js";
import { SimCopy } from "./copy.js";
import { Machine, type Queue } from "./machine.js";
import { SimTimers } from "./timers.js";
import type { Trace } from "./trace.js";

const START_MS = 1_800_000_000_000;
/** Steps after which everything must be at rest. */
const STEPS_MAX = 20_000;
/** Nothing that is under way waits longer for its turn: messages and writes are paced, and a reader begins again after a pause. */
const PACED_MS_MAX = 250;

/** The settings of the nodes of a world. */
export interface WorldOptions {
  readonly nodes: number;
  readonly injects: boolean;
  /** With `injects`: mode `cache` with `commit.ahead`; null: mode `inject`. */
  readonly aheadSeconds: number | null;
  /** True for the nodes that poll their kernel. */
  readonly polls: (index: number) => boolean;
  readonly skewMs: (index: number) => number;
  readonly publishIntervalMs: number;
  /** A shared broker keeps all streams, and the nodes keep no copies. */
  readonly shared: boolean;
}

/**
 * Machines and a clock that advances only when the world advances it. The seed determines what happens next: which
 * queue continues, how many of its steps run, and how much time that takes.
 */
export class World {
  readonly options: WorldOptions;
  readonly random: Random;
  readonly machines: Machine[];
  readonly trace: Trace | null;
  readonly #timers = new SimTimers();
  readonly #queues: Queue[];
  #waiting: (() => void)[] = [];
  #stoppedMs: number | null = null;

  /** `trace`: takes down what happens; null: nobody does. */
  constructor(options: WorldOptions, random: Random, trace: Trace | null = null) {
    this.trace = trace;
    this.options = options;
    this.random = random;
    this.machines = Array.from({ length: options.nodes }, (_, index) => {
      return new Machine(this, index, { polls: options.polls(index), skewMs: options.skewMs(index) });
    });
    for (const machine of this.machines) {
      for (const peer of this.machines) {
        if (peer === machine) continue;
        const copy = options.shared ? null : new SimCopy(() => !machine.isFull);
        const read = (message: StreamMessage): void => this.trace?.read(this.nowMs, machine.name, peer.name, message);
        const link = new SimLink(peer.stream, copy, read);
        machine.links.set(peer, link);
        peer.readers.push(link);
      }
    }
    this.#queues = this.machines.flatMap((machine) => machine.queues(random));
  }

  /** A connection of somebody who has no kernel to a machine's stream. */
  observe(machine: Machine): SimLink {
    const link = new SimLink(machine.stream, null, () => undefined);
    link.follow();
    machine.readers.push(link);
    this.#queues.push({
      weight: 1,
      ready: () => link.waiting > 0,
      step: () => link.deliver(machine.portion(link.waiting)),
    });
    return link;
  }

  get nowMs(): number {
    return this.#timers.nowMs;
  }

  /** The clock by which the kernels' entries time out. */
  get kernelMs(): number {
    return this.#stoppedMs ?? this.nowMs;
  }

  /** No entry times out while `work` runs. Those that are over end before. */
  async stopTimeouts(work: () => Promise<void>): Promise<void> {
    this.#stoppedMs = this.nowMs;
    for (const { kernel } of this.machines) for (const key of [...kernel.flows.keys()]) kernel.expire(key);
    await this.rest();
    await work();
    this.#stoppedMs = null;
  }

  wallMs(): number {
    return START_MS + Math.floor(this.nowMs);
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

  /** Lets time pass. */
  pass(ms: number): void {
    this.#timers.pass(ms);
  }

  /** Steps until every queue is empty, and stays so when what is paced is published. */
  async rest(): Promise<void> {
    for (let steps = 0, idle = 0, paced = 0; paced < 2; steps++) {
      if (steps > STEPS_MAX) throw new Error("the nodes do not come to rest");
      if (await this.step()) [idle, paced] = [0, 0];
      else if (++idle > 3) {
        this.pass(PACED_MS_MAX);
        paced++;
      }
      await turn();
      await turn();
    }
  }

  /** Everything ends, and the real clock and timers are back. */
  end(): void {
    for (const machine of this.machines) machine.kill();
    this.#timers.restore();
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
