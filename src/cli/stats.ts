import { type Command, Option } from "commander";
import type { StatsReport } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";
import { formatConntrackdStats } from "./conntrackd/stats.js";

/** `stats`: every counter of the daemon. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("stats")
    .description("counters")
    .addOption(
      new Option("--format <format>", "text, json, or conntrackd: what conntrackd -s prints")
        .choices(["text", "json", "conntrackd"])
        .default("text"),
    )
    .action(async (options: { format: "text" | "json" | "conntrackd" }) => {
      const report = await context.ask("stats", {});
      if (options.format === "json") return context.terminal.json(report);
      if (options.format === "text") return context.print(report, formatStats);
      const status = await context.ask("status", {});
      await context.print(report, (stats) => formatConntrackdStats(stats, status));
    });
}

/** The counters by group, one per line, with aligned numbers. */
export function formatStats(report: StatsReport): string {
  const groups = Object.entries(report);
  const width = Math.max(0, ...groups.flatMap(([, counters]) => Object.keys(counters).map((name) => name.length)));
  return groups
    .map(([group, counters]) => {
      const lines = Object.entries(counters).map(
        ([name, value]) => `  ${name.padEnd(width)}  ${String(value).padStart(12)}\n`,
      );
      return `${group}\n${lines.join("")}`;
    })
    .join("\n");
}
