import type { Command } from "commander";
import { type RecordedTakeover, readTakeovers } from "../../history/scan/takeovers.js";
import { formatTime, parseTime, requireOrder } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { formatColumns, formatMs } from "../process/terminal.js";
import { LIMIT_MAX, readLimit, readNodes } from "./options.js";
import { withStreams } from "./source.js";

/** As many as are printed where nothing else is said. */
const LIMIT_DEFAULT = 1000;

interface TakeoverOptions {
  since?: string;
  until?: string;
  node?: string;
  limit?: string;
}

/** `takeovers`: what each takeover brought into a kernel, by the streams of all nodes. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("takeovers")
    .description("who took over when, what went over, what failed and why")
    .option("--since <time>", "2026-01-31T12:00Z, yesterday 14:03, -2d")
    .option("--until <time>", "likewise")
    .option("--node <names>", "only takeovers by these nodes: fw1 or fw1,fw2")
    .option("--limit <count>", `the newest so many (default: ${LIMIT_DEFAULT}), ${LIMIT_MAX} at the most`)
    .action((options: TakeoverOptions) => takeovers(options, context));
}

async function takeovers(options: TakeoverOptions, context: CommandContext): Promise<void> {
  const nowMs = Date.now();
  const since = options.since === undefined ? null : parseTime("--since", options.since, nowMs);
  const until = options.until === undefined ? null : parseTime("--until", options.until, nowMs);
  requireOrder(since, until);
  const limit = readLimit(options.limit) ?? LIMIT_DEFAULT;
  await withStreams(context, async ({ streams }) => {
    const known = await streams.nodes();
    const nodes = readNodes(options.node, known) ?? known;
    const found = await readTakeovers(streams, {
      ...{ nodes, limit },
      sinceMs: since?.ms ?? null,
      untilMs: until?.ms ?? null,
    });
    await context.print({ takeovers: found.map(takeoverJson) }, () => formatTakeovers(found));
  });
}

/** A takeover as `--json` prints it: the time as text, the rest as recorded. */
function takeoverJson({ beganMs, ...rest }: RecordedTakeover) {
  return { began: formatTime(beganMs), ...rest };
}

/** The takeovers as a table. */
export function formatTakeovers(found: readonly RecordedTakeover[]): string {
  if (found.length === 0) return "no takeovers are on record\n";
  const heading = ["BEGAN", "NODE", "GROUP", "BY", "COMMITTED", "AHEAD", "UPDATED", "FAILED", "STALE", "TIME"];
  return formatColumns([heading, ...found.map(takeoverRow)]);
}

function takeoverRow(takeover: RecordedTakeover): string[] {
  const { node, beganMs, group, cause, committed, ahead, updated, repaired, stale, durationMs } = takeover;
  return [
    formatTime(beganMs),
    node,
    group ?? "-",
    cause ?? "-",
    repaired === 0 ? String(committed) : `${committed} (${repaired} repaired)`,
    String(ahead),
    String(updated),
    failedText(takeover),
    String(stale),
    formatMs(durationMs),
  ];
}

function failedText({ failed, reasons, withoutMaster, withoutHelper }: RecordedTakeover): string {
  const notes = Object.entries(reasons ?? {}).map(([reason, count]) => `${reason} ${count}`);
  if (withoutMaster > 0) notes.push(`${withoutMaster} without master`);
  if (withoutHelper > 0) notes.push(`${withoutHelper} without helper`);
  return notes.length === 0 ? String(failed) : `${failed} (${notes.join(", ")})`;
}
