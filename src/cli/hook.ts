import { Argument, type Command, InvalidArgumentError } from "commander";
import { GROUP_NAME, HOOK_ROLES, type HookReport, type HookRole } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";
import { formatCommit } from "./commit.js";
import { formatMs } from "./process/terminal.js";

/** `hook`: called by keepalived when this node's role changes. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("hook")
    .description("tell the daemon its role; keepalived calls this")
    .addArgument(new Argument("<role>", "primary, backup or fault").choices(HOOK_ROLES))
    .option("--group <name>", "which of several sync groups has changed its role", groupName)
    .action(async (role: HookRole, { group }: { group?: string }) => {
      const args = group === undefined ? { role } : { role, group };
      await context.print(await context.ask("hook", args), (report) => `${formatHook(report)}\n`);
    });
}

function groupName(text: string): string {
  if (GROUP_NAME.test(text)) return text;
  throw new InvalidArgumentError("allowed are letters, digits, dots, hyphens and underscores, at most 64.");
}

/** A role change in one line. */
export function formatHook(report: HookReport): string {
  const change = `${report.previous} -> ${report.role} in ${formatMs(report.durationMs)}`;
  return report.commit === null ? change : `${change}: ${formatCommit(report.commit)}`;
}
