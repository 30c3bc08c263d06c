/**
 * Reads and sets conntrack's switches under /proc/sys/net/netfilter.
 *
 * All reads are synchronous: /proc/sys/net shows the network namespace of the thread that opens the file, and a pool
 * thread may be in another one than the main thread.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { ConntrailError } from "../errors.js";

const NETFILTER = "/proc/sys/net/netfilter";

/** The conntrack settings that replication depends on; 0 for a switch that this kernel lacks. */
export interface KernelState {
  /** nf_conntrack_events: 1 always, 2 only for flows made while somebody listens. */
  events: number;
  /** nf_conntrack_max: flows the table may hold. */
  max: number;
  /** nf_conntrack_count: flows it holds now. */
  count: number;
  /** nf_conntrack_acct: 1 when flows carry packet and byte counters. */
  acct: number;
  /** nf_conntrack_timestamp: 1 when flows carry their start and stop time. */
  timestamp: number;
  /** nf_conntrack_tcp_be_liberal: 1 when only RST outside the window is invalid. */
  tcpBeLiberal: number;
  /** nf_conntrack_tcp_loose: nonzero when connections are picked up in mid-stream. */
  tcpLoose: number;
}

/**
 * Reads the state of conntrack in this thread's network namespace.
 * Throws ConntrailError `KERNEL` when conntrack is missing, or sends no events at all and nobody `polls` it instead.
 * `events` 2 is no error, but call `enableEvents`: flows made before the daemon listens would never send events.
 */
export function checkKernel(polls = false, directory: string = NETFILTER): KernelState {
  const events = readNumber(directory, "nf_conntrack_events");
  const max = readNumber(directory, "nf_conntrack_max");
  if (max === null) {
    throw new ConntrailError("KERNEL", "conntrack is not in this kernel: modprobe nf_conntrack");
  }
  if (events === null && !polls) {
    throw new ConntrailError(
      "KERNEL",
      "this kernel's conntrack sends no events: it needs CONFIG_NF_CONNTRACK_EVENTS; set netlink.poll, or boot a kernel that has it",
    );
  }
  if (events === 0 && !polls) {
    throw new ConntrailError(
      "KERNEL",
      "conntrack events are switched off in this kernel: sysctl -w net.netfilter.nf_conntrack_events=1",
    );
  }
  return {
    events: events ?? 0,
    max,
    count: readNumber(directory, "nf_conntrack_count") ?? 0,
    acct: readNumber(directory, "nf_conntrack_acct") ?? 0,
    timestamp: readNumber(directory, "nf_conntrack_timestamp") ?? 0,
    tcpBeLiberal: readNumber(directory, "nf_conntrack_tcp_be_liberal") ?? 0,
    tcpLoose: readNumber(directory, "nf_conntrack_tcp_loose") ?? 0,
  };
}

/**
 * Sets nf_conntrack_events to 1, so that flows made while nobody listens send events later.
 * True when it is 1 afterwards; false when it cannot be written (no root, read-only /proc/sys).
 */
export function enableEvents(directory: string = NETFILTER): boolean {
  try {
    writeFileSync(`${directory}/nf_conntrack_events`, "1\n");
  } catch {
    // It may be 1 already, which is all that counts.
  }
  return readNumber(directory, "nf_conntrack_events") === 1;
}

/** The number in one file, null when the file is not there or holds no number. */
function readNumber(directory: string, name: string): number | null {
  try {
    const text = readFileSync(`${directory}/${name}`, "latin1").trim();
    return /^\d+$/.test(text) ? Number(text) : null;
  } catch {
    return null;
  }
}
