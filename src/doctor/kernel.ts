import type { Config } from "../config/config.js";
import type { StatsReport, StatusReport } from "../control/protocol.js";
import { breaks, type Finding, note, ok, warning } from "./finding.js";
import type { Machine } from "./machine.js";

const NETFILTER = "/proc/sys/net/netfilter";
/** Entries for each bucket of the hash table beyond which lookups become slow. */
const CHAIN_MAX = 8;
const FULL_SHARE = 0.8;

/** The kernel's connection tracking: switches, the size of its table, and the event socket's buffer. */
export function checkKernelSide(
  config: Config,
  machine: Machine,
  status: StatusReport | null,
  stats: StatsReport | null,
): Finding[] {
  const numberIn = (path: string): number | null => {
    const text = machine.read(path)?.trim() ?? "";
    return /^\d+$/.test(text) ? Number(text) : null;
  };
  const value = (name: string): number | null => numberIn(`${NETFILTER}/nf_conntrack_${name}`);
  const max = value("max");
  if (max === null) {
    const cure = "modprobe nf_conntrack nf_conntrack_netlink, and name both in /etc/modules-load.d/conntrail.conf";
    return [breaks("kernel.conntrack", "conntrack is not in this kernel", cure)];
  }
  return [
    ok("kernel.conntrack", `conntrack tracks up to ${max} connections`),
    eventsFinding(value("events"), config.netlink.pollMs !== null),
    switchFinding(value("acct"), "acct", "packets and bytes are counted", "the history has no packets and bytes"),
    switchFinding(value("timestamp"), "timestamp", "the kernel notes start times", "start times are those of events"),
    looseFinding(value("tcp_loose")),
    tableFinding(max, value("count") ?? 0, status?.external.flows ?? 0),
    bucketsFinding(max, value("buckets")),
    forwardingFinding(numberIn("/proc/sys/net/ipv4/ip_forward")),
    ...bufferFinding(stats),
  ];
}

function eventsFinding(events: number | null, polls: boolean): Finding {
  const id = "kernel.events";
  if (polls) return ok(id, "netlink.poll: the table is read at intervals, events are not needed");
  if (events === 1) return ok(id, "the kernel reports every connection");
  if (events === 2) {
    const text = "nf_conntrack_events is 2: connections from before the daemon's start are not reported";
    return warning(id, text, sysctl("nf_conntrack_events", 1));
  }
  return breaks(id, "the kernel reports no connections", sysctl("nf_conntrack_events", 1));
}

function switchFinding(value: number | null, name: string, on: string, off: string): Finding {
  const id = `kernel.${name}`;
  return value === 1 ? ok(id, on) : note(id, `nf_conntrack_${name} is off: ${off}`, sysctl(`nf_conntrack_${name}`, 1));
}

function looseFinding(loose: number | null): Finding {
  const id = "kernel.tcp-loose";
  if (loose === 0) return ok(id, "connections are not picked up in mid-stream");
  const text = "nf_conntrack_tcp_loose is on: a packet that comes before the commit may begin a connection of its own";
  return warning(id, text, sysctl("nf_conntrack_tcp_loose", 0));
}

function tableFinding(max: number, count: number, external: number): Finding {
  const id = "kernel.table";
  const cure = `sysctl -w net.netfilter.nf_conntrack_max=${Math.max(max * 2, (count + external) * 2)}, and in /etc/sysctl.d`;
  if (count + external > max) {
    const text = `the table has ${count} of ${max} entries, and a takeover would add up to ${external}`;
    return breaks(id, text, cure);
  }
  if (count > max * FULL_SHARE) return warning(id, `the table is nearly full: ${count} of ${max} entries`, cure);
  return ok(id, `the table has ${count} of ${max} entries, and room for the peers'`);
}

function bucketsFinding(max: number, buckets: number | null): Finding {
  const id = "kernel.buckets";
  if (buckets === null || max <= buckets * CHAIN_MAX) return ok(id, `${buckets ?? "unknown"} hash buckets`);
  const text = `${buckets} hash buckets for ${max} entries: lookups in a full table are slow`;
  return warning(id, text, sysctl("nf_conntrack_buckets", Math.ceil(max / 4)));
}

function forwardingFinding(forward: number | null): Finding {
  const id = "kernel.forwarding";
  if (forward === 1) return ok(id, "IPv4 is forwarded");
  return breaks(id, "IPv4 is not forwarded", "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d");
}

function bufferFinding(stats: StatsReport | null): Finding[] {
  const overruns = stats?.events?.overruns;
  if (overruns === undefined) return [];
  if (overruns === 0) return [ok("kernel.buffer", "no event was lost for lack of buffer")];
  const text = `events did not fit into the buffer ${overruns} times since the daemon's start`;
  return [warning("kernel.buffer", text, "raise netlink.buffer and netlink.buffer_max, or filter in kernelspace")];
}

function sysctl(name: string, value: number): string {
  return `sysctl -w net.netfilter.${name}=${value}, and in /etc/sysctl.d`;
}
