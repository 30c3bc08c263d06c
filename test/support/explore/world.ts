/** All machines of a scope, what may happen to them next, and their whole state. */

import * as steps from "./actions.js";
import { type Action, action, type Step } from "./actions.js";
import { close, establish, flowKey, flowRecord, flowWords, hasOnlyBegun, isEstablished, touch } from "./flows.js";
import { type Digest, DigestWriter } from "./hash.js";
import type { Time } from "./machine.js";
import { Machine, type MachineImage, snapshotOf } from "./machine.js";
import { Truth, type TruthImage, Violation } from "./truth.js";

/** How often each thing may happen that does not follow from others. */
export interface Budget {
  readonly packets: number;
  readonly hooks: number;
  readonly crashes: number;
  readonly reboots: number;
  readonly losses: number;
  readonly overruns: number;
  readonly dumps: number;
  readonly snapshots: number;
}

/** A scope that is explored. */
export interface Scope {
  readonly name: string;
  readonly nodes: number;
  readonly flows: number;
  readonly budget: Budget;
  /** Errors of the wall clocks, milliseconds, by machine. */
  readonly skewMs: readonly number[];
  /** The role of fw1 at the beginning: it carries traffic, or nobody has heard of keepalived. */
  readonly begins: "primary" | "unknown";
  /** Things may happen while a commit or a purge waits for the kernel. */
  readonly gaps: boolean;
  /** Connections close, and events come that do not name their state. */
  readonly closes: boolean;
  /** Mode `inject`. */
  readonly injects: boolean;
  /** With `injects`: mode `cache` with `commit.ahead`. */
  readonly ahead: boolean;
  /** Packets pass only the machine that became primary last, or any machine. */
  readonly traffic: "active" | "anywhere";
}

/** Nothing happens but what follows from others. */
export const NO_BUDGET: Budget = {
  packets: 0,
  hooks: 0,
  crashes: 0,
  reboots: 0,
  losses: 0,
  overruns: 0,
  dumps: 0,
  snapshots: 0,
};

/** A whole state. */
export interface State {
  readonly machines: readonly MachineImage[];
  readonly left: Budget;
  readonly truth: TruthImage;
  readonly depth: number;
}

const START_MS = 1_800_000_000_000;
const GAPS_MAX = 4;
/** What packets do in a scope where nothing closes. */
const OPEN_STEPS: readonly number[] = [steps.BEGIN, steps.CHANGE, steps.END];
/** Steps after which the nodes must be at rest when nothing happens. */
export const REST_STEPS_MAX = 400;

/** The machines. One state at a time is loaded. */
export class World {
  readonly scope: Scope;
  readonly machines: readonly Machine[];
  readonly truth: Truth;
  left: Budget;
  depth = 0;
  readonly #time: Time = { nowMs: START_MS };
  readonly #out = new DigestWriter();
  readonly #clocked: boolean;
  readonly #changed = new Set<Machine>();
  #state: State | null = null;

  constructor(scope: Scope) {
    const names = Array.from({ length: scope.nodes }, (_, index) => `fw${index + 1}`);
    this.scope = scope;
    this.left = scope.budget;
    this.#clocked = scope.skewMs.some((ms) => ms !== scope.skewMs[0]);
    const { injects, ahead } = scope;
    const clocked = this.#clocked;
    this.machines = names.map(
      (_, index) =>
        new Machine(names, index, this.#time, { skewMs: scope.skewMs[index] ?? 0, clocked, injects, ahead }),
    );
    this.truth = new Truth(this);
  }

  /** The state before anything happens: all daemons run and know each other's tables. */
  async begin(): Promise<State> {
    for (const machine of this.machines) {
      this.#time.nowMs++;
      await machine.start("unknown");
    }
    await this.rest();
    if (this.scope.begins === "primary") {
      this.#time.nowMs++;
      await this.machines[0]!.hook("primary");
      await this.rest();
    }
    this.depth = 0;
    for (const machine of this.machines) this.#changed.add(machine);
    return this.save();
  }

  /** The index of a peer among a machine's links. */
  static linkOf(machine: Machine, peer: number): number {
    return peer < machine.index ? peer : peer - 1;
  }

  /** A copy of the present state. */
  save(): State {
    const before = this.#state;
    const machines = this.machines.map((machine, index) =>
      before === null || this.#changed.has(machine) ? machine.save() : before.machines[index]!,
    );
    this.#changed.clear();
    this.#state = { machines, left: this.left, truth: this.truth.save(), depth: this.depth };
    return this.#state;
  }

  /** Replaces the state. */
  load(state: State): void {
    for (const machine of this.#changed) machine.touch();
    this.#changed.clear();
    for (const [index, machine] of this.machines.entries()) machine.load(state.machines[index]!);
    this.left = state.left;
    this.truth.load(state.truth);
    this.depth = state.depth;
    this.#time.nowMs = START_MS + 1000 + state.depth;
    this.#state = state;
  }

  /** The digest of a state. */
  digest({ machines, left, truth }: State): Digest {
    const out = this.#out;
    const full = left.crashes + left.reboots + left.losses > 0 || machines.some(({ daemon }) => daemon === null);
    for (const [index, image] of machines.entries()) {
      out.part(image.digest);
      const { stream } = image;
      let from = stream.length;
      for (const [other, { links, daemon }] of machines.entries()) {
        if (other === index) continue;
        const peer = index < other ? index : index - 1;
        const { at, newsFrom, copy } = links[peer]!;
        from = Math.min(from, at);
        out.word(stream.length - at);
        out.word(Math.max(0, newsFrom - at));
        if (full) out.word(copy.length - at);
        const last = stream.at(-1);
        const applier = daemon?.appliers[peer];
        if (applier === undefined || last === undefined) continue;
        for (const { epoch, number } of [applier, applier.seen]) {
          out.variable(epoch);
          out.word(epoch === last.epoch ? last.number - number : number + 10_000);
        }
      }
      if (full) {
        from = Math.min(from, Math.max(0, snapshotOf(stream) - 1));
        out.word(stream.length - (image.daemon?.snapshotSequence ?? 0));
      }
      out.word(-1);
      for (let at = from; at < stream.length; at++) out.part(stream[at]!.digest);
      out.word(-1);
    }
    for (const count of Object.values(left)) out.word(count as number);
    this.truth.digest(out, truth);
    return out.takeRanked();
  }

  // ---- What may happen.

  /** All that may happen in the loaded state. */
  *actions(): Generator<Action> {
    yield* this.followUps(true);
    for (const machine of this.machines) yield* this.#events(machine);
    const { left } = this;
    for (const { index, isUp, queue, dues, dump, stream, pendingCount } of this.machines) {
      if (!isUp) continue;
      if (left.overruns > 0 && queue.length > 0) yield action(steps.OVERRUN, index);
      if (left.dumps > 0 && dump === null) yield action(steps.DUMP, index);
      if (left.snapshots > 0) yield action(steps.SNAPSHOT, index);
      if (left.crashes > 0) yield action(steps.CRASH, index);
      if (left.reboots > 0) yield action(steps.REBOOT, index);
      if (left.losses > 0)
        for (let lost = 1; lost <= Math.min(2, stream.length - 3); lost++) yield action(steps.LOSE, index, lost);
      // A purge comes a minute after the step down: whatever the kernel had to say then has been published.
      const isQuiet = queue.length === 0 && pendingCount === 0 && dump === null;
      if (dues.purge && isQuiet) yield* this.#withGaps(action(steps.PURGE, index));
      // Keepalived's calls are further apart than a commit takes.
      const isCommitting = this.machines.some((machine) => machine.isUp && machine.commitOpen);
      if (left.hooks === 0 || isCommitting || dump !== null) continue;
      yield* this.#withGaps(action(steps.PRIMARY, index));
      yield action(steps.BACKUP, index);
    }
  }

  /** Packets on a machine. */
  *#events({ index, kernel }: Machine): Generator<Action> {
    if (this.left.packets === 0) return;
    const passes = this.scope.traffic === "anywhere" || this.truth.active === index;
    for (let flow = 0; flow < this.scope.flows; flow++) {
      const words = flowWords(kernel, flow);
      if (words === undefined) {
        if (passes) yield action(steps.BEGIN, index, flow);
      } else {
        if (passes && hasOnlyBegun(words)) yield action(steps.CHANGE, index, flow);
        if (passes && this.scope.closes) {
          if (isEstablished(words)) yield action(steps.CLOSE, index, flow);
          yield action(steps.TOUCH, index, flow);
        }
        yield action(steps.END, index, flow);
      }
    }
  }

  *#withGaps(one: Action): Generator<Action> {
    yield one;
    if (!this.scope.gaps) return;
    for (let gap = 0; gap < GAPS_MAX; gap++) {
      const within: Step[] = [{ type: steps.EVENT, machine: one.machine, arg: 0 }];
      for (let flow = 0; flow < this.scope.flows; flow++) {
        for (const type of this.scope.closes ? steps.FLOW_STEPS : OPEN_STEPS)
          within.push({ type, machine: one.machine, arg: flow });
      }
      for (const { index } of this.machines) {
        if (index !== one.machine) within.push({ type: steps.READ, machine: one.machine, arg: index });
      }
      for (const step of within) yield { ...one, gap, within: step };
    }
  }

  /** What follows from what has happened. At rest there is none. */
  *followUps(withGaps = false): Generator<Action> {
    for (const machine of this.machines) {
      const { index, isUp, queue, dump, dues } = machine;
      if (!isUp) {
        yield action(steps.START, index);
        continue;
      }
      if (queue.length > 0) yield action(steps.EVENT, index);
      if (machine.pendingCount > 0) yield action(steps.PUBLISH, index);
      if (machine.hasYoung) yield action(steps.DUE, index);
      if (machine.writeDue) yield* this.#writes(index, withGaps);
      if (dump !== null) yield action(steps.DUMPED, index);
      else if (dues.dump && this.#mayDump(machine)) yield action(steps.DUMP, index);
      else if (dues.snapshot) yield action(steps.SNAPSHOT, index);
      for (const peer of this.machines) {
        if (peer === machine) continue;
        const link = World.linkOf(machine, peer.index);
        const { at } = machine.links[link]!;
        if (at < peer.stream.length) yield action(steps.READ, index, peer.index);
        else if (at > peer.stream.length) yield action(steps.RESET, index, peer.index);
        else if (peer.isUp && !machine.applier(link).exact && !peer.dues.snapshot) {
          yield action(steps.ASK, index, peer.index);
        }
      }
    }
  }

  *#writes(index: number, withGaps: boolean): Generator<Action> {
    const one = action(steps.WRITE, index);
    if (withGaps) yield* this.#withGaps(one);
    else yield one;
  }

  /** In mode `inject`, a daemon that starts reads the peers' streams before its kernel. */
  #mayDump(machine: Machine): boolean {
    if (!this.scope.injects) return true;
    return this.machines.every((peer) => {
      return peer === machine || machine.links[World.linkOf(machine, peer.index)]!.at >= peer.stream.length;
    });
  }

  /** True when nothing is left that follows from what has happened. */
  get isAtRest(): boolean {
    return this.followUps().next().done === true;
  }

  /** Lets everything come to an end that follows from what has happened. */
  async rest(visit: (one: Action) => void = () => undefined): Promise<void> {
    for (let count = 0; count < REST_STEPS_MAX; count++) {
      const next = this.followUps().next();
      if (next.done === true) return;
      visit(next.value);
      await this.run(next.value);
    }
    throw new Violation("bounded: the nodes do not come to rest although nothing happens");
  }

  // ---- How it happens.

  /** Carries out an action. False when it is not possible. */
  async run(one: Action): Promise<boolean> {
    this.depth++;
    this.#time.nowMs++;
    const machine = this.machines[one.machine]!;
    this.#changed.add(machine);
    if (one.within === null) return this.#run(one);
    const { gap, within } = one;
    let requests = 0;
    let done = false;
    machine.onRequests = () => {
      if (requests++ !== gap || !this.isPossible(within)) return;
      done = true;
      const before = this.truth.before(within);
      this.#runNow(within);
      this.truth.after(within, before);
      // The kernel has no request that removes an entry only if no packet has come, so a write may cross one.
      if (one.type === steps.WRITE) this.truth.unclear();
    };
    try {
      await this.#run(one);
    } finally {
      machine.onRequests = null;
    }
    return done;
  }

  /** True when a step of packets, of an event or of a message can happen. Of the other steps nothing is known. */
  isPossible({ type, machine, arg }: Step): boolean {
    const on = this.machines[machine]!;
    if (type === steps.EVENT) return on.queue.length > 0;
    if (type !== steps.READ && !steps.FLOW_STEPS.includes(type)) return true;
    if (type === steps.READ) return on.links[World.linkOf(on, arg)]!.at < this.machines[arg]!.stream.length;
    if (this.left.packets === 0) return false;
    const words = flowWords(on.kernel, arg);
    if (type === steps.BEGIN) return words === undefined;
    if (words === undefined) return false;
    if (type === steps.CHANGE) return hasOnlyBegun(words);
    return type === steps.CLOSE ? isEstablished(words) : true;
  }

  async #run(one: Step): Promise<boolean> {
    const machine = this.machines[one.machine]!;
    const before = this.truth.before(one);
    const done = this.#runNow(one) || (await this.#runLater(one, machine));
    this.truth.after(one, before);
    return done;
  }

  /** Steps that are over at once. */
  #runNow({ type, machine: index, arg }: Step): boolean {
    const machine = this.machines[index]!;
    switch (type) {
      case steps.BEGIN:
      case steps.CHANGE:
      case steps.CLOSE:
      case steps.TOUCH:
      case steps.END:
        this.#packet(machine, type, arg);
        return true;
      case steps.EVENT:
        machine.readEvent();
        return true;
      case steps.PUBLISH:
        machine.publish();
        return true;
      case steps.READ:
        machine.read(World.linkOf(machine, arg), this.machines[arg]!.stream);
        return true;
      case steps.RESET:
        machine.reset(World.linkOf(machine, arg), this.machines[arg]!.stream);
        return true;
      case steps.DUMP:
        if (!machine.dues.dump) this.#spend("dumps");
        machine.beginDump();
        return true;
      case steps.DUE:
        machine.due();
        return true;
      case steps.OVERRUN:
        this.#spend("overruns");
        machine.overrun();
        return true;
      case steps.CRASH:
        this.#spend("crashes");
        machine.crash(0);
        return true;
      case steps.REBOOT:
        this.#spend("reboots");
        machine.reboot();
        return true;
      case steps.LOSE:
        this.#spend("losses");
        machine.crash(arg);
        return true;
      default:
        return false;
    }
  }

  async #runLater({ type, arg }: Step, machine: Machine): Promise<boolean> {
    switch (type) {
      case steps.START:
        await machine.start("unknown");
        return true;
      case steps.PRIMARY:
      case steps.BACKUP:
        this.#spend("hooks");
        await machine.hook(type === steps.PRIMARY ? "primary" : "backup");
        return true;
      case steps.WRITE:
        await machine.write();
        return true;
      case steps.DUMPED:
        await machine.endDump();
        return true;
      case steps.PURGE:
        await machine.purge();
        return true;
      case steps.SNAPSHOT:
        if (!machine.dues.snapshot) this.#spend("snapshots");
        await machine.snapshot();
        return true;
      case steps.ASK: {
        const peer = this.machines[arg]!;
        this.#changed.add(peer);
        await peer.snapshot();
        return true;
      }
      default:
        throw new Error(`no such step: ${type}`);
    }
  }

  #packet({ kernel }: Machine, type: number, flow: number): void {
    this.#spend("packets");
    if (type === steps.BEGIN) kernel.create(flowRecord(flow, this.truth.nextMark()));
    else if (type === steps.CHANGE) establish(kernel, flow);
    else if (type === steps.CLOSE) close(kernel, flow);
    else if (type === steps.TOUCH) touch(kernel, flow);
    else kernel.destroy(flowKey(flow));
  }

  #spend(what: keyof Budget): void {
    if (this.left[what] > 0) this.left = { ...this.left, [what]: this.left[what] - 1 };
  }
}
