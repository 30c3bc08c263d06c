/** The shipped node, with ports that do nothing unless a test replaces them. */
import { pino } from "pino";
import { InternalCache } from "../../src/cache/internal.js";
import { type Clock, HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { FirewallNode, type NodeOptions, type NodePorts } from "../../src/sync/node.js";
import type { OwnPast } from "../../src/sync/own-past.js";
import type { JournalSink, OwnStream } from "../../src/sync/ports/own-stream.js";

const NEVER = new AbortController().signal;
const NO_ADDRESSES: ReadonlySet<string> = new Set();

/** The past of a first start, in epoch 1. */
export function firstStart(clock: Clock, internal = new InternalCache(10_000)): OwnPast {
  const hybridClock = new HybridClock(clock);
  const none = { continues: null, lastEpoch: 0, lastRole: "unknown", lastMarkMs: null, damaged: false } as const;
  return { internal, hybridClock, ...none, epoch: 1 };
}

/** A stream that nobody asks for anything. */
export function plainStream(sink: JournalSink): OwnStream {
  return {
    sink,
    trouble: null,
    beat: () => undefined,
    listen: () => () => undefined,
    flush: async () => true,
  };
}

/** A kernel without flows, which answers nothing. */
export const EMPTY_KERNEL: NodePorts["kernel"] = {
  portId: 1,
  send: async (batch) => ({ sent: batch.count, errors: [], unknown: 0 }),
  dump: async () => ({ count: 0, malformed: 0, interrupted: false }),
  dumpExpectations: async () => ({ count: 0, malformed: 0, interrupted: false }),
  get: async () => null,
};

/** A node in mode `cache` whose kernel is read only on request, unless the test says otherwise. */
export function testNode(ports: Partial<NodePorts>, options: Partial<NodeOptions> = {}): FirewallNode {
  const clock = ports.clock ?? systemClock;
  const past = ports.past ?? firstStart(clock);
  return new FirewallNode(
    {
      kernel: EMPTY_KERNEL,
      events: null,
      injects: null,
      past,
      // As after a restart without a reboot, for a node whose hooks left no trace.
      earlier: { groups: new Map(), table: past.lastRole },
      ownStream: plainStream({ publish: () => 0, publishAcked: async () => 0, backlog: { bytes: 0 } }),
      ended: null,
      peers: [],
      addresses: () => NO_ADDRESSES,
      clock,
      passTurn: () => new Promise((resolve) => setImmediate(resolve)),
      log: pino({ level: "silent" }),
      signal: NEVER,
      ...ports,
    },
    {
      cluster: "test",
      node: "self",
      silenceMsMax: 3000,
      formats: FORMATS,
      externalFlowsMax: 10_000,
      filter: () => true,
      helpers: null,
      pollMs: null,
      overrunResyncMs: 0,
      publishIntervalMs: 0,
      commitTimeoutSeconds: null,
      commitWindowTracking: false,
      purgeAfterSeconds: 60,
      aheadSeconds: null,
      snapshotsAsked: { pauseMs: 0, bytesADay: Number.MAX_SAFE_INTEGER },
      ...options,
    },
  );
}
