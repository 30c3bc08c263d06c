import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { namespacePids } from "./namespace.js";

/** What a laboratory owns. Written before anything is made, so that a later run can remove what a killed one left. */
export interface LabState {
  readonly id: string;
  readonly ownerPid: number;
  /** Start time of the owner in clock ticks since boot, since its pid may belong to another process by now. */
  readonly ownerStart: string;
  readonly namespaces: readonly string[];
  readonly directory: string;
}

/** One state file per laboratory; gone with a reboot, as namespaces are. */
const STATE_DIRECTORY = "/run/conntrail-lab";
const KILL_ROUNDS_MAX = 50;

/** Field 22 of /proc/PID/stat (proc(5)); undefined when there is no such process, or only a zombie. */
export function processStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command name (field 2) may hold blanks and brackets: count from its closing one.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Writes the state file of a laboratory that is about to be made. */
export function recordLab(state: LabState, stateDirectory = STATE_DIRECTORY): void {
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  const file = join(stateDirectory, `${state.id}.json`);
  // Written under another name and renamed, so that a reader never sees half a file.
  writeFileSync(`${file}.new`, JSON.stringify(state), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

/**
 * Removes a laboratory: kills what runs in its namespaces, deletes those, its directory and its state file.
 * Synchronous, so that an ending process can do it last. Safe to repeat.
 */
export function removeLab(state: LabState, stateDirectory = STATE_DIRECTORY): void {
  for (const name of state.namespaces) {
    // A process may fork while we look, so look again until none is left.
    for (let round = 0; round < KILL_ROUNDS_MAX; round++) {
      const pids = namespacePids(name);
      if (pids.length === 0) break;
      for (const pid of pids) signal(pid, "SIGKILL");
      pauseMs(10);
    }
    try {
      execFileSync("ip", ["netns", "del", name], { stdio: "ignore", timeout: 10_000 });
    } catch {
      // It was never made, or an earlier attempt has removed it.
    }
  }
  rmSync(state.directory, { recursive: true, force: true, maxRetries: 5 });
  rmSync(join(stateDirectory, `${state.id}.json`), { force: true });
}

/** Removes the laboratories whose owner is gone, and returns their ids. */
export function removeLeftovers(stateDirectory = STATE_DIRECTORY): string[] {
  const removed: string[] = [];
  for (const state of readStates(stateDirectory)) {
    if (processStart(state.ownerPid) === state.ownerStart) continue;
    removeLab(state, stateDirectory);
    removed.push(state.id);
  }
  return removed;
}

/** Sends a signal to a process, unless it has ended meanwhile. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended: that is what was wanted.
  }
}

/** Blocks the thread: an ending process cannot wait for events. */
function pauseMs(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function readStates(stateDirectory: string): LabState[] {
  let names: string[];
  try {
    names = readdirSync(stateDirectory);
  } catch {
    return [];
  }
  const states: LabState[] = [];
  for (const name of names) {
    if (!name.endsWith(".json")) continue;
    try {
      const state: unknown = JSON.parse(readFileSync(join(stateDirectory, name), "utf8"));
      if (isLabState(state)) states.push(state);
    } catch {
      // Another run has removed it just now, or it is not ours to understand.
    }
  }
  return states;
}

/** A state file tells a root process what to delete, so only names and paths of a laboratory's form are accepted. */
function isLabState(value: unknown): value is LabState {
  if (typeof value !== "object" || value === null) return false;
  const state = value as Partial<Record<keyof LabState, unknown>>;
  return (
    typeof state.id === "string" &&
    /^\d+-[0-9a-f]+$/.test(state.id) &&
    typeof state.ownerPid === "number" &&
    typeof state.ownerStart === "string" &&
    typeof state.directory === "string" &&
    state.directory.endsWith(`/conntrail-lab-${state.id}`) &&
    Array.isArray(state.namespaces) &&
    state.namespaces.every((name) => typeof name === "string" && name.startsWith(`ctl${state.id}-`))
  );
}
