import { readFileSync } from "node:fs";

/** Fields of /proc/PID/stat (proc(5)). */
export interface ProcessStat {
  /** The process's name, up to 15 characters. */
  readonly name: string;
  /** The parent's pid. */
  readonly parent: number;
  /** When the process was started, in clock ticks since boot. An exec keeps it. */
  readonly startTicks: number;
}

/** Null if there is no such process, or if it has ended and only waits for its parent. */
export function readProcessStat(pid: number): ProcessStat | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return null;
  }
  // The name may hold blanks and brackets, so the fields are counted from the last closing bracket.
  const close = stat.lastIndexOf(")");
  const fields = stat.slice(close + 2).split(" ");
  const state = fields[0];
  const startTicks = Number(fields[19]);
  if (state === "Z" || state === "X" || !Number.isSafeInteger(startTicks)) return null;
  return { name: stat.slice(stat.indexOf("(") + 1, close), parent: Number(fields[1]), startTicks };
}

/**
 * The user whose process it is; null if it is gone, or has several: a program with the set-user-id bit is run by one
 * user with the rights of another.
 */
export function processUser(pid: number): number | null {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, "latin1");
  } catch {
    return null;
  }
  // Real, effective, saved and of the file system (proc(5)).
  const [, ...users] = /^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$/m.exec(status) ?? [];
  const [first] = users;
  return first !== undefined && users.every((user) => user === first) ? Number(first) : null;
}
