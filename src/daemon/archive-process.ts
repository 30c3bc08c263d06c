/**
 * The archiver, a separate process beside the daemon. Its memory and CPU time never delay the daemon's events, and its
 * crash ends only itself. Its single argument tells it what to do, and it reports by messages. It ends with its parent.
 */
import { setPriority } from "node:os";
import { pino } from "pino";
import { errorText } from "../errors.js";
import { type ArchiverOptions, runArchiver } from "../history/archive/archiver.js";
import type { ArchiveReport } from "../history/archive/run.js";
import { leaveRealTime } from "../os/scheduler.js";

/** The messages that the process sends to its parent. */
export type ArchiveMessage =
  | { readonly type: "report"; readonly report: ArchiveReport }
  | { readonly type: "damaged"; readonly path: string; readonly why: string }
  | { readonly type: "failure"; readonly text: string }
  | { readonly type: "ended"; readonly text: string };

const NICE = 10;

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
process.on("disconnect", () => stop.abort());
// The parent may have gone while this program was loaded.
if (!process.connected) stop.abort();

try {
  leaveRealTime();
  setPriority(0, NICE);
  const options = JSON.parse(process.argv[2] ?? "") as ArchiverOptions;
  const listener = {
    onProgress: (report: ArchiveReport) => tell({ type: "report", report }),
    onDamaged: (path: string, why: string) => tell({ type: "damaged", path, why }),
    onFailure: (error: unknown) => tell({ type: "failure", text: errorText(error) }),
  };
  await runArchiver(options, listener, pino({ level: "silent" }), stop.signal);
} catch (error) {
  tell({ type: "ended", text: errorText(error) });
  process.exitCode = 1;
}
if (process.connected) process.disconnect();

function tell(message: ArchiveMessage): void {
  if (process.connected) process.send?.(message);
}
