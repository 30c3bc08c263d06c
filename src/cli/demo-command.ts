import { type Command, InvalidArgumentError } from "commander";
import type { CommandContext } from "./command/command.js";

/** `demo`: the cluster in network namespaces. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("demo")
    .description("fail over a cluster of firewalls in network namespaces of this machine")
    .option("--firewalls <number>", "how many, 2 to 9", wholeNumber)
    .option("--sessions <number>", "how many TCP sessions are to survive", wholeNumber)
    .option("--logs <directory>", "keep the logs of daemons and keepalived there")
    .action(async (options: { firewalls?: number; sessions?: number; logs?: string }) => {
      const { runDemo } = await import("./demo.js");
      context.terminal.exitCode = await runDemo({ ...options, json: context.json });
    });
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("Allowed is a whole number.");
  return Number(text);
}
