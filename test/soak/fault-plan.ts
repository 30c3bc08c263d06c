/** The faults of a soak, drawn from its seed: the same seed gives the same list, whatever the time that each takes. */
import type { Random } from "../support/records.js";
import { DAMAGES, type Damage } from "../support/torn-store.js";
import { POISONS, type Poison } from "./poison.js";

/** A fault. `node` and `of` are numbers of firewalls, from 0; the role changes strike whoever is primary. */
export type Fault =
  /** Daemon and broker are killed, a stream of the store is damaged, and both start again. */
  | { readonly kind: "tear"; node: number; of: number; damage: Damage; downMs: number }
  | { readonly kind: "fill"; node: number; holdMs: number }
  | { readonly kind: "stop"; node: number; what: "daemon" | "broker"; holdMs: number }
  | { readonly kind: "restart"; node: number; what: "daemon" | "broker"; signal: "SIGTERM" | "SIGKILL"; downMs: number }
  /** Somebody writes into the stream of `of`, or its copy, on the broker of `node`. */
  | { readonly kind: "poison"; node: number; of: number; poison: Poison; messages: number }
  /** The dedicated link loses packets: all, or those in one direction; between all, or two. */
  | { readonly kind: "cut"; node: number; way: "both" | "in" | "out"; other: number | null; holdMs: number }
  /** keepalived's last hook once more. */
  | { readonly kind: "hook"; node: number }
  | RoleChange;

/** A fault after which another node is primary. */
export type RoleChange =
  /** keepalived ends in an orderly way. */
  | { readonly kind: "handover"; holdMs: number }
  /** The cable of the LAN is pulled, and keepalived says "fault". */
  | { readonly kind: "unplug"; holdMs: number }
  /**
   * The primary loses its power, and its kernel everything. `damage`: what that does to its own stream. `all`: the daemons and
   * brokers of the others are killed at the same moment and start again.
   */
  | { readonly kind: "power"; damage: Damage | null; all: boolean; holdMs: number };

/** The kinds of faults, for the report. */
export type FaultKind = Fault["kind"];

/** How often each kind comes up. */
const WEIGHTS: Readonly<Record<FaultKind, number>> = {
  tear: 4,
  fill: 2,
  stop: 5,
  restart: 4,
  poison: 4,
  cut: 4,
  hook: 1,
  handover: 1,
  unplug: 1,
  power: 2,
};

const NODES = 3;

/** A kind by its weight. `only`: the kinds to draw from. */
function drawKind(random: Random, only: readonly FaultKind[]): FaultKind {
  let left = random.below(only.reduce((sum, kind) => sum + WEIGHTS[kind], 0));
  for (const kind of only) {
    left -= WEIGHTS[kind];
    if (left < 0) return kind;
  }
  throw new Error("no kind of fault");
}

/** All kinds. */
export const FAULT_KINDS = Object.keys(WEIGHTS) as FaultKind[];

/** The next fault. */
export function drawFault(random: Random, only: readonly FaultKind[]): Fault {
  const kind = drawKind(random, only);
  const node = random.below(NODES);
  const of = random.below(NODES);
  const other = (node + 1 + random.below(NODES - 1)) % NODES;
  const shortMs = random.below(5000);
  const longMs = 500 + random.below(11_000);
  const damage = random.pick(DAMAGES);
  switch (kind) {
    case "tear":
      return { kind, node, of, damage, downMs: shortMs };
    case "fill":
      return { kind, node, holdMs: 3000 + longMs };
    case "stop":
      return { kind, node, what: random.oneIn(2) ? "daemon" : "broker", holdMs: longMs };
    case "restart": {
      const what = random.oneIn(2) ? "daemon" : "broker";
      return { kind, node, what, signal: random.oneIn(2) ? "SIGTERM" : "SIGKILL", downMs: shortMs };
    }
    case "poison":
      return { kind, node, of, poison: random.pick(POISONS), messages: 1 + random.below(3) };
    case "cut":
      return {
        kind,
        node,
        way: random.pick(["both", "in", "out"]),
        other: random.oneIn(2) ? other : null,
        holdMs: longMs,
      };
    case "hook":
      return { kind, node };
    case "handover":
    case "unplug":
      return { kind, holdMs: longMs };
    case "power":
      return { kind, damage: random.oneIn(2) ? damage : null, all: random.oneIn(3), holdMs: longMs };
  }
}

/** A fault in words. `primary`: whom a role change strikes. */
export function faultText(fault: Fault, primary: string): string {
  const name = (index: number): string => `fw${index + 1}`;
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  switch (fault.kind) {
    case "tear": {
      const stream = fault.of === fault.node ? "its own stream" : `its copy of ${name(fault.of)}'s stream`;
      return `tear ${name(fault.node)}: ${stream}, ${fault.damage}, down for ${seconds(fault.downMs)}`;
    }
    case "fill":
      return `fill ${name(fault.node)}: its store has no room for ${seconds(fault.holdMs)}`;
    case "stop":
      return `stop ${name(fault.node)}: its ${fault.what} stands still for ${seconds(fault.holdMs)}`;
    case "restart":
      return `restart ${name(fault.node)}: ${fault.signal} to its ${fault.what}, down for ${seconds(fault.downMs)}`;
    case "poison": {
      const { node, of, poison, messages } = fault;
      return `poison ${name(node)}: ${messages} messages with ${poison} in the stream of ${name(of)}`;
    }
    case "cut": {
      const way = { both: "both ways", in: "what comes in", out: "what goes out" }[fault.way];
      const whom = fault.other === null || fault.way === "both" ? "all" : name(fault.other);
      return `cut ${name(fault.node)}: its dedicated link with ${whom}, ${way}, for ${seconds(fault.holdMs)}`;
    }
    case "hook":
      return `hook ${name(fault.node)}: its role once more`;
    case "handover":
      return `handover ${primary}: its keepalived ends, for ${seconds(fault.holdMs)}`;
    case "unplug":
      return `unplug ${primary}: no LAN for ${seconds(fault.holdMs)}`;
    case "power": {
      const torn = fault.damage === null ? "" : `, its own stream: ${fault.damage}`;
      const all = fault.all ? ", daemons and brokers of the others killed" : "";
      return `power ${primary}: none for ${seconds(fault.holdMs)}${torn}${all}`;
    }
  }
}
