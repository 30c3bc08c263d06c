import type { OwnStatus, PeerStatus, StatsReport, StreamStatus } from "../control/protocol.js";
import { addCounters } from "./counters.js";
import { Exposition } from "./exposition.js";
import { addProcess } from "./process.js";

/** What is known besides the daemon's reports. */
export interface MetricsFacts {
  /** The release of the daemon. */
  readonly version: string;
  /** The disk of the broker's store; null where another machine has it. */
  readonly store: { readonly freeBytes: number; readonly totalBytes: number } | null;
}

/** The streams, if the broker told of them in time. */
export type KeptStreams = readonly StreamStatus[] | null;

const ROLES = ["primary", "backup", "fault", "unknown"] as const;

/** All metrics of a node, in Prometheus' text format. What is not known has no sample. */
export function formatMetrics(
  status: OwnStatus,
  stats: StatsReport,
  streams: KeptStreams,
  facts: MetricsFacts,
): string {
  const out = new Exposition();
  const build = { version: facts.version, node_version: process.versions.node };
  out.gauge("conntrail_build_info", "Always 1: the release, and the Node.js that runs it", 1, build);
  out.gauge("conntrail_node_info", "Always 1: the names", 1, { node: status.node, cluster: status.cluster });
  addNode(out, status);
  addBroker(out, status, streams, facts);
  addTakeover(out, stats.takeover ?? {});
  for (const peer of status.peers) addPeer(out, peer);
  addCounters(out, stats);
  addProcess(out);
  return out.text();
}

/** What `/healthz` answers: this node works when the peers can have all of its flows. A peer that is away is no fault. */
export function health(status: OwnStatus): { ok: boolean; body: object } {
  const { node, role, inSync, reason } = status;
  const late = status.peers.filter((peer) => !peer.inSync).map((peer) => peer.node);
  return { ok: reason === null, body: { ok: reason === null, node, role, inSync, reason, notInSyncWith: late } };
}

function addNode(
  out: Exposition,
  { role, inSync, kernel, internal, external, format, keys, hooks = [] }: OwnStatus,
): void {
  out.gauge("conntrail_in_sync", "1 when a takeover now would lose nothing", Number(inSync));
  for (const one of ROLES) {
    out.gauge("conntrail_role", "1 for the role that keepalived gave this node", Number(role === one), { role: one });
  }
  const failed = hooks.filter(({ state }) => state === "failed").length;
  out.gauge("conntrail_hooks_failed", "Sync groups whose last hook failed", failed);
  out.gauge("conntrail_kernel_entries", "Entries of the kernel's conntrack table", kernel.entries);
  out.gauge("conntrail_kernel_entries_limit", "Entries that the table may hold (nf_conntrack_max)", kernel.max);
  out.gauge("conntrail_internal_flows", "Flows of the internal cache", internal.flows);
  out.gauge("conntrail_external_flows", "Flows of the external cache", external.flows);
  out.gauge("conntrail_format_version", "Version of the stream's format that the node writes", format.writes);
  if (keys === undefined) return;
  const help = "When a certificate of the link ends, since the Unix epoch";
  const name = "conntrail_certificate_expiry_timestamp_seconds";
  out.gauge(name, help, Math.floor(keys.untilMs / 1000), { certificate: "node" });
  out.gauge(name, help, Math.floor(keys.authorityUntilMs / 1000), { certificate: "authority" });
}

function addBroker(
  out: Exposition,
  { broker, publisher }: OwnStatus,
  streams: KeptStreams,
  { store }: MetricsFacts,
): void {
  out.gauge("conntrail_broker_up", "1 while this node's broker works", Number(broker.state === "up"));
  const labels = { mode: broker.mode, version: broker.version ?? "unknown" };
  out.gauge("conntrail_broker_info", "Always 1: how the broker runs, and its nats-server", 1, labels);
  out.counter("conntrail_broker_restarts_total", "How often the daemon started the broker again", broker.restarts);
  out.gauge("conntrail_publisher_up", "1 while this node publishes", Number(publisher.state !== "down"));
  out.gauge("conntrail_unconfirmed_messages", "Messages that the broker has yet to confirm", publisher.unconfirmed);
  out.gauge("conntrail_store_free_bytes", "Room on the disk of the broker's store", store?.freeBytes ?? null);
  out.gauge("conntrail_store_size_bytes", "Size of the disk of the broker's store", store?.totalBytes ?? null);
  for (const { node, messages, bytes, sinceMs, cut } of streams ?? []) {
    const of = { node };
    out.gauge("conntrail_stream_messages", "Messages that the broker keeps of a node's stream", messages, of);
    out.gauge("conntrail_stream_bytes", "What they take", bytes, of);
    const since = sinceMs === null ? null : sinceMs / 1000;
    out.gauge(
      "conntrail_stream_oldest_timestamp_seconds",
      "When the oldest was stored, since the Unix epoch",
      since,
      of,
    );
    out.gauge("conntrail_stream_cut_messages", "Messages that max_age and max_bytes have removed", cut, of);
  }
}

/** Nothing before the first takeover. */
function addTakeover(out: Exposition, takeover: StatsReport[string]): void {
  if ((takeover.takeovers ?? 0) === 0) return;
  const last = (name: string): number => takeover[name] ?? 0;
  const begun = "When this daemon's last takeover began, since the Unix epoch";
  out.gauge("conntrail_last_takeover_timestamp_seconds", begun, last("lastAtMs") / 1000);
  out.gauge("conntrail_last_takeover_duration_seconds", "How long it took", last("lastDurationMs") / 1000);
  for (const name of ["Committed", "Ahead", "Updated", "Failed", "Stale"]) {
    const labels = { outcome: name.toLowerCase() };
    out.gauge("conntrail_last_takeover_flows", "Flows of it, by what became of them", last(`last${name}`), labels);
  }
}

function addPeer(out: Exposition, peer: PeerStatus): void {
  const of = { peer: peer.node };
  const gauge = (name: string, help: string, value: number | null): void => {
    out.gauge(`conntrail_peer_${name}`, help, value, of);
  };
  gauge("connected", "1 while the peer's broker answers", Number(peer.connected));
  gauge("in_sync", "1 while all flows of the peer are held", Number(peer.inSync));
  const could = peer.couldTakeOver === null ? null : Number(peer.couldTakeOver);
  gauge("could_take_over", "1 while the peer says that it has all of this node's flows", could);
  for (const role of ROLES) {
    if (peer.role === null) break;
    const labels = { ...of, role };
    out.gauge("conntrail_peer_role", "1 for the role that the peer reports", Number(peer.role === role), labels);
  }
  gauge("lag_messages", "Messages of the peer that wait to be applied", peer.lagEvents);
  gauge("lag_seconds", "Age of the peer's last event when it was applied", seconds(peer.lagMs));
  gauge("last_heard_seconds", "Time since anything was heard of the peer", seconds(peer.lastHeardMs));
  gauge("clock_offset_seconds", "How far the peer's clock is ahead of this node's", seconds(peer.clockOffsetMs));
  gauge("flows", "Flows of the external cache that the peer owns", peer.flows);
  gauge("format_version", "Version of the stream's format that the peer writes", peer.formatVersion);
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}
