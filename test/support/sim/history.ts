/** What random histories of both modes have in common. */
import assert from "node:assert/strict";
import type { FlowTable } from "../../../src/flow/flow-table.js";
import type { Random } from "../records.js";
import { tcpRecord } from "../records.js";
import { keyOf } from "../sim-kernel.js";
import { type Deed, type State, stateOf } from "../sim-traffic.js";
import type { Machine } from "./machine.js";
import { namedRows } from "./trace.js";
import type { World } from "./world.js";

/** Flows of a history. */
export const FLOWS = 12;
const UNREAD_SECONDS_MAX = 60;
const UNWRITTEN_SECONDS_MAX = 60;
const START_STEPS_MAX = 5000;

/** A flow between two rests: whose it was and how, and what has happened since. */
export interface Story {
  readonly key: string;
  readonly owner: Machine | null;
  readonly state: State | null;
  /** Birth of the connection; 0 when nobody carried it. */
  readonly birth: number;
  /** Where packets pass in this phase; null: anywhere. */
  readonly way: Machine | null;
  /** Machines on which something has happened to it, in order. */
  readonly deeds: { readonly machine: Machine; readonly deed: Deed; readonly after: State | null }[];
}

/** A random history of some machines. */
export abstract class History {
  readonly world: World;
  readonly random: Random;
  stories: Story[] = [];
  /** Machines whose daemon may not have seen everything in this phase. */
  readonly blind = new Set<Machine>();
  /** False when anybody may carry any flow now. */
  isPlain = true;

  constructor(world: World) {
    this.world = world;
    this.random = world.random;
    for (const machine of this.machines) {
      machine.kernel.onTimeout = (key) => {
        const story = this.stories.find((one) => one.key === key);
        story?.deeds.push({ machine, deed: "ends", after: null });
      };
    }
  }

  get machines(): readonly Machine[] {
    return this.world.machines;
  }

  /** Lets it happen. Rejects when something does not hold. */
  async run(): Promise<void> {
    try {
      await this.play();
    } finally {
      this.world.end();
    }
  }

  /** All phases. */
  protected abstract play(): Promise<void>;

  /** Checks a flow that something is known of. */
  protected abstract checkAgreed(key: string): void;

  /** The settings of the history, for a reader of a failure. */
  protected abstract readonly settings: object;

  /** A new phase: `way` picks the machine that most packets of a flow pass; null: any. */
  protected begin(way: (index: number, owner: Machine | null) => Machine | null): void {
    this.blind.clear();
    this.isPlain = true;
    this.stories = Array.from({ length: FLOWS }, (_, index) => {
      const key = keyOf(tcpRecord(index), 0);
      const owner = this.ownersOf(key)[0] ?? null;
      const words = owner?.kernel.flows.get(key);
      const state = words === undefined ? null : stateOf(words, 0);
      return { key, owner, state, birth: owner === null ? 0 : birthOf(owner, key), way: way(index, owner), deeds: [] };
    });
  }

  /** Something was done to a flow. */
  protected did(index: number, machine: Machine, deed: Deed): void {
    if (deed === "nothing") return;
    const { key, deeds } = this.stories[index]!;
    const words = machine.kernel.flows.get(key);
    deeds.push({ machine, deed, after: words === undefined ? null : stateOf(words, 0) });
    machine.note(words ?? tcpRecord(index), `packets: ${deed}`);
    if (!machine.isReady) this.blind.add(machine);
  }

  /** Seconds, in which whatever was under way has come to its end. */
  protected async timePasses(ms: number): Promise<void> {
    await this.world.rest();
    this.world.pass(ms);
    for (const { kernel } of this.machines) {
      for (const key of [...kernel.flows.keys()]) if (this.random.oneIn(2)) kernel.expire(key);
    }
  }

  /** Everything is repaired, and all that is under way comes to an end. */
  protected async settle(): Promise<void> {
    for (const machine of this.machines) {
      for (const link of machine.links.values()) link.up = true;
      machine.isFull = false;
      await this.until(machine.start());
      machine.node!.sockets.nextDump = "whole";
      machine.node!.sockets.overflows = 0;
    }
    await this.world.rest();
    // A table that could not be read is read again later, and its node counts as not in sync until then.
    for (let rounds = 0; this.machines.some(({ node }) => node!.replicator.isUnread); rounds++) {
      assert.ok(rounds < UNREAD_SECONDS_MAX, "a node's table stays unread");
      await this.second();
    }
    for (let round = 0; round < 3 + (this.world.options.aheadSeconds ?? 0); round++) await this.#settlingSecond();
    await this.writeYoung();
  }

  /**
   * Lets the rows come of age that are to be written ahead. When an entry has run out in the last second, and its
   * connection goes on at another node, that node's claim is such a row.
   */
  protected async writeYoung(): Promise<void> {
    const isYoung = (): boolean => this.machines.some(({ node }) => (node!.injector?.young ?? 0) > 0);
    for (let seconds = 0; isYoung(); seconds++) {
      assert.ok(seconds < UNWRITTEN_SECONDS_MAX, "rows stay too young to be written ahead");
      await this.#settlingSecond();
    }
  }

  /** A second in which entries that are over end. */
  async #settlingSecond(): Promise<void> {
    this.world.pass(1000);
    for (const { kernel } of this.machines) for (const key of [...kernel.flows.keys()]) kernel.expire(key);
    for (const { node } of this.machines) void node!.poll();
    await this.world.rest();
  }

  /** A second in which nothing happens. */
  protected async second(): Promise<void> {
    this.world.pass(1000);
    for (const { node } of this.machines) void node!.poll();
    await this.world.rest();
  }

  /** Lets the world go on until `work` is done. */
  protected async until(work: Promise<unknown>): Promise<void> {
    let done = false;
    void work.finally(() => {
      done = true;
    });
    for (let steps = 0; !done; steps++) {
      assert.ok(steps < START_STEPS_MAX, "a daemon does not start");
      await this.world.step();
      await new Promise(setImmediate);
    }
    await work;
  }

  /** All kernels' tables are read. */
  protected async readKernels(): Promise<void> {
    for (const { node, polls } of this.machines) {
      node!.injector?.tick();
      void (polls ? node!.poll() : node!.replicator.resyncKernel());
    }
    await this.world.rest();
  }

  protected ownersOf(key: string): Machine[] {
    return this.machines.filter(({ node }) => {
      const slot = slotOf(node!.internal.table, key);
      return slot >= 0 && !node!.internal.isSuperseded(slot);
    });
  }

  /** All flows that any node knows. */
  protected keys(): Set<string> {
    return new Set(
      this.machines.flatMap(({ kernel, node }) => [
        ...kernel.flows.keys(),
        ...node!.view("internal").keys(),
        ...node!.view("external").keys(),
      ]),
    );
  }

  /** Dumps and the passing of time change nothing, and nothing is said. */
  protected async checkQuiet(): Promise<void> {
    const before = this.machines.map(({ stream }) => stream.messages.length);
    await this.readKernels();
    for (const [index, { name, stream, node }] of this.machines.entries()) {
      const said = stream.messages.slice(before[index]).filter(({ kind }) => kind !== "mark");
      const [row] = said.flatMap(({ payload }) => namedRows(payload, node!.internal.table));
      if (row !== undefined) assert.fail(`${this.tell(row.key)}\n${name} still says: ${row.text}`);
      assert.equal(
        stream.messages.length,
        before[index],
        `${JSON.stringify(this.settings)}: ${name} still says something`,
      );
    }
    for (const key of this.keys()) this.checkAgreed(key);
  }

  /** What has happened to a flow in this phase, and where it is now. */
  protected tell(key: string): string {
    const story = this.stories.find((one) => one.key === key);
    const lines = story?.deeds.map(
      ({ machine, deed, after }) => `  ${machine.name} ${deed} ${after === null ? "" : Object.values(after)}`,
    );
    const was = story?.state === null ? "" : `was ${story?.owner?.name}'s ${Object.values(story?.state ?? {})}`;
    const now = this.machines.map((machine) => {
      const { name, kernel, node, polls } = machine;
      const words = kernel.flows.get(key);
      if (node === null)
        return `  ${name} (down): kernel ${words === undefined ? "-" : Object.values(stateOf(words, 0))}`;
      const [int, ext] = [slotOf(node.internal.table, key), slotOf(node.external.table, key)];
      const own = int < 0 ? "-" : node.internal.isSuperseded(int) ? "superseded" : "own";
      const from = ext < 0 ? "-" : node.external.ownerName(ext);
      const calls = [...machine.calls].map(([group, { role }]) => ` ${group}${role}`).join("");
      return `  ${name}${polls ? " (polls)" : ""}${calls}: kernel ${words === undefined ? "-" : Object.values(stateOf(words, 0))}, ${own}, ${from}`;
    });
    return [JSON.stringify(this.settings), `flow ${key} ${was}`, ...(lines ?? []), ...now].join("\n");
  }
}

/** The birth of a machine's own flow; 0 when it has none. */
export function birthOf({ node }: Machine, key: string): number {
  const { table } = node!.internal;
  const slot = slotOf(table, key);
  return slot < 0 ? 0 : table.birth(slot);
}

/** The slot of the flow of a key; -1 when the table does not have it. */
export function slotOf(table: FlowTable, key: string): number {
  for (let slot = 0; slot < table.slotsUsed; slot++) {
    if (!table.isLive(slot)) continue;
    const [slab, base] = [table.slab(slot), table.base(slot)];
    if (keyOf(slab, base) === key && table.find(slab, base) === slot) return slot;
  }
  return -1;
}
