import type { Command } from "commander";
import type { PeerRehearsal, RehearsalReport } from "../control/protocol.js";
import { plainText } from "../flow/plain-text.js";
import type { CommandContext } from "./command/command.js";
import { formatColumns, formatMs } from "./process/terminal.js";

/** `rehearse`: what a takeover by each peer would lose now; exit code 1 when anything. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("rehearse")
    .description("what a takeover by each peer would lose now, flow by flow; exit 1 when anything")
    .action(async () => {
      const report = await context.ask("rehearse", {});
      context.terminal.exitCode = report.loses ? 1 : 0;
      await context.print(report, formatRehearsal);
    });
}

const KINDS: Readonly<Record<keyof PeerRehearsal["examples"], string>> = {
  missing: "does not have",
  differing: "has in another state",
  withoutHelper: "lacks the helper of",
};

/** The report as text. */
export function formatRehearsal({ node, flows, filtered, peers, durationMs }: RehearsalReport): string {
  const left = filtered === 0 ? "" : `; the filter leaves ${filtered} more out, which every takeover loses`;
  const head = `${node} carries ${flows} flows${left} (checked in ${formatMs(durationMs)})\n`;
  if (peers.length === 0) return `${head}no peers: nobody can take over\n`;
  const heading = ["TAKEOVER BY", "CHECKED", "MISSING", "DIFFERING", "NO HELPER", "NO ROOM", "WOULD LOSE"];
  return `${head}\n${formatColumns([heading, ...peers.map(peerRow)])}${peers.map(examplesText).join("")}`;
}

function peerRow(peer: PeerRehearsal): string[] {
  const { node, error, checked, missing, differing, withoutHelper, overLimit } = peer;
  const counts = [checked, missing, differing, withoutHelper, overLimit].map(String);
  const nothing = missing + differing + withoutHelper + overLimit === 0;
  return [node, ...counts, error !== null ? `not known: ${error}` : nothing ? "nothing" : "something"];
}

function examplesText({ node, examples }: PeerRehearsal): string {
  const kinds = Object.entries(KINDS) as [keyof PeerRehearsal["examples"], string][];
  return kinds
    .filter(([kind]) => examples[kind].length > 0)
    .map(([kind, what]) => `\n${node} ${what}\n${examples[kind].map((line) => `  ${plainText(line)}\n`).join("")}`)
    .join("");
}
