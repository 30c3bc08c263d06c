import type { Command } from "commander";
import type { CommitReport } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";
import { formatMs } from "./process/terminal.js";

/** `commit`: writes the external cache into the kernel and returns when that is done. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("commit")
    .description("write the external cache into the kernel (conntrackd -c)")
    .action(async () => {
      await context.print(await context.ask("commit", {}), (report) => `${formatCommit(report)}\n`);
    });
}

/** A commit in one line. */
export function formatCommit(report: CommitReport): string {
  const reasons = Object.entries(report.failed).filter(([, count]) => count > 0);
  const failed = reasons.reduce((sum, [, count]) => sum + count, 0);
  const why = reasons.map(([reason, count]) => `${reason} ${count}`).join(", ");
  const counts = `${report.committed} committed, ${report.updated} updated, ${report.skipped} skipped`;
  const rest = `${failed} failed${failed === 0 ? "" : ` (${why})`}, ${report.stale} stale`;
  const more = [named(report.repaired, "repaired"), named(report.ahead, "ahead")].join("");
  const claims = report.underWay === true ? ", being claimed" : "";
  return `${counts}, ${rest}${more} in ${formatMs(report.durationMs)}${claims}`;
}

function named(count: number | undefined, name: string): string {
  return count === undefined || count === 0 ? "" : `, ${count} ${name}`;
}
