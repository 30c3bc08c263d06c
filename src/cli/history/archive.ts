import type { Command } from "commander";
import { pino } from "pino";
import { parseDuration } from "../../config/units.js";
import { assertMayLogIn, ownBrokerAccess, writers } from "../../daemon/own-broker.js";
import { ConntrailError, errorText } from "../../errors.js";
import { runArchiver } from "../../history/archive/archiver.js";
import type { ArchiveReport } from "../../history/archive/run.js";
import { formatTime } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { loadAnyConfig } from "../command/config-file.js";
import { archiveVerify } from "./archive-verify.js";
import { damagedText } from "./source.js";

interface Options {
  dir?: string;
  once?: boolean;
  follow?: boolean;
  maxAge?: string;
}

const DEFAULT_DIRECTORY = "/var/lib/conntrail/archive";
const DEFAULT_MAX_AGE_SECONDS = 365 * 86_400;

/** `archive`: writes connections that have ended to Parquet files by day. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("archive")
    .description(
      "write connections that have ended to Parquet files by day, each once, from where the last run ended on",
    )
    .option("--dir <directory>", `where (default: archive.dir of the configuration, or ${DEFAULT_DIRECTORY})`)
    .option("--once", "end where the streams end (the default)")
    .option("--follow", "go on as the streams do, until an interrupt")
    .option("--max-age <duration>", "remove whole days that are older (default: archive.max_age, or 365d)")
    .action((options: Options) => archive(options, context));
  command
    .command("verify")
    .description("look whether every file is as it was written and none is missing; exit 1 when one is")
    .action(() => {
      const config = loadAnyConfig(context.configPath);
      const { dir } = command.opts<Options>();
      return archiveVerify(dir ?? config.archive?.directory ?? DEFAULT_DIRECTORY, config.tls?.ca ?? null, context);
    });
}

async function archive(options: Options, context: CommandContext): Promise<void> {
  if (options.once === true && options.follow === true) {
    throw new ConntrailError("USAGE", "--once and --follow: give one of them");
  }
  const config = loadAnyConfig(context.configPath);
  assertMayLogIn(config);
  const { terminal } = context;
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  let last: ArchiveReport | null = null;
  await runArchiver(
    {
      directory: options.dir ?? config.archive?.directory ?? DEFAULT_DIRECTORY,
      maxAgeSeconds: maxAgeSeconds(options.maxAge) ?? config.archive?.maxAgeSeconds ?? DEFAULT_MAX_AGE_SECONDS,
      broker: ownBrokerAccess(config),
      writers: writers(config),
      live: options.follow === true,
    },
    {
      onProgress: (report) => {
        last = report;
        terminal.progressLine(`${report.connections.toLocaleString("en")} connections archived`);
      },
      onDamaged: (path, why) => terminal.complain(damagedText(path, why)),
      onFailure: (error) => terminal.complain(`${errorText(error)}; it is tried again`),
    },
    pino({ level: "silent" }),
    stop.signal,
  );
  terminal.progressLine("");
  if (last !== null) await context.print(last, formatArchiveReport);
}

function maxAgeSeconds(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= 86_400_000) return Math.ceil(ms / 1000);
  throw new ConntrailError(
    "USAGE",
    `--max-age: "${text}" is not allowed; give a duration such as 30d or 365d, at least 1d`,
  );
}

/** What a run has done, in one or two lines. */
export function formatArchiveReport(report: ArchiveReport): string {
  const { connections, files, known, daysRemoved, filesRemoved, archivedUntilMs, open } = report;
  const until = archivedUntilMs === null ? "nothing is archived yet" : `archived until ${formatTime(archivedUntilMs)}`;
  const twice = known === 0 ? "" : `, ${known} there already`;
  const removed = daysRemoved === 0 ? "" : `removed by age: ${daysRemoved} days, ${filesRemoved} files\n`;
  return `${connections} connections in ${files} files${twice}; ${open} are open; ${until}\n${removed}`;
}
