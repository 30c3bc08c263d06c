import { spawn } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toolEnvironment, waitFor } from "../../src/lab/process.js";
import type { ClusterNode } from "../support/cluster/node.js";
import { type Bench, RESIDENT_RANGE } from "./bench.js";
import { Arena, type ConntrailSide, type Contender } from "./contender.js";
import { OtherWork } from "./machine.js";

const FLOWS = 20_000;
/** A process that is short needs more samples than a load that is long. */
const SAMPLES_PER_ROUND = 3;
const EMPTY_MS = 60_000;

/**
 * From keepalived's call to the first entry in the kernel, process start included; and from the line that it writes into
 * the FIFO, where there is no process.
 */
export async function benchHook(bench: Bench): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "conntrail-bench-hook-"));
  try {
    await measure(bench, (number) => join(directory, `${number}.fifo`));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function measure(bench: Bench, fifo: (number: number) => string): Promise<void> {
  const flows = Math.round(FLOWS * bench.scale);
  await using arena = await Arena.start({ fifo });
  using keepalived = new Keepalived(fifo(2), (arena.conntrail.backup as ConntrailSide).node);
  const times: Record<string, number[]> = { conntrail: [], conntrackd: [], fifo: [], node: [] };
  for (let round = 0; round < bench.rounds * SAMPLES_PER_ROUND; round++) {
    for (const contender of arena.contenders) {
      const { namespace, primaryCommand: command } = contender.backup;
      const call = () => run("ip", namespace.execArguments(command[0], command.slice(1)));
      times[contender.name]!.push(await hookOnce(bench, contender, flows, call));
    }
    await keepalived.say("BACKUP");
    times.fifo!.push(await hookOnce(bench, arena.conntrail, flows, () => keepalived.say("MASTER")));
    const start = performance.now();
    await run(process.execPath, ["-e", "0"]);
    times.node!.push(performance.now() - start);
  }
  const name = "hook primary to the first entry";
  bench.report.table([
    {
      name,
      unit: "ms",
      conntrail: times.conntrail!,
      other: times.conntrackd!,
      goal: { of: "value", at: "most", limit: 150 },
    },
    {
      name: "keepalived's line in the FIFO to the first entry",
      unit: "ms",
      conntrail: times.fifo!,
      other: times.conntrackd!,
      goal: { of: "value", at: "most", limit: 10 },
    },
    {
      name: `${name}, and node -e 0`,
      unit: "ms",
      conntrail: times.conntrail!,
      other: times.node!,
      beside: "node -e 0",
    },
  ]);
}

/** keepalived's end of a node's FIFO. */
class Keepalived implements Disposable {
  readonly #fd: number;
  readonly #node: ClusterNode;

  constructor(path: string, node: ClusterNode) {
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    this.#node = node;
  }

  /** Writes the line; resolves when the daemon has done what follows from it. */
  async say(state: "MASTER" | "BACKUP"): Promise<void> {
    writeSync(this.#fd, `GROUP "firewall" ${state} 0\n`);
    const role = state === "MASTER" ? "primary" : "backup";
    await waitFor(`the role ${role}`, EMPTY_MS, async () => {
      const { hooks = [] } = await this.#node.status();
      return hooks.some((hook) => hook.group === "firewall" && hook.role === role && hook.state === "taken");
    });
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

async function hookOnce(
  { load, report }: Bench,
  contender: Contender,
  flows: number,
  call: () => Promise<void>,
): Promise<number> {
  const { active, backup } = contender;
  await load.ask("fill", { namespace: active.namespace.name, range: RESIDENT_RANGE, from: 0, count: flows });
  await contender.settled(flows);
  await load.ask("listen", { namespace: backup.namespace.name });
  const others = new OtherWork([load.pid, ...contender.pids()]);
  const first = load.ask("first", null);
  const startedMs = Number(process.hrtime.bigint()) / 1e6;
  const done = call();
  const firstMs = await first;
  report.others(others.share());
  if (firstMs === null) throw new Error(`${contender.name} put no entry into the kernel`);
  await done;
  for (const side of [backup, active]) await load.ask("flush", { namespace: side.namespace.name });
  // The same flows begin anew in the next sample. What is still to be heard of their ends would count against those.
  await waitFor(`${contender.name} holds no flow`, EMPTY_MS, async () => {
    const held = await Promise.all([backup, active].map((side) => side.flows()));
    return held.every(({ internal, external }) => internal === 0 && external === 0);
  });
  return firstMs - startedMs;
}

function run(file: string, args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env: toolEnvironment(), stdio: ["ignore", "ignore", "inherit"] });
    child.once("error", reject);
    child.once("exit", (code) =>
      code === 0 ? resolve() : reject(new Error(`${file} ${args.join(" ")}: exit ${code}`)),
    );
  });
}
