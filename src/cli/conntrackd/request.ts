import { DEFAULT_SHAPE, type Shape } from "../../conntrackd/shape.js";
import { requestReport, requestStop } from "../../control/client.js";
import type { Terminal } from "../process/terminal.js";
import { type AlarmTimes, dumpTable } from "./dump.js";
import type { ConntrackdRequest } from "./options.js";
import { formatStatsPart, reportedShape, type StatsLink } from "./stats.js";

/** The part of the configuration that a request needs. */
export interface RequestConfig {
  readonly link: StatsLink;
  /** Null for conntrail's own configuration, which does not name it. */
  readonly shape: Shape | null;
  /** Path of the control socket. */
  readonly control: string;
  /** Mode ALARM's times; null in the other modes. */
  readonly alarm: AlarmTimes | null;
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
  const { control, link } = config;
  switch (request.kind) {
    case "dump":
      return dumpTable(request, { ...config, shape: config.shape ?? DEFAULT_SHAPE }, terminal);
    case "stats": {
      const stats = await requestReport(control, "stats", {});
      const status = await requestReport(control, "status", {});
      const shape = config.shape ?? reportedShape(stats, status);
      return terminal.write(formatStatsPart(request.part, { stats, status, link, shape }));
    }
    case "stop":
      return requestStop(control);
    default:
      await change(config.shape?.mode === "stats" ? withoutPeers(request) : request, control);
  }
}

type Change = Exclude<ConntrackdRequest, { kind: "dump" | "stats" | "stop" }>;

/** Statistics alone have one cache and no peers. What concerns those is answered and changes nothing, as in conntrackd. */
function withoutPeers(request: Change): Change | null {
  if (request.kind === "flush") return request.cache === "external" ? null : { kind: "flush", cache: "internal" };
  return request.kind === "flush-kernel" || request.kind === "resync-kernel" ? request : null;
}

function change(request: Change | null, control: string): Promise<object> {
  switch (request?.kind) {
    case undefined:
      return requestReport(control, "stats", {});
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
