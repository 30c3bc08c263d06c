import { spawnSync } from "node:child_process";

/** pino's level; LOG_ERR in syslog. */
const LEVEL_ERROR = 50;

/**
 * Writes into the system's log (facility daemon, priority err) that a hook failed, and why: nobody reads the output of
 * keepalived's scripts. It uses logger(1) if the package for syslog's socket cannot be loaded.
 */
export async function logHookFailure(why: string): Promise<void> {
  const msg = `hook failed: ${why}`;
  try {
    const { Syslog } = await import("./syslog.js");
    new Syslog("daemon").write(JSON.stringify({ level: LEVEL_ERROR, time: Date.now(), msg }));
  } catch {
    spawnSync("logger", ["-t", "conntrail", "-p", "daemon.err", "--", msg.replace(/\s*\n\s*/g, " ")], {
      stdio: "ignore",
    });
  }
}
