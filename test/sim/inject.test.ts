/** Mode `inject`: random histories of nodes whose packets pass any of them, over kernels and links that take their time. */
import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import type { FlowTable } from "../../src/flow/flow-table.js";
import { Random, tcpRecord } from "../support/records.js";
import { keyOf } from "../support/sim-kernel.js";
import { type Deed, pass, type State, stateOf } from "../support/sim-traffic.js";
import { type Machine, World } from "../support/sim-world.js";

const FLOWS = 12;
const PHASES = 5;
const STEPS = 90;
/** Seeds of every run. `SIM_SEEDS=5000`: so many; `SIM_SEEDS=731-731`: these. */
const SEEDS = 20;
const TCP_ESTABLISHED = 3;

/** A flow between two rests: whose it was and how, and what has happened since. */
interface Story {
  readonly key: string;
  readonly owner: Machine | null;
  readonly state: State | null;
  /** Where packets pass in this phase; null: anywhere. */
  readonly way: Machine | null;
  /** Machines on which something has happened to it, in order. */
  readonly deeds: { readonly machine: Machine; readonly deed: Deed; readonly after: State | null }[];
}

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

class History {
  readonly world: World;
  readonly random: Random;
  readonly faults: Faults;
  stories: Story[] = [];
  /** Machines whose daemon may not have seen everything in this phase. */
  readonly blind = new Set<Machine>();
  /** False when anybody may carry any flow now. */
  isPlain = true;

  constructor(seed: number, t: TestContext) {
    const random = new Random(seed);
    this.random = random;
    const often = (): boolean => random.oneIn(2);
    const polling = random.below(4);
    this.faults = {
      polls: polling > 1,
      resyncs: often(),
      cuts: often(),
      deaths: often(),
      overruns: often(),
      badDumps: often(),
      hooks: random.oneIn(4),
      time: often(),
    };
    this.world = new World(
      {
        nodes: 2 + random.below(2),
        injects: true,
        polls: (index) => polling === 2 || (polling === 3 && index === 0),
        skewMs: (index) => (random.oneIn(3) ? (index - 1) * 3_600_000 : 0),
        publishIntervalMs: random.oneIn(2) ? 0 : 5,
      },
      random,
      t,
    );
    for (const machine of this.world.machines) {
      machine.kernel.onTimeout = (key) => {
        const story = this.stories.find((one) => one.key === key);
        story?.deeds.push({ machine, deed: "ends", after: null });
      };
    }
  }

  get machines(): readonly Machine[] {
    return this.world.machines;
  }

  async run(): Promise<void> {
    const { machines, random } = this;
    await this.#begun(Promise.all(machines.map((machine) => machine.start())));
    for (let phase = 0; phase < PHASES; phase++) {
      await this.#settle();
      this.#check();
      await this.#checkQuiet();
      this.#begin();
      for (let step = 0; step < STEPS; step++) {
        if (random.oneIn(2)) this.#packet();
        await this.#fault();
        for (let steps = random.below(4); steps > 0; steps--) await this.world.step();
      }
    }
    await this.#settle();
    this.#check();
    await this.#checkQuiet();
    this.world.end();
  }

  /** A new phase: most flows pass one machine in it. */
  #begin(): void {
    const { machines, random } = this;
    this.blind.clear();
    this.isPlain = true;
    this.stories = Array.from({ length: FLOWS }, (_, index) => {
      const key = keyOf(tcpRecord(index), 0);
      const owner = this.#ownersOf(key)[0] ?? null;
      const words = owner?.kernel.flows.get(key);
      const way = random.oneIn(4) ? null : owner !== null && random.oneIn(2) ? owner : random.pick(machines);
      return { key, owner, state: words === undefined ? null : stateOf(words, 0), way, deeds: [] };
    });
  }

  #packet(): void {
    const { random } = this;
    const index = random.below(FLOWS);
    const story = this.stories[index]!;
    const machine = story.way ?? random.pick(this.machines);
    const deed = pass(machine, index, random);
    if (deed === "nothing") return;
    const words = machine.kernel.flows.get(story.key);
    story.deeds.push({ machine, deed, after: words === undefined ? null : stateOf(words, 0) });
    if (!machine.isReady) this.blind.add(machine);
  }

  async #fault(): Promise<void> {
    const { faults, random } = this;
    const machine = random.pick(this.machines);
    const { node } = machine;
    if (faults.time && random.oneIn(20)) await this.#timePasses(1000 * random.below(40));
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

  /** Seconds, in which whatever was under way has come to its end. */
  async #timePasses(ms: number): Promise<void> {
    await this.world.rest();
    this.world.pass(ms);
    for (const { kernel } of this.machines) {
      for (const key of [...kernel.flows.keys()]) if (this.random.oneIn(2)) kernel.expire(key);
    }
  }

  /** Everything is repaired, and all that is under way comes to an end. */
  async #settle(): Promise<void> {
    for (const machine of this.machines) {
      for (const link of machine.links.values()) link.up = true;
      await this.#begun(machine.start());
      machine.node!.sockets.nextDump = "whole";
      machine.node!.sockets.overflows = 0;
    }
    await this.world.rest();
    for (let round = 0; round < 3; round++) {
      this.world.pass(1000);
      for (const { kernel } of this.machines) for (const key of [...kernel.flows.keys()]) kernel.expire(key);
      for (const { node } of this.machines) void node!.poll();
      await this.world.rest();
    }
  }

  /** Lets the world go on until it is done. */
  async #begun(work: Promise<unknown>): Promise<void> {
    let done = false;
    void work.finally(() => {
      done = true;
    });
    for (let steps = 0; !done; steps++) {
      assert.ok(steps < 5000, "a daemon does not start");
      await this.world.step();
      await new Promise(setImmediate);
    }
    await work;
  }

  #ownersOf(key: string): Machine[] {
    return this.machines.filter(({ node }) => {
      const slot = slotOf(node!.internal.table, key);
      return slot >= 0 && !node!.internal.isSuperseded(slot);
    });
  }

  #check(): void {
    for (const key of this.#keys()) this.#checkAgreed(key);
    for (const story of this.stories) this.#checkStory(story);
  }

  #keys(): Set<string> {
    return new Set(
      this.machines.flatMap(({ kernel, node }) => [
        ...kernel.flows.keys(),
        ...node!.view("internal").keys(),
        ...node!.view("external").keys(),
      ]),
    );
  }

  /** One node has the flow for its own, all others have it from that one, and all kernels have it alike. */
  #checkAgreed(key: string): void {
    const owners = this.#ownersOf(key);
    assert.equal(owners.length, 1, `${this.#tell(key)}: it has ${owners.length} owners`);
    const [owner] = owners as [Machine];
    const words = owner.kernel.flows.get(key);
    assert.ok(words !== undefined, `${this.#tell(key)}: its owner's kernel does not have it`);
    const state = stateOf(words, 0);
    for (const machine of this.machines) {
      const held = machine.kernel.flows.get(key);
      // A closing flow that ran out before its owner's is not written again: it is about to end there.
      if (held === undefined && state.state > TCP_ESTABLISHED) continue;
      assert.ok(held !== undefined, `${this.#tell(key)}: not in the kernel of ${machine.name}`);
      assert.deepEqual(stateOf(held, 0), state, `${this.#tell(key)}: kernel of ${machine.name}`);
    }
    for (const machine of this.machines) {
      const { external } = machine.node!;
      const slot = slotOf(external.table, key);
      if (machine === owner) assert.equal(slot, -1, `${this.#tell(key)}: its owner has it from somebody else`);
      else {
        assert.ok(slot >= 0, `${this.#tell(key)}: not in the external cache of ${machine.name}`);
        assert.equal(external.ownerName(slot), owner.name, this.#tell(key));
        const row = stateOf(external.table.slab(slot), external.table.base(slot));
        assert.deepEqual(row, state, `${this.#tell(key)}: external cache of ${machine.name}`);
      }
    }
  }

  /** Where it is plain how a flow must have come out, it has. */
  #checkStory(story: Story): void {
    const { key, owner, deeds } = story;
    if (!this.isPlain) return;
    const [held] = this.#ownersOf(key);
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
      assert.deepEqual(state, story.state, `${this.#tell(key)}: nothing happened to it`);
      assert.equal(
        held?.name,
        story.state === null ? undefined : owner?.name,
        `${this.#tell(key)}: nothing happened to it`,
      );
      return;
    }
    const begins = told.some(({ deed }) => deed === "begins");
    // While no daemon ran: its tuple may be that of one that has ended elsewhere, which the next daemon may take it for.
    if (begins && this.blind.size > 0 && this.faults.deaths) return;
    const last = told.at(-1)!.after;
    if (machine !== owner && owner !== null) {
      const ends = told.some(({ deed }) => deed === "ends");
      // What ends there without a change is written again; what a daemon has not seen happen may be lost.
      if (ends || begins || this.blind.has(machine) || machine.polls) return;
    }
    assert.deepEqual(state, last, `${this.#tell(key)}: it passed ${machine.name} alone`);
    if (state !== null) assert.equal(held?.name, machine.name, `${this.#tell(key)}: it passed ${machine.name} alone`);
  }

  /** Dumps and the passing of time change nothing, and nothing is said. */
  async #checkQuiet(): Promise<void> {
    const said = (): number[] => this.machines.map(({ stream }) => stream.messages.length);
    const before = said();
    for (const { node, polls } of this.machines) {
      node!.injector!.tick();
      void (polls ? node!.poll() : node!.replicator.resyncKernel());
    }
    await this.world.rest();
    assert.deepEqual(said(), before, `${JSON.stringify(this.faults)}: something is still said`);
    for (const key of this.#keys()) this.#checkAgreed(key);
  }

  #tell(key: string): string {
    const story = this.stories.find((one) => one.key === key);
    const lines = story?.deeds.map(
      ({ machine, deed, after }) => `  ${machine.name} ${deed} ${after === null ? "" : Object.values(after)}`,
    );
    const was = story?.state === null ? "" : `was ${story?.owner?.name}'s ${Object.values(story?.state ?? {})}`;
    const now = this.machines.map(({ name, kernel, node, polls }) => {
      const words = kernel.flows.get(key);
      const [int, ext] = [slotOf(node!.internal.table, key), slotOf(node!.external.table, key)];
      const own = int < 0 ? "-" : node!.internal.isSuperseded(int) ? "superseded" : "own";
      const from = ext < 0 ? "-" : node!.external.ownerName(ext);
      return `  ${name}${polls ? " (polls)" : ""}: kernel ${words === undefined ? "-" : Object.values(stateOf(words, 0))}, ${own}, ${from}`;
    });
    return [JSON.stringify(this.faults), `flow ${key} ${was}`, ...(lines ?? []), ...now].join("\n");
  }
}

/** The slot of the flow of a key; -1 when the table does not have it. */
function slotOf(table: FlowTable, key: string): number {
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (!table.isLive(slot)) continue;
    const [slab, base] = [table.slab(slot), table.base(slot)];
    if (keyOf(slab, base) === key && table.find(slab, base) === slot) return slot;
  }
  return -1;
}

function seeds(): number[] {
  const text = process.env.SIM_SEEDS ?? String(SEEDS);
  const [first, last] = text.includes("-") ? text.split("-").map(Number) : [1, Number(text)];
  return Array.from({ length: last! - first! + 1 }, (_, index) => first! + index);
}

describe("peers' flows injected at once, kernels, links and broker simulated", () => {
  for (const seed of seeds()) {
    it(`every kernel has the same, and each flow one owner (seed ${seed})`, async (t) => {
      await new History(seed, t).run();
    });
  }
});
