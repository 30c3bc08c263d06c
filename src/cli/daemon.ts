import type { Command } from "commander";
import type { CommandContext } from "./command/command.js";
import { runInForeground } from "./command/run-daemon.js";

/** `daemon`: runs in the foreground until SIGTERM. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("daemon")
    .description("run in the foreground; SIGTERM ends it, SIGHUP reads the configuration again")
    .action(() =>
      runInForeground({
        configPath: context.configPath,
        program: { name: "conntrail", words: ["daemon", "-c"] },
        ready: () => {},
        failed: (text) => context.terminal.complain(text),
      }),
    );
}
