import type { Command } from "commander";
import type {
  ArchiveStatus,
  FormatStatus,
  HookStatus,
  PeerStatus,
  StatusReport,
  StreamStatus,
} from "../control/protocol.js";
import { plainText } from "../flow/plain-text.js";
import type { CommandContext } from "./command/command.js";
import { formatColumns, formatMs } from "./process/terminal.js";

/** `status`: the state of this node; exit code 1 when it is not in sync. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("status")
    .description("node, role, peers and their lag, broker; exit 1 when not in sync")
    .action(async () => {
      const report = await context.ask("status", {});
      context.terminal.exitCode = report.inSync ? 0 : 1;
      await context.print(report, formatStatus);
    });
}

/** The report as text. */
export function formatStatus(report: StatusReport): string {
  if (report.broker.mode === "none") return formatAlone(report);
  const { kernel, broker, publisher } = report;
  const restarts = broker.restarts === 0 ? "" : `, restarted ${broker.restarts} times`;
  const server = `${broker.url}${broker.version === null ? "" : ` (nats-server ${broker.version})`}`;
  const head = formatColumns([
    ["node", `${report.node} of cluster ${report.cluster}, epoch ${report.epoch}`],
    ["role", roleText(report)],
    ["in sync", yesNo(report.inSync)],
    ["kernel", `${kernel.entries} of ${kernel.max} entries`],
    ["internal", `${report.internal.flows} flows`],
    ["external", `${report.external.flows} flows`],
    ["broker", `${broker.mode}, ${broker.state}, ${server}${restarts}`],
    ["format", formatText(report.format)],
    ["publisher", `${publisher.state}, confirmed ${publisher.confirmedNumber}, unconfirmed ${publisher.unconfirmed}`],
    ...(report.keys === undefined ? [] : [["keys", `valid until ${isoSeconds(report.keys.untilMs).slice(0, 10)}`]]),
  ]);
  const heading = ["PEER", "ADDRESS", "CONNECTED", "IN SYNC", "LAG EVENTS", "LAG", "LAST HEARD", "EPOCH", "FLOWS"];
  const peers =
    report.peers.length === 0 ? "no peers\n" : `\n${formatColumns([heading, ...report.peers.map(peerRow)])}`;
  return `${head}${reasonsText(report)}${hooksText(report.hooks)}${peers}${streamsText(report.streams)}${archiveText(report.archive)}`;
}

/** Mode `stats`: a node without a stream, and without anybody who could be in sync. */
function formatAlone(report: StatusReport): string {
  const { kernel, internal } = report;
  const head = formatColumns([
    ["node", "statistics alone"],
    ["kernel", `${kernel.entries} of ${kernel.max} entries`],
    ["internal", `${internal.flows} flows`],
  ]);
  return `${head}${reasonsText(report)}`;
}

/** The role; with several sync groups, the role of each as well. */
function roleText({ role, hooks = [] }: StatusReport): string {
  if (hooks.length < 2) return role;
  return `${role} (${hooks.map((hook) => `${hook.group || "no group"}: ${hook.role}`).join(", ")})`;
}

/** The versions of the stream's format, and what keeps this node from writing the highest that it can. */
function formatText({ writes, reads, reason }: FormatStatus): string {
  const known = `reads ${reads.join(" and ")}`;
  if (writes === null) return known;
  return `writes ${writes}${reason === null ? "" : `, because ${reason}`}; ${known}`;
}

/** Why it is not in sync, and warnings, a line each. */
function reasonsText({ reason, warnings, peers }: StatusReport): string {
  const lines = reason === null ? [] : [`not in sync: ${reason}`];
  for (const peer of peers) if (peer.reason !== null) lines.push(`not in sync with ${peer.node}: ${peer.reason}`);
  for (const warning of warnings) lines.push(`warning: ${warning}`);
  return lines.map((line) => `${plainText(line)}\n`).join("");
}

function hooksText(hooks: readonly HookStatus[] = []): string {
  return hooks
    .filter(({ state, error }) => state !== "taken" || error !== null)
    .map(
      (hook) =>
        `\nhook ${hook.role}${hook.group && ` of ${hook.group}`} at ${isoSeconds(hook.saidMs)} ${plainText(fate(hook))}\n`,
    )
    .join("");
}

function fate({ state, error }: HookStatus): string {
  if (state === "under way") return "is under way";
  return `failed${state === "taken" ? ", and was taken up later" : ""}: ${error}`;
}

function streamsText(streams: readonly StreamStatus[] | null): string {
  if (streams === null) return "\nthe broker does not tell of its streams\n";
  if (streams.length === 0) return "";
  return `\n${formatColumns([["STREAM", "KEPT SINCE", "MESSAGES", "SIZE", "CUT OFF"], ...streams.map(streamRow)])}`;
}

function streamRow({ node, sinceMs, messages, bytes, cut }: StreamStatus): string[] {
  const size = `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
  return [node, isoSeconds(sinceMs), String(messages), size, cut === 0 ? "nothing" : `${cut} messages`];
}

function archiveText(archive: ArchiveStatus | undefined): string {
  if (archive === undefined) return "";
  const cut = archive.daysCut === 0 ? "nothing" : `${archive.daysCut} days`;
  return `\narchive holds what ended until ${isoSeconds(archive.untilMs)}, cut off: ${cut}\n`;
}

function isoSeconds(ms: number | null): string {
  return ms === null ? "-" : new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
}

function peerRow(peer: PeerStatus): string[] {
  return [
    peer.node,
    peer.discovered ? `${peer.address} (discovered)` : peer.address,
    yesNo(peer.connected),
    yesNo(peer.inSync),
    String(peer.lagEvents ?? "-"),
    formatMs(peer.lagMs),
    peer.lastHeardMs === null ? "never" : `${formatMs(peer.lastHeardMs)} ago`,
    String(peer.epoch ?? "-"),
    String(peer.flows),
  ];
}

function yesNo(value: boolean): string {
  return value ? "yes" : "no";
}
