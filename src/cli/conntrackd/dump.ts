import type { Shape } from "../../conntrackd/shape.js";
import { requestDump, requestExpectations, requestReport } from "../../control/client.js";
import { expectationFromJson, formatExpectation } from "../../flow/expectation.js";
import { formatConntrack, formatConntrackTool } from "../../flow/format.js";
import { dumpExpectations, dumpFlows, printFlows } from "../command/table-dump.js";
import type { Terminal } from "../process/terminal.js";
import type { ConntrackdRequest } from "./options.js";

/** When an entry of mode ALARM would expire: each refresh gives it the whole timeout again. */
export interface AlarmTimes {
  readonly refreshSeconds: number;
  readonly cacheSeconds: number;
}

/**
 * Prints what conntrackd prints of a table in the mode of the file: a disabled external cache is empty, and in place of
 * a disabled internal cache the kernel's table is printed, by conntrack(8)'s format even as XML.
 */
export async function dumpTable(
  request: Extract<ConntrackdRequest, { kind: "dump" }>,
  { control, shape, alarm }: { control: string; shape: Shape; alarm: AlarmTimes | null },
  terminal: Terminal,
): Promise<void> {
  const { table, part, xml } = request;
  const isPassedBy = table === "internal" && !shape.internal;
  const isEmpty =
    (table === "external" && !shape.external) || (part === "expect" && (!shape.expectations || isPassedBy));
  if (isEmpty) {
    await requestReport(control, "stats", {});
    return;
  }
  if (isPassedBy) return dumpPassedBy(control, terminal);
  const format = xml ? "xml" : "conntrack";
  if (table === "external" && alarm !== null && !xml) return dumpExpiring(control, part, alarm, terminal);
  if (part === "expect") return dumpExpectations(control, table, format, terminal);
  return dumpFlows(control, table, format, () => true, terminal);
}

/** Every entry has one user, the table itself, while nobody looks at it. */
const USE = " use=1";

async function dumpPassedBy(control: string, terminal: Terminal): Promise<void> {
  const batches = requestDump(control, "kernel", { signal: terminal.closed, replicated: true });
  await printFlows(batches, terminal, (words, base, rare, counters) => {
    const options = counters === undefined ? {} : { counters };
    return `${formatConntrackTool(words, base, rare, options)}${USE}`;
  });
}

async function dumpExpiring(
  control: string,
  part: "ct" | "expect",
  alarm: AlarmTimes,
  terminal: Terminal,
): Promise<void> {
  const nowSeconds = Math.floor(Date.now() / 1000);
  if (part === "ct") {
    const expiresIn = (updatedSeconds: number): number => expirySeconds(nowSeconds - updatedSeconds, alarm);
    const options = { reply: false, nowSeconds, expiresIn };
    const batches = requestDump(control, "external", { signal: terminal.closed });
    await printFlows(batches, terminal, (words, base, rare) => formatConntrack(words, base, rare, options));
    return;
  }
  for (const view of await requestExpectations(control, "external", { signal: terminal.closed })) {
    const activeSeconds = view.activeSeconds ?? 0;
    const line = formatExpectation(expectationFromJson(view), activeSeconds, expirySeconds(activeSeconds, alarm));
    await terminal.write(`${line}\n`);
  }
}

function expirySeconds(ageSeconds: number, { refreshSeconds, cacheSeconds }: AlarmTimes): number {
  return cacheSeconds - (Math.max(0, ageSeconds) % refreshSeconds);
}
