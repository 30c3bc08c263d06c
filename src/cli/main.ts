import { Command, CommanderError } from "commander";
import { ConntrailError, errorText } from "../errors.js";
import { CommandContext, type CommandModule } from "./command/command.js";
import { packageVersion } from "./command/version.js";
import { OutputClosed, Terminal } from "./process/terminal.js";

/** One file per subcommand. Only the called one is loaded, so that a hook starts fast. */
const COMMANDS: Readonly<Record<string, () => Promise<CommandModule>>> = {
  daemon: () => import("./daemon.js"),
  status: () => import("./status.js"),
  top: () => import("./top.js"),
  doctor: () => import("./doctor.js"),
  dump: () => import("./dump.js"),
  stats: () => import("./stats.js"),
  commit: () => import("./commit.js"),
  flush: () => import("./flush.js"),
  resync: () => import("./resync.js"),
  bulk: () => import("./bulk.js"),
  purge: () => import("./purge.js"),
  hook: () => import("./hook.js"),
  rehearse: () => import("./rehearse.js"),
  history: () => import("./history/history.js"),
  at: () => import("./history/at.js"),
  who: () => import("./history/who.js"),
  takeovers: () => import("./history/takeovers.js"),
  archive: () => import("./history/archive.js"),
  sql: () => import("./history/sql.js"),
  init: () => import("./init.js"),
  import: () => import("./import.js"),
  check: () => import("./check.js"),
  reload: () => import("./reload.js"),
  keys: () => import("./keys.js"),
  demo: () => import("./demo-command.js"),
};

/** Runs the command line and sets the exit code: 0 done, 1 failed, 2 usage or configuration. */
export async function main(argv: readonly string[]): Promise<void> {
  const terminal = new Terminal(process.stdout, process.stderr);
  const program = newProgram(terminal, argv);
  const context = new CommandContext(program, terminal);
  try {
    await register(program, context, argv);
    await program.parseAsync(argv, { from: "user" });
    process.exitCode = terminal.exitCode;
  } catch (error) {
    await reportFailure(error, argv, terminal);
  }
}

/**
 * Reports why a command failed, in one line on standard error and for a hook in syslog, and sets the exit code. Throws
 * the error again if files of the program are missing: bin/conntrail reports that.
 */
export async function reportFailure(
  error: unknown,
  argv: readonly string[],
  terminal = new Terminal(process.stdout, process.stderr),
): Promise<void> {
  process.exitCode = exitCodeOf(error);
  if (isIncomplete(error)) throw error;
  if (!(error instanceof OutputClosed) && !(error instanceof CommanderError)) terminal.complain(errorText(error));
  if (process.exitCode === 0 || commandName(argv) !== "hook") return;
  const { logHookFailure } = await import("./process/hook-failure.js");
  await logHookFailure(errorText(error).replace(/^error: /, ""));
}

/** The program with all of its commands, for what describes it: man pages and completions. */
export async function wholeProgram(): Promise<Command> {
  const terminal = new Terminal(process.stdout, process.stderr);
  const program = newProgram(terminal, []);
  await register(program, new CommandContext(program, terminal), []);
  return program;
}

function newProgram(terminal: Terminal, argv: readonly string[]): Command {
  return new Command("conntrail")
    .description("replicates the kernel's connection tracking table between firewalls")
    .version(argv.some((word) => word === "-V" || word === "--version") ? packageVersion() : "", "-V, --version")
    .option("-c, --config <file>", "configuration file (default: /etc/conntrail/conntrail.yaml)")
    .option("--json", "print JSON")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeErr: (text) => terminal.usage(text),
      outputError: (text) => terminal.complain(text.replace(/^error: /, "")),
    })
    .exitOverride();
}

/** Registers the called command; all of them for help and for usage errors. */
async function register(program: Command, context: CommandContext, argv: readonly string[]): Promise<void> {
  const name = commandName(argv);
  const load = name === undefined || !Object.hasOwn(COMMANDS, name) ? undefined : COMMANDS[name];
  const loads = load === undefined ? Object.values(COMMANDS) : [load];
  for (const module of await Promise.all(loads.map((each) => each()))) module.register(program, context);
}

function commandName(argv: readonly string[]): string | undefined {
  let i = 0;
  for (let word = argv[i]; word !== undefined; word = argv[++i]) {
    if (word === "-c" || word === "--config") i++;
    else if (!word.startsWith("-")) return word;
  }
  return undefined;
}

/** True if files of the program or of its packages are missing or incomplete. */
function isIncomplete(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND" || error instanceof SyntaxError;
}

function exitCodeOf(error: unknown): number {
  if (error instanceof OutputClosed) return 0;
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  return error instanceof ConntrailError && (error.code === "CONFIG" || error.code === "USAGE") ? 2 : 1;
}
