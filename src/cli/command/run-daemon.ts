import { setPriority } from "node:os";
import type { Logger } from "pino";
import type { Config } from "../../config/config.js";
import { Reload } from "../../daemon/reload.js";
import type { DaemonControls } from "../../daemon.js";
import { errorText } from "../../errors.js";
import { errnoName } from "../../os/errno.js";
import { nameProcess } from "../../os/process-name.js";
import { setRealTime } from "../../os/scheduler.js";
import { type LockFile, takeLock } from "../process/lock-file.js";
import { type DaemonLog, openLog } from "../process/log.js";
import { loadAnyConfig, readAnyConfig } from "./config-file.js";
import { packageVersion } from "./version.js";

/** How long a clean end may take before the process is ended anyway. */
const END_MS_MAX = 15_000;

/** The caller that runs the daemon in this process. */
export interface DaemonHost {
  readonly configPath: string;
  /** The program that runs the daemon, and what stands before the configuration in its command line. */
  readonly program: { readonly name: "conntrail" | "conntrackd"; readonly words: readonly string[] };
  /** Called when the node is ready. */
  ready(): void;
  /** Called with the reason, in one line, before the process exits with 1. */
  failed(text: string): void;
}

/**
 * Runs the daemon in this process until it is asked to end, then exits: with 0 after a clean end, with 1 after a
 * failure. Throws ConntrailError when it cannot begin: configuration, log file, lock file.
 */
export async function runInForeground(host: DaemonHost): Promise<void> {
  const { name, words } = host.program;
  nameProcess(name, [...words, host.configPath]);
  const { config, remarks } = readAnyConfig(host.configPath);
  const log = openLog(config);
  const { logger } = log;
  let lock: LockFile | null;
  try {
    lock = config.lock === null ? null : takeLock(config.lock);
  } catch (error) {
    if (log.kept) logger.error({ event: "daemon.failed" }, errorText(error));
    throw error;
  }
  if (lock?.held === false)
    logger.warn({ lock: config.lock }, "no lock file: another user's file of that name is there");
  if (lock !== null && lock.takenOverFrom !== null) {
    const fields = { lock: config.lock, pid: lock.takenOverFrom };
    logger.warn(fields, "took over the lock file of a daemon that did not end cleanly");
  }
  // Node reports crashes on standard error, which nobody may read; the log is read later.
  if (log.kept) process.on("uncaughtExceptionMonitor", (error) => logger.fatal({ err: error }, "crashed"));
  for (const { line, directive, verdict, note } of remarks) {
    if (verdict === "not supported") logger.warn({ line, directive, note }, "directive not supported");
  }
  renice(config.nice, logger);
  if (config.scheduler !== null) reschedule(config.scheduler, logger);
  const controls = createControls(host, config, log);
  process.on("SIGHUP", () => void controls.reloadNow().catch(() => undefined));
  // Loaded here, by a computed name: the daemon's modules are the largest part of the program, and only this command
  // needs them.
  const root = new URL("../../daemon.js", import.meta.url).href;
  const { runDaemon } = (await import(root)) as typeof import("../../daemon.js");
  let code = 0;
  try {
    await runDaemon(config, logger, controls);
    logger.info("ended");
  } catch (error) {
    if (log.kept) logger.fatal({ event: "daemon.failed" }, errorText(error));
    host.failed(errorText(error));
    code = 1;
  }
  lock?.remove();
  // A handle that was left open must not keep an ended daemon alive.
  process.exit(code);
}

/** Ends the daemon at signals and on request, within a bound; reloads the configuration at SIGHUP and on request. */
function createControls(host: DaemonHost, config: Config, log: DaemonLog): DaemonControls {
  const { logger } = log;
  const end = new AbortController();
  const reload = new Reload(config, logger);
  const onEnd = (reason: string): void => {
    if (end.signal.aborted) return;
    logger.info({ signal: reason }, "ending");
    end.abort();
    setTimeout(() => {
      logger.error({ afterMs: END_MS_MAX }, "not ended in time, ending the process");
      process.exit(1);
    }, END_MS_MAX).unref();
  };
  process.on("SIGTERM", onEnd).on("SIGINT", onEnd);
  reload.onReload(["log.level"], ({ logLevel }) => {
    logger.level = logLevel;
    return [];
  });
  reload.onReload(["log.file", "log.syslog", "log.format"], (next) => {
    log.moveTo(next);
    return [];
  });
  return {
    version: packageVersion(),
    signal: end.signal,
    reload,
    reloadNow: async () => {
      try {
        // First, so that logrotate's signal has its effect even if the configuration is refused.
        log.reopen();
        return await reload.reload(loadAnyConfig(host.configPath));
      } catch (error) {
        logger.error({ error: errorText(error) }, "reload failed, the configuration stays as it was");
        throw error;
      }
    },
    stop: () => onEnd("stop"),
    ready: () => host.ready(),
  };
}

/** Sets the real-time policy, which the broker inherits as a child. */
function reschedule({ policy, priority }: NonNullable<Config["scheduler"]>, logger: Logger): void {
  const refused = setRealTime(policy, priority);
  if (refused === 0) return;
  const instead = `in a systemd unit, CPUSchedulingPolicy=${policy} and CPUSchedulingPriority=${priority}`;
  logger.warn({ policy, priority, error: errnoName(refused), instead }, "the real-time policy could not be set");
}

/** Sets the scheduling priority, which the broker inherits as a child. */
function renice(nice: number | null, logger: Logger): void {
  if (nice === null) return;
  try {
    setPriority(nice);
  } catch (error) {
    logger.warn({ nice, error: errorText(error) }, "the scheduling priority could not be set");
  }
}
