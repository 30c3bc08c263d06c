/**
 * What must hold, checked on whole states. Most of it is checked at rest: every message is read, and nothing is left
 * that follows from what has happened. What the states themselves do not show is kept here, step by step.
 */

import { W_MARK } from "../../../src/flow/record.js";
import { readStamp } from "../../../src/flow/stamp.js";
import { isNewerClaim } from "../../../src/ownership/claim.js";
import { keyOf } from "../sim-kernel.js";
import type { Step } from "./actions.js";
import * as steps from "./actions.js";
import { contentOf, flowKey, flowRecord, flowWords } from "./flows.js";
import type { DigestWriter } from "./hash.js";
import type { Machine } from "./machine.js";

/** A rule of ownership does not hold. */
export class Violation extends Error {}

/** The machines, as the rules see them. */
interface Observed {
  readonly scope: { readonly flows: number; readonly injects: boolean; readonly skewMs: readonly number[] };
  readonly machines: readonly Machine[];
  /** True when nothing is left that follows from what has happened. */
  readonly isAtRest: boolean;
}

/** What is known of a flow beside the state of the machines. */
interface FlowTruth {
  /** The machine that the last packet passed, if its daemon was to hear of it; -1 when that is unclear or it ended. */
  readonly last: number;
  /**
   * The machine that became primary when everything was at rest, with nothing happening to the flow since; -1: none.
   * `hadOwner`: somebody carried the flow then.
   */
  readonly taker: number;
  readonly hadOwner: boolean;
  /** The connection that was last seen at rest, and its birth. */
  readonly mark: number;
  readonly birth: number;
  /** At a later rest nobody carried it. */
  readonly isOver: boolean;
}

/** A copy of what is known beside the state of the machines. */
export interface TruthImage {
  readonly marks: number;
  /** The machine that became primary last. */
  readonly active: number;
  readonly flows: readonly FlowTruth[];
}

interface Row {
  readonly node: string;
  readonly stamp: number;
}

/** What a step may change, as it was before. */
interface Before {
  readonly rows: readonly (Row | null)[];
  readonly entries: readonly boolean[];
  readonly atRest: boolean;
  /** Flows that the machine takes for its own, or may once it has read what its kernel reports. */
  readonly own: readonly number[];
  readonly commitOpen: boolean;
  readonly owners: readonly (string | null)[];
  /** Flows whose entry a commit wrote for an earlier connection than the one that the peer has now. */
  readonly mixed: readonly number[];
}

const UNKNOWN: FlowTruth = { last: -1, taker: -1, hadOwner: false, mark: 0, birth: 0, isOver: false };
/** No birth is known. */
const UNBORN = { mark: 0, birth: 0, isOver: false };
const STEPS_OF_NODES: readonly number[] = [
  steps.EVENT,
  steps.PUBLISH,
  steps.READ,
  steps.DUMPED,
  steps.WRITE,
  steps.DUE,
  steps.RESET,
];

/** Follows what happens, and checks what must hold. */
export class Truth {
  readonly #world: Observed;
  /** The machine that became primary last: packets pass there. */
  active = 0;
  #marks = 0;
  #flows: readonly FlowTruth[];

  constructor(world: Observed) {
    this.#world = world;
    this.#flows = Array.from({ length: world.scope.flows }, () => UNKNOWN);
  }

  /** The mark of the next connection. */
  nextMark(): number {
    return ++this.#marks;
  }

  save(): TruthImage {
    return { marks: this.#marks, active: this.active, flows: this.#flows };
  }

  load({ marks, active, flows }: TruthImage): void {
    this.active = active;
    this.#marks = marks;
    this.#flows = flows;
  }

  digest(out: DigestWriter, { active, flows }: TruthImage): void {
    out.word(active);
    for (const { last, taker, hadOwner, mark, birth, isOver } of flows) {
      out.word(last);
      out.word(isOver ? 1 : 0);
      out.word(taker);
      out.word(hadOwner ? 1 : 0);
      out.variable(mark);
      out.variable(birth);
    }
  }

  /** What `after` needs of the state before a step. */
  before({ type, machine: index }: Step): Before {
    const machine = this.#world.machines[index]!;
    const isHook = type === steps.PRIMARY;
    const atRest = isHook && this.#world.isAtRest;
    // Its address moves to a machine while its daemon is called.
    if (isHook) this.active = index;
    const flows = this.#flows.map((_, flow) => flow);
    return {
      commitOpen: machine.commitOpen,
      rows: STEPS_OF_NODES.includes(type) ? flows.map((flow) => this.#row(machine, flow)) : [],
      entries: isHook ? flows.map((flow) => flowWords(machine.kernel, flow) !== undefined) : [],
      atRest,
      own: flows.filter((flow) => !machine.isUp || this.#ownSlot(machine, flow) >= 0 || this.#isQueued(machine, flow)),
      owners: isHook ? flows.map((flow) => this.#view(machine, flow)) : [],
      mixed: type === steps.DUMPED && machine.commitOpen ? flows.filter((flow) => this.#isMixed(machine, flow)) : [],
    };
  }

  /** A step is done: notes what has happened, and checks what must hold always. */
  after(step: Step, before: Before): void {
    const { type, machine: index, arg } = step;
    const machine = this.#world.machines[index]!;
    if (STEPS_OF_NODES.includes(type)) {
      this.#checkClaims(machine, before.rows);
      for (const flow of before.mixed) this.#set(flow, UNBORN);
      return;
    }
    switch (type) {
      case steps.BEGIN:
      case steps.CHANGE:
      case steps.CLOSE:
      case steps.TOUCH:
        this.#set(arg, { last: machine.isUp && !this.#isCrossed(index, arg) ? index : -1, taker: -1 });
        break;
      case steps.END: {
        const { last } = this.#flows[arg]!;
        // A node that claims late what passed it before is the owner, and it ends what it owns.
        this.#set(arg, { last: last === index || before.own.includes(arg) ? -1 : last, taker: -1 });
        break;
      }
      case steps.OVERRUN:
      case steps.CRASH:
      case steps.REBOOT:
      case steps.LOSE:
        // The entries of a commit that were not read back have lost their births.
        this.#forget(index, before.own, type === steps.LOSE || before.commitOpen);
        break;
      case steps.PRIMARY:
        this.#takenOver(machine, before);
        break;
      case steps.BACKUP:
      case steps.PURGE:
        for (const flow of this.#flows.keys()) this.#set(flow, { taker: -1 });
        break;
    }
  }

  /** Where the flows pass is unclear from here on. */
  unclear(): void {
    for (const flow of this.#flows.keys()) this.#set(flow, { last: -1, taker: -1 });
  }

  #set(flow: number, news: Partial<FlowTruth>): void {
    this.#flows = this.#flows.map((known, index) => (index === flow ? { ...known, ...news } : known));
  }

  /** What passed the machine may not have been stored. */
  #forget(index: number, own: readonly number[], losesBirths: boolean): void {
    this.#flows = this.#flows.map((known, flow) => ({
      ...known,
      taker: -1,
      last: known.last === index || own.includes(flow) ? -1 : known.last,
      ...(losesBirths ? UNBORN : {}),
    }));
  }

  #takenOver(machine: Machine, { entries, atRest, owners }: Before): void {
    for (const [flow, { last }] of this.#flows.entries()) {
      const removed = entries[flow] === true && flowWords(machine.kernel, flow) === undefined;
      if (removed && last === machine.index)
        throw new Violation(`no loss: a commit ended ${name(flow)}, which is alive`);
      const passes = flowWords(machine.kernel, flow) !== undefined;
      const taker = atRest ? machine.index : -1;
      // From here on its packets pass the new primary. But an end that it had not heard of does not count there.
      const isTaken = passes && last >= 0 && !this.#isCrossed(machine.index, flow);
      const passing = isTaken ? machine.index : passes ? -1 : last;
      this.#set(flow, { taker, hadOwner: owners[flow] !== null, last: passing });
    }
  }

  #checkClaims(machine: Machine, rows: readonly (Row | null)[]): void {
    for (const [flow, before] of rows.entries()) {
      const now = this.#row(machine, flow);
      if (before === null || now === null || before.node === now.node) continue;
      if (isNewerClaim(now.stamp, now.node, before.stamp, before.node)) continue;
      throw new Violation(
        `a claim only grows: ${machine.name} takes ${name(flow)} from ${before.node} to an older claim`,
      );
    }
  }

  /** Checks what must hold at rest. */
  check(): void {
    for (const flow of this.#flows.keys()) this.#checkFlow(flow);
  }

  #checkFlow(flow: number): void {
    const { machines } = this.#world;
    const views = machines.map((machine) => this.#view(machine, flow));
    const [owner = null] = views;
    if (views.some((view) => view !== owner)) this.#fail("agreement: the nodes name different owners", flow);
    const carrier = machines.find((machine) => machine.name === owner);
    const words = carrier === undefined ? undefined : flowWords(carrier.kernel, flow);
    if (owner !== null && words === undefined) this.#fail("no ghost: its owner's kernel does not have it", flow);
    for (const machine of machines) this.#checkRows(machine, flow, carrier, words);
    const { last, taker, hadOwner } = this.#flows[flow]!;
    // Until keepalived has called all nodes, two primaries may both claim what they carry.
    const isAlone = machines.filter(({ trace }) => trace === "primary").length <= 1;
    if (last >= 0 && owner === null && isAlone)
      this.#fail(`no loss: it passes ${machines[last]!.name}, and nobody carries it`, flow);
    if (taker >= 0) {
      const { name: takerName } = machines[taker]!;
      if (hadOwner && owner !== takerName) this.#fail(`no loss: ${takerName} did not take it over`, flow);
      if (!hadOwner && owner !== null) this.#fail(`no ghost: ${takerName} brought it back`, flow);
    }
    if (carrier !== undefined && words !== undefined) this.#checkLife(flow, carrier, words[W_MARK]!, isAlone);
    else if (!this.#flows[flow]!.isOver) this.#set(flow, { isOver: true });
  }

  #checkRows(machine: Machine, flow: number, carrier: Machine | undefined, words: Uint32Array | undefined): void {
    const { internal, external } = machine.node;
    const held = flowWords(machine.kernel, flow);
    const slot = find(internal.table, flow);
    if (this.#world.scope.injects) this.#checkInjected(machine, flow, held, words);
    else if ((held === undefined) !== slot < 0)
      this.#fail(`agreement: ${machine.name} does not know its own kernel`, flow);
    if (held !== undefined && slot >= 0 && !internal.isSuperseded(slot)) {
      const known = contentOf(internal.table.slab(slot), internal.table.base(slot));
      if (known !== contentOf(held, 0))
        this.#fail(`agreement: ${machine.name} has its kernel's flow as ${known}`, flow);
    }
    const row = find(external.table, flow);
    if (row < 0 || words === undefined) return;
    if (machine === carrier) this.#fail("agreement: its owner has it from somebody else", flow);
    const heard = contentOf(external.table.slab(row), external.table.base(row));
    if (heard !== contentOf(words, 0)) this.#fail(`agreement: ${machine.name} has it as ${heard}`, flow);
  }

  /** Mode `inject`: every kernel has what the owner's has. */
  #checkInjected(
    { name: machine }: Machine,
    flow: number,
    held: Uint32Array | undefined,
    words: Uint32Array | undefined,
  ): void {
    if (held === undefined && words === undefined) return;
    if (words === undefined) this.#fail(`no ghost: the kernel of ${machine} has it, and nobody carries it`, flow);
    if (held === undefined) this.#fail(`no loss: the kernel of ${machine} does not have it`, flow);
    const known = contentOf(held, 0);
    if (known !== contentOf(words, 0)) this.#fail(`agreement: the kernel of ${machine} has it as ${known}`, flow);
  }

  #checkLife(flow: number, carrier: Machine, mark: number, isAlone: boolean): void {
    const { table } = carrier.node.internal;
    const birth = table.birth(find(table, flow));
    for (const machine of this.#world.machines) {
      const external = machine.node.external.table;
      const row = find(external, flow);
      if (row >= 0 && external.birth(row) !== birth) this.#fail(`one life: ${machine.name} has another birth`, flow);
    }
    const known = this.#flows[flow]!;
    // Where two nodes saw a connection begin, each without the other's news, its birth is the earlier one.
    // Of two primaries, one that starts again revives what the other one has ended.
    if (known.mark === mark && known.birth < birth && isAlone) this.#fail("one life: its birth has changed", flow);
    // While it lives, a connection that begins in another kernel is the same one: its packets pass both.
    if (known.isOver && known.mark !== 0 && known.birth === birth) {
      this.#fail("one life: the next connection has its birth", flow);
    }
    if (known.mark !== mark || known.birth !== birth || known.isOver) this.#set(flow, { mark, birth, isOver: false });
  }

  #fail(what: string, flow: number): never {
    throw new Violation(`${what} (${name(flow)})`);
  }

  /** The owner of a flow as a machine sees it; null for none. */
  #view(machine: Machine, flow: number): string | null {
    if (this.#ownSlot(machine, flow) >= 0) return machine.name;
    const { external } = machine.node;
    const row = find(external.table, flow);
    return row < 0 ? null : external.ownerName(row);
  }

  #ownSlot(machine: Machine, flow: number): number {
    if (!machine.isUp) return -1;
    const { internal } = machine.node;
    const slot = find(internal.table, flow);
    return slot < 0 || internal.isSuperseded(slot) ? -1 : slot;
  }

  #isQueued(machine: Machine, flow: number): boolean {
    return machine.queue.some(({ words }) => keyOf(words, 0) === flowKey(flow));
  }

  /**
   * True while another machine has yet to publish what its kernel reported of a flow. Its claim will be the newer one,
   * although its packets were the earlier ones: claims are stamped when they are published. Where clocks differ, the
   * same holds for claims that this machine has not read yet.
   */
  #isCrossed(index: number, flow: number): boolean {
    const { machines, scope } = this.#world;
    const [first] = scope.skewMs;
    const isSkewed = scope.skewMs.some((ms) => ms !== first);
    return machines.some((machine) => {
      if (machine.index === index) return false;
      const link = machine.index < index ? machine.index : machine.index - 1;
      if (isSkewed && machines[index]!.links[link]!.at < machine.stream.length) return true;
      return !machine.isUp || machine.pendingCount > 0 || machine.dump !== null || this.#isQueued(machine, flow);
    });
  }

  #isMixed(machine: Machine, flow: number): boolean {
    const { table } = machine.node.external;
    const slot = find(table, flow);
    const held = flowWords(machine.kernel, flow);
    return slot >= 0 && held !== undefined && table.slab(slot)[table.base(slot) + W_MARK] !== held[W_MARK];
  }

  #row(machine: Machine, flow: number): Row | null {
    const { external } = machine.node;
    const slot = find(external.table, flow);
    if (slot < 0) return null;
    const { table } = external;
    return { node: external.ownerName(slot), stamp: readStamp(table.slab(slot), table.base(slot)) };
  }

  /** The whole state in words, for a reader of a counterexample. */
  describe(): string[] {
    return this.#world.machines.map((machine) => {
      const flows = [...this.#flows.keys()].map((flow) => {
        const held = flowWords(machine.kernel, flow);
        const kernel = held === undefined ? "not in the kernel" : `kernel: ${contentOf(held, 0)}`;
        if (!machine.isUp) return `${name(flow)} ${kernel}`;
        const { internal, external } = machine.node;
        const slot = find(internal.table, flow);
        const row = find(external.table, flow);
        const superseded = slot >= 0 && internal.isSuperseded(slot);
        const over = slot >= 0 && internal.hasEndedElsewhere(slot);
        const own = slot < 0 ? "no row" : over ? "ended elsewhere" : superseded ? "superseded" : "own";
        const from =
          row < 0
            ? "nothing from peers"
            : `from ${external.ownerName(row)}: ${contentOf(external.table.slab(row), external.table.base(row))}`;
        return `${name(flow)} ${kernel}; ${own}; ${from}`;
      });
      return `${machine.name}${machine.isUp ? "" : " (down)"} ${flows.join(" | ")}`;
    });
  }
}

function name(flow: number): string {
  return `flow${flow + 1}`;
}

const RECORDS = [0, 1, 2, 3].map((flow) => flowRecord(flow, 0));

function find(table: { readonly size: number; find(words: Uint32Array, base: number): number }, flow: number): number {
  return table.size === 0 ? -1 : table.find(RECORDS[flow]!, 0);
}
