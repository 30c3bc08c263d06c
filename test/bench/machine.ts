/** What the machine says of its processes, of itself, and of how much else it is doing. */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import koffi from "koffi";
import { inNamespace } from "../support/kernel-namespace.js";

const CPUCLOCK_SCHED = 2;
const TICKS_PER_SECOND = 100;
const NETFILTER = "/proc/sys/net/netfilter";

const clockGettime = koffi.load(null).func("int clock_gettime(int clock, void *time)") as (
  clock: number,
  time: BigInt64Array,
) => number;

/** CPU time of a process with all its threads, also of those that have ended, in seconds; to the nanosecond. */
export function cpuSeconds(pid: number): number {
  const time = new BigInt64Array(2);
  if (clockGettime((~pid << 3) | CPUCLOCK_SCHED, time) !== 0) throw new Error(`process ${pid} has ended`);
  return Number(time[0]) + Number(time[1]) / 1e9;
}

/** Resident memory of a process in bytes. */
export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
}

/** CPU seconds of all cores that were not idle since the boot, those taken by other machines of the host included. */
export function busySeconds(): number {
  const fields = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!.trim().split(/\s+/).slice(1).map(Number);
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = fields;
  return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND;
}

/** CPU taken by others than `pids` while something ran, as a share of the whole machine. */
export class OtherWork {
  readonly #pids: readonly number[];
  readonly #startMs = performance.now();
  readonly #busy = busySeconds();
  readonly #own: number;

  constructor(pids: readonly number[]) {
    this.#pids = [process.pid, ...pids];
    this.#own = this.#ownSeconds();
  }

  /** From 0 to 1. `begun`: processes of ours that were not there at the beginning. */
  share(begun: readonly number[] = []): number {
    const seconds = (performance.now() - this.#startMs) / 1000;
    const own = this.#ownSeconds() - this.#own + begun.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
    const others = busySeconds() - this.#busy - own;
    return Math.max(0, others / (seconds * cpus().length));
  }

  #ownSeconds(): number {
    return this.#pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  }
}

/** What a figure depends on besides the software. */
export function describeMachine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryMiB: Math.round(totalmem() / 1024 / 1024),
    kernel: release(),
    node: process.version,
  };
}

/**
 * Room in the kernel for `flows` flows in each of several namespaces: the limit and the hash table are the whole machine's.
 * Given back when it is disposed of.
 */
export function kernelRoom(flows: number): Disposable {
  const before = ["nf_conntrack_buckets", "nf_conntrack_max"].map((name) => {
    return { file: `${NETFILTER}/${name}`, value: Number(readFileSync(`${NETFILTER}/${name}`, "utf8")) };
  });
  const put = (file: string, value: number): void => writeFileSync(file, `${value}\n`);
  for (const { file, value } of before) if (value < flows) put(file, flows);
  const restore = (): void => {
    for (const { file, value } of before) put(file, value);
  };
  const onExit = (): void => restore();
  process.once("exit", onExit);
  return {
    [Symbol.dispose]: () => {
      process.removeListener("exit", onExit);
      restore();
    },
  };
}

/** Bytes that an interface of a namespace has sent and received, by `ip -s -j link`. */
export function linkBytes(json: string): number {
  const [link] = JSON.parse(json) as { stats64: { rx: { bytes: number }; tx: { bytes: number } } }[];
  return link === undefined ? 0 : link.stats64.rx.bytes + link.stats64.tx.bytes;
}

/** Flows in a namespace's kernel table. */
export function kernelCount(namespace: string): number {
  return inNamespace(namespace, () => Number(readFileSync(`${NETFILTER}/nf_conntrack_count`, "utf8")));
}
