import { requestReport, requestStop } from "../../control/client.js";
import { dumpExpectations, dumpFlows } from "../command/table-dump.js";
import type { Terminal } from "../process/terminal.js";
import type { ConntrackdRequest } from "./options.js";
import { formatStatsPart, type StatsSources } from "./stats.js";

/** The part of the configuration that a request needs. */
export interface RequestConfig extends Pick<StatsSources, "link" | "expectations"> {
  /** Path of the control socket. */
  readonly control: string;
}

/**
 * Sends a request of conntrackd's options to the daemon, and prints what conntrackd prints. Waits for a commit and for
 * a resync with the kernel; a bulk and a resync with the peers only begin. Throws like `request`.
 */
export async function sendRequest(
  request: ConntrackdRequest,
  config: RequestConfig,
  terminal: Terminal,
): Promise<void> {
  const { control, link, expectations } = config;
  switch (request.kind) {
    case "dump": {
      const format = request.xml ? "xml" : "conntrack";
      if (request.part === "expect") return dumpExpectations(control, request.table, format, terminal);
      return dumpFlows(control, request.table, format, () => true, terminal);
    }
    case "stats": {
      const stats = await requestReport(control, "stats", {});
      const status = await requestReport(control, "status", {});
      return terminal.write(formatStatsPart(request.part, { stats, status, link, expectations }));
    }
    case "stop":
      return requestStop(control);
    default:
      await change(request, control);
  }
}

type Change = Exclude<ConntrackdRequest, { kind: "dump" | "stats" | "stop" }>;

function change(request: Change, control: string): Promise<object> {
  switch (request.kind) {
    case "commit":
      return requestReport(control, "commit", request.part === null ? {} : { only: request.part });
    case "flush":
      return requestReport(control, "flush", { table: request.cache });
    case "flush-kernel":
      return requestReport(control, "flush", {
        table: "kernel",
        ...(request.part === null ? {} : { only: request.part }),
      });
    case "resync-kernel":
      // Flows and expectations are read together, whichever was requested.
      return requestReport(control, "resync", { source: "kernel" });
    case "resync-peers":
      return requestReport(control, "resync", { source: "peers", wait: false });
    case "bulk":
      return requestReport(control, "bulk", { wait: false });
    case "purge":
      return requestReport(control, "purge", {});
    default:
      return request satisfies never;
  }
}
