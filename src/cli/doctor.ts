import type { Command } from "commander";
import { requestReport } from "../control/client.js";
import { type DaemonAnswers, examine } from "../doctor/doctor.js";
import type { Finding, Severity } from "../doctor/finding.js";
import { thisMachine } from "../doctor/machine.js";
import { errorText } from "../errors.js";
import type { CommandContext } from "./command/command.js";
import { loadAnyConfig } from "./command/config-file.js";

const WORDS: Readonly<Record<Severity, string>> = { ok: "ok", note: "note", warning: "warning", breaks: "BREAKS" };
/** The daemon answers at once or not at all: a slow one is a finding too. */
const SILENCE_MS_MAX = 5000;

/** `doctor`: looks at everything that a failover depends on; exit code 1 if something would break one. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("doctor")
    .description("look at everything that a failover depends on; exit 1 when one would lose connections")
    .option("-q, --quiet", "leave out what is well")
    .action(async ({ quiet = false }: { quiet?: boolean }) => {
      const config = loadAnyConfig(context.configPath);
      const findings = await examine(config, thisMachine, await askDaemon(config.control), Date.now());
      const broken = findings.some(({ severity }) => severity === "breaks");
      context.terminal.exitCode = broken ? 1 : 0;
      const shown = quiet ? findings.filter(({ severity }) => severity !== "ok") : findings;
      await context.print({ ok: !broken, findings: shown }, () => formatFindings(shown, findings));
    });
}

async function askDaemon(control: string): Promise<DaemonAnswers> {
  const options = { silenceMsMax: SILENCE_MS_MAX };
  try {
    const status = await requestReport(control, "status", {}, options);
    return { status, stats: await requestReport(control, "stats", {}, options), trouble: "" };
  } catch (error) {
    return { status: null, stats: null, trouble: errorText(error) };
  }
}

/** The findings as text: a line each, below it what to do, and the sum at the end. */
export function formatFindings(shown: readonly Finding[], all: readonly Finding[]): string {
  const lines = shown.map(({ severity, text, cure }) => {
    const below = cure === null ? "" : `${" ".repeat(9)}do: ${cure}\n`;
    return `${WORDS[severity].padEnd(9)}${text}\n${below}`;
  });
  const count = (severity: Severity): number => all.filter((finding) => finding.severity === severity).length;
  const broken = count("breaks");
  const verdict = broken === 0 ? "a failover would lose nothing" : "a failover would lose connections";
  return `${lines.join("")}\n${verdict}: ${broken} break it, ${count("warning")} warnings, ${count("note")} notes, ${count("ok")} ok\n`;
}
