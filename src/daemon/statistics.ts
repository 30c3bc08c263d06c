/**
 * Mode `stats`: a node without peers, without a stream and without a broker. It keeps the internal cache, and the log of
 * flows that have ended.
 */
import type { InternalCache } from "../cache/internal.js";
import type { BrokerStatus, FormatStatus, PublisherStatus } from "../control/protocol.js";
import type { NodeHandlers } from "../control/server.js";
import { ConntrailError } from "../errors.js";
import type { HybridClock } from "../flow/clock.js";
import type { OwnPast } from "../sync/own-past.js";

/** The past of a node that wrote nothing down: it begins with what its kernel lists. */
export function noPast(internal: InternalCache, hybridClock: HybridClock, epoch: number): OwnPast {
  const none = { lastEpoch: 0, lastRole: "unknown", lastMarkMs: null, damaged: false } as const;
  return { internal, hybridClock, continues: null, ...none, epoch };
}

/** What `status` says about the broker and the stream of such a node. */
export const NO_STREAM = {
  broker: (): BrokerStatus => ({ mode: "none", state: "none", url: "-", version: null, restarts: 0 }),
  publisher: (): PublisherStatus => ({ state: "none", confirmedNumber: 0, unconfirmed: 0 }),
  format: (): FormatStatus => ({ writes: null, reads: [], reason: null }),
  streams: async () => [],
};

async function refuse(): Promise<never> {
  throw new ConntrailError("CONTROL", "this node only keeps statistics (mode stats): it has no peers");
}

/** There is nothing that such a node could take over. */
export const NO_REHEARSAL = { run: refuse };

/** The handlers of such a node: of a node's own, those that concern no peer. */
export function statisticsHandlers(handlers: NodeHandlers): NodeHandlers {
  return {
    ...handlers,
    dump: (table, ...rest) => (table === "external" ? refuse() : handlers.dump(table, ...rest)),
    expectations: (table) => (table === "external" ? refuse() : handlers.expectations(table)),
    flush: (table, only) => (table === "external" ? refuse() : handlers.flush(table, only)),
    resync: (source, progress, wait) => (source === "peers" ? refuse() : handlers.resync(source, progress, wait)),
    commit: refuse,
    bulk: refuse,
    purge: refuse,
    hook: refuse,
  };
}
