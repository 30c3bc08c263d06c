import { Argument, type Command, Option } from "commander";
import { FLOW_TABLES, type FlowTableName } from "../control/protocol.js";
import { ConntrailError } from "../errors.js";
import { compileFlowQuery, type FlowQuery } from "../flow/filter.js";
import type { CommandContext } from "./command.js";
import { DUMP_FORMATS, type DumpFormat, dumpExpectations, dumpFlows } from "./table-dump.js";

/** `dump`: the flows of a cache or of the kernel. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("dump")
    .description("print the flows of a table (conntrackd -i, -e)")
    .addArgument(new Argument("<table>", "which table").choices(FLOW_TABLES))
    .addOption(new Option("--format <format>", "how (default: conntrack, or json with --json)").choices(DUMP_FORMATS))
    .option("--host <address>", "any of the four addresses: ADDR or ADDR/BITS")
    .option("--src <address>", "source of the original direction")
    .option("--dst <address>", "destination of the original direction")
    .option("--port <number>", "any of the four ports")
    .option("--proto <protocol>", "protocol by name or number")
    .option("--nat", "only flows with a translated address or port")
    .option("--mark <value>", "VALUE or VALUE/MASK")
    .option("--expect", "the expectations of helpers instead of flows (conntrackd -i expect)")
    .action(async (table: FlowTableName, options: FlowQuery & { format?: DumpFormat; expect?: boolean }) => {
      const { format = context.json ? "json" : "conntrack", expect = false, ...query } = options;
      const path = await context.controlPath();
      if (!expect) return dumpFlows(path, table, format, compileFlowQuery(query), context.terminal);
      const [filter] = Object.keys(query);
      if (filter !== undefined)
        throw new ConntrailError("USAGE", `--${filter} chooses flows: leave it out with --expect`);
      return dumpExpectations(path, table, format, context.terminal);
    });
}
