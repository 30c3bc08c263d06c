import { Argument, type Command } from "commander";
import { HOOK_ROLES, type HookReport, type HookRole } from "../control/protocol.js";
import type { CommandContext } from "./command.js";
import { formatCommit } from "./commit.js";
import { formatMs } from "./terminal.js";

/** `hook`: what keepalived calls when this node's role changes. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("hook")
    .description("tell the daemon its role; keepalived calls this")
    .addArgument(new Argument("<role>", "primary, backup or fault").choices(HOOK_ROLES))
    .action(async (role: HookRole) => {
      await context.print(await context.ask("hook", { role }), (report) => `${formatHook(report)}\n`);
    });
}

/** A role change in one line. */
export function formatHook(report: HookReport): string {
  const change = `${report.previous} -> ${report.role} in ${formatMs(report.durationMs)}`;
  return report.commit === null ? change : `${change}: ${formatCommit(report.commit)}`;
}
