import { type Command, Option } from "commander";
import { ConntrailError } from "../../errors.js";
import { compileFlowQuery } from "../../flow/filter.js";
import type { HistorySource } from "../../history/archive/archived-history.js";
import type { HistoryQuery } from "../../history/connection.js";
import { formatTime, type NamedTime, parseTime, requireOrder, requirePast } from "../../history/time.js";
import type { CommandContext } from "../command/command.js";
import { flowQuery } from "../command/flow-options.js";
import { printAnswer } from "./answer.js";
import { type ConnectionOutput, TEXT_FORMATS, textOutput } from "./connection-output.js";
import { type IpfixTarget, openIpfix, parseCollector } from "./ipfix-output.js";
import { addConnectionOptions, type ConnectionOptions, formatOf, readLimit, readNodes } from "./options.js";
import { withHistory } from "./source.js";

interface Options extends ConnectionOptions {
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
  readonly until: NamedTime | null;
  readonly limit: number | null;
  readonly format: ReturnType<typeof formatOf<NonNullable<Options["format"]>>>;
  /** Null unless the format is ipfix. */
  readonly target: IpfixTarget | null;
  readonly nowMs: number;
}

/** `history`: who talked to whom, when, and through which node. */
export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("history")
    .description("connections of all nodes out of their streams, each once, newest last");
  addConnectionOptions(command, [...TEXT_FORMATS, "ipfix"])
    .option("--since <time>", "connections that lived then or later: 2026-01-31T12:00Z, yesterday 14:03, -2h")
    .option("--until <time>", "connections that lived then or before")
    .option("--follow", "changes as they come, from now or --since on")
    .addOption(new Option("--output <file>", "with --format ipfix: the file to write"))
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
  return {
    options,
    since,
    until,
    limit: readLimit(options.limit),
    format,
    target: ipfixTarget(format, options),
    nowMs,
  };
}

function ipfixTarget(format: string, { output, collector }: Options): IpfixTarget | null {
  if (format !== "ipfix") {
    if (output === undefined && collector === undefined) return null;
    throw usage("--output and --collector belong to --format ipfix; other formats go to standard output");
  }
  if (output !== undefined && collector === undefined) return { type: "file", path: output };
  if (collector !== undefined && output === undefined) return parseCollector(collector);
  throw usage("--format ipfix needs either --output FILE or --collector [udp:|tcp:]HOST[:PORT]");
}

async function history(request: Request, context: CommandContext): Promise<void> {
  await withHistory(context, async (source) => {
    const { options, since, until, limit } = request;
    const nodes = readNodes(options.node, source.nodes);
    // Only translated connections give NAT events.
    const filter = { ...flowQuery(options), ...(request.target !== null && { nat: true }) };
    const query: HistoryQuery = { sinceMs: since?.ms ?? null, untilMs: until?.ms ?? null, filter, nodes, limit };
    const output = await openOutput(request, context);
    try {
      if (options.follow === true) await follow(source, query, output, context);
      else await printAnswer(source.connections(query, context.terminal.closed), output, context.terminal);
    } finally {
      await output.close();
    }
  });
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
  if (format === "ipfix") throw new Error("ipfix without a target");
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
