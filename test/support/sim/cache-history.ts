/**
 * Random histories of nodes in mode `cache`: keepalived moves addresses between machines, packets follow them, and
 * whatever can fail fails.
 */
import assert from "node:assert/strict";
import { readStamp } from "../../../src/flow/stamp.js";
import { isNewerClaim } from "../../../src/ownership/claim.js";
import type { SpokenRole } from "../../../src/sync/ports/carrying.js";
import { Random } from "../records.js";
import { keyOf } from "../sim-kernel.js";
import { pass, stateOf } from "../sim-traffic.js";
import { birthOf, FLOWS, History, type Story, slotOf } from "./history.js";
import type { Machine } from "./machine.js";
import { SimObserver } from "./observer.js";
import type { Trace } from "./trace.js";
import { World } from "./world.js";

const PHASES = 4;
const STEPS = 80;
const HOUR_MS = 3_600_000;
/** What a node that stepped down still has of others is purged after a minute. */
const PURGE_SECONDS = 61;
const SYNC_SECONDS_MAX = 120;

/** What a history may contain besides traffic: each seed leaves some out, so that what fails is as plain as can be. */
interface Faults {
  readonly polls: boolean;
  readonly resyncs: boolean;
  readonly cuts: boolean;
  readonly deaths: boolean;
  readonly restarts: boolean;
  readonly reboots: boolean;
  /** A broker loses the end of its stream, or all of it. */
  readonly losses: boolean;
  readonly overruns: boolean;
  readonly badDumps: boolean;
  readonly full: boolean;
  /** Clocks are set while everything runs. */
  readonly jumps: boolean;
  readonly purges: boolean;
  /** Entries time out. */
  readonly time: boolean;
  /** Packets now and then pass a machine that does not have the address. */
  readonly strays: boolean;
  readonly strangers: boolean;
  readonly shared: boolean;
  readonly observed: boolean;
  readonly groups: readonly string[];
}

/** A call of keepalived that has not come yet. */
interface Due {
  readonly machine: Machine;
  readonly role: SpokenRole;
  readonly group: string;
}

/** Whose a flow is in an external cache. */
interface Row {
  readonly node: string;
  readonly stamp: number;
}

/** A random history. */
export class CacheHistory extends History {
  protected readonly settings: Faults;
  /** The machines that have the addresses, by sync group. */
  readonly #masters: Machine[];
  #due: Due[] = [];
  readonly #observer: SimObserver | null;
  /** The rows that a node had at the last step, and how many had ended until then. */
  readonly #rows = new WeakMap<object, { readonly rows: ReadonlyMap<string, Row>; readonly ended: number }>();
  /** Keepalived has called in this phase. */
  #isMoving = false;

  constructor(seed: number, trace: Trace | null = null) {
    const random = new Random(seed);
    const often = (): boolean => random.oneIn(2);
    const settings: Faults = {
      polls: random.oneIn(6),
      resyncs: often(),
      cuts: often(),
      deaths: often(),
      restarts: random.oneIn(3),
      reboots: random.oneIn(3),
      losses: random.oneIn(3),
      overruns: random.oneIn(3),
      badDumps: random.oneIn(3),
      full: random.oneIn(4),
      jumps: random.oneIn(3),
      purges: random.oneIn(4),
      time: random.oneIn(3),
      strays: random.oneIn(3),
      strangers: random.oneIn(4),
      shared: random.oneIn(4),
      observed: random.oneIn(3),
      groups: random.oneIn(3) ? ["a", "b"] : [""],
    };
    super(
      new World(
        {
          nodes: 2 + random.below(2),
          injects: false,
          aheadSeconds: null,
          polls: () => settings.polls,
          skewMs: (index) => (random.oneIn(3) ? (index - 1) * HOUR_MS : 0),
          publishIntervalMs: random.oneIn(2) ? 0 : 5,
          shared: settings.shared,
        },
        random,
        trace,
      ),
    );
    this.settings = settings;
    this.#masters = settings.groups.map(() => random.pick(this.machines));
    if (settings.strangers) {
      for (const machine of this.machines) {
        for (const peer of this.machines) if (peer !== machine && random.oneIn(2)) machine.strangers.add(peer);
      }
    }
    this.#observer = settings.observed ? new SimObserver(this.world) : null;
  }

  protected async play(): Promise<void> {
    const { random } = this;
    await this.until(Promise.all(this.machines.map((machine) => machine.start())));
    this.#observer?.start();
    await this.#settleAll();
    for (let phase = 0; phase < PHASES; phase++) {
      this.#begin();
      for (let step = 0; step < STEPS; step++) {
        if (random.oneIn(2)) this.#packet();
        await this.#fault();
        for (let steps = random.below(4); steps > 0; steps--) {
          await this.world.step();
          this.#checkClaims();
        }
      }
      await this.#settleAll();
      this.#check();
      if (random.oneIn(2)) await this.#takeOver();
    }
  }

  /** A new phase: packets follow the addresses. */
  #begin(): void {
    this.#isMoving = false;
    this.begin(() => null);
  }

  #masterOf(index: number): Machine {
    return this.#masters[index % this.#masters.length]!;
  }

  #packet(): void {
    const { random } = this;
    const index = random.below(FLOWS);
    const strays = this.settings.strays && random.oneIn(8);
    const machine = strays ? random.pick(this.machines) : this.#masterOf(index);
    this.did(index, machine, pass(machine, index, random));
  }

  async #fault(): Promise<void> {
    const { random, settings: faults } = this;
    if (random.oneIn(25)) this.#move(random.below(this.#masters.length), random.pick(this.machines));
    if (this.#due.length > 0 && random.oneIn(3)) this.#callNext();
    if (faults.time && random.oneIn(30)) await this.timePasses(1000 * random.below(40));
    const machine = random.pick(this.machines);
    if (faults.jumps && random.oneIn(60)) machine.skewMs = (random.below(5) - 2) * HOUR_MS;
    if (faults.full && random.oneIn(30)) machine.isFull = !machine.isFull;
    const [stranger] = machine.strangers;
    if (stranger !== undefined && random.oneIn(20)) machine.discover(stranger);
    if (machine.isDown) this.#faultWhileDown(machine);
    else if (machine.isReady) await this.#faultOf(machine);
  }

  #faultWhileDown(machine: Machine): void {
    const { random, settings: faults } = this;
    if (faults.losses && random.oneIn(8)) {
      // A second time before it has been read.
      this.isPlain = false;
      machine.loseTail(random.oneIn(4) ? machine.stream.messages.length : 1 + random.below(6));
    }
    if (random.oneIn(10)) void machine.start();
  }

  async #faultOf(machine: Machine): Promise<void> {
    const { random, settings: faults } = this;
    const node = machine.node!;
    if (machine.polls && random.oneIn(5)) void node.poll();
    if (faults.resyncs && random.oneIn(30)) void node.replicator.resyncKernel();
    if (faults.resyncs && random.oneIn(60) && node.followers.length > 0) random.pick(node.followers).resync();
    if (faults.resyncs && random.oneIn(60)) void node.journal.writeSnapshot(node.signal);
    if (faults.badDumps && random.oneIn(20)) node.sockets.nextDump = random.oneIn(2) ? "interrupted" : "failed";
    if (faults.purges && random.oneIn(60)) node.roles.purge();
    if (faults.cuts && random.oneIn(30)) {
      const link = random.pick([...machine.links.values()]);
      link.up = !link.up;
    }
    if (faults.overruns && !machine.polls && random.oneIn(40)) {
      node.sockets.overflows = 1 + random.below(5);
      this.blind.add(machine);
    }
    if (faults.restarts && random.oneIn(60)) {
      this.blind.add(machine);
      await this.until(machine.stop());
    } else if (faults.deaths && random.oneIn(60)) {
      this.blind.add(machine);
      machine.kill();
    } else if (faults.reboots && random.oneIn(90)) {
      this.blind.add(machine);
      // Nobody hears of the ends of its flows, which begin anew elsewhere.
      this.isPlain = false;
      machine.reboot();
    }
  }

  // ---- Keepalived.

  /** An address moves: the packets at once, the calls soon. */
  #move(group: number, to: Machine): void {
    const from = this.#masters[group]!;
    if (from === to) return;
    this.#isMoving = true;
    this.#masters[group] = to;
    const name = this.settings.groups[group]!;
    const calls: Due[] = [
      { machine: to, role: "primary", group: name },
      { machine: from, role: this.random.oneIn(6) ? "fault" : "backup", group: name },
    ];
    this.#due.push(...(this.random.oneIn(2) ? calls : calls.reverse()));
  }

  #callNext(): void {
    const next = this.#due.shift();
    next?.machine.call(next.role, next.group);
  }

  /** Every machine has been called for what it is. */
  #callAll(): void {
    while (this.#due.length > 0) this.#callNext();
    for (const [index, group] of this.settings.groups.entries()) {
      for (const machine of this.machines) {
        const isMaster = machine === this.#masters[index];
        const role = machine.calls.get(group)?.role;
        if (isMaster ? role !== "primary" : role !== "backup" && role !== "fault") {
          machine.call(isMaster ? "primary" : "backup", group);
        }
      }
    }
  }

  async #settleAll(): Promise<void> {
    for (const machine of this.machines) {
      for (const peer of [...machine.strangers]) machine.discover(peer);
    }
    await this.settle();
    this.#callAll();
    await this.world.rest();
    await this.world.stopTimeouts(async () => {
      await this.#comeInSync();
      for (let round = 0; round < 2; round++) {
        this.world.pass(PURGE_SECONDS * 1000);
        for (const { node } of this.machines) void node!.poll();
        await this.world.rest();
      }
      for (const key of this.keys()) this.checkAgreed(key);
      // What a primary finds in its kernel is its own. Two of them claim from each other with each dump.
      if (new Set(this.#masters).size > 1) return;
      await this.readKernels();
      await this.checkQuiet();
    });
  }

  /** All nodes say that they hold their peers' tables. */
  async #comeInSync(): Promise<void> {
    const reason = (): string | null => {
      for (const { node } of this.machines) if (node!.outOfSync !== null) return node!.outOfSync;
      return this.#observer?.outOfSync ?? null;
    };
    for (let seconds = 0; reason() !== null; seconds++) {
      assert.ok(seconds < SYNC_SECONDS_MAX, `${JSON.stringify(this.settings)}: ${reason()}`);
      await this.second();
    }
  }

  /** When everything is at rest, a machine takes all addresses over: it then carries all that lives, and nothing else. */
  async #takeOver(): Promise<void> {
    this.#begin();
    const others = this.machines.filter((machine) => !this.#masters.includes(machine));
    if (others.length === 0) return;
    const next = this.random.pick(others);
    const leftOver = new Set([...next.kernel.flows.keys()].filter((key) => isLeftOver(next, key)));
    for (const group of this.#masters.keys()) this.#move(group, next);
    await this.#settleAll();
    for (const { key, owner, state, birth, deeds } of this.stories) {
      // Entries may have timed out meanwhile.
      if (deeds.length > 0) continue;
      const [held] = this.ownersOf(key);
      if (owner === null) {
        if (!leftOver.has(key)) assert.equal(held?.name, undefined, `${this.tell(key)}: a takeover brought it back`);
      } else {
        assert.equal(held?.name, next.name, `${this.tell(key)}: ${next.name} did not take it over`);
        assert.deepEqual(stateOf(next.kernel.flows.get(key)!, 0), state, `${this.tell(key)}: as it was`);
        assert.equal(birthOf(next, key), birth, `${this.tell(key)}: its birth`);
      }
    }
  }

  // ---- What must hold.

  /** One node has the flow for its own or none, and all others have it from that one. */
  protected checkAgreed(key: string): void {
    const owners = this.ownersOf(key);
    assert.ok(owners.length <= 1, `${this.tell(key)}: it has ${owners.length} owners`);
    const [owner = null] = owners;
    const words = owner?.kernel.flows.get(key);
    if (owner !== null) assert.ok(words !== undefined, `${this.tell(key)}: its owner's kernel does not have it`);
    const state = words === undefined ? null : stateOf(words, 0);
    for (const machine of this.machines) {
      const { internal, external } = machine.node!;
      const own = slotOf(internal.table, key);
      assert.equal(machine.kernel.flows.has(key), own >= 0, `${this.tell(key)}: ${machine.name} and its kernel`);
      if (machine === owner) {
        const row = stateOf(internal.table.slab(own), internal.table.base(own));
        assert.deepEqual(row, state, `${this.tell(key)}: ${machine.name} of its own kernel`);
      }
      this.#checkRow(key, machine.name, external, machine === owner ? null : owner);
    }
    if (this.#observer !== null) this.#checkRow(key, "observer", this.#observer.external, owner);
  }

  #checkRow(key: string, name: string, external: SimObserver["external"], owner: Machine | null): void {
    const slot = slotOf(external.table, key);
    const from = slot < 0 ? null : external.ownerName(slot);
    assert.equal(from, owner?.name ?? null, `${this.tell(key)}: external cache of ${name}`);
    if (owner === null) return;
    const row = stateOf(external.table.slab(slot), external.table.base(slot));
    assert.deepEqual(row, stateOf(owner.kernel.flows.get(key)!, 0), `${this.tell(key)}: external cache of ${name}`);
    assert.equal(external.table.birth(slot), birthOf(owner, key), `${this.tell(key)}: birth at ${name}`);
  }

  #check(): void {
    for (const story of this.stories) this.#checkStory(story);
  }

  /** Where it is plain how a flow must have come out, it has. */
  #checkStory({ key, owner, state, birth, deeds }: Story): void {
    if (!this.isPlain || this.blind.size > 0) return;
    if (this.#isMoving) return;
    const [held = null] = this.ownersOf(key);
    const last = deeds.findLast(({ deed }) => deed !== "refreshed");
    // No loss: what passed a machine last and is alive there is carried by somebody.
    if (last?.machine.kernel.flows.has(key) === true) {
      assert.ok(held !== null, `${this.tell(key)}: it passes ${last.machine.name}, and nobody carries it`);
    }
    const where = new Set(deeds.filter(({ deed }) => deed !== "refreshed").map(({ machine }) => machine));
    if (where.size === 0) {
      assert.equal(held?.name, owner?.name, `${this.tell(key)}: nothing happened to it`);
      if (held !== null) assert.equal(birthOf(held, key), birth, `${this.tell(key)}: its birth`);
      return;
    }
    const [machine] = where;
    if (where.size > 1 || (owner !== null && machine !== owner)) return;
    const words = machine!.kernel.flows.get(key);
    const after = words === undefined ? null : stateOf(words, 0);
    assert.equal(
      held?.name,
      after === null ? undefined : machine!.name,
      `${this.tell(key)}: it passed ${machine!.name} alone`,
    );
    const isSame = !deeds.some(({ deed }) => deed === "ends" || deed === "begins");
    if (isSame && state !== null) assert.equal(birthOf(machine!, key), birth, `${this.tell(key)}: its birth`);
  }

  /** A claim only grows: no row is replaced by one of another node with an older claim. */
  #checkClaims(): void {
    for (const { node, name } of this.machines) {
      if (node === null) continue;
      const { external } = node;
      const { destroyed, replaced, retired, moved, sweptBySnapshot } = external.counters;
      const ended = destroyed + replaced + retired + moved + sweptBySnapshot;
      const last = this.#rows.get(node);
      // A row may have ended and another one begun within the step.
      const before = last?.ended === ended ? last.rows : null;
      const now = new Map<string, Row>();
      for (let slot = 0; slot < external.table.slotsUsed; slot++) {
        if (!external.table.isLive(slot)) continue;
        const [slab, base] = [external.table.slab(slot), external.table.base(slot)];
        const key = keyOf(slab, base);
        const row = { node: external.ownerName(slot), stamp: readStamp(slab, base) };
        now.set(key, row);
        const old = before?.get(key);
        if (old === undefined || old.node === row.node) continue;
        const isNewer = isNewerClaim(row.stamp, row.node, old.stamp, old.node);
        assert.ok(isNewer, `${this.tell(key)}: ${name} takes it from ${old.node} to an older claim of ${row.node}`);
      }
      this.#rows.set(node, { rows: now, ended });
    }
  }
}

/** True for a flow in a kernel of which no stream says that it has ended: its node, or a broker, has lost its beginning. */
function isLeftOver({ node }: Machine, key: string): boolean {
  const slot = slotOf(node!.internal.table, key);
  return slot >= 0 && !node!.internal.hasEndedElsewhere(slot);
}
