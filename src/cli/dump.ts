import { Argument, type Command, Option } from "commander";
import { FLOW_TABLES, type FlowTableName } from "../control/protocol.js";
import { ConntrailError } from "../errors.js";
import { compileFlowQuery, type FlowQuery } from "../flow/filter.js";
import type { CommandContext } from "./command/command.js";
import { addFlowOptions, flowQuery } from "./command/flow-options.js";
import { DUMP_FORMATS, type DumpFormat, dumpExpectations, dumpFlows } from "./command/table-dump.js";

/** `dump`: the flows of a cache or of the kernel. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("dump")
    .description("print the flows of a table (conntrackd -i, -e)")
    .addArgument(new Argument("<table>", "which table").choices(FLOW_TABLES))
    .addOption(new Option("--format <format>", "how (default: conntrack, or json with --json)").choices(DUMP_FORMATS));
  addFlowOptions(command)
    .option("--expect", "the expectations of helpers instead of flows (conntrackd -i expect)")
    .action(async (table: FlowTableName, options: FlowQuery & { format?: DumpFormat; expect?: boolean }) => {
      const { format = context.json ? "json" : "conntrack", expect = false } = options;
      const query = flowQuery(options);
      const path = await context.controlPath();
      if (!expect) return dumpFlows(path, table, format, compileFlowQuery(query), context.terminal);
      const [filter] = Object.keys(query);
      if (filter !== undefined)
        throw new ConntrailError("USAGE", `--${filter} chooses flows: leave it out with --expect`);
      return dumpExpectations(path, table, format, context.terminal);
    });
}
