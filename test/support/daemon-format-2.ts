/**
 * The shipped daemon as a build that also knows the made-up version 2 of the stream's format. Started as `conntrail` is:
 * `daemon -c FILE`.
 */
import { loadAnyConfig } from "../../src/cli/command/config-file.js";
import { openLog } from "../../src/cli/process/log.js";
import { runDaemon } from "../../src/daemon.js";
import { FORMATS_2 } from "./format-2.js";

const config = loadAnyConfig(process.argv.at(-1) ?? "");
const end = new AbortController();
const stop = (): void => end.abort();
process.on("SIGTERM", stop);
await runDaemon(
  config,
  openLog(config).logger,
  {
    version: "2",
    signal: end.signal,
    reload: { onReload: () => undefined },
    reloadNow: async () => ({ applied: [], restart: [], failed: [] }),
    stop,
  },
  FORMATS_2,
);
process.exit(0);
