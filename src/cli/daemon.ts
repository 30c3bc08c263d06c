import type { Command } from "commander";
import { type Logger, pino } from "pino";
import type { Config } from "../config/config.js";
import { errorText } from "../errors.js";
import type { CommandContext } from "./command.js";
import { loadAnyConfig } from "./config-file.js";
import { formatLogLine } from "./log-line.js";

/** How long a clean end may take before the process is ended anyway. */
const END_MS_MAX = 15_000;

/** How the daemon hears from the process that it lives in. */
export interface DaemonControls {
  /** Aborted at SIGTERM or SIGINT: end cleanly. */
  readonly signal: AbortSignal;
  /** `callback` gets the configuration as it is now, at each SIGHUP after which the file is sound. The log level is set already. */
  onReload(callback: (config: Config) => void | Promise<void>): void;
}

/** The composition root, imported when it is needed only. Resolves after a clean end; throws what the daemon cannot go on with. */
interface DaemonModule {
  runDaemon(config: Config, logger: Logger, controls: DaemonControls): Promise<void>;
}

/** `daemon`: runs in the foreground until SIGTERM. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("daemon")
    .description("run in the foreground; SIGTERM ends it, SIGHUP reloads filters and log level")
    .action(() => daemon(context));
}

async function daemon(context: CommandContext): Promise<void> {
  const config = loadAnyConfig(context.configPath);
  const logger = newLogger(config);
  const end = new AbortController();
  const reloads: ((config: Config) => void | Promise<void>)[] = [];
  const onEnd = (name: NodeJS.Signals): void => {
    if (end.signal.aborted) return;
    logger.info({ signal: name }, "ending");
    end.abort();
    setTimeout(() => {
      logger.error({ afterMs: END_MS_MAX }, "not ended in time, ending the process");
      process.exit(1);
    }, END_MS_MAX).unref();
  };
  process.on("SIGTERM", onEnd).on("SIGINT", onEnd);
  process.on("SIGHUP", () => {
    reload(context.configPath, logger, reloads).catch((error: unknown) =>
      logger.error({ error: errorText(error) }, "reload failed, the configuration stays as it was"),
    );
  });
  // Not a literal: the daemon's modules are the largest part of the program, and only this command needs them.
  const root = new URL("../daemon.js", import.meta.url).href;
  const { runDaemon } = (await import(root)) as DaemonModule;
  let code = 0;
  try {
    await runDaemon(config, logger, {
      signal: end.signal,
      onReload: (callback) => {
        reloads.push(callback);
      },
    });
    logger.info("ended");
  } catch (error) {
    context.terminal.complain(errorText(error));
    code = 1;
  }
  // A handle that something left open must not keep a daemon alive that has ended.
  process.exit(code);
}

async function reload(
  path: string,
  logger: Logger,
  callbacks: readonly ((config: Config) => void | Promise<void>)[],
): Promise<void> {
  const config = loadAnyConfig(path);
  logger.level = config.logLevel;
  for (const callback of callbacks) await callback(config);
  logger.info("reloaded");
}

/** JSON lines, or lines for people when a person watches. Written at once: what is logged before a crash is there after it. */
function newLogger(config: Config): Logger {
  const options = { level: config.logLevel, base: { node: config.node } };
  if (!process.stdout.isTTY) return pino(options, pino.destination({ dest: 1, sync: true }));
  return pino(options, { write: (line: string) => process.stdout.write(formatLogLine(line)) });
}
