import { type Command, Option } from "commander";
import { ConntrailError } from "../../errors.js";
import { compileFlowQuery } from "../../flow/filter.js";
import type { HistorySource } from "../../history/archive/archived-history.js";
import type { HistoryAnswer, HistoryQuery } from "../../history/connection.js";
import { TALLY_KEYS, TALLY_ORDERS } from "../../history/tally.js";
import { formatTime, type NamedTime, parseTime, requireOrder, requirePast } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { flowQuery } from "../command/flow-options.js";
import { paged } from "../process/pager.js";
import { printAnswer } from "./answer.js";
import { type ConnectionOutput, TEXT_FORMATS, textOutput } from "./connection-output.js";
import { type IpfixTarget, openIpfix, parseCollector } from "./ipfix-output.js";
import { addConnectionOptions, type ConnectionOptions, formatOf, readLimit, readNodes } from "./options.js";
import { openParquet } from "./parquet-output.js";
import { withHistory } from "./source.js";
import { printTally, readTally, type TallyOptions, type TallyRequest } from "./tally-output.js";

interface Options extends ConnectionOptions, TallyOptions {
  since?: string;
  until?: string;
  follow?: boolean;
  output?: string;
  collector?: string;
}

/** The options, checked as far as that is possible without the streams. */
interface Request {
  readonly options: Options;
  readonly since: NamedTime | null;
  /** True where `since` was not asked for. */
  readonly byDefault: boolean;
  readonly until: NamedTime | null;
  readonly limit: number | null;
  readonly format: ReturnType<typeof formatOf<NonNullable<Options["format"]>>>;
  /** Null unless the format is ipfix. */
  readonly target: IpfixTarget | null;
  /** What is counted in place of connections; null: nothing. */
  readonly tally: TallyRequest | null;
  readonly nowMs: number;
}

/** People who do not say which range they mean get one that is read at once. */
const DEFAULT_RANGE_MS = 3_600_000;

/** `history`: who talked to whom, when, and through which node. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("history")
    .description("connections of all nodes out of their streams, each once, newest last");
  addConnectionOptions(command, [...TEXT_FORMATS, "ipfix", "parquet"])
    .option(
      "--since <time>",
      "connections that lived then or later: 2026-01-31T12:00Z, yesterday 14:03, 2h, last monday",
    )
    .option("--until <time>", "connections that lived then or before")
    .option("--top <key>", `what most connections have: ${TALLY_KEYS.join(", ")}; --limit says how many of them`)
    .option("--by <order>", `with --top: ${TALLY_ORDERS.join(" or ")} (default: connections)`)
    .option("--summary", "counts and bytes in all, by protocol and by node")
    .option("--histogram", "how many connections began when")
    .option("--follow", "changes as they come, from now or --since on")
    .addOption(new Option("--output <file>", "with --format ipfix and parquet: the file to write"))
    .addOption(new Option("--collector <address>", "with --format ipfix: [udp:|tcp:]HOST[:PORT]"))
    .action((options: Options) => history(checkOptions(options, context), context));
}

function checkOptions(options: Options, context: CommandContext): Request {
  const nowMs = Date.now();
  const since = options.since === undefined ? null : parseTime("--since", options.since, nowMs);
  const until = options.until === undefined ? null : parseTime("--until", options.until, nowMs);
  if (options.since !== undefined && since !== null) requirePast("--since", options.since, since, nowMs);
  requireOrder(since, until);
  if (options.follow === true && until !== null) throw usage("--until is of no use with --follow: leave one out");
  compileFlowQuery(flowQuery(options));
  const format = formatOf(options, context);
  const limit = readLimit(options.limit);
  const tally = readTally(options, limit);
  if (tally !== null && (options.follow === true || (format !== "table" && format !== "json"))) {
    throw usage("--top, --summary and --histogram are of no use with --follow, and print text or --json");
  }
  const isWhole = since === null && until === null && (limit === null || tally !== null) && options.follow !== true;
  const byDefault = isWhole && (format === "table" || tally !== null);
  return {
    options,
    since: byDefault ? { ms: nowMs - DEFAULT_RANGE_MS, spanMs: 1 } : since,
    byDefault,
    until,
    limit,
    format,
    tally,
    target: ipfixTarget(format, options),
    nowMs,
  };
}

function ipfixTarget(format: string, { output, collector, follow }: Options): IpfixTarget | null {
  if (format === "parquet") {
    if (output === undefined || collector !== undefined) throw usage("--format parquet needs --output FILE");
    if (follow === true) throw usage("--follow is of no use with --format parquet: conntrail archive --follow");
    return null;
  }
  if (format !== "ipfix") {
    if (output === undefined && collector === undefined) return null;
    throw usage("--output and --collector belong to --format ipfix and parquet; other formats go to standard output");
  }
  if (output !== undefined && collector === undefined) return { type: "file", path: output };
  if (collector !== undefined && output === undefined) return parseCollector(collector);
  throw usage("--format ipfix needs either --output FILE or --collector [udp:|tcp:]HOST[:PORT]");
}

async function history(request: Request, context: CommandContext): Promise<void> {
  await withHistory(context, async (source) => {
    const { options, since, until } = request;
    // What is counted is counted whole: the limit is that of the lines.
    const limit = request.tally === null ? request.limit : null;
    const nodes = readNodes(options.node, source.nodes);
    // Only translated connections give NAT events.
    const filter = { ...flowQuery(options), ...(request.target !== null && { nat: true }) };
    const query: HistoryQuery = { sinceMs: since?.ms ?? null, untilMs: until?.ms ?? null, filter, nodes, limit };
    const { terminal } = context;
    const answer = (): HistoryAnswer => source.connections(query, terminal.closed);
    if (request.tally !== null) await printTally(answer(), request.tally, query.sinceMs, context);
    else if (options.follow === true || request.format !== "table") await print(request, query, source, context);
    else await paged(terminal, () => print(request, query, source, context));
    if (request.byDefault) terminal.complain("that was the last hour: --since 2d shows more");
  });
}

async function print(
  request: Request,
  query: HistoryQuery,
  source: HistorySource,
  context: CommandContext,
): Promise<void> {
  const { terminal } = context;
  const output = await openOutput(request, context);
  try {
    if (request.options.follow === true) return await follow(source, query, output, context);
    const printed = await printAnswer(source.connections(query, terminal.closed), output, terminal);
    if (printed.connections === 0 && request.format === "table") terminal.complain(nothingFound(query));
  } finally {
    await output.close();
  }
}

/** `no connections from … until …`. */
function nothingFound({ sinceMs, untilMs, filter, nodes }: HistoryQuery): string {
  const from = sinceMs === null ? "" : ` from ${formatTime(sinceMs)}`;
  const until = untilMs === null ? "" : ` until ${formatTime(untilMs)}`;
  const chosen = Object.keys(filter).length > 0 || nodes !== null ? " that match" : "";
  return `no connections${chosen}${from}${until}`;
}

type ClosableOutput = ConnectionOutput & { close(): Promise<void> };

async function openOutput(request: Request, context: CommandContext): Promise<ClosableOutput> {
  const { since, until, nowMs, format, target, options } = request;
  const range = { sinceMs: since?.ms ?? null, untilMs: until?.ms ?? null };
  if (target !== null) return openIpfix(target, range, context);
  const head = {
    ...(since !== null && { since: formatTime(since.ms) }),
    ...(until !== null && { until: formatTime(until.ms) }),
  };
  const changes = options.follow === true;
  const text = { untilMs: changes ? null : Math.min(range.untilMs ?? nowMs, nowMs), changes, head };
  if (format === "parquet" && options.output !== undefined) return openParquet(options.output);
  if (format === "ipfix" || format === "parquet") throw new Error(`${format} without a target`);
  return { ...textOutput(format, text, context.terminal), close: async () => {} };
}

/** Prints changes until there were `--limit` of them, or until an interrupt. Both are clean ends. */
async function follow(
  source: HistorySource,
  query: HistoryQuery,
  output: ConnectionOutput,
  { terminal }: CommandContext,
): Promise<void> {
  const interrupt = new AbortController();
  const onInterrupt = (): void => interrupt.abort();
  process.once("SIGINT", onInterrupt).once("SIGTERM", onInterrupt);
  const signal = AbortSignal.any([terminal.closed, interrupt.signal]);
  const left = { changes: query.limit ?? Number.POSITIVE_INFINITY };
  try {
    await output.write([]);
    for await (const batch of source.follow(query, signal, output.takesEndsOnce)) {
      const changes = batch.slice(0, left.changes);
      left.changes -= changes.length;
      await output.write(changes);
      await output.flush();
      if (left.changes === 0) break;
    }
  } finally {
    process.off("SIGINT", onInterrupt).off("SIGTERM", onInterrupt);
  }
  terminal.throwIfClosed();
  await output.end([]);
}

function usage(text: string): ConntrailError {
  return new ConntrailError("USAGE", text);
}
