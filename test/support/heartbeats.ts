import type { Heartbeat } from "../../src/stream/format/heartbeat.js";

/** A heartbeat of fw2 of the cluster edge, alive and well, but for what `other` says. */
export function heartbeat(other: Partial<Heartbeat> = {}): Heartbeat {
  return {
    cluster: "edge",
    node: "fw2",
    writes: 1,
    reads: [1],
    epoch: 1000,
    number: 42,
    flows: 300,
    flowsAt: 41,
    wallMs: 1_800_000_000_000,
    role: "backup",
    groups: {},
    unpublished: 0,
    unread: false,
    trouble: null,
    holds: ["fw1"],
    ...other,
  };
}
