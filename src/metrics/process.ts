import { readdirSync, readFileSync } from "node:fs";
import type { Exposition } from "./exposition.js";

/** When this process began, seconds since the Unix epoch. */
const STARTED_SECONDS = Date.now() / 1000 - process.uptime();

/** The process, by the names that all of Prometheus' client libraries have for it. */
export function addProcess(out: Exposition): void {
  const { user, system } = process.cpuUsage();
  out.counter("process_cpu_seconds_total", "Processor time of the daemon", (user + system) / 1e6);
  out.gauge("process_start_time_seconds", "When the daemon started, since the Unix epoch", STARTED_SECONDS);
  out.gauge("process_resident_memory_bytes", "Memory of the daemon", process.memoryUsage.rss());
  out.gauge("process_open_fds", "Open files of the daemon", countOf("/proc/self/fd"));
  out.gauge("process_max_fds", "Files that the daemon may open", filesMax());
}

function countOf(directory: string): number | null {
  try {
    return readdirSync(directory).length;
  } catch {
    return null;
  }
}

function filesMax(): number | null {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1];
    return limit === undefined ? null : Number(limit);
  } catch {
    return null;
  }
}
