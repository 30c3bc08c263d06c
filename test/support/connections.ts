/** Connections made by hand, for the tests of what is printed of them. */
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import type { Connection } from "../../src/history/connection.js";

/** 2026-01-31T12:00:00Z. */
export const NOON_MS = Date.UTC(2026, 0, 31, 12);

const TCP: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 443 },
  reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 443, dport: 61000 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"],
  state: "TIME_WAIT",
  timeoutSeconds: 120,
  mark: 7,
  id: 5,
};

/** A connection that ended, counted and timed, on two nodes; `rest` changes that. TCP through source translation by default. */
export function connection(flow: Flow = TCP, rest: Partial<Connection> = {}): Connection {
  const { words, rare } = recordFromFlow(flow);
  return {
    uid: "C5pVnZ0r2LhK8xQdW",
    words,
    rare,
    startMs: NOON_MS + 125.5,
    endMs: NOON_MS + 5250,
    timedByKernel: true,
    end: "ended",
    counters: { origPackets: 12, origBytes: 3456, replyPackets: 10, replyBytes: 78901 },
    path: [
      { node: "fw1", sinceMs: NOON_MS + 125.5 },
      { node: "fw2", sinceMs: NOON_MS + 3000 },
    ],
    mayMiss: false,
    ...rest,
  };
}

/** The TCP connection with other keys. */
export function tcpConnection(flow: Partial<Flow>, rest: Partial<Connection> = {}): Connection {
  return connection({ ...TCP, ...flow }, rest);
}

/** Without translation, counters, an end or a known beginning. */
export function bareConnection(): Connection {
  const flow: Flow = {
    family: "ipv6",
    protocol: "udp",
    orig: { src: "2001:db8::1", dst: "2001:db8::2", sport: 5000, dport: 53 },
    reply: { src: "2001:db8::2", dst: "2001:db8::1", sport: 53, dport: 5000 },
    status: ["CONFIRMED"],
  };
  return connection(flow, {
    uid: "C000",
    startMs: null,
    endMs: null,
    timedByKernel: false,
    end: "open",
    counters: null,
    path: [{ node: "fw1", sinceMs: NOON_MS }],
    mayMiss: true,
  });
}

/** An echo request through source translation that was lost sight of. */
export function echoConnection(): Connection {
  const flow: Flow = {
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "10.0.0.12", dst: "198.51.100.7", icmpType: 8, icmpCode: 0, icmpId: 77 },
    reply: { src: "198.51.100.7", dst: "203.0.113.1", icmpType: 0, icmpCode: 0, icmpId: 900 },
    status: ["SEEN_REPLY", "CONFIRMED", "SRC_NAT"],
    zone: 3,
  };
  return connection(flow, { uid: "C111", end: "lost", counters: null, timedByKernel: false });
}

/** TCP over IPv6 with both addresses translated. */
export function nat66Connection(): Connection {
  return connection({
    family: "ipv6",
    protocol: "tcp",
    orig: { src: "2001:db8::1", dst: "2001:db8::2", sport: 5000, dport: 53 },
    reply: { src: "2001:db8:1::2", dst: "2001:db8:5::1", sport: 53, dport: 6000 },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT"],
    state: "CLOSE",
  });
}

/** A protocol without ports. */
export function greConnection(): Connection {
  return connection({
    family: "ipv4",
    protocol: "gre",
    orig: { src: "10.0.0.5", dst: "192.0.2.9", srcKey: 1, dstKey: 2 },
    reply: { src: "192.0.2.9", dst: "203.0.113.1", srcKey: 2, dstKey: 1 },
    status: ["CONFIRMED", "SRC_NAT"],
  });
}
