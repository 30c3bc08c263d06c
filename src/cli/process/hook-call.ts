import { DEFAULT_CONFIG_PATH, DEFAULT_CONTROL } from "../../config/config-text.js";
import { requestWhenReady } from "../../control/client.js";
import { type HookRecord, HookTrace } from "../../control/hook-trace.js";
import { linkTarget } from "../../control/link-target.js";
import type { CommandArgs, HookReport, HookRole } from "../../control/protocol.js";
import { ConntrailError, errorText } from "../../errors.js";
import { daemonRuns, hookStart } from "./hook-process.js";

/** A hook as keepalived has called it. */
export interface HookCall {
  readonly role: HookRole;
  readonly group?: string | undefined;
  readonly configPath: string;
  /** Reads from the configuration where the control socket is. */
  readonly controlPath: () => Promise<string>;
  /** Called with each line of progress. */
  readonly onProgress: (text: string) => void;
}

/** Asks the daemon. Leaves a trace of the role and of the outcome for the next daemon. */
export async function callHook(call: HookCall): Promise<HookReport> {
  const { role, group } = call;
  const started = hookStart();
  const record: HookRecord = { group: group ?? "", role, started, saidMs: Date.now(), taken: false, error: null };
  // If the default configuration cannot be read, the default socket still has a trace.
  const unread = call.configPath === DEFAULT_CONFIG_PATH ? DEFAULT_CONTROL : null;
  let trace = unread === null ? null : new HookTrace(unread);
  try {
    const control = await call.controlPath();
    trace = new HookTrace(control);
    keep(trace, record);
    const report = await ask(call, control, { role, ...(group === undefined ? {} : { group }), started });
    if (report.commit?.underWay !== true) keepTaken(trace, record);
    return report;
  } catch (error) {
    if (trace !== null) keep(trace, { ...record, error: errorText(error) });
    throw asRoot(error);
  }
}

async function ask(call: HookCall, control: string, args: CommandArgs["hook"]): Promise<HookReport> {
  const { configPath, onProgress } = call;
  const isThere = (): boolean => daemonRuns(configPath, linkTarget(control));
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
