/** When keepalived started a hook. It orders hooks that arrive side by side. */
export interface HookStart {
  /** Clock ticks since boot, field 22 of /proc/PID/stat (proc(5)): hundredths of a second. */
  readonly ticks: number;
  /** The process, which orders the hooks of one tick; 0: unknown, and `ticks` is when the request arrived. */
  readonly pid: number;
}

/** No machine starts so many processes in one tick. Pids further apart than this have wrapped around. */
const PIDS_PER_TICK_MAX = 10_000;

/** True if `a` was started before `b`. The kernel hands out pids in ascending order until they wrap around. */
export function isStartedBefore(a: HookStart, b: HookStart): boolean {
  if (a.ticks !== b.ticks) return a.ticks < b.ticks;
  // A hook known by its arrival alone comes first. So it never makes the daemon ignore another hook of the same tick.
  if (a.pid === 0 || b.pid === 0) return a.pid < b.pid;
  return Math.abs(a.pid - b.pid) > PIDS_PER_TICK_MAX ? a.pid > b.pid : a.pid < b.pid;
}
