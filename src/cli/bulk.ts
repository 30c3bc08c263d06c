import type { Command } from "commander";
import type { CommandContext } from "./command/command.js";
import { formatMs } from "./process/terminal.js";

/** `bulk`: sends the whole internal cache to the peers. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("bulk")
    .description("send the whole internal cache to the peers (conntrackd -B)")
    .action(async () => {
      const report = await context.ask("bulk", {});
      await context.print(report, ({ flows, durationMs }) => `sent ${flows} flows in ${formatMs(durationMs)}\n`);
    });
}
