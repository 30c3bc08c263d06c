import { cpSync } from "node:fs";
import { errorText } from "../../src/errors.js";
import { Lab } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { pause } from "../../src/os/pause.js";
import { Random } from "../support/records.js";
import { type CheckCounters, EvidenceCheck, type Lie } from "./evidence-check.js";
import { drawFault, FAULT_KINDS, type Fault, type FaultKind, faultText, type RoleChange } from "./fault-plan.js";
import { faultSteps, holdFault, isRoleChange, roleChangeSteps } from "./faults.js";
import { SoakNode } from "./soak-node.js";
import { primaryOf, takeOver } from "./takeover.js";
import { Traffic } from "./traffic.js";
import type { SessionView } from "./traffic-protocol.js";

/** How a soak runs. */
export interface SoakOptions {
  readonly seconds: number;
  readonly seed: number;
  /** The kinds of faults; all unless said. */
  readonly only?: readonly FaultKind[];
  /** Where the logs of daemons and brokers go in the end. */
  readonly logs?: string;
  /** Called with each line for a person. */
  readonly print: (line: string) => void;
}

/** What a soak saw. */
export interface SoakResult extends CheckCounters {
  readonly faults: Readonly<Partial<Record<FaultKind, number>>>;
  /** Real takeovers, and those of them before which the next primary had said that it is in sync. */
  readonly takeovers: number;
  readonly takeoversSaidSafe: number;
  /** Sessions that had to survive those, and all that survived the others. */
  readonly sessionsOwed: number;
  /** Poisoned messages that a broker has stored. */
  readonly poisonStored: number;
  /** Short connections and exchanges that succeeded. */
  readonly shortFlows: number;
  /** What must not happen, in words; empty when all is well. */
  readonly violations: readonly string[];
}

const NODES = 3;
/** At most so many faults at a time, each of another node. */
const FAULTS_MAX = 2;
const PAUSE_MS_MAX = 6000;
/** After so many faults all of them end, and the nodes must be in sync again without anybody's help. */
const FAULTS_BETWEEN_CALMS = 10;
const CALM_MS_MAX = 60_000;
const ELECTION_MS_MAX = 30_000;
const LOOK_MS = 1000;
/** A session sends a line each second. */
const SILENT_MS_MAX = 20_000;
const VIOLATIONS_MAX = 100;
const LOSSES_SHOWN = 4;

/** Three firewalls with traffic and faults, and the check whether `status` ever lies. */
class Soak {
  readonly #options: SoakOptions;
  readonly #random: Random;
  readonly #lab: Lab;
  readonly #nodes: readonly SoakNode[];
  readonly #traffic: Traffic;
  readonly #check: EvidenceCheck;
  readonly #startMs = performance.now();
  readonly #faults: Partial<Record<FaultKind, number>> = {};
  readonly #violations: string[] = [];
  readonly #busy = new Map<SoakNode, Promise<void>>();
  /** The node that a role change has taken out of service. */
  #out: SoakNode | null = null;
  /** Since when the primary is primary, milliseconds since the Unix epoch. */
  #primarySinceMs = Date.now();
  #drawn = 0;
  #takeovers = 0;
  #takeoversSaidSafe = 0;
  #sessionsOwed = 0;
  #poisonStored = 0;
  #ended = false;

  constructor(options: SoakOptions, lab: Lab, nodes: readonly SoakNode[], traffic: Traffic) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#lab = lab;
    this.#nodes = nodes;
    this.#traffic = traffic;
    this.#check = new EvidenceCheck(nodes, (lie) => this.#lie(lie));
  }

  async run(primary: SoakNode): Promise<SoakResult> {
    this.#check.primary = primary;
    this.#check.start();
    const looking = this.#look();
    try {
      await this.#calm();
      const endMs = this.#startMs + this.#options.seconds * 1000;
      while (performance.now() < endMs) await this.#next();
      await this.#calm();
      // The proof: whoever is primary dies, and all that was said to be safe lives on.
      await this.#changeRoles({ kind: "power", damage: null, all: false, holdMs: 0 });
      await this.#calm();
    } catch (error) {
      this.#violation(errorText(error));
    } finally {
      this.#ended = true;
      await Promise.all([this.#check.stop(), looking]).catch((error: unknown) => this.#violation(errorText(error)));
    }
    return {
      ...this.#check.counters,
      faults: this.#faults,
      takeovers: this.#takeovers,
      takeoversSaidSafe: this.#takeoversSaidSafe,
      sessionsOwed: this.#sessionsOwed,
      poisonStored: this.#poisonStored,
      shortFlows: await this.#traffic.short().catch(() => 0),
      violations: this.#violations,
    };
  }

  async #next(): Promise<void> {
    await pause(this.#random.below(PAUSE_MS_MAX));
    const fault = drawFault(this.#random, this.#options.only ?? FAULT_KINDS);
    if (isRoleChange(fault)) {
      await this.#changeRoles(fault);
    } else {
      const node = this.#nodes[fault.node]!;
      while (this.#busy.has(node) || this.#busy.size >= FAULTS_MAX) await Promise.race(this.#busy.values());
      this.#begin(fault, node);
    }
    this.#drawn++;
    if (this.#drawn % FAULTS_BETWEEN_CALMS === 0) await this.#calm();
  }

  #begin(fault: Exclude<Fault, RoleChange>, node: SoakNode): void {
    const over = this.#logged(fault, "");
    const held = holdFault(faultSteps(fault, this.#nodes, this.#random, () => this.#poisonStored++))
      .catch((error: unknown) => this.#violation(`${faultText(fault, "")}: ${errorText(error)}`))
      .finally(() => {
        over();
        this.#busy.delete(node);
        this.#burst();
      });
    this.#busy.set(node, held);
  }

  async #changeRoles(fault: RoleChange): Promise<void> {
    const primary = this.#check.primary;
    if (primary === null) throw new Error("nobody is primary");
    const all = fault.kind === "power" && fault.all;
    // Somebody must be left to take over.
    const mustWait = (): boolean => (all ? this.#busy.size > 0 : this.#busy.has(primary) || this.#out !== null);
    while (mustWait()) await Promise.race(this.#busy.values());
    // Two things go wrong at once: sessions live on only where all was well before.
    if (all) await this.#calm();
    const over = this.#logged(fault, primary.name);
    const { begin, holdMs, end } = roleChangeSteps(fault, primary, this.#nodes);
    this.#check.primary = null;
    const { to, wasSaidSafe, sessions, lost } = await takeOver(this.#nodes, primary, this.#traffic, begin);
    this.#check.primary = to;
    this.#primarySinceMs = Date.now();
    this.#takeovers++;
    const said = wasSaidSafe ? "said safe" : "not said safe";
    this.#print(`  ${to.name} took over, ${said}: ${sessions - lost.length} of ${sessions} sessions live on`);
    if (wasSaidSafe) {
      this.#takeoversSaidSafe++;
      this.#sessionsOwed += sessions;
      if (lost.length > 0) {
        const shown = lost.slice(0, LOSSES_SHOWN).map(({ name, broken }) => `${name} (${broken ?? "no answer"})`);
        const text = `${to.name} had said that it is in sync with ${primary.name}, and took over`;
        this.#violation(`${text}: ${lost.length} of ${sessions} sessions are lost: ${shown.join(", ")}`);
      }
    }
    this.#out = primary;
    const back = holdFault({ begin: async () => undefined, holdMs, end })
      .catch((error: unknown) => this.#violation(`${faultText(fault, primary.name)}: ${errorText(error)}`))
      .finally(() => {
        over();
        this.#out = null;
        this.#busy.delete(primary);
        this.#burst();
      });
    this.#busy.set(primary, back);
  }

  #burst(): void {
    void this.#check.burst().catch((error: unknown) => this.#violation(errorText(error)));
  }

  /** All faults end, and within a minute every node says that it is in sync. */
  async #calm(): Promise<void> {
    await Promise.all(this.#busy.values());
    const startMs = performance.now();
    const reasons = async (): Promise<string[]> => {
      const all = await Promise.all(this.#nodes.map((node) => node.status()));
      return all.flatMap((status, index) => {
        const { name } = this.#nodes[index]!;
        if (status === null) return [`${name} does not answer`];
        if (status.inSync) return [];
        return [status.reason, ...status.peers.map(({ reason }) => reason)]
          .filter((reason) => reason !== null)
          .map((reason) => `${name}: ${reason}`);
      });
    };
    let seen: readonly string[] = [];
    await waitFor("all in sync", CALM_MS_MAX, async () => {
      seen = await reasons();
      return seen.length === 0;
    }).catch(() => this.#violation(`not in sync ${CALM_MS_MAX / 1000} s after the last fault: ${seen.join("; ")}`));
    this.#print(`calm after ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  }

  /** What must hold at any time: no daemon ends by itself, no session breaks, and nobody takes over unasked. */
  async #look(): Promise<void> {
    while (!this.#ended) {
      await pause(LOOK_MS);
      for (const node of this.#nodes) {
        if (!node.hasEnded) continue;
        node.isMeantToRun = false;
        this.#violation(`the daemon of ${node.name} ended: ${node.firewall.daemon?.lines.at(-1)}`);
      }
      const { primary } = this.#check;
      if (primary === null) continue;
      const silentMs = Math.max(this.#primarySinceMs, Date.now() - SILENT_MS_MAX);
      const hung = ({ broken, answeredMs }: SessionView): boolean =>
        broken !== null || (answeredMs < silentMs && silentMs > this.#primarySinceMs);
      const broken = (await this.#traffic.sessions()).filter(hung);
      const holder = await primaryOf(this.#nodes);
      if (this.#check.primary !== primary || this.#ended) continue;
      if (broken.length > 0) {
        const shown = broken
          .slice(0, LOSSES_SHOWN)
          .map((session) => `${session.name} (${session.broken ?? "no answer"})`);
        this.#violation(`${broken.length} sessions broke while ${primary.name} was primary: ${shown.join(", ")}`);
        await this.#traffic.drop(broken.map(({ id }) => id));
      }
      if (holder === undefined || holder === primary) continue;
      this.#print(`  ${holder.name} took over from ${primary.name} unasked`);
      this.#check.primary = holder;
      this.#primarySinceMs = Date.now();
    }
  }

  /** Prints a fault, and returns what prints that it is over. */
  #logged(fault: Fault, primary: string): () => void {
    this.#faults[fault.kind] = (this.#faults[fault.kind] ?? 0) + 1;
    const number = this.#drawn + 1;
    const startMs = performance.now();
    this.#print(`#${number} ${faultText(fault, primary)}`);
    return () => this.#print(`#${number} over after ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  }

  #lie({ node, primary, ageMs, compared, losses }: Lie): void {
    const shown = losses.slice(0, LOSSES_SHOWN).map(({ flow, why }) => `\n    ${why}: ${flow}`);
    const text = `${node} said that it is in sync with ${primary}, and lacked ${losses.length} of ${compared} flows`;
    this.#violation(`${text} that are ${(ageMs / 1000).toFixed(2)} s old or older:${shown.join("")}`);
  }

  #violation(text: string): void {
    this.#print(`VIOLATION ${text}`);
    const [head] = text.split("\n", 1);
    if (this.#violations.length < VIOLATIONS_MAX) this.#violations.push(`${this.#at()} ${head}`);
  }

  #print(line: string): void {
    this.#options.print(`${this.#at()} ${line}`);
  }

  #at(): string {
    return `${((performance.now() - this.#startMs) / 1000).toFixed(1).padStart(7)} s`;
  }

  /** Copies the logs out of the laboratory, which is taken down. */
  saveLogs(): void {
    if (this.#options.logs === undefined) return;
    const { directory } = this.#lab;
    const isLog = (source: string): boolean => source === directory || /\/fw\d+$|\.log$|\.yaml$|\.conf$/.test(source);
    cpSync(directory, this.#options.logs, { recursive: true, filter: isLog });
  }
}

/** Runs a soak from start to end; everything that it made is gone afterwards. */
export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  await using lab = await Lab.create({ firewalls: NODES, advertSeconds: 1 });
  const nodes = await Promise.all(lab.firewalls.map((firewall) => SoakNode.create(firewall, lab.topology.switch)));
  for (const node of nodes) node.start();
  await Promise.all(nodes.map((node) => node.ready()));
  await lab.startKeepalived((firewall) => firewall.conntrailHooks());
  const primary = await waitFor("a primary", ELECTION_MS_MAX, () => primaryOf(nodes));
  const traffic = await Traffic.start(lab, options.seed);
  const soak = new Soak(options, lab, nodes, traffic);
  try {
    return await soak.run(primary);
  } finally {
    soak.saveLogs();
  }
}
