import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { Config, FilterConfig } from "../config/config.js";
import { EventSocket } from "../ctnetlink/event-socket.js";
import { LocalAddresses } from "../ctnetlink/local-addresses.js";
import type { RequestSocket } from "../ctnetlink/request-socket.js";
import { parseCidr } from "../flow/address.js";
import type { Clock } from "../flow/clock.js";
import { compileFilter, type FilterRules, type FlowPredicate } from "../flow/filter.js";
import type { Journal } from "../sync/journal.js";
import { type Injection, Replicator } from "../sync/replicator.js";
import type { TakeDown } from "./streams.js";

/** This node's own kernel, listened to. */
export interface KernelSide {
  readonly replicator: Replicator;
  readonly events: EventSocket;
  /** Another filter from now on; flows that it does not keep leave with the next kernel resync. */
  setFilter(filter: FilterConfig): void;
}

/** Subscribes to the kernel's events. From here on nothing is missed; `replicator.resyncKernel` brings what was there before. */
export async function openKernelSide(
  config: Config,
  parts: {
    internal: InternalCache;
    external: ExternalCache;
    journal: Journal;
    kernel: RequestSocket;
    /** Mode `inject`, and the port id of its requests: the events that those cause say nothing new. */
    injection: { readonly injector: Injection; readonly portId: number } | null;
    carries: () => boolean;
    standsBack: () => boolean;
    clock: Clock;
    log: Logger;
  },
  stopping: AbortSignal,
  down: TakeDown,
): Promise<KernelSide> {
  const { kernel, injection } = parts;
  // Mode `inject` has no commit that could bring them in after their masters.
  const replicated = config.expectations === false || config.mode === "inject" ? null : config.expectations;
  const addresses = config.filter.local ? await LocalAddresses.open() : null;
  if (addresses !== null) down.push(() => addresses.close());
  const replicator = new Replicator({
    ...parts,
    kernel: {
      dump: (visit, signal) => kernel.dump({ signal }, visit),
      growBuffer: () => events.growBuffer(),
      ...(replicated === null
        ? {}
        : { dumpExpectations: (visit, signal) => kernel.dumpExpectations({ signal }, visit) }),
      get: (words, base) => kernel.get(words, base),
    },
    ...(replicated === null ? {} : { helpers: replicated }),
    ownPorts: new Set([injection?.portId ?? kernel.portId]),
    ignoresOwn: injection !== null,
    injection: injection?.injector ?? null,
    filter: compileFilterConfig(config.filter, addresses),
    publishIntervalMs: config.publishIntervalMs,
    signal: stopping,
  });
  const events = new EventSocket(replicator, {
    bufferBytes: config.netlink.bufferBytes,
    bufferBytesMax: config.netlink.bufferBytesMax,
    reliable: config.netlink.reliable,
    expectations: replicated !== null,
    ...(config.publishIntervalMs === 0 ? { gatherMs: 0 } : {}),
  });
  down.push(async () => {
    await events.close();
    replicator.stop();
  });
  return {
    replicator,
    events,
    setFilter: (filter) => replicator.setFilter(compileFilterConfig(filter, addresses)),
  };
}

function compileFilterConfig(filter: FilterConfig, addresses: LocalAddresses | null): FlowPredicate {
  const rules: FilterRules = {};
  if (filter.protocols !== null) rules.protocols = filter.protocols;
  if (filter.states !== null) rules.tcpStates = filter.states;
  if (filter.addresses !== null) {
    const { logic, values } = filter.addresses;
    rules.addresses = { logic, values: values.flatMap((text) => parseCidr(text) ?? []) };
  }
  return compileFilter(rules, addresses ?? undefined);
}
