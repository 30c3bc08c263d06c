/** What the history commands read, with damaged files said on the terminal. */
import { type HistoryGround, openHistory, openStreams } from "../../api/open-history.js";
import type { HistorySource } from "../../history/archive/archived-history.js";
import type { CommandContext } from "../command/command.js";

/** Runs `use` with the history of all streams and of the archive, if there is one. Closes both afterwards. */
export function withHistory<T>(context: CommandContext, use: (history: HistorySource) => Promise<T>): Promise<T> {
  const onDamaged = (path: string, why: string): void => context.terminal.complain(damagedText(path, why));
  return openHistory(context.configPath, onDamaged, use);
}

/** The line that reports a file of the archive which cannot be read. */
export function damagedText(path: string, why: string): string {
  return `${path} is left out: ${why}`;
}

/** Runs `use` with the streams alone. Closes the connection to the broker afterwards. */
export function withStreams<T>(context: CommandContext, use: (ground: HistoryGround) => Promise<T>): Promise<T> {
  return openStreams(context.configPath, use);
}
