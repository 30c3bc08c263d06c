import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { ConntrailError } from "../../errors.js";

/** As long as systemd waits (deploy/conntrail.service), since a large store is read through at the start. */
const START_MS_MAX = 60_000;

/** What the daemon reports to the process that started it with `-d`. */
type Report = { readonly ready: true } | { readonly failed: string };

/**
 * Starts this program again as a daemon: detached, in its own session, in /, without the terminal. Resolves when it is
 * ready. Throws ConntrailError CONTROL with the reason when it ends before that, TIMEOUT when it was ended because it
 * was not ready in time.
 */
export async function runInBackground(configPath: string): Promise<void> {
  const [, program = ""] = process.argv;
  const child = spawn(process.execPath, [...process.execArgv, program, "-C", resolve(configPath)], {
    cwd: "/",
    detached: true,
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  let timer: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((done, reject) => {
      const fail = (code: "CONTROL" | "TIMEOUT", text: string): void => reject(new ConntrailError(code, text));
      let reason = "conntrackd cannot start, please review your configuration";
      child.on("message", (message) => {
        const report = message as Report;
        if ("ready" in report) done();
        else reason = report.failed;
      });
      child.once("error", reject);
      child.once("exit", () => fail("CONTROL", reason));
      timer = setTimeout(() => {
        child.kill("SIGTERM");
        fail("TIMEOUT", `the daemon was not ready within ${START_MS_MAX / 1000} s: look at its log`);
      }, START_MS_MAX);
    });
  } finally {
    clearTimeout(timer);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/** True in the process that `runInBackground` started. */
export function startedInBackground(): boolean {
  return process.send !== undefined;
}

/** Reports to the process that started this one, if any, that the daemon is ready. */
export function reportReady(): void {
  report({ ready: true });
  if (process.connected) process.disconnect();
}

/** Reports to the process that started this one, if any, why the daemon ends. */
export function reportFailure(text: string): void {
  report({ failed: text });
}

function report(message: Report): void {
  // Whoever started it may be gone, which is no concern of a daemon's.
  process.send?.(message, undefined, undefined, () => {});
}
