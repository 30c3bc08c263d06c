import type { Command } from "commander";
import type { FlowQuery } from "../../flow/filter.js";

/** The options that select flows, with their descriptions. */
const OPTIONS: Readonly<Record<keyof FlowQuery, readonly [flags: string, description: string]>> = {
  host: ["--host <address>", "any of the four addresses: ADDR or ADDR/BITS"],
  src: ["--src <address>", "source of the original direction"],
  dst: ["--dst <address>", "destination of the original direction"],
  port: ["--port <number>", "any of the four ports"],
  proto: ["--proto <protocol>", "protocol by name or number"],
  nat: ["--nat", "only flows with a translated address or port"],
  mark: ["--mark <value>", "VALUE or VALUE/MASK"],
};

/** Adds the options that select flows, which are the same for every command. */
export function addFlowOptions(command: Command): Command {
  for (const [flags, description] of Object.values(OPTIONS)) command.option(flags, description);
  return command;
}

/** The options that select flows among all options of a command. */
export function flowQuery(options: FlowQuery): FlowQuery {
  return Object.fromEntries(Object.entries(options).filter(([name]) => Object.hasOwn(OPTIONS, name)));
}
