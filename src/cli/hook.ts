import { Argument, type Command, InvalidArgumentError } from "commander";
import { DEFAULT_CONFIG_PATH, DEFAULT_CONTROL } from "../config/config-text.js";
import { requestWhenReady } from "../control/client.js";
import { type HookRecord, HookTrace } from "../control/hook-trace.js";
import { type CommandArgs, GROUP_NAME, HOOK_ROLES, type HookReport, type HookRole } from "../control/protocol.js";
import { linkTarget } from "../control/socket-file.js";
import { ConntrailError, errorText } from "../errors.js";
import type { CommandContext } from "./command/command.js";
import { formatCommit } from "./commit.js";
import { daemonRuns, hookStart } from "./process/hook-process.js";
import { formatMs } from "./process/terminal.js";

/** `hook`: called by keepalived when this node's role changes. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("hook")
    .description("tell the daemon its role; keepalived calls this")
    .addArgument(new Argument("<role>", "primary, backup or fault").choices(HOOK_ROLES))
    .option("--group <name>", "which of several sync groups has changed its role", groupName)
    .action(async (role: HookRole, { group }: { group?: string }) => {
      const report = await traced(context, role, group);
      await context.print(report, () => `${formatHook(report)}\n`);
    });
}

function groupName(text: string): string {
  if (GROUP_NAME.test(text)) return text;
  throw new InvalidArgumentError("allowed are letters, digits, dots, hyphens and underscores, at most 64.");
}

/** Asks the daemon. Leaves a trace of the role and of the outcome for the next daemon. */
async function traced(context: CommandContext, role: HookRole, group?: string): Promise<HookReport> {
  const started = hookStart();
  const record: HookRecord = { group: group ?? "", role, started, saidMs: Date.now(), taken: false, error: null };
  // If the default configuration cannot be read, the default socket still has a trace.
  const unread = context.configPath === DEFAULT_CONFIG_PATH ? DEFAULT_CONTROL : null;
  let trace = unread === null ? null : new HookTrace(unread);
  try {
    const control = await context.controlPath();
    trace = new HookTrace(control);
    keep(trace, record);
    const report = await ask(context, control, { role, ...(group === undefined ? {} : { group }), started });
    if (report.commit?.underWay !== true) keepTaken(trace, record);
    return report;
  } catch (error) {
    if (trace !== null) keep(trace, { ...record, error: errorText(error) });
    throw asRoot(error);
  }
}

async function ask(context: CommandContext, control: string, args: CommandArgs["hook"]): Promise<HookReport> {
  const onProgress = (text: string): void => context.terminal.progress(text);
  const isThere = (): boolean => daemonRuns(context.configPath, linkTarget(control));
  const { started, ...known } = args;
  try {
    return await requestWhenReady(control, "hook", args, isThere, { onProgress });
  } catch (error) {
    // A daemon of an earlier release, until it is restarted, does not know `started`.
    if (started === undefined || !(error instanceof ConntrailError) || error.code !== "MALFORMED") throw error;
    return requestWhenReady(control, "hook", known, isThere, { onProgress });
  }
}

/** A trace that cannot be written is not reported: the hook's own work is more important, and its failure is logged. */
function keep(trace: HookTrace, record: HookRecord): void {
  try {
    trace.write(record);
  } catch {
    // Not root, or the file system is full.
  }
}

/** Writes that the role is taken. Daemons do this themselves, but not those of an earlier release. */
function keepTaken(trace: HookTrace, record: HookRecord): void {
  try {
    const last = trace.read().find(({ group }) => group === record.group);
    if (last?.taken === false) trace.write({ ...record, taken: true });
  } catch {
    // As in `keep`.
  }
}

function asRoot(error: unknown): unknown {
  if (!(error instanceof ConntrailError) || error.code !== "PERMISSION") return error;
  return new ConntrailError("PERMISSION", `${error.message} (keepalived: script_user root)`, { cause: error });
}

/** A role change in one line. */
export function formatHook(report: HookReport): string {
  if (report.ignored === true) return `${report.role} ignored: keepalived has said ${report.previous} since`;
  const change = `${report.previous} -> ${report.role} in ${formatMs(report.durationMs)}`;
  return report.commit === null ? change : `${change}: ${formatCommit(report.commit)}`;
}
