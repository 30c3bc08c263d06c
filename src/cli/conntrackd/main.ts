import { readConfigText } from "../../config/config-text.js";
import { controlPath } from "../../config/control-path.js";
import { type ConntrackdConf, isConntrackdConf, parseConntrackdConf } from "../../conntrackd/conf.js";
import { linksOf } from "../../conntrackd/link.js";
import { directivesAt } from "../../conntrackd/tree.js";
import { ConntrailError, errorText } from "../../errors.js";
import { ctimeText } from "../../os/ctime.js";
import { packageVersion } from "../command/version.js";
import { OutputClosed, Terminal } from "../process/terminal.js";
import type { AlarmTimes } from "./dump.js";
import { type Complaint, type ParsedOptions, parseOptions, usageText, versionText } from "./options.js";
import { type Release, requestedRelease } from "./release.js";
import type { RequestConfig } from "./request.js";
import { BROKER_LINK, type StatsLink } from "./stats.js";

/** conntrackd's default configuration file. */
const DEFAULT_CONNTRACKD_CONF = "/etc/conntrackd/conntrackd.conf";

/**
 * Runs conntrackd's command line and sets conntrackd's exit codes: 0 when done, or when the request is sent; 1 when
 * the daemon refuses or cannot be reached, and for a bad configuration or bad parameters.
 */
export async function main(argv: readonly string[]): Promise<void> {
  const terminal = new Terminal(process.stdout, process.stderr);
  try {
    const release = requestedRelease();
    const options = parseOptions(argv, release);
    if (options.usage) await terminal.write(usageText(release, packageVersion()));
    for (const each of options.complaints) complain(terminal, each);
    process.exitCode = await run(options, release, terminal);
  } catch (error) {
    process.exitCode = error instanceof OutputClosed ? 0 : 1;
    if (!(error instanceof OutputClosed)) complain(terminal, { level: "ERROR", text: complaintOf(error) });
  }
}

/** Executes the options and returns the exit code. */
async function run({ does, configPath }: ParsedOptions, release: Release, terminal: Terminal): Promise<number> {
  const path = configPath ?? DEFAULT_CONNTRACKD_CONF;
  switch (does.kind) {
    case "exit":
      return does.code;
    case "version":
      await terminal.write(versionText(release, packageVersion()));
      return 0;
    case "request": {
      const { sendRequest } = await import("./request.js");
      await sendRequest(does.request, await readRequestConfig(path), terminal);
      return terminal.exitCode;
    }
    case "daemon": {
      if (does.background) {
        // Problems of the file are reported at once, in the foreground.
        const [{ runInBackground }, { loadAnyConfig }] = await Promise.all([
          import("../process/background.js"),
          import("../command/config-file.js"),
        ]);
        loadAnyConfig(path);
        await runInBackground(path);
        return 0;
      }
      await runHere(path, terminal);
      return 0;
    }
    default:
      return does satisfies never;
  }
}

/** Runs the daemon in this process. If `-d` started it, reports to the process that did. */
async function runHere(path: string, terminal: Terminal): Promise<void> {
  const [{ runInForeground }, { reportFailure, reportReady, startedInBackground }] = await Promise.all([
    import("../command/run-daemon.js"),
    import("../process/background.js"),
  ]);
  try {
    await runInForeground({
      configPath: path,
      program: { name: "conntrackd", words: startedInBackground() ? ["-d", "-C"] : ["-C"] },
      ready: reportReady,
      failed: (text) => {
        reportFailure(text);
        complain(terminal, { level: "ERROR", text });
      },
    });
  } catch (error) {
    reportFailure(errorText(error));
    throw error;
  }
}

/** The part of the configuration that a request needs, without the rest, so that a script's call is fast. */
async function readRequestConfig(path: string): Promise<RequestConfig> {
  const text = readConfigText(path);
  if (!isConntrackdConf(text)) {
    return { control: await controlPath(path), link: BROKER_LINK, shape: null, alarm: null };
  }
  const conf = parseConntrackdConf(text, path);
  return { control: conf.unixPath, link: linkOf(conf), shape: conf.shape, alarm: alarmOf(conf) };
}

/** conntrackd's defaults of RefreshTime and CacheTimeout. */
const ALARM = { refreshSeconds: 60, cacheSeconds: 180 };

function alarmOf({ nodes, shape }: ConntrackdConf): AlarmTimes | null {
  if (shape.mode !== "alarm") return null;
  const inMode = directivesAt(nodes, ["Sync", "Mode"]).flatMap(({ block }) => block ?? []);
  const seconds = (name: string): number => {
    const found = [...directivesAt(inMode, [name]), ...directivesAt(nodes, ["Sync", name])];
    return Number(found.at(-1)?.values[0]?.text ?? 0);
  };
  return {
    refreshSeconds: seconds("RefreshTime") || ALARM.refreshSeconds,
    cacheSeconds: seconds("CacheTimeout") || ALARM.cacheSeconds,
  };
}

function linkOf({ nodes, device }: ConntrackdConf): StatsLink {
  const kind = linksOf(nodes).active?.kind ?? BROKER_LINK.protocol;
  return { protocol: kind === "Multicast" ? "multicast" : kind, device: device ?? BROKER_LINK.device };
}

/** conntrackd's own wording where scripts may match it; other errors say more. */
function complaintOf(error: unknown): string {
  const cause = error instanceof ConntrailError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  if (cause?.code === "ENOENT" && cause.syscall === "open" && (error as ConntrailError).code === "CONFIG") {
    return `can't open config file \`${cause.path}'`;
  }
  if (cause?.syscall === "connect") return "can't connect: is conntrackd running? appropriate permissions?";
  return errorText(error);
}

/** Prints a line in conntrackd's form: `[Sat Nov 21 11:10:06 2026] (pid=8474) [ERROR] what is wrong`. */
function complain(terminal: Terminal, { level, text }: Complaint): void {
  terminal.usage(
    `[${ctimeText(new Date())}] (pid=${process.pid}) [${level}] ${text.trim().replace(/\s*\n\s*/g, " ")}\n`,
  );
}
