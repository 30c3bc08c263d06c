/**
 * Loaded into a daemon before all else (`node --import`): watches how late its event loop comes to a timer. At SIGUSR2 it writes
 * the longest delays since the last time, with a number that grows, to LOOP_DELAY_FILE followed by the process id.
 */
import { openSync, readSync, renameSync, writeFileSync } from "node:fs";

/** What LOOP_DELAY_FILE holds. */
export interface LoopDelays {
  readonly number: number;
  /** The longest delay. */
  readonly maxMs: number;
  /** The longest one without the time for which this thread was ready and had no core. */
  readonly ownMs: number;
}

const TIMER_MS = 1;

const file = process.env.LOOP_DELAY_FILE;
if (file !== undefined) {
  const schedule = openSync("/proc/thread-self/schedstat", "r");
  const text = Buffer.alloc(128);
  /** CPU time, time spent waiting for a core, number of slices: the first two in nanoseconds. */
  const waitedMs = (): number => {
    const length = readSync(schedule, text, 0, text.length, 0);
    return Number(text.toString("latin1", 0, length).split(" ")[1]) / 1e6;
  };
  let last = { nowMs: performance.now(), waitedMs: waitedMs() };
  let [number, maxMs, ownMs] = [0, 0, 0];
  const timer = setInterval(() => {
    const next = { nowMs: performance.now(), waitedMs: waitedMs() };
    const delayMs = next.nowMs - last.nowMs - TIMER_MS;
    maxMs = Math.max(maxMs, delayMs);
    ownMs = Math.max(ownMs, delayMs - (next.waitedMs - last.waitedMs));
    last = next;
  }, TIMER_MS);
  timer.unref();
  process.on("SIGUSR2", () => {
    const path = `${file}.${process.pid}`;
    const content: LoopDelays = { number: ++number, maxMs, ownMs };
    [maxMs, ownMs] = [0, 0];
    // Whole or not at all.
    writeFileSync(`${path}.new`, JSON.stringify(content));
    renameSync(`${path}.new`, path);
  });
}
