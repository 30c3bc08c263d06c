import type { Command } from "commander";
import type { ReloadReport } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";

/** `reload`: the daemon reads its configuration again; exit code 1 when a restart is needed for some of it. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("reload")
    .description("read the configuration again, as SIGHUP does; exit 1 when something of it needs a restart")
    .action(async () => {
      const report = await context.ask("reload", {});
      context.terminal.exitCode = report.restart.length + report.failed.length === 0 ? 0 : 1;
      await context.print(report, formatReload);
    });
}

/** The report as text. */
export function formatReload({ applied, restart, failed }: ReloadReport): string {
  const lines = [
    ...(applied.length > 0 ? [`applied: ${applied.join(" ")}`] : []),
    ...(restart.length > 0 ? [`needs a restart: ${restart.join(" ")}`] : []),
    ...failed.map((text) => `not applied: ${text}`),
  ];
  return lines.length === 0 ? "nothing changed\n" : `${lines.join("\n")}\n`;
}
