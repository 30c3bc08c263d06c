import { Argument, type Command } from "commander";
import { RESYNC_SOURCES, type ResyncSource } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";
import { formatMs } from "./process/terminal.js";

/** `resync`: compares a cache with its source and corrects it. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("resync")
    .description("read the kernel table, or the peers' caches, anew (conntrackd -R, -n)")
    .addArgument(new Argument("<source>", "kernel or peers").choices(RESYNC_SOURCES))
    .action(async (source: ResyncSource) => {
      const report = await context.ask("resync", { source });
      await context.print(
        report,
        ({ flows, changed, durationMs }) =>
          `resynced with ${source}: ${flows} flows read, ${changed} put right in ${formatMs(durationMs)}\n`,
      );
    });
}
