import type { Command } from "commander";
import type { CommandContext } from "./command/command.js";

/** `purge`: asks for the kernel table and the internal cache to be emptied after `purge.after`. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("purge")
    .description("remove flows that another node carries now from the kernel, after purge.after (conntrackd -t)")
    .action(async () => {
      const report = await context.ask("purge", {});
      await context.print(report, ({ afterSeconds }) => `purge in ${afterSeconds} s, unless a commit comes first\n`);
    });
}
