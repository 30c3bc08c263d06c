/** Random histories of nodes in mode `inject`, whose packets pass any of them, over kernels and links that take their time. */
import assert from "node:assert/strict";
import { Random } from "../records.js";
import { pass, stateOf } from "../sim-traffic.js";
import { FLOWS, History, type Story, slotOf } from "./history.js";
import type { Machine } from "./machine.js";
import type { Trace } from "./trace.js";
import { World } from "./world.js";

const PHASES = 5;
const STEPS = 90;
const TCP_ESTABLISHED = 3;

/** What a history may contain besides traffic: each seed leaves some out, so that what fails is as plain as can be. */
interface Faults {
  readonly polls: boolean;
  readonly resyncs: boolean;
  readonly cuts: boolean;
  readonly deaths: boolean;
  readonly overruns: boolean;
  readonly badDumps: boolean;
  readonly hooks: boolean;
  readonly time: boolean;
}

/** A random history. */
export class InjectHistory extends History {
  protected readonly settings: Faults;

  /** `aheadSeconds`: mode `cache` with `commit.ahead`; null: mode `inject`. */
  constructor(seed: number, trace: Trace | null = null, aheadSeconds: number | null = null) {
    const random = new Random(seed);
    const often = (): boolean => random.oneIn(2);
    const polling = random.below(4);
    const settings = {
      polls: polling > 1,
      resyncs: often(),
      cuts: often(),
      deaths: often(),
      overruns: often(),
      badDumps: often(),
      hooks: random.oneIn(4),
      time: often(),
    };
    super(
      new World(
        {
          nodes: 2 + random.below(2),
          injects: true,
          aheadSeconds,
          polls: (index) => polling === 2 || (polling === 3 && index === 0),
          skewMs: (index) => (random.oneIn(3) ? (index - 1) * 3_600_000 : 0),
          publishIntervalMs: random.oneIn(2) ? 0 : 5,
          shared: true,
        },
        random,
        trace,
      ),
    );
    this.settings = settings;
  }

  protected async play(): Promise<void> {
    const { machines, random } = this;
    await this.until(Promise.all(machines.map((machine) => machine.start())));
    for (let phase = 0; phase < PHASES; phase++) {
      await this.settle();
      this.#check();
      await this.#checkStopped();
      this.#begin();
      for (let step = 0; step < STEPS; step++) {
        if (random.oneIn(2)) this.#packet();
        await this.#fault();
        for (let steps = random.below(4); steps > 0; steps--) await this.world.step();
      }
    }
    await this.settle();
    this.#check();
    await this.#checkStopped();
  }

  /** Entries that are over have ended, and a node that polls has to look to know. */
  #checkStopped(): Promise<void> {
    return this.world.stopTimeouts(async () => {
      for (const { node } of this.machines) void node!.poll();
      await this.world.rest();
      await this.writeYoung();
      await this.checkQuiet();
    });
  }

  /** A new phase: most flows pass one machine in it. */
  #begin(): void {
    const { machines, random } = this;
    this.begin((_index, owner) =>
      random.oneIn(4) ? null : owner !== null && random.oneIn(2) ? owner : random.pick(machines),
    );
  }

  #packet(): void {
    const { random } = this;
    const index = random.below(FLOWS);
    const story = this.stories[index]!;
    const machine = story.way ?? random.pick(this.machines);
    this.did(index, machine, pass(machine, index, random));
  }

  async #fault(): Promise<void> {
    const { random, settings: faults } = this;
    const machine = random.pick(this.machines);
    const { node } = machine;
    if (faults.time && random.oneIn(20)) await this.timePasses(1000 * random.below(40));
    if (node === null || !machine.isReady) {
      if (node === null && random.oneIn(10)) void machine.start();
      return;
    }
    if (machine.polls && random.oneIn(5)) void node.poll();
    if (faults.resyncs && random.oneIn(30)) void node.replicator.resyncKernel();
    if (faults.resyncs && random.oneIn(60)) {
      // What it reads once more takes its flows through states that they had before, and a kernel that knows more may claim them.
      this.isPlain = false;
      random.pick(node.followers).resync();
    }
    if (faults.resyncs && random.oneIn(60)) void node.journal.writeSnapshot(node.signal);
    if (faults.badDumps && random.oneIn(20)) node.sockets.nextDump = random.oneIn(2) ? "interrupted" : "failed";
    if (faults.cuts && random.oneIn(30)) {
      const link = random.pick([...machine.links.values()]);
      link.up = !link.up;
    }
    if (faults.deaths && random.oneIn(60)) {
      machine.kill();
      this.blind.add(machine);
    }
    if (faults.overruns && !machine.polls && random.oneIn(40)) {
      node.sockets.overflows = 1 + random.below(5);
      this.blind.add(machine);
    }
    if (faults.hooks && random.oneIn(100)) {
      this.isPlain = false;
      void node.roles.hook("primary", () => undefined);
    }
  }

  #check(): void {
    for (const key of this.keys()) this.checkAgreed(key);
    for (const story of this.stories) this.#checkStory(story);
  }

  /** One node has the flow for its own, all others have it from that one, and all kernels have it alike. */
  protected checkAgreed(key: string): void {
    const owners = this.ownersOf(key);
    assert.equal(owners.length, 1, `${this.tell(key)}: it has ${owners.length} owners`);
    const [owner] = owners as [Machine];
    const words = owner.kernel.flows.get(key);
    assert.ok(words !== undefined, `${this.tell(key)}: its owner's kernel does not have it`);
    const state = stateOf(words, 0);
    for (const machine of this.machines) {
      const held = machine.kernel.flows.get(key);
      // A closing flow that ran out before its owner's is not written again: it is about to end there.
      if (held === undefined && state.state > TCP_ESTABLISHED) continue;
      assert.ok(held !== undefined, `${this.tell(key)}: not in the kernel of ${machine.name}`);
      assert.deepEqual(stateOf(held, 0), state, `${this.tell(key)}: kernel of ${machine.name}`);
    }
    for (const machine of this.machines) {
      const { external } = machine.node!;
      const slot = slotOf(external.table, key);
      if (machine === owner) assert.equal(slot, -1, `${this.tell(key)}: its owner has it from somebody else`);
      else {
        assert.ok(slot >= 0, `${this.tell(key)}: not in the external cache of ${machine.name}`);
        assert.equal(external.ownerName(slot), owner.name, this.tell(key));
        const row = stateOf(external.table.slab(slot), external.table.base(slot));
        assert.deepEqual(row, state, `${this.tell(key)}: external cache of ${machine.name}`);
      }
    }
  }

  /** Where it is plain how a flow must have come out, it has. */
  #checkStory(story: Story): void {
    const { key, owner, deeds } = story;
    if (!this.isPlain) return;
    const [held] = this.ownersOf(key);
    const words = held?.kernel.flows.get(key);
    const state = words === undefined ? null : stateOf(words, 0);
    const told = deeds.filter(({ machine, deed }) => machine === owner || deed !== "refreshed");
    const isOver = told.some(({ deed }) => deed === "ends" || deed === "begins");
    // What its owner has ended goes on where packets kept it alive.
    if (isOver && told.length < deeds.length) return;
    const where = new Set(told.map(({ machine }) => machine));
    if (where.size > 1) return;
    const [machine] = where;
    if (machine === undefined) {
      if (deeds.length > 0 && owner !== null && story.state === null) return;
      assert.deepEqual(state, story.state, `${this.tell(key)}: nothing happened to it`);
      assert.equal(
        held?.name,
        story.state === null ? undefined : owner?.name,
        `${this.tell(key)}: nothing happened to it`,
      );
      return;
    }
    const begins = told.some(({ deed }) => deed === "begins");
    // While no daemon ran: its tuple may be that of one that has ended elsewhere, which the next daemon may take it for.
    if (begins && this.blind.size > 0 && this.settings.deaths) return;
    const last = told.at(-1)!.after;
    if (machine !== owner && owner !== null) {
      const ends = told.some(({ deed }) => deed === "ends");
      // What ends there without a change is written again; what a daemon has not seen happen may be lost.
      if (ends || begins || this.blind.has(machine) || machine.polls) return;
    }
    assert.deepEqual(state, last, `${this.tell(key)}: it passed ${machine.name} alone`);
    if (state !== null) assert.equal(held?.name, machine.name, `${this.tell(key)}: it passed ${machine.name} alone`);
  }
}

/** A random history of nodes in mode `cache` that write ahead what has lived for 1 to 3 s. */
export class AheadHistory extends InjectHistory {
  constructor(seed: number, trace: Trace | null = null) {
    super(seed, trace, 1 + (seed % 3));
  }
}
