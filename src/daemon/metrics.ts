import type { Logger } from "pino";
import type { OwnStatus, StatsReport } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { formatMetrics, type MetricsEndpoint, serveMetrics } from "../metrics/prometheus.js";
import { pause } from "../os/pause.js";
import type { TakeDown } from "../sync/take-down.js";

const RETRY_MS = 10_000;

/**
 * Serves metrics until the end. Any user of the machine may listen at that address first: that is logged and tried
 * again, and never keeps the node from working.
 */
export async function openMetrics(
  endpoint: MetricsEndpoint,
  reports: { ownStatus(): OwnStatus; stats(): StatsReport },
  log: Logger,
  down: TakeDown,
): Promise<void> {
  const text = (): string => formatMetrics(reports.ownStatus(), reports.stats());
  const end = new AbortController();
  let close: (() => Promise<void>) | null = null;
  const serve = async (): Promise<boolean> => {
    try {
      close = await serveMetrics(endpoint, text);
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
