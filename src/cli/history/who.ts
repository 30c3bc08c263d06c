import type { Command } from "commander";
import { ConntrailError } from "../../errors.js";
import { formatAddress, parseAddress } from "../../flow/address.js";
import {
  hasPorts,
  IPPROTO_GRE,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  isIcmp,
  protocolNumber,
  protocolText,
} from "../../flow/protocol.js";
import { AF_INET } from "../../flow/record.js";
import { protocolOf } from "../../flow/record-fields.js";
import type { Connection, Gap, WhoQuestion } from "../../history/connection.js";
import { connectionToJson, gapToJson } from "../../history/format/connection-json.js";
import { formatTime, type NamedTime, parseTime, requirePast } from "../../history/time.js";
import { collectWho, type WhoFound } from "../../history/who-answer.js";
import type { CommandContext } from "../command/command.js";
import { formatColumns } from "../process/terminal.js";
import { printGaps } from "./answer.js";
import { endpoint, formatLocalTime } from "./connection-table.js";
import { LIMIT_MAX, readLimit } from "./options.js";
import { withHistory } from "./source.js";

const LIMIT_DEFAULT = 1000;

interface Options {
  at: string;
  proto?: string;
  limit?: string;
}

/** `who`: the inside host behind a public address and port. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("who")
    .description("the host inside behind a public address and port at a time; exit 1 when there was none")
    .argument("<address:port>", "203.0.113.1:61000, [2001:db8::1]:443; with --proto icmp ADDRESS:ID")
    .option("--at <time>", "when: 2026-01-31T12:00:05Z (that whole second), yesterday 14:03, -2h", "now")
    .option("--proto <protocol>", "protocol by name or number (default: all that have ports)")
    .option("--limit <count>", `so many answers (default ${LIMIT_DEFAULT}), ${LIMIT_MAX} at the most`)
    .action((text: string, options: Options) => who(text, options, context));
}

async function who(text: string, options: Options, context: CommandContext): Promise<void> {
  const nowMs = Date.now();
  const time = parseTime("--at", options.at, nowMs);
  requirePast("--at", options.at, time, nowMs);
  const question = whoQuestion(text, options.proto, time);
  const limit = readLimit(options.limit) ?? LIMIT_DEFAULT;
  const { terminal } = context;
  await withHistory(context, async (source) => {
    const answer = source.who(question, terminal.closed);
    const found = await collectWho(answer, question, limit + 1);
    terminal.throwIfClosed();
    const gaps = answer.gaps();
    const answers = found.slice(0, limit);
    if (context.json) await terminal.json(whoJson(question, answers, gaps));
    else if (answers.length > 0) await terminal.write(formatWho(answers));
    if (found.length > limit) terminal.complain(`there are more than ${limit} answers: --limit shows more of them`);
    if (answers.length === 0) printNobody(question, gaps, context);
    else printDoubts(answers, question, context);
    printGaps(gaps, terminal);
  });
}

/** Reads ADDRESS:PORT and `--proto`. Throws USAGE when either is wrong, or when they do not fit together. */
export function whoQuestion(text: string, proto: string | undefined, time: NamedTime): WhoQuestion {
  const protocol = proto === undefined ? null : protocolNumber(proto);
  if (protocol === undefined) {
    throw usage(`--proto: "${proto}" is not allowed; give a name such as tcp, or a number from 0 to 255`);
  }
  const { host, number } = splitEnd(text);
  const address = parseAddress(host);
  if (address === undefined) {
    throw usage(`"${text}" is no address and port; give 203.0.113.1:61000, or [2001:db8::1]:443`);
  }
  const family = address.family === AF_INET ? "IPv4" : "IPv6";
  if (protocol === (address.family === AF_INET ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
    throw usage(`--proto ${proto} does not go with ${host}, which is ${family}`);
  }
  return {
    address: formatAddress(address.words, 0, address.family),
    port: portOf(text, number, protocol),
    protocol,
    sinceMs: time.ms,
    untilMs: time.ms + time.spanMs - 1,
  };
}

/** A single colon separates host and port. With more colons the text is an IPv6 address, whose port needs brackets. */
function splitEnd(text: string): { host: string; number: string | null } {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(text);
  if (bracketed !== null) return { host: bracketed[1] ?? "", number: bracketed[2] ?? null };
  const [host, number, ...more] = text.split(":");
  if (host === undefined || number === undefined || more.length > 0) return { host: text, number: null };
  return { host, number };
}

function hasNumber(protocol: number | null): boolean {
  return protocol === null || hasPorts(protocol) || isIcmp(protocol) || protocol === IPPROTO_GRE;
}

function portOf(text: string, number: string | null, protocol: number | null): number {
  if (protocol !== null && !hasNumber(protocol)) {
    if (number === null) return 0;
    throw usage(`protocol ${protocolText(protocol)} has no ports: give the address alone`);
  }
  if (number === null) {
    const example = text.includes(":") && !text.startsWith("[") ? `[${text}]` : text;
    if (protocol !== null && isIcmp(protocol)) throw usage(`${text}: the ICMP id is missing; give ${example}:ID`);
    throw usage(`${text}: the port is missing; give ${example}:PORT, of ICMP the id with --proto icmp`);
  }
  if (/^\d{1,5}$/.test(number) && Number(number) <= 0xffff) return Number(number);
  throw usage(`${text}: "${number}" is no port; give a number from 0 to 65535`);
}

function whoJson(question: WhoQuestion, answers: readonly WhoFound[], gaps: readonly Gap[]): object {
  const { address, port, protocol, sinceMs } = question;
  return {
    address,
    ...(hasNumber(protocol) && { port }),
    ...(protocol !== null && { protocol: protocolText(protocol) }),
    at: formatTime(sinceMs),
    answers: answers.map(({ inside, remote, translation, connection }) => ({
      inside,
      remote,
      translation,
      connection: connectionToJson(connection),
    })),
    mayMiss: gaps.length > 0,
    gaps: gaps.map(gapToJson),
  };
}

/** A line for each answer. */
export function formatWho(answers: readonly WhoFound[]): string {
  const rows = answers.map(({ inside, remote, translation, connection }) => [
    endpoint(inside.address, inside.port),
    protocolNameOf(connection),
    translation === "none" ? "not translated" : translation,
    endpoint(remote.address, remote.port),
    connection.startMs === null ? "before" : formatLocalTime(connection.startMs),
    connection.endMs === null ? "-" : `${connection.end === "lost" ? "<" : ""}${formatLocalTime(connection.endMs)}`,
    connection.path.map(({ node }) => node).join(" → "),
  ]);
  return formatColumns([["INSIDE", "PROTO", "TRANSLATION", "REMOTE", "START", "END", "NODES"], ...rows]);
}

function protocolNameOf({ words }: Connection): string {
  return protocolText(protocolOf(words, 0));
}

function printNobody(question: WhoQuestion, gaps: readonly Gap[], { terminal }: CommandContext): void {
  const { address, port, protocol, sinceMs } = question;
  terminal.exitCode = 1;
  const asked = protocol === null ? "" : ` (${protocolText(protocol)})`;
  const doubt = gaps.length === 0 ? "no events are missing around then" : "but events may be missing around then";
  terminal.complain(
    `nobody had ${endpoint(address, hasNumber(protocol) ? port : undefined)}${asked} at ${formatTime(sinceMs)}; ${doubt}`,
  );
}

function printDoubts(answers: readonly WhoFound[], { protocol }: WhoQuestion, { terminal }: CommandContext): void {
  const protocols = new Set(answers.map(({ connection }) => protocolNameOf(connection)));
  if (protocol === null && protocols.size > 1) {
    terminal.complain(`${[...protocols].join(" and ")}: --proto chooses one of them`);
  }
}

function usage(text: string): ConntrailError {
  return new ConntrailError("USAGE", text);
}
