import { signal } from "../../src/lab/leftover.js";
import { pause } from "../../src/os/pause.js";
import { streamName } from "../../src/stream/format/subjects.js";
import type { Random } from "../support/records.js";
import { type Damage, tear } from "../support/torn-store.js";
import type { Fault, RoleChange } from "./fault-plan.js";
import { poisonedMessage } from "./poison.js";
import type { SoakNode } from "./soak-node.js";

/** What makes a fault, and what ends it and puts the node right again. */
export interface FaultSteps {
  readonly begin: () => Promise<void>;
  readonly end: () => Promise<void>;
  /** How long it lasts in between, milliseconds. */
  readonly holdMs: number;
}

/** True for a fault after which another node is primary. */
export function isRoleChange(fault: Fault): fault is RoleChange {
  return fault.kind === "handover" || fault.kind === "unplug" || fault.kind === "power";
}

/** The steps of a fault of one node. `onStored` is called for each poisoned message that a broker has stored. */
export function faultSteps(
  fault: Exclude<Fault, RoleChange>,
  nodes: readonly SoakNode[],
  random: Random,
  onStored: () => void,
): FaultSteps {
  const node = nodes[fault.node]!;
  switch (fault.kind) {
    case "tear":
      return {
        begin: async () => {
          await node.killBoth();
          damageStream(node, nodes[fault.of]!, fault.damage);
        },
        holdMs: fault.downMs,
        end: () => restart(node),
      };
    case "fill":
      return fill(node, fault.holdMs);
    case "stop":
      return stop(node, fault.what, fault.holdMs);
    case "restart":
      return fault.what === "broker"
        ? { begin: async () => signalBroker(node, fault.signal), holdMs: 0, end: async () => undefined }
        : {
            begin: () => (fault.signal === "SIGTERM" ? node.stop() : node.kill()),
            holdMs: fault.downMs,
            end: () => restart(node),
          };
    case "poison":
      return {
        begin: async () => {
          for (let i = 0; i < fault.messages; i++) {
            const { kind, payload } = poisonedMessage(fault.poison, nodes[fault.of]!.name, random);
            if (await node.storeMessage(nodes[fault.of]!.name, kind, payload)) onStored();
          }
        },
        holdMs: 0,
        end: async () => undefined,
      };
    case "cut":
      return cut(node, fault, nodes);
    case "hook":
      return {
        begin: async () => {
          const role = (await node.status())?.role;
          if (role !== undefined && role !== "unknown") await node.hook(role);
        },
        holdMs: 0,
        end: async () => undefined,
      };
  }
}

/** The steps of a role change that strikes `primary`. */
export function roleChangeSteps(fault: RoleChange, primary: SoakNode, nodes: readonly SoakNode[]): FaultSteps {
  const { holdMs } = fault;
  switch (fault.kind) {
    case "handover":
      return { begin: () => primary.firewall.handOver(), holdMs, end: async () => primary.startKeepalived() };
    case "unplug":
      return { begin: () => primary.plug("down", "lan"), holdMs, end: () => primary.plug("up", "lan") };
    case "power":
      return {
        begin: async () => {
          await primary.cutPower();
          if (!fault.all) return;
          const others = nodes.filter((node) => node !== primary);
          await Promise.all(others.map((node) => node.killBoth()));
          await Promise.all(others.map(restart));
        },
        holdMs,
        end: async () => {
          if (fault.damage !== null) damageStream(primary, primary, fault.damage);
          await primary.restorePower();
        },
      };
  }
}

/** A stream that was purged a moment ago has no block that could be damaged. */
function damageStream(node: SoakNode, of: SoakNode, damage: Damage): void {
  try {
    tear(node.store, streamName(of.name), damage);
  } catch {
    // Then it stays as it is.
  }
}

async function restart(node: SoakNode): Promise<void> {
  node.start();
  await node.ready();
}

function fill(node: SoakNode, holdMs: number): FaultSteps {
  let empty = (): void => undefined;
  return {
    begin: async () => {
      empty = node.fillStore();
    },
    holdMs,
    end: async () => empty(),
  };
}

function stop(node: SoakNode, what: "daemon" | "broker", holdMs: number): FaultSteps {
  let pid: number | null = null;
  return {
    begin: async () => {
      pid = what === "daemon" ? node.daemonPid : node.brokerPid;
      if (pid !== null) signal(pid, "SIGSTOP");
    },
    holdMs,
    end: async () => {
      // The daemon may have replaced a broker that hung: then there is nobody to wake.
      if (pid !== null) signal(pid, "SIGCONT");
    },
  };
}

function signalBroker(node: SoakNode, name: "SIGTERM" | "SIGKILL"): void {
  const pid = node.brokerPid;
  if (pid !== null) signal(pid, name);
}

function cut(node: SoakNode, fault: Fault & { kind: "cut" }, nodes: readonly SoakNode[]): FaultSteps {
  const { way, other, holdMs } = fault;
  if (way === "both") return { begin: () => node.plug("down", "sync"), holdMs, end: () => node.plug("up", "sync") };
  let heal = async (): Promise<void> => undefined;
  return {
    begin: async () => {
      heal = await node.dropOnLink(way, other === null ? null : nodes[other]!);
    },
    holdMs,
    end: () => heal(),
  };
}

/** Lets a fault last. What it struck is put right also if the fault did not come about. */
export async function holdFault({ begin, holdMs, end }: FaultSteps): Promise<void> {
  try {
    await begin();
    await pause(holdMs);
  } finally {
    await end();
  }
}
