/**
 * The archiver as a process of its own beside the daemon: what it loads, computes and writes takes nothing from the events, and
 * what it may crash is itself. Told what to do by its one argument, and what it sees by messages; it ends with its parent.
 */
import { setPriority } from "node:os";
import { pino } from "pino";
import { errorText } from "../errors.js";
import { type ArchiverOptions, runArchiver } from "../history/archive/archiver.js";
import type { ArchiveReport } from "../history/archive/run.js";

/** What the process tells its parent. */
export type ArchiveMessage =
  | { readonly type: "report"; readonly report: ArchiveReport }
  | { readonly type: "damaged"; readonly path: string; readonly why: string }
  | { readonly type: "failure"; readonly text: string }
  | { readonly type: "ended"; readonly text: string };

const NICE = 10;

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
process.on("disconnect", () => stop.abort());

try {
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
