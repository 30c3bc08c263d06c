import type { Command } from "commander";
import type { CommandContext } from "./command/command.js";

/** `purge`: after `purge.after`, removes the flows from the kernel that another node carries now. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("purge")
    .description("remove flows that another node carries now from the kernel, after purge.after (conntrackd -t)")
    .action(async () => {
      const report = await context.ask("purge", {});
      await context.print(report, ({ afterSeconds }) => `purge in ${afterSeconds} s, unless a commit comes first\n`);
    });
}
