import { createServer } from "node:http";
import type { OwnStatus, StatsReport } from "../control/protocol.js";
import { ConntrailError, errorText } from "../errors.js";

/** Where metrics are served. */
export interface MetricsEndpoint {
  readonly host: string;
  readonly port: number;
}

const CONNECTIONS_MAX = 16;
const REQUEST_TIMEOUT_MS = 5000;

/**
 * Serves `text` for Prometheus at `/metrics`, until the function that is returned is called.
 * Throws ConntrailError PORT_TAKEN or CONTROL when it cannot listen there.
 */
export async function serveMetrics(endpoint: MetricsEndpoint, text: () => string): Promise<() => Promise<void>> {
  const server = createServer((request, response) => {
    if (request.method !== "GET" || request.url !== "/metrics") {
      response.writeHead(404).end("only GET /metrics is here\n");
      return;
    }
    response.writeHead(200, { "content-type": "text/plain; version=0.0.4" }).end(text());
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(refusal(endpoint, error)));
    server.listen(endpoint.port, endpoint.host, resolve);
  });
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
}

function refusal({ host, port }: MetricsEndpoint, error: NodeJS.ErrnoException): ConntrailError {
  const taken = error.code === "EADDRINUSE";
  const text = taken ? "is taken by another program" : `cannot be listened on (${errorText(error)})`;
  const code = taken ? "PORT_TAKEN" : "CONTROL";
  return new ConntrailError(code, `metrics.listen ${host}:${port} ${text}: set another address`, { cause: error });
}

/**
 * Status and counters in Prometheus' text format: gauges of the node and of each peer, then every counter of `stats`
 * as `conntrail_counter{group,name}`, so that new counters need no new metric.
 */
export function formatMetrics(status: OwnStatus, stats: StatsReport): string {
  const lines: string[] = [];
  const gauge: Gauge = (name, help, samples) => {
    lines.push(`# HELP conntrail_${name} ${help}`, `# TYPE conntrail_${name} gauge`);
    for (const [labels, value] of samples) lines.push(`conntrail_${name}${labels} ${value}`);
  };
  nodeGauges(status, gauge);
  takeoverGauges(stats.takeover ?? {}, gauge);
  peerGauges(status.peers, gauge);
  lines.push("# HELP conntrail_counter counters of `conntrail stats`", "# TYPE conntrail_counter untyped");
  for (const [group, counters] of Object.entries(stats)) {
    for (const [name, value] of Object.entries(counters)) {
      lines.push(`conntrail_counter{group="${group}",name="${name}"} ${value}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** Adds a gauge with its samples. */
type Gauge = (name: string, help: string, samples: readonly (readonly [labels: string, value: number])[]) => void;

function nodeGauges(status: OwnStatus, gauge: Gauge): void {
  gauge("in_sync", "1 when a takeover now would lose nothing", [["", Number(status.inSync)]]);
  gauge("primary", "1 when keepalived made this node primary", [["", Number(status.role === "primary")]]);
  gauge("kernel_entries", "entries of the kernel's conntrack table", [["", status.kernel.entries]]);
  gauge("kernel_entries_limit", "nf_conntrack_max", [["", status.kernel.max]]);
  gauge("internal_flows", "flows of the internal cache", [["", status.internal.flows]]);
  gauge("external_flows", "flows of the external cache", [["", status.external.flows]]);
  const { writes } = status.format;
  if (writes !== null) gauge("format_version", "version of the stream's format that the node writes", [["", writes]]);
  gauge("unconfirmed_messages", "messages that the broker has yet to confirm", [["", status.publisher.unconfirmed]]);
  if (status.keys !== undefined) {
    const { untilMs, authorityUntilMs } = status.keys;
    gauge("certificate_expiry_seconds", "when a certificate of the link ends, seconds since 1970", [
      ['{of="node"}', Math.floor(untilMs / 1000)],
      ['{of="authority"}', Math.floor(authorityUntilMs / 1000)],
    ]);
  }
}

function takeoverGauges(takeover: StatsReport[string], gauge: Gauge): void {
  if ((takeover.takeovers ?? 0) === 0) return;
  const last = (name: string): number => takeover[name] ?? 0;
  gauge("last_takeover_time_seconds", "when this daemon's last takeover began, seconds since 1970", [
    ["", last("lastAtMs") / 1000],
  ]);
  gauge("last_takeover_duration_seconds", "how long it took", [["", last("lastDurationMs") / 1000]]);
  gauge("last_takeover_flows", "flows of that takeover, by what became of them", [
    ['{outcome="committed"}', last("lastCommitted")],
    ['{outcome="ahead"}', last("lastAhead")],
    ['{outcome="updated"}', last("lastUpdated")],
    ['{outcome="failed"}', last("lastFailed")],
    ['{outcome="stale"}', last("lastStale")],
  ]);
}

function peerGauges(peers: OwnStatus["peers"], gauge: Gauge): void {
  const each = (pick: (peer: OwnStatus["peers"][number]) => number | null): (readonly [string, number])[] =>
    peers.flatMap((peer) => {
      const value = pick(peer);
      return value === null ? [] : [[`{peer="${peer.node}"}`, value] as const];
    });
  gauge(
    "peer_connected",
    "1 while the peer's broker answers",
    each((peer) => Number(peer.connected)),
  );
  gauge(
    "peer_in_sync",
    "1 while the peer's exact table is held",
    each((peer) => Number(peer.inSync)),
  );
  gauge(
    "peer_could_take_over",
    "1 while the peer says that it has all of this node's flows",
    each((peer) => (peer.couldTakeOver === null ? null : Number(peer.couldTakeOver))),
  );
  gauge(
    "peer_lag_messages",
    "messages that wait to be applied",
    each((peer) => peer.lagEvents),
  );
  gauge(
    "peer_lag_seconds",
    "age of what is applied now",
    each((peer) => seconds(peer.lagMs)),
  );
  gauge(
    "peer_last_heard_seconds",
    "time since the last message",
    each((peer) => seconds(peer.lastHeardMs)),
  );
  gauge(
    "peer_clock_offset_seconds",
    "how far the peer's clock is ahead of this node's",
    each((peer) => seconds(peer.clockOffsetMs)),
  );
  gauge(
    "peer_flows",
    "flows that the peer owns in the external cache",
    each((peer) => peer.flows),
  );
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}
