import { readdirSync } from "node:fs";
import { errno, SCHED_FIFO, SCHED_OTHER, SCHED_RR, schedGetScheduler, schedSetScheduler } from "./libc.js";

/** The real-time policies of sched(7). */
export type RealTimePolicy = "fifo" | "rr";

const POLICIES: Readonly<Record<RealTimePolicy, number>> = { fifo: SCHED_FIFO, rr: SCHED_RR };

/**
 * Gives this process a real-time policy and a priority from 1 to 99. Threads and children that begin later inherit both.
 * Returns 0, or the errno; a policy that whoever started the process gave it already is not set again.
 */
export function setRealTime(policy: RealTimePolicy, priority: number): number {
  return schedGetScheduler(0) === POLICIES[policy] ? 0 : setForAll(POLICIES[policy], priority);
}

/** Ends what `setRealTime` of a parent gave this process. */
export function leaveRealTime(): void {
  if (schedGetScheduler(0) !== SCHED_OTHER) setForAll(SCHED_OTHER, 0);
}

function setForAll(policy: number, priority: number): number {
  const parameters = Int32Array.of(priority);
  if (schedSetScheduler(0, policy, parameters) !== 0) return errno();
  for (const thread of readdirSync("/proc/self/task")) schedSetScheduler(Number(thread), policy, parameters);
  return 0;
}
