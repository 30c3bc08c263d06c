import { Argument, type Command } from "commander";
import { FLOW_TABLES, type FlowTableName, type FlushReport } from "../control/protocol.js";
import type { CommandContext } from "./command/command.js";

/** `flush`: empties a cache or the kernel table; both caches when none is named. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("flush")
    .description("empty a table; without a name both caches (conntrackd -f, -F)")
    .addArgument(new Argument("[table]", "which table").choices(FLOW_TABLES))
    .action(async (table: FlowTableName | undefined) => {
      const report = await context.ask("flush", { table: table ?? "caches" });
      await context.print(report, (each) => `${formatFlush(each)}\n`);
    });
}

/** A flush in one line. */
export function formatFlush(report: FlushReport): string {
  const parts = FLOW_TABLES.flatMap((table) => {
    const count = report[table];
    return count === null ? [] : [`${count} from ${table}`];
  });
  return `flushed ${parts.join(", ")}`;
}
