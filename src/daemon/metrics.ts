import { statfs } from "node:fs/promises";
import type { Logger } from "pino";
import type { Config } from "../config/config.js";
import type { OwnStatus, StatsReport, StatusReport } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { formatMetrics, health, type MetricsFacts } from "../metrics/node.js";
import { type MetricsEndpoint, type MetricsPages, serveMetrics } from "../metrics/server.js";
import { pause } from "../os/pause.js";
import type { TakeDown } from "../sync/take-down.js";

const RETRY_MS = 10_000;
/** A broker that hangs must not make a scrape hang: it then has no figures of the streams. */
const STREAMS_MS_MAX = 1000;

/** The reports that metrics are made of. */
export interface MetricsReports {
  ownStatus(): OwnStatus;
  status(): Promise<StatusReport>;
  stats(): StatsReport;
}

/** The pages that are served for a node. Everything is computed when it is asked for. */
export function metricsPages(reports: MetricsReports, config: Config, version: string): MetricsPages {
  return {
    health: () => health(reports.ownStatus()),
    metrics: async () => {
      const [kept, facts] = await Promise.all([streamsInTime(reports), factsOf(config, version)]);
      return formatMetrics(reports.ownStatus(), reports.stats(), kept, facts);
    },
  };
}

async function streamsInTime(reports: MetricsReports): Promise<StatusReport["streams"]> {
  const end = new AbortController();
  const late = pause(STREAMS_MS_MAX, end.signal).then(() => null);
  const kept = reports.status().then(({ streams }) => streams);
  return Promise.race([kept, late]).finally(() => end.abort());
}

async function factsOf({ broker }: Config, version: string): Promise<MetricsFacts> {
  if (broker.mode !== "embedded") return { version, store: null };
  const disk = await statfs(broker.store).catch(() => null);
  if (disk === null) return { version, store: null };
  return { version, store: { freeBytes: disk.bavail * disk.bsize, totalBytes: disk.blocks * disk.bsize } };
}

/**
 * Serves metrics until the end. Any user of the machine may listen at that address first: that is logged and tried
 * again, and never keeps the node from working.
 */
export async function openMetrics(
  endpoint: MetricsEndpoint,
  pages: MetricsPages,
  log: Logger,
  down: TakeDown,
): Promise<void> {
  const end = new AbortController();
  let close: (() => Promise<void>) | null = null;
  const serve = async (): Promise<boolean> => {
    try {
      close = await serveMetrics(endpoint, pages);
      return true;
    } catch (error) {
      log.error({ error: errorText(error) }, "metrics are not served; it is tried again");
      return false;
    }
  };
  const retry = async (): Promise<void> => {
    do await pause(RETRY_MS, end.signal, { ref: false });
    while (!end.signal.aborted && !(await serve()));
  };
  const served = await serve();
  const retrying = served ? Promise.resolve() : retry();
  down.push(async () => {
    end.abort();
    await retrying;
    await close?.();
  });
}
