import type { Command } from "commander";
import { DEFAULT_CONFIG_PATH } from "../../config/config-text.js";
import { anyControlPath } from "../../conntrackd/conf.js";
import { requestReport } from "../../control/client.js";
import type { CommandArgs, CommandReports, ReportCommand } from "../../control/protocol.js";
import type { Terminal } from "../process/terminal.js";

/** What the file of a subcommand exports. The file is loaded only when its command is called. */
export interface CommandModule {
  /** Adds the command, with its options and its action, to the program. */
  register(program: Command, context: CommandContext): void;
}

/** What every subcommand can use. */
export class CommandContext {
  readonly terminal: Terminal;
  readonly #program: Command;

  constructor(program: Command, terminal: Terminal) {
    this.#program = program;
    this.terminal = terminal;
  }

  /** The configuration file, from `-c` or the default: conntrail's YAML or a conntrackd.conf. */
  get configPath(): string {
    return this.#program.opts<{ config?: string }>().config ?? DEFAULT_CONFIG_PATH;
  }

  /** Whether `--json` was given. */
  get json(): boolean {
    return this.#program.opts<{ json?: boolean }>().json === true;
  }

  /** The control socket of the daemon that the configuration file describes. */
  controlPath(): Promise<string> {
    return anyControlPath(this.configPath);
  }

  /** Asks the daemon, and shows its progress on the terminal. */
  async ask<C extends ReportCommand>(command: C, args: CommandArgs[C]): Promise<CommandReports[C]> {
    return await requestReport(await this.controlPath(), command, args, {
      onProgress: (text) => this.terminal.progress(text),
    });
  }

  /** Prints a report: as JSON with `--json`, else by `text`. */
  async print<T>(report: T, text: (report: T) => string): Promise<void> {
    if (this.json) await this.terminal.json(report);
    else await this.terminal.write(text(report));
  }
}
