/**
 * Loaded into a daemon before all else (`node --import`): watches how late its event loop comes to a timer. At SIGUSR2 it writes
 * the longest delay since the last time, with a number that grows, to LOOP_DELAY_FILE followed by the process id.
 */
import { renameSync, writeFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";

const RESOLUTION_MS = 1;

const file = process.env.LOOP_DELAY_FILE;
if (file !== undefined) {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  let number = 0;
  process.on("SIGUSR2", () => {
    const path = `${file}.${process.pid}`;
    const content = { number: ++number, maxMs: histogram.max / 1e6, p99Ms: histogram.percentile(99) / 1e6 };
    histogram.reset();
    // Whole or not at all.
    writeFileSync(`${path}.new`, JSON.stringify(content));
    renameSync(`${path}.new`, path);
  });
}
