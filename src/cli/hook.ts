import { Argument, type Command, InvalidArgumentError } from "commander";
import { GROUP_NAME, HOOK_ROLES, type HookRole } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";
import { formatHook } from "./hook-text.js";
import { callHook } from "./process/hook-call.js";

/** `hook`: called by keepalived when this node's role changes. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("hook")
    .description("tell the daemon its role; keepalived calls this")
    .addArgument(new Argument("<role>", "primary, backup or fault").choices(HOOK_ROLES))
    .option("--group <name>", "which of several sync groups has changed its role", groupName)
    .action(async (role: HookRole, { group }: { group?: string }) => {
      const { configPath, terminal } = context;
      const controlPath = (): Promise<string> => context.controlPath();
      const onProgress = (text: string): void => terminal.progress(text);
      const report = await callHook({ role, group, configPath, controlPath, onProgress });
      await context.print(report, () => `${formatHook(report)}\n`);
    });
}

function groupName(text: string): string {
  if (GROUP_NAME.test(text)) return text;
  throw new InvalidArgumentError("allowed are letters, digits, dots, hyphens and underscores, at most 64.");
}
