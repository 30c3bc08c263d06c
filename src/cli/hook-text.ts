import type { HookReport } from "../control/protocol.js";
import { formatCommit } from "./commit.js";
import { formatMs } from "./process/terminal.js";

/** A role change in one line. */
export function formatHook(report: HookReport): string {
  if (report.ignored === true) return `${report.role} ignored: keepalived has said ${report.previous} since`;
  const change = `${report.previous} -> ${report.role} in ${formatMs(report.durationMs)}`;
  return report.commit === null ? change : `${change}: ${formatCommit(report.commit)}`;
}
